"""Texts of the latents most similar to some others, and on which of them those are silent.

Examples know the activations of their own latent only. Whether another one is silent there depends
on the text before the window too, so the documents are run once more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from interp_jax.dictionaries.examples import document_ids
from interp_jax.runtime.progress import Progress
from interp_jax.studies.model_diffing.dashboard.directions import nearest_latents, whole_rows
from interp_jax.studies.model_diffing.examples_stage import Found, kept_code
from interp_jax.studies.model_diffing.scoring_texts import Text
from interp_jax.studies.model_diffing.work import SIMILAR, Work

NEIGHBOURS = 10
"""Latents with examples that a latent's similar texts come from."""


def similar_texts(work: Work, found: Found, latents: Sequence[int]) -> dict[int, list[Text]]:
    """For each latent, texts on which it is silent, examples of the latents nearest to it.

    Nearest by the cosine of whole decoder rows, the nearest one's texts first. Kept once found.

    Args:
        work: the run. found: its examples.
        latents: which, the same ones whenever the run goes on.
    """
    if not work.has(SIMILAR):
        work.save(SIMILAR, _find(work, found, latents))
    arrays = work.load(SIMILAR)
    return {latent: silent_examples(arrays, place) for place, latent in enumerate(latents)}


def silent_examples(arrays: Mapping[str, np.ndarray], place: int) -> list[Text]:
    """The texts of one latent.

    Args:
        arrays: neighbours int [G, k], -1 where there is none; and of N examples: latent int [N],
            tokens int [N, W], -1 where there is none, document int [N], and silent bool [N, G].
        place: of the latent in G.
    """
    texts = []
    for neighbour in arrays["neighbours"][place]:
        for row in np.flatnonzero((arrays["latent"] == neighbour) & arrays["silent"][:, place]):
            tokens = arrays["tokens"][row]
            tokens = tokens[tokens >= 0]
            texts.append(Text(tokens, np.zeros(len(tokens)), int(arrays["document"][row]), -1))
    return texts


def silent_in(tokens: np.ndarray, active: np.ndarray, window: np.ndarray) -> np.ndarray:
    """bool [G]: silent in a window of a row, wherever the row holds it; False where it does not.

    Args:
        tokens: int [T]. active: bool [T, G]. window: int [W].
    """
    if len(window) > len(tokens):
        return np.zeros(active.shape[1], bool)
    parts = np.lib.stride_tricks.sliding_window_view(tokens, len(window))
    starts = np.flatnonzero((parts == window).all(1))
    places = starts[:, None] + np.arange(len(window))
    return ~active[places].any((0, 1)) & bool(len(starts))


def _find(work: Work, found: Found, latents: Sequence[int]) -> dict[str, np.ndarray]:
    # A latent without examples is nobody's neighbour.
    shown = jnp.asarray(found.examples.density > 0)
    decoder = jnp.where(shown[:, None], whole_rows(work.dictionary), 0.0)
    neighbours, _ = nearest_latents(decoder, NEIGHBOURS, of=np.asarray(latents))
    examples = [
        (int(j), text)
        for j in np.unique(neighbours[neighbours >= 0]) for text in found.texts_of(int(j))
    ]
    width = found.examples.top.tokens.shape[-1]
    tokens = np.full((len(examples), width), -1, np.int32)
    for number, (_, text) in enumerate(examples):
        tokens[number, : len(text.tokens)] = text.tokens
    return {
        "neighbours": neighbours, "tokens": tokens,
        "latent": np.asarray([j for j, _ in examples], np.int32),
        "document": np.asarray([text.document for _, text in examples], np.int64),
        "silent": _silent(work, [text for _, text in examples], latents, found.examples.tokens),
    }


def _silent(
    work: Work, texts: Sequence[Text], latents: Sequence[int], most: int
) -> np.ndarray:
    """bool [N, G], by a pass over the first `most` tokens of the held-out data."""
    waiting: dict[int, list[int]] = {}
    for number, text in enumerate(texts):
        waiting.setdefault(text.document, []).append(number)
    silent = np.zeros((len(texts), len(latents)), bool)
    with Progress(most, "similar texts", unit="tokens", log_every=work.config.log_every) as bar:
        for rows in work.rows(held_out=True):
            x, keep = work.activations(rows)
            active = _active(
                work.dictionary, x, jnp.asarray(keep), jnp.asarray(latents, jnp.int32)
            )
            active = np.asarray(active).reshape(*rows.tokens.shape, len(latents))
            lengths = rows.valid.sum(1)
            for row, document in enumerate(document_ids(rows.tokens, rows.valid)[:, 0].tolist()):
                own = slice(0, lengths[row])
                for number in waiting.pop(document, ()):
                    silent[number] = silent_in(
                        rows.tokens[row, own], active[row, own], texts[number].tokens
                    )
            bar.update(int(keep.sum()))
            if not waiting or bar.done >= most:
                break
    return silent


@jax.jit
def _active(dictionary, x: jax.Array, keep: jax.Array, latents: jax.Array) -> jax.Array:
    """bool [N, G]."""
    return kept_code(dictionary, x, keep)[:, latents] > 0
