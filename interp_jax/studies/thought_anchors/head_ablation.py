"""Ablating receiver heads beside matched random heads (arXiv 2506.19143; spec 8.5).

A head is ablated by zeroing what it mixes before the output projection, which takes away exactly
its own contribution to the stream. (The published hook zeroes slices of the projection's output:
dimensions of the stream, not heads.) Controls are random heads in the same layers, as many in
each. Which heads a row loses is an operand, so the chosen heads, all controls and the untouched
baseline are rows of one program.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from interp_jax.interventions.edits import Edit, require_finite
from interp_jax.interventions.run import require_touched
from interp_jax.interventions.verbs import read
from interp_jax.models.batch import Batch
from interp_jax.models.decoder import Decoder
from interp_jax.models.sites import Site
from interp_jax.models.taps import tap_class
from interp_jax.runtime.errors import UserError
from interp_jax.runtime.keys import fold
from interp_jax.studies.thought_anchors.asking import Trace
from interp_jax.studies.thought_anchors.kl import log_divergence
from interp_jax.studies.thought_anchors.trace_batch import trace_batch
from interp_jax.studies.thought_anchors.vocabulary import project

CONTROLS = 20
ROWS_AT_ONCE = 7
Heads = list[tuple[int, int]]


@tap_class
class KeepHeads(Edit):
    """Multiplies each head of each row by a factor, at `head_out`: 0 ablates, 1 leaves the bits.

    Counted as touched: tokens of rows in which a head of the layer has another factor than 1.

    Attributes:
        keep: [N, B, H] for the N layers of the site.
    """

    keep: jax.Array = None

    def __post_init__(self):
        require_finite(self.name, keep=self.keep, strength=self.strength)

    def narrow(self, mask, context):
        layer = jnp.asarray(self.keep)[context.slot]
        return mask & jnp.any(layer != 1, axis=-1)[:, None]

    def edit(self, value, amount, context):
        factor = jnp.asarray(self.keep).astype(value.dtype)[context.slot][:, None, :, None]
        return value * ((jnp.ones_like(amount) - amount) + amount * factor)


@dataclass(frozen=True)
class HeadAblation:
    """What ablating heads does to a trace. R controls, K heads, S sentences.

    Attributes:
        heads: the chosen ones, (layer, head).
        controls: the R sets of random heads.
        lengths: int [S]; tokens of each sentence.
        kl: float64 [1 + R, S], the chosen heads first: mean over a sentence's tokens of
            KL(baseline || ablated) of the next token, in nats.
        log_probability: float64 [1 + R, S]: mean log-probability, in nats, of the sentence's own
            tokens; NaN for a sentence whose only token is the first of all.
        base_log_probability: float64 [S]; the same without ablation.
        overlapping: layers with too few other heads, where controls may hold chosen ones too.
    """

    heads: Heads
    controls: list[Heads]
    lengths: np.ndarray
    kl: np.ndarray
    log_probability: np.ndarray
    base_log_probability: np.ndarray
    overlapping: list[int]

    def effects(self, measure: str = "kl") -> np.ndarray:
        """float64 [1 + R]: mean over the trace's tokens; larger is worse for the model.

        Args:
            measure: `kl`, or `log_probability` for how much of it is lost.
        """
        if measure == "kl":
            values = self.kl
        elif measure == "log_probability":
            values = self.base_log_probability[None, :] - self.log_probability
        else:
            raise UserError(
                found=f"the measure {measure!r}", expected="kl or log_probability",
                do="choose one of them",
            )
        known = np.isfinite(values[0])
        return values[:, known] @ self.lengths[known] / self.lengths[known].sum()

    def p_value(self, measure: str = "kl") -> float:
        """Share of the R + 1 sets (the chosen one too) whose effect is at least the chosen's.

        One-sided; never below 1 / (R + 1).
        """
        effects = self.effects(measure)
        return float(np.mean(effects >= effects[0]))


def ablate_with_controls(
    network: Decoder, trace: Trace, heads: Sequence[tuple[int, int]], *, key: jax.Array,
    controls: int = CONTROLS, at_once: int = ROWS_AT_ONCE,
    on_progress: Callable[[int], None] | None = None,
) -> HeadAblation:
    """Ablates the heads, and `controls` times as many random ones in the same layers.

    Args:
        key: typed key of the controls.
        at_once: ablations in a batch, besides the baseline; one program for all of them.
        on_progress: called after each batch with the number of ablations it did.

    Raises:
        UserError: no heads, a head twice, or one that the network does not have.
    """
    config = network.config
    heads = _checked(heads, config.n_layers, config.n_heads)
    if controls < 1 or at_once < 1:
        raise UserError(
            found=f"{controls} controls, {at_once} at once", expected="at least 1 of each",
            do="an effect without controls says little",
        )
    drawn, overlapping = matched_random_heads(heads, config.n_heads, controls, key)
    sets = [heads, *drawn]
    layers = layers_of(heads)
    rows = min(at_once, len(sets))
    batch = trace_batch(trace, config, rows + 1)
    parts, base = [], None
    for start in range(0, len(sets), rows):
        part = sets[start : start + rows]
        fillers: list[Heads] = [[]] * (rows - len(part))
        taps = ablate_rows([[], *part, *fillers], layers, config.n_heads)  # row 0 keeps all
        kl, log_probability, touched = jax.device_get(
            ablation_effects(taps(network), batch, trace.spans)
        )
        require_touched({f"touched/{n}": touched[n + 1] for n in range(len(part))})
        base = log_probability[0] if base is None else base
        parts.append((kl[1 : 1 + len(part)], log_probability[1 : 1 + len(part)]))
        if on_progress is not None:
            on_progress(len(part))
    kl, log_probability = (np.concatenate(a).astype(np.float64) for a in zip(*parts, strict=True))
    lengths = (trace.spans[:, 1] - trace.spans[:, 0]).astype(np.int64)
    return HeadAblation(
        heads, drawn, lengths, kl, log_probability, base.astype(np.float64), overlapping
    )


def layers_of(heads: Sequence[tuple[int, int]]) -> tuple[int, ...]:
    """The layers of heads, ascending."""
    return tuple(sorted({layer for layer, _ in heads}))


def ablate_rows(
    sets: Sequence[Sequence[tuple[int, int]]], layers: tuple[int, ...], n_heads: int
) -> KeepHeads:
    """The intervention that takes from row b of a batch the heads of `sets[b]`.

    Args:
        sets: one for each row, (layer, head); an empty one leaves the row's bits.
        layers: all that occur; the same ones give the same program whatever the sets are.
        n_heads: of a layer.
    """
    keep = np.ones((len(layers), len(sets), n_heads), np.float32)
    for row, own in enumerate(sets):
        for layer, head in own:
            keep[layers.index(layer), row, head] = 0
    return KeepHeads("ablate_heads", Site("head_out", layers), keep=keep)


def matched_random_heads(
    heads: Sequence[tuple[int, int]], n_heads: int, draws: int, key: jax.Array
) -> tuple[list[Heads], list[int]]:
    """Random heads, in each layer as many as `heads` has there and none of those.

    Args:
        heads: (layer, head).
        n_heads: of a layer.
        draws: R.
        key: typed; draw r does not depend on R.

    Returns:
        R sets, and the layers that have too few other heads: there they are drawn from all.
    """
    chosen = Counter(layer for layer, _ in heads)
    layers = sorted(chosen)
    keys = jax.vmap(lambda r: fold(key, "control heads", r))(jnp.arange(draws, dtype=jnp.uint32))
    uniform = jax.vmap(lambda k: jax.random.uniform(k, (max(layers) + 1, n_heads)))(keys)
    order = np.array(jax.device_get(uniform))
    overlapping = [layer for layer in layers if n_heads < 2 * chosen[layer]]
    for layer, head in heads:
        if layer not in overlapping:
            order[:, layer, head] = np.inf
    ranked = np.argsort(order, axis=-1)
    sets = [
        [(layer, int(h)) for layer in layers for h in sorted(ranked[r, layer, : chosen[layer]])]
        for r in range(draws)
    ]
    return sets, overlapping


@jax.jit
def ablation_effects(network: Decoder, batch: Batch, spans: jax.Array):
    """Means over sentences, float32 [B, S], of KL from row 0 and of own log-probability; counts."""
    _, tape = read("final_norm", name="last stream")(network)(batch, logits_at="none")
    streams = tape["last stream"]
    rows, length, width = streams.shape
    size = 32 if length % 32 == 0 else 16 if length % 16 == 0 else 8
    following = jnp.roll(batch.tokens[0], -1)
    # A few positions at a time, and row by row: equal streams then have equal bits of logits.
    parts = (
        streams.reshape(rows, length // size, size, width).swapaxes(0, 1),
        following.reshape(length // size, size),
    )

    def one(part):
        stream, target = part
        logs = jax.lax.map(lambda row: jax.nn.log_softmax(project(network, row), axis=-1), stream)
        own = jnp.take_along_axis(logs, target[None, :, None], axis=-1)[..., 0]
        return log_divergence(logs[:1], logs), own

    whole = lambda a: a.swapaxes(0, 1).reshape(rows, length)
    kl, ahead = (whole(a) for a in jax.lax.map(one, parts))
    at = jnp.arange(length, dtype=jnp.int32)[None, :]
    inside = (spans[:, :1] <= at) & (at < spans[:, 1:])
    # A token is predicted one position before it; the first of all by nothing.
    predicted = jnp.roll(ahead, 1, axis=1)
    scored = inside & (at > 0)
    touched = tape["touched/ablate_heads"]
    return _means(kl, inside, 0.0), _means(predicted, scored, float("nan")), touched


def _means(values: jax.Array, members: jax.Array, empty: float) -> jax.Array:
    """[B, S]: means of [B, T] over members [S, T], `empty` where there are none."""
    count = jnp.sum(members, axis=1, dtype=jnp.int32)
    total = jnp.einsum(
        "bt,st->bs", values, members.astype(values.dtype), precision=jax.lax.Precision.HIGHEST
    )
    mean = total / jnp.maximum(count, 1).astype(values.dtype)[None, :]
    return jnp.where((count > 0)[None, :], mean, jnp.asarray(empty, values.dtype))


def _checked(heads: Sequence[tuple[int, int]], n_layers: int, n_heads: int) -> Heads:
    heads = [(int(layer), int(head)) for layer, head in heads]
    wrong = [pair for pair in heads if not (0 <= pair[0] < n_layers and 0 <= pair[1] < n_heads)]
    if not heads or wrong or len(set(heads)) < len(heads):
        raise UserError(
            found=f"the heads {wrong or heads}",
            expected=f"different heads, layers below {n_layers} and heads below {n_heads}",
            do="give pairs of layer and head, from 0",
        )
    return heads
