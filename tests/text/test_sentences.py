"""The sentence splitter: golden tables, tiling, and token ranges."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interp_jax.text.sentences import (
    offsets_of_pieces,
    prefix_token_ranges,
    reasoning_span,
    split_sentences,
    token_ranges,
)

LIST = (
    "Alpha beta gamma: see list\n1. First item here\n2. Second item here\n\nDone with the list now."
)
QUOTES = 'e.g. this splits? Yes it does. "Quoted end." More text here now. Final one here.'
GOLDEN = [
    (
        "First we look at the sum. Then x = 3.5 and done! Is it right? Yes."
        "\n\nSo the answer is \\boxed{7}.",
        ["First we look at the sum.", "Then x = 3.5 and done!", "Is it right? Yes."],
        [
            "First we look at the sum.",
            "Then x = 3.5 and done!",
            "Is it right?",
            "Yes. So the answer is \\boxed{7}.",
        ],
    ),
    (
        "One two three four.\nFive six seven eight.\n\n\n\nNine ten eleven twelve",
        ["One two three four.", "Five six seven eight."],
        ["One two three four.", "Five six seven eight.", "Nine ten eleven twelve"],
    ),
    (
        "Hmm. Ok. This is the longer sentence. Wait.",
        ["Hmm. Ok. This is the longer sentence."],
        ["Hmm. Ok. This is the longer sentence. Wait."],
    ),
    (
        LIST,
        ["Alpha beta gamma: see list\n1.", "First item here\n2.", "Second item here"],
        [
            "Alpha beta gamma: see list\n1.",
            "First item here\n2.",
            "Second item here",
            "Done with the list now.",
        ],
    ),
    (
        QUOTES,
        ["e.g. this splits?", "Yes it does.", '"Quoted end." More text here now.'],
        [
            "e.g. this splits?",
            "Yes it does.",
            '"Quoted end." More text here now.',
            "Final one here.",
        ],
    ),
    ("Short.", [], ["Short."]),
    (
        "Line one is long enough.\r\n\r\nLine two is long enough. tail",
        ["Line one is long enough.", "Line two is long enough."],
        ["Line one is long enough.", "Line two is long enough. tail"],
    ),
]


def texts(*args, **kwargs):
    return [sentence.text for sentence in split_sentences(*args, **kwargs)]


@pytest.mark.core
@pytest.mark.parametrize(("text", "dropped", "kept"), GOLDEN)
@pytest.mark.parametrize("wrap", ["{}", "prompt <think>\n{}", "<think>{}</think> The answer."])
def test_golden_table(text, dropped, kept, wrap):
    whole = wrap.replace("{}", text)
    assert texts(whole) == kept
    assert texts(whole, drop_tail=True) == dropped


@pytest.mark.parametrize(
    ("text", "reasoning"),
    [
        ("a <think> b </think> c", "b"),
        ("a <think> b <think> c </think>", "b"),
        ("a </think> b", "a"),
        ("<think> a", "a"),
        ("  plain ", "plain"),
        ("</think> x <think> y", "y"),
        ("", ""),
    ],
)
def test_reasoning_span(text, reasoning):
    start, end = reasoning_span(text)
    assert text[start:end] == reasoning


def test_a_closing_tag_is_no_boundary_character():
    # Only what lies inside the reasoning may follow a full stop; nothing is split off at its end.
    assert texts("A sentence that ends here. </think>") == ["A sentence that ends here."]
    assert texts("A sentence that ends here. </think>", drop_tail=True) == []


traces = st.lists(
    st.sampled_from([*'aB .?!\n\r\t"é\u00a0漢', "abcdefghijk", "\n\n", "\r\n\r\n", ". ", ".\n"]),
    max_size=24,
).map("".join)


@given(traces)
@settings(max_examples=150, deadline=None)
def test_sentences_tile_the_reasoning(text):
    sentences = split_sentences(text)
    start, end = reasoning_span(text)
    assert "".join(text[s.start : s.tile_end] for s in sentences) == text[start:end]
    for sentence in sentences:
        piece = text[sentence.start : sentence.end]
        assert piece == piece.strip()
        assert piece.split() == sentence.text.split()
    assert all(len(s.text) >= 10 for s in sentences) or len(sentences) == 1


def literal_split(text, drop_tail):
    """The rules of the published splitter taken literally, one character at a time."""
    found, buffer = [], ""
    for place, character in enumerate(text):
        buffer += character
        paragraph = text[place:].startswith(("\n\n", "\r\n\r\n"))
        stop = character in ".?!" and text[place + 1 : place + 2] in (" ", "\n")
        if (paragraph or stop) and buffer.strip():
            found.append(buffer.strip())
            buffer = ""
    if buffer.strip() and not drop_tail:
        found.append(buffer.strip())
    place = 0
    while place < len(found):
        if len(found[place]) >= 10 or len(found) == 1:
            place += 1
        elif place + 1 < len(found):
            found[place : place + 2] = [found[place] + " " + found[place + 1]]
        else:
            found[place - 1 :] = [found[place - 1] + " " + found[place]]
    return found


@given(traces, st.booleans())
@settings(max_examples=200, deadline=None)
def test_agrees_with_the_rules_taken_literally(text, drop_tail):
    assert texts(text, drop_tail=drop_tail) == literal_split(text.strip(), drop_tail)


def whole_word_offsets(text):
    """Offsets of tokens that carry the space before their word, as byte-level tokenizers do."""
    cuts = [0] + [k for k in range(1, len(text)) if text[k].isspace() and not text[k - 1].isspace()]
    return list(zip(cuts, [*cuts[1:], len(text)], strict=True))


@pytest.mark.core
def test_token_belongs_to_the_sentence_of_its_first_letter():
    text = "Ask me <think>\nFirst sentence here. Second one there.\n\nThird is last.</think> Done."
    sentences = split_sentences(text)
    offsets = [(0, 0), *whole_word_offsets(text)]
    ranges = token_ranges(sentences, text, offsets)
    pieces = [
        "".join(text[slice(*offsets[k])] for k in range(first, last)) for first, last in ranges
    ]
    # "last.</think>" is one token here: it starts in the sentence, so it belongs to it.
    assert pieces == ["\nFirst sentence here.", " Second one there.", "\n\nThird is last.</think>"]
    assert (ranges[1:, 0] == ranges[:-1, 1]).all()


def test_blank_token_follows_its_sentence_and_special_tokens_have_no_owner():
    text = "One sentence here.\n\nAnother sentence."
    offsets = [(0, 0), (0, 18), (18, 20), (20, 37), (0, 0)]
    ranges = token_ranges(split_sentences(text), text, offsets)
    np.testing.assert_array_equal(ranges, [[1, 3], [3, 4]])
    assert ranges.dtype == np.int32


def test_sentences_sharing_a_token():
    text = "One sentence here. Another sentence."
    ranges = token_ranges(split_sentences(text), text, [(0, len(text))])
    np.testing.assert_array_equal(ranges, [[0, 1], [1, 1]])


def test_prefix_rule_loses_the_first_token():
    """The released rule tokenises the lone space at the end of a prefix separately."""
    text = "One sentence here. Another sentence."
    sentences = split_sentences(text)

    def count(prefix):
        return len(prefix.split()) + (1 if prefix.endswith(" ") else 0)

    compat = prefix_token_ranges(sentences, text, count)
    exact = token_ranges(sentences, text, whole_word_offsets(text))
    np.testing.assert_array_equal(exact, [[0, 3], [3, 5]])
    np.testing.assert_array_equal(compat, [[0, 3], [4, 5]])


def test_prefix_rule_can_hit_the_prompt():
    text = "Find the sum now. <think>\nWell, let me see. Find the  sum now. Done and over."
    sentences = split_sentences(text)
    ranges = prefix_token_ranges(sentences, text, len, search_from_start=True)
    assert tuple(ranges[1]) == (0, len("Find the sum now."))
    assert prefix_token_ranges(sentences, text, len)[1, 0] > 20


@given(st.text(st.sampled_from("ab é漢🙂"), max_size=12), st.data())
@settings(max_examples=60, deadline=None)
def test_offsets_of_pieces(text, data):
    raw = text.encode()
    cuts = sorted(data.draw(st.sets(st.integers(0, len(raw)), max_size=6)) | {0, len(raw)})
    pieces = [raw[a:b] for a, b in zip(cuts, cuts[1:], strict=False)]
    offsets = offsets_of_pieces(pieces)
    place = 0
    for piece, (start, end) in zip(pieces, offsets, strict=True):
        first = len(raw[:place].decode(errors="ignore"))
        last = len(raw[: place + len(piece)].decode(errors="replace"))
        assert (start, end) == (first, last)
        place += len(piece)
