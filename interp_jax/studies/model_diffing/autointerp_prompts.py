"""What a judge is asked about a latent: an explanation from examples, and which texts fit it.

In detection a text fits that the latent is active in; in fuzzing one whose marks are right.
"""

from __future__ import annotations

from collections.abc import Sequence

EXPLAIN_VERSION, DETECT_VERSION, FUZZ_VERSION = "explain-1", "detect-1", "fuzz-1"

_EXPLAIN = """\
Below are pieces of text. One unit of a language model was active on the words between << and >>, \
and on nothing else in these pieces. The pieces come from the most active to the less active. \
What do the marked words, in their context, have in common? Look at what the words say, at what \
kind of text they stand in, and at where in a conversation they stand.

{examples}

Answer with one short sentence that says what the unit responds to, and nothing else."""

_DETECT = """\
A unit of a language model is said to respond to this:

{explanation}

Below are {count} numbered pieces of text. In which of them would such a unit be active on at \
least one word? It may be all of them, or none.

{examples}

Answer with one JSON object and nothing else: {{"active": [the numbers of those pieces]}}."""

_FUZZ = """\
A unit of a language model is said to respond to this:

{explanation}

Below are {count} numbered pieces of text, each with some words between << and >>. In some pieces \
these are the words on which such a unit is active; in the others they are words on which it is \
not. In which of them are the right words marked? It may be all of them, or none.

{examples}

Answer with one JSON object and nothing else: {{"right": [the numbers of those pieces]}}."""


def explain_messages(examples: Sequence[str]) -> list[dict[str, str]]:
    """The request for an explanation, from texts whose active words are marked."""
    return [{"role": "user", "content": _EXPLAIN.format(examples=_numbered(examples))}]


def detect_messages(explanation: str, texts: Sequence[str]) -> list[dict[str, str]]:
    """The request to tell which texts an explanation fits; nothing is marked in them."""
    return _about(_DETECT, explanation, texts)


def fuzz_messages(explanation: str, texts: Sequence[str]) -> list[dict[str, str]]:
    """The request to tell which texts have their marks on what an explanation says."""
    return _about(_FUZZ, explanation, texts)


def marked(pieces: Sequence[str], marks: Sequence[bool]) -> str:
    """A text with runs of marked tokens between << and >>."""
    out, inside = [], False
    for piece, on in zip(pieces, marks, strict=True):
        if on != inside:
            out.append("<<" if on else ">>")
            inside = on
        out.append(piece)
    return "".join([*out, ">>"] if inside else out)


def _about(request: str, explanation: str, texts: Sequence[str]) -> list[dict[str, str]]:
    text = request.format(explanation=explanation, count=len(texts), examples=_numbered(texts))
    return [{"role": "user", "content": text}]


def _numbered(texts: Sequence[str]) -> str:
    return "\n\n".join(f"[{place}] {text}" for place, text in enumerate(texts, start=1))
