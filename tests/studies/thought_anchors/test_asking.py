"""Prompts and traces: sentences lie on the tokens that were really sampled."""

from __future__ import annotations

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from interp_jax.models import roles
from interp_jax.models.gguf_header import open_gguf
from interp_jax.models.sources import DEFAULT_MODEL, locate
from interp_jax.models.tokenizer_files import tokenizer_from_gguf
from interp_jax.runtime.errors import UserError
from interp_jax.studies.thought_anchors.asking import (
    ask,
    chosen_problem,
    given_trace,
    make_trace,
    own_offsets,
)
from interp_jax.studies.thought_anchors.config import ThoughtAnchorsConfig
from tests.studies.thought_anchors.small_study import small_config, small_model


@pytest.fixture(scope="module")
def lm():
    return small_model()


@hypothesis.given(ids=st.lists(st.integers(4, 1023), max_size=30))
@hypothesis.settings(max_examples=30, deadline=None)
def test_offsets_are_those_of_the_tokens_as_sampled(lm, ids):
    """Any ids, also such that no tokenizer would choose for the text that they spell."""
    text, offsets = own_offsets(np.asarray(ids, np.int32), lm.tokenizer)
    assert text == lm.tokenizer.decode(ids)
    assert len(offsets) == len(ids)
    for count, (left, right) in enumerate(offsets):
        assert 0 <= left <= right <= len(text)
        # What stands before a token is what the tokens before it spell.
        before = lm.tokenizer.decode(ids[:count])
        assert text[:left] == before[:left]
        assert left <= len(before)
    assert all(a[0] <= b[0] for a, b in zip(offsets, offsets[1:], strict=False))


def test_offsets_of_tokens_that_hold_parts_of_characters():
    tokenizer = tokenizer_from_gguf(open_gguf(locate(DEFAULT_MODEL).path).metadata)
    text = "naïve 😀🤖 日本語. Ünder!"
    ids = tokenizer.encode(text).ids
    spelled, offsets = own_offsets(ids, tokenizer)
    assert spelled == text and len(ids) > len(text.split())
    assert np.asarray(offsets).tolist() == tokenizer.encode(text).offsets.tolist()


def test_a_trace_is_tiled_by_its_sentences(lm):
    prompt = ask(lm, "Alice?", "{question}", "“")
    text = "She went home. Then she slept for long! And that was the end of it"
    ids = lm.tokenizer.encode(text).ids
    trace = make_trace(prompt, ids, lm.tokenizer, "stop")
    assert [s.text for s in trace.sentences] == [
        "She went home.", "Then she slept for long!", "And that was the end of it",
    ]
    assert trace.ranges[0, 0] == 0 and trace.ranges[-1, 1] == len(ids)
    assert (trace.ranges[1:, 0] == trace.ranges[:-1, 1]).all()
    assert (trace.spans == trace.ranges + len(prompt.ids)).all()
    assert set(trace.roles[len(prompt.ids) :].tolist()) == {roles.REASONING}
    for sentence, (start, _) in zip(trace.sentences, trace.ranges, strict=True):
        begun = lm.tokenizer.decode(ids[start:]).lstrip()
        assert begun.startswith(sentence.text)


def test_without_a_chat_template_question_and_opening_are_plain_text(lm):
    prompt = ask(lm, "Why?", "Q: {question}", "Because")
    assert prompt.text == "Q: Why?\n\nBecause"


def test_a_given_trace_follows_its_prompt(lm, tmp_path):
    path = tmp_path / "trace.txt"
    path.write_text("The first thing is this. The second thing is that.")
    alone = given_trace(lm, ThoughtAnchorsConfig(trace=str(path)))
    assert len(alone.sentences) == 2 and len(alone.prompt.ids) == 0
    asked = given_trace(lm, small_config(tmp_path, trace=str(path), rule=None))
    assert len(asked.prompt.ids) > 0
    assert lm.tokenizer.decode(asked.ids).endswith("that.")


def test_think_tags_are_no_sentence(lm, tmp_path):
    path = tmp_path / "trace.txt"
    path.write_text("Question. <think>\nThe first thing is this. The second.\n</think> Answer.")
    trace = given_trace(lm, ThoughtAnchorsConfig(trace=str(path)))
    assert [s.text for s in trace.sentences] == ["The first thing is this.", "The second."]
    assert trace.ranges[0, 0] > 0


@pytest.mark.parametrize("content", [None, "", "  \n ", b"\xff\xfe\x00"])
def test_a_bad_trace_file_is_told_in_one_sentence(lm, tmp_path, content):
    path = tmp_path / "trace.txt"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=r"trace\.txt"):
        given_trace(lm, ThoughtAnchorsConfig(trace=str(path)))


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"prompt": "a", "problem": "reasoning_gym:gcd:0:0"}, "one source"),
        ({"trace": "x", "problems": "y"}, "--trace alone"),
        ({"trace": "x", "screen": 3}, "one of the two"),
        ({"answer": "3"}, "--prompt"),
        ({"index": 2}, "--problems"),
        ({"instruction": "no question"}, "{question}"),
        ({"min_sentences": 9, "max_sentences": 3}, "least"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(flags, said):
    with pytest.raises(UserError, match=said):
        ThoughtAnchorsConfig(**flags)


def test_an_index_beyond_the_file_is_refused(tmp_path):
    path = tmp_path / "problems.jsonl"
    path.write_text('{"question": "1+1?", "answer": 2}\n')
    config = ThoughtAnchorsConfig(problems=str(path), rule="last_number")
    assert chosen_problem(config).answer == "2"
    with pytest.raises(UserError, match="below 1"):
        chosen_problem(ThoughtAnchorsConfig(problems=str(path), index=1))
