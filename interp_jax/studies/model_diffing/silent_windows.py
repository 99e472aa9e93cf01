"""Pieces of text with all latents that are active in them: where others can be known silent."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from interp_jax.studies.model_diffing.scoring_texts import Text

WINDOW = 32


class SilentWindows:
    """A pool of windows of `WINDOW` tokens from different documents.

    Args:
        latents: F. most: how many windows are kept; the first ones met.
        seed: of where in its row a window stands.
    """

    def __init__(self, latents: int, most: int = 256, seed: int = 0):
        self.latents, self.most, self.seed = latents, most, seed
        self.tokens: list[np.ndarray] = []
        self.documents: list[int] = []
        self.active: list[np.ndarray] = []  # bool [F] each, packed

    @property
    def full(self) -> bool:
        """Whether no more are taken in."""
        return len(self.tokens) >= self.most

    def starts(self, lengths: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """int32 [B]: where the window of each row begins; 0 where the row is too short."""
        draw = [np.random.default_rng([self.seed, int(n)]) for n in numbers]
        return np.asarray(
            [int(one.integers(0, max(length - WINDOW, 0) + 1))
             for one, length in zip(draw, lengths, strict=True)], np.int32,
        )  # fmt: skip

    def offer(self, tokens, lengths, documents, starts, active) -> None:
        """Takes the windows of a batch in.

        Args:
            tokens: int [B, T]. lengths: int [B]. documents: int [B]. starts: of `starts`.
            active: bool [B, F], latents active at one of the window's tokens.
        """
        for row, start in enumerate(starts):
            fits = lengths[row] >= WINDOW and documents[row] not in self.documents
            if fits and not self.full:
                self.tokens.append(np.asarray(tokens[row, start : start + WINDOW], np.int32))
                self.documents.append(int(documents[row]))
                self.active.append(np.packbits(np.asarray(active[row], bool)))

    def arrays(self) -> dict[str, np.ndarray]:
        """For a file."""
        count = len(self.tokens)
        return {
            "silent_tokens": np.asarray(self.tokens, np.int32).reshape(count, WINDOW),
            "silent_documents": np.asarray(self.documents, np.int64),
            "silent_active": np.asarray(self.active, np.uint8).reshape(count, -1),
        }


def silent_texts(arrays: Mapping[str, np.ndarray], latent: int) -> list[Text]:
    """The windows of `SilentWindows.arrays` in which a latent is not active."""
    bit = (arrays["silent_active"][:, latent // 8] >> (7 - latent % 8)) & 1
    return [
        Text(tokens, np.zeros(len(tokens)), int(document), -1)
        for tokens, document, on in zip(
            arrays["silent_tokens"], arrays["silent_documents"], bit, strict=True
        ) if not on
    ]
