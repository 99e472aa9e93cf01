"""What is shown of each latent, in files of many latents that the page loads when one is asked for.

A file calls `report.block(number, [latent, ...])`. A latent is a list:

    [histogram, top, bands, raised, lowered, near]

    histogram   [first bin, count, ...] from the first to the last bin that is not empty; [] if none
    top         [example, ...]
    bands       [[low, high, [example, ...]], ...]; high is null where there is no end
    raised      [[word, effect], ...]; null where there are no logit effects. lowered: alike
    near        [[latent, cosine], ...]
    example     [peak, [word, ...], [place, value, ...]]: the peak's place among the words, the
                words that are there, and the activation at each place where the latent is active

A word is an index into the list of words, which is another file. Only numbers are in a block, with
four significant digits.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np

from interp_jax.dictionaries.examples import Examples, Shown
from interp_jax.studies.model_diffing.dashboard.directions import LogitEffects

BLOCK = 64
"""Latents in a file."""


def rounded(values: np.ndarray, digits: int = 4) -> np.ndarray:
    """float64: to so many significant digits, so that JSON writes no more."""
    values = np.asarray(values, np.float64)
    size = np.abs(values)
    sound = np.isfinite(values) & (size > 0)
    places = digits - 1 - np.floor(np.log10(np.where(sound, size, 1.0)))
    up, down = 10.0 ** np.maximum(places, 0), 10.0 ** np.maximum(-places, 0)
    out = np.round(np.where(sound, values, 0.0) * up / down) / up * down
    return np.where(sound, out, np.where(np.isfinite(values), 0.0, np.nan))


def used_tokens(examples: Examples, effects: LogitEffects | None) -> np.ndarray:
    """int, the token ids that the page shows, each once."""
    shown = [examples.top.tokens, examples.bands.tokens]
    if effects is not None:
        shown += [effects.raised, effects.lowered]
    used = np.unique(np.concatenate([np.unique(part) for part in shown]))
    return used[used >= 0]


def block_texts(
    examples: Examples,
    used: np.ndarray,
    effects: LogitEffects | None,
    near: tuple[np.ndarray, np.ndarray] | None,
) -> Iterator[str]:
    """The text of each file, in order.

    Args:
        examples: F latents.
        used: of `used_tokens`; a word is a place in it.
        effects: of the same latents, or None.
        near: latents int [F, k] and cosines [F, k], -1 where there is none; or None.
    """
    latents = len(examples.active)
    for number, begin in enumerate(range(0, latents, BLOCK)):
        span = slice(begin, min(begin + BLOCK, latents))
        parts = zip(
            _histograms(examples.histogram[span]),
            _examples(examples.top, span, used, examples.before),
            _bands(examples, span, used),
            *zip(*_effects(effects, span, used), strict=True),
            _near(near, span),
            strict=True,
        )
        body = json.dumps([list(part) for part in parts], separators=(",", ":"), allow_nan=False)
        yield f"report.block({number},{body});\n"


def _histograms(histogram: np.ndarray) -> list[list[int]]:
    found = []
    for counts in histogram:
        at = np.flatnonzero(counts)
        found.append([int(at[0]), *counts[at[0] : at[-1] + 1].tolist()] if len(at) else [])
    return found


def _examples(shown: Shown, span: slice, used: np.ndarray, before: int) -> list[list[list]]:
    """For each latent its examples, those of all bands in one list."""
    window = shown.tokens.shape[-1]
    value = shown.value[span].reshape(len(shown.value[span]), -1)
    tokens = shown.tokens[span].reshape(*value.shape, window)
    activations = rounded(shown.activations[span].reshape(tokens.shape)).tolist()
    there = tokens >= 0
    first = there.argmax(-1).tolist()
    last = (window - there[..., ::-1].argmax(-1)).tolist()
    words = np.searchsorted(used, tokens).tolist()
    found: list[list[list]] = [[] for _ in value]
    for latent, slot in zip(*(part.tolist() for part in np.nonzero(value > 0)), strict=True):
        begin, end = first[latent][slot], last[latent][slot]
        own = activations[latent][slot][begin:end]
        pairs = [part for at, one in enumerate(own) if one for part in (at, one)]
        found[latent].append([before - begin, words[latent][slot][begin:end], pairs])
    return found


def _bands(examples: Examples, span: slice, used: np.ndarray) -> list[list[list]]:
    every = _examples(examples.bands, span, used, examples.before)
    filled = (examples.bands.value[span] > 0).sum(-1).tolist()
    low, high = rounded(examples.band_low[span]), examples.band_high[span]
    ends = np.isinf(high)
    high = rounded(np.where(ends, 0.0, high))
    out = []
    for latent, own in enumerate(every):
        listed, at = [], 0
        for band, count in enumerate(filled[latent]):
            if not np.isnan(low[latent, band]):
                top = None if ends[latent, band] else float(high[latent, band])
                listed.append([float(low[latent, band]), top, own[at : at + count]])
            at += count
        out.append(listed)
    return out


def _effects(effects: LogitEffects | None, span: slice, used: np.ndarray) -> list[tuple]:
    """Raised and lowered of each latent."""
    if effects is None:
        size = span.stop - span.start
        return [(None, None)] * size
    sides = []
    for tokens, by in (
        (effects.raised, effects.raised_by), (effects.lowered, effects.lowered_by)
    ):
        words, numbers = np.searchsorted(used, tokens[span]).tolist(), rounded(by[span])
        pairs = [
            [list(pair) for pair in zip(*both, strict=True)]
            for both in zip(words, numbers.tolist(), strict=True)
        ]
        none = np.isnan(numbers).any(-1)
        sides.append([None if blank else own for blank, own in zip(none, pairs, strict=True)])
    return list(zip(*sides, strict=True))


def _near(near: tuple[np.ndarray, np.ndarray] | None, span: slice) -> list[list[list]]:
    if near is None:
        return [[] for _ in range(span.stop - span.start)]
    index, cosine = near[0][span].tolist(), rounded(near[1][span]).tolist()
    return [
        [[i, c] for i, c in zip(*pair, strict=True) if i >= 0]
        for pair in zip(index, cosine, strict=True)
    ]
