"""A prefix that many samples share: run once, held once, cut anywhere.

The cache of a trace serves every sentence of it: a prefix of the trace is the
trace's own token ids cut at a token boundary, so its cache is a slice. A cache
remembers under which interventions it was made, and refuses others.
"""

from __future__ import annotations

import dataclasses
import hashlib
from functools import partial

import jax
import numpy as np

from interp_jax.generation.requests import bucket
from interp_jax.models.batch import Batch
from interp_jax.models.cache import Prefix
from interp_jax.models.decoder import Decoder, as_prefix
from interp_jax.runtime.errors import UserError


def fingerprint(intervention) -> str:
    """Identity of an intervention: its structure and the bytes of its leaves."""
    leaves, tree = jax.tree.flatten(intervention)
    digest = hashlib.sha256(str(tree).encode())
    for leaf in leaves:
        array = np.asarray(leaf)
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()[:16]


@dataclasses.dataclass(frozen=True)
class SharedPrefix:
    """A prefix ready to be continued.

    Attributes:
        prefix: keys and values, padded to a bucket.
        tokens: int32 [P]; without the padding. roles: int8 [P].
        made_under: fingerprint of the interventions it was run under.
        tape: counts of the pass that made it ([1] rows).
    """

    prefix: Prefix
    tokens: np.ndarray
    roles: np.ndarray
    made_under: str
    tape: dict[str, np.ndarray]

    def require(self, interventions) -> None:
        """Raises UserError unless made under exactly these interventions."""
        if fingerprint(interventions) != self.made_under:
            raise UserError(
                found="a prefix cache made under other interventions",
                expected="the interventions of this run", do="make the prefix again under these",
            )

    @property
    def nbytes(self) -> int:
        """Bytes of its keys and values."""
        return sum(leaf.nbytes for leaf in jax.tree.leaves(self.prefix.layers))


@partial(jax.jit, static_argnames="slots")
def _prefill(network: Decoder, batch: Batch, slots: int):
    cache = network.empty_cache(1, slots)
    _, tape, cache = network.extend(batch, cache, logits_at="none", fresh=True)
    return {n: a for n, a in tape.items() if a.ndim == 1}, cache


def make_prefix(
    network: Decoder, tokens: np.ndarray, *, roles: np.ndarray | None = None, interventions=None
) -> SharedPrefix:
    """Runs `tokens` [P] once, under `interventions`.

    Raises:
        UserError: more tokens than the network's context, or none.
    """
    tokens = np.asarray(tokens, np.int32)
    if not 1 <= len(tokens) <= network.config.max_context:
        raise UserError(
            found=f"a prefix of {len(tokens)} tokens",
            expected=f"1 to {network.config.max_context}, the context of the network",
            do="shorten it",
        )
    roles = np.zeros(len(tokens), np.int8) if roles is None else np.asarray(roles, np.int8)
    edited = network if interventions is None else interventions(network)
    slots = bucket(len(tokens), 64)
    pad = lambda a: np.pad(a, (0, slots - len(a)))[None]
    valid = np.arange(slots)[None] < len(tokens)
    batch = Batch.make(pad(tokens), valid, roles=pad(roles))
    tape, cache = _prefill(edited, batch, slots)
    return SharedPrefix(
        as_prefix(cache), tokens, roles, fingerprint(interventions),
        {n: np.asarray(a) for n, a in tape.items()},
    )


def at_cut(prefix: SharedPrefix, cut: int) -> tuple[np.ndarray, np.ndarray, int]:
    """(tokens, roles, cut) of a request that continues after `cut` prefix tokens.

    The last of them is fed again as the row's own first token, which is what
    makes the first new token's logits.
    """
    if not 1 <= cut <= len(prefix.tokens):
        raise UserError(
            found=f"a cut after {cut} tokens", expected=f"1 to {len(prefix.tokens)}",
            do="cut inside the prefix",
        )
    return prefix.tokens[cut - 1 : cut], prefix.roles[cut - 1 : cut], cut - 1
