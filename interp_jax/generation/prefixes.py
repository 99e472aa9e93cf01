"""A prefix that many samples share: run once, held once, cut anywhere.

The cache of a trace serves every sentence of it: a prefix of the trace is the
trace's own token ids cut at a token boundary, so its cache is a slice. A cache
remembers under which interventions it was made, and refuses others.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Collection
from functools import partial

import jax
import numpy as np

from interp_jax.generation.collecting import counts_of
from interp_jax.generation.requests import bucket
from interp_jax.interventions.where import Where
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


def counts_from_end(intervention) -> bool:
    """Whether any where-clause in it has a negative position or span."""
    is_where = lambda node: isinstance(node, Where)
    for node in jax.tree.leaves(intervention, is_leaf=is_where):
        if not is_where(node):
            continue
        if any(np.any(np.asarray(a) < 0) for a in (node.positions, node.spans) if a is not None):
            return True
        if node.exclude is not None and counts_from_end(node.exclude):
            return True
    return False


@dataclasses.dataclass(frozen=True)
class SharedPrefix:
    """A prefix ready to be continued.

    Attributes:
        prefix: keys and values, padded to a bucket.
        tokens: int32 [P]; without the padding. roles: int8 [P].
        length: what positions counted from the end were counted from.
        made_under: fingerprint of the interventions it was run under.
        tape: counts of the pass that made it ([1] rows).
    """

    prefix: Prefix
    tokens: np.ndarray
    roles: np.ndarray
    length: int
    made_under: str
    tape: dict[str, np.ndarray]

    def require(self, interventions, lengths: Collection[int] = ()) -> None:
        """Raises UserError unless made under exactly these interventions.

        Args:
            lengths: prompt lengths of the rows that continue it. Where an intervention
                counts positions from the end, each must be the prefix's own.
        """
        if fingerprint(interventions) != self.made_under:
            raise UserError(
                found="a prefix cache made under other interventions",
                expected="the interventions of this run", do="make the prefix again under these",
            )
        other = sorted(set(lengths) - {self.length})
        if other and counts_from_end(interventions):
            raise UserError(
                found=f"positions counted from the end, of prompts of {other[0]} tokens, with a "
                f"prefix that counted from {self.length}",
                expected="the same end for both",
                do="give positions from the start, or whole prompts",
            )

    @property
    def nbytes(self) -> int:
        """Bytes of its keys and values."""
        return sum(leaf.nbytes for leaf in jax.tree.leaves(self.prefix.layers))


@partial(jax.jit, static_argnames="slots")
def _prefill(network: Decoder, batch: Batch, slots: int):
    cache = network.empty_cache(1, slots)
    _, tape, cache = network.extend(batch, cache, logits_at="none", fresh=True)
    return counts_of(network, tape), cache


def make_prefix(
    network: Decoder, tokens: np.ndarray, *, roles: np.ndarray | None = None,
    interventions=None, length: int | None = None,
) -> SharedPrefix:
    """Runs `tokens` [P] once, under `interventions`.

    Args:
        length: what negative positions in where-clauses count back from; None for P.

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
    length = len(tokens) if length is None else length
    lengths = np.full(1, length, np.int32)
    batch = Batch.make(pad(tokens), valid, roles=pad(roles), lengths=lengths)
    tape, cache = _prefill(edited, batch, slots)
    return SharedPrefix(
        as_prefix(cache), tokens, roles, length, fingerprint(interventions),
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
