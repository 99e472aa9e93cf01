"""Room for the examples of every latent: a fixed number of slots each, filled in place."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from interp_jax.dictionaries.examples_keep import first_of_groups, place_in_group

Windows = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclasses.dataclass
class Slots:
    """S slots for each of F latents; a slot whose value is 0 is free. Their order says nothing.

    Attributes:
        value: float32 [F, S], the peak's activation.
        key: uint64 [F, S], the draw of the reservoir.
        document: int64 [F, S].
        tokens: int32 [F, S, W], -1 where the document has none.
        activations: float32 [F, S, W].
    """

    value: np.ndarray
    key: np.ndarray
    document: np.ndarray
    tokens: np.ndarray
    activations: np.ndarray

    @classmethod
    def empty(cls, latents: int, slots: int, window: int) -> Slots:
        """No examples yet."""
        return cls(
            np.zeros((latents, slots), np.float32),
            np.zeros((latents, slots), np.uint64),
            np.zeros((latents, slots), np.int64),
            np.full((latents, slots, window), -1, np.int32),
            np.zeros((latents, slots, window), np.float32),
        )

    def offer(
        self,
        latent: np.ndarray,
        value: np.ndarray,
        key: np.ndarray,
        document: np.ndarray,
        windows: Windows,
        band: Callable[[np.ndarray, np.ndarray], np.ndarray],
        order: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, ...]],
        count: int,
        also: np.ndarray,
    ) -> np.ndarray:
        """Takes in the candidates that belong among the first `count` of their band.

        Args:
            latent, value, key, document: [C].
            windows: indices of candidates -> their tokens and activations.
            band: (latent, value) -> int64.
            order: (value, key) -> arrays, see `first_of_groups`.
            count: per latent and band; bands times count is S.
            also: int64, latents whose bands have moved, to be looked at without candidates too.

        Returns:
            int64 [A], the latents that were looked at.
        """
        looked_at = np.union1d(latent, also)
        if not len(looked_at):
            return looked_at
        owner, slot = np.nonzero(self.value[looked_at] > 0)
        held = (looked_at[owner], slot)
        old = len(owner)
        everyone = np.concatenate([held[0], latent])
        values = np.concatenate([self.value[held], value])
        draws = np.concatenate([self.key[held], key])
        papers = np.concatenate([self.document[held], document])
        bands = band(everyone, values)
        group = everyone * (int(bands.max(initial=0)) + 1) + bands
        kept = first_of_groups(group, order(values, draws), papers, count)
        stays = np.zeros(old, bool)
        stays[kept[kept < old]] = True
        self.value[held[0][~stays], held[1][~stays]] = 0.0
        came = kept[kept >= old] - old
        came = came[np.argsort(latent[came], kind="stable")]
        # The j-th newcomer of a latent takes its j-th free slot.
        row, free = np.nonzero(self.value[looked_at] == 0)
        begin = np.searchsorted(row, np.arange(len(looked_at)))
        at = np.searchsorted(looked_at, latent[came])
        place = (latent[came], free[begin[at] + place_in_group(latent[came])])
        self.value[place], self.key[place] = value[came], key[came]
        self.document[place] = document[came]
        if len(came):
            self.tokens[place], self.activations[place] = windows(came)
        return looked_at

    def arranged(self, order: np.ndarray) -> Slots:
        """The slots taken in `order` [F, S']; entries beyond the last slot are free ones."""
        slots = self.value.shape[1]
        take = np.minimum(order, slots - 1)
        free = order >= slots

        def one(array, blank):
            index = take if array.ndim == 2 else take[..., None]
            mask = free if array.ndim == 2 else free[..., None]
            taken = np.take_along_axis(array, index, 1)
            return np.where(mask, np.asarray(blank, array.dtype), taken)

        return Slots(
            one(self.value, 0), one(self.key, 0), one(self.document, -1), one(self.tokens, -1),
            one(self.activations, 0),
        )
