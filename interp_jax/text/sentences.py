r"""Sentences of a reasoning trace: the splitter of Thought Anchors and its token ranges.

The unit of every thought-anchors measure is the sentence. The split follows the published
pipeline (arXiv 2506.19143) character for character, and keeps besides where each sentence lies
in the original text, so that sentences tile the reasoning and tokens can be assigned to them.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

MERGE_BELOW = 10
"""Fragments with fewer characters than this are merged with a neighbour."""

ANALYSE_FROM = 4
"""The analysis stage of the paper ignores sentences with fewer characters than this."""

# One match is the last character of a sentence: . ? ! before a space or a newline, or the first
# character of a paragraph break. Tabs, quotes and brackets do not count.
_BOUNDARY = re.compile(r"[.?!](?=[ \n])|\n(?=\n)|\r(?=\n\r\n)")


@dataclass(frozen=True)
class Sentence:
    """One sentence of a trace.

    Attributes:
        text: the sentence as the paper's pipeline writes it: stripped, merged fragments joined
            by one space.
        start: index of its first character in the original text.
        end: index after its last non-space character.
        tile_end: start of the next sentence, or `end` for the last one. The ranges
            `[start, tile_end)` are disjoint and cover the whole stripped reasoning.
    """

    text: str
    start: int
    end: int
    tile_end: int


def reasoning_span(text: str) -> tuple[int, int]:
    """Character range `[start, end)` of the reasoning in `text`, without outer whitespace.

    After the first `<think>` (up to a second one) if there is one, and before `</think>` if
    there is one; text without tags is reasoning from end to end.
    """
    start, end = 0, len(text)
    opened = text.find("<think>")
    if opened >= 0:
        start = opened + len("<think>")
        again = text.find("<think>", start)
        end = again if again >= 0 else end
    closed = text.find("</think>", start, end)
    end = closed if closed >= 0 else end
    return _strip(text, start, end)


def split_sentences(
    text: str, *, drop_tail: bool = False, merge_below: int = MERGE_BELOW
) -> list[Sentence]:
    """Splits a trace, with or without think tags, into sentences.

    Args:
        text: completion, or prompt and completion.
        drop_tail: leave out what follows the last boundary, as the released white-box code
            does. The released sentence lists keep it, which is the default here.
        merge_below: fragments shorter than this many characters join the next one (the last
            joins the one before).

    Returns:
        Sentences in order; empty for blank text.
    """
    start, end = reasoning_span(text)
    cuts = [match.end() for match in _BOUNDARY.finditer(text, start, end)]
    # The lookaheads must not look past the reasoning: a boundary needs its next character inside.
    cuts = [cut for cut in cuts if cut < end]
    edges = [start, *cuts] if drop_tail else [start, *cuts, end]
    spans = [_strip(text, left, right) for left, right in zip(edges, edges[1:], strict=False)]
    pieces = [(text[left:right], left, right) for left, right in spans if left < right]
    merged = _merge_short(pieces, merge_below)
    tile_ends = [left for _, left, _ in merged[1:]] + [right for _, _, right in merged[-1:]]
    return [
        Sentence(text=piece, start=left, end=right, tile_end=tile_end)
        for (piece, left, right), tile_end in zip(merged, tile_ends, strict=True)
    ]


def token_ranges(
    sentences: Sequence[Sentence], text: str, offsets: Sequence[tuple[int, int]]
) -> np.ndarray:
    """Token range of each sentence, from character offsets.

    A token belongs to the sentence holding its first non-space character (a blank token, to the
    sentence it follows), so `" Word"` goes with the word and the ranges tile the reasoning.

    Args:
        sentences: of `text`.
        text: the text whose offsets are given.
        offsets: `[start, end)` characters of each token, in order; empty ranges (special
            tokens) belong to no sentence.

    Returns:
        int32 `[S, 2]`: half-open token ranges; a sentence that shares its only token with the
        one before it has an empty range.
    """
    starts = np.asarray([s.start for s in sentences], np.int64)
    ends = np.asarray([s.tile_end for s in sentences], np.int64)
    owners = np.full(len(offsets), -1, np.int64)
    for index, (left, right) in enumerate(offsets):
        if left == right:
            continue
        piece = text[left:right]
        anchor = left + len(piece) - len(piece.lstrip())
        anchor = left if anchor == right else anchor
        owner = int(np.searchsorted(starts, anchor, side="right")) - 1
        if owner >= 0 and anchor < ends[owner]:
            owners[index] = owner
    ranges = np.zeros((len(sentences), 2), np.int32)
    last = 0
    for index in range(len(sentences)):
        mine = np.flatnonzero(owners == index)
        first, last = (int(mine[0]), int(mine[-1]) + 1) if mine.size else (last, last)
        ranges[index] = first, last
    return ranges


def prefix_token_ranges(
    sentences: Sequence[Sentence],
    text: str,
    count_tokens: Callable[[str], int],
    *,
    search_from_start: bool = False,
) -> np.ndarray:
    """Token ranges by the rule of the released white-box code, for comparisons only.

    The range is [tokens of the text before the sentence, tokens of the text through its end).
    A prefix that ends in a space is tokenised differently from the whole text, so a sentence
    can lose its first token; prefer `token_ranges`.

    Args:
        sentences: of `text`.
        text: prompt and completion.
        count_tokens: number of tokens of a string, begin-of-sequence included.
        search_from_start: locate every sentence by its first occurrence in the whole text, as
            the released code does, even where that lies in the prompt.

    Returns:
        int32 `[S, 2]`.
    """
    ranges = np.zeros((len(sentences), 2), np.int32)
    for index, sentence in enumerate(sentences):
        left, right = sentence.start, sentence.end
        if search_from_start:
            words = r"\s+".join(map(re.escape, sentence.text.split()))
            left, right = re.search(words, text).span()
        ranges[index] = count_tokens(text[:left]), count_tokens(text[:right])
    return ranges


def offsets_of_pieces(pieces: Sequence[bytes]) -> list[tuple[int, int]]:
    """Character offsets of tokens given as bytes, in the text they spell together.

    For traces known by their token ids: the ids are not re-tokenised, so the offsets are those
    of the tokens that were really sampled. A token that holds part of a character covers that
    character. The text meant is `b"".join(pieces).decode(errors="replace")`.
    """
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    offsets, done = [], 0
    for index, piece in enumerate(pieces):
        before = done
        done += len(decoder.decode(piece, final=index == len(pieces) - 1))
        pending = len(decoder.getstate()[0]) > 0
        offsets.append((before, max(done, before) + (1 if pending else 0)))
    return offsets


def _strip(text: str, start: int, end: int) -> tuple[int, int]:
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end


def _merge_short(
    pieces: list[tuple[str, int, int]], merge_below: int
) -> list[tuple[str, int, int]]:
    merged: list[tuple[str, int, int]] = []
    carried: tuple[str, int, int] | None = None
    for piece in pieces:
        if carried is not None:
            piece = (f"{carried[0]} {piece[0]}", carried[1], piece[2])
        if len(piece[0]) < merge_below:
            carried = piece
        else:
            merged.append(piece)
            carried = None
    if carried is not None and merged:
        text, left, _ = merged[-1]
        merged[-1] = (f"{text} {carried[0]}", left, carried[2])
    elif carried is not None:
        merged.append(carried)
    return merged
