"""What a spliced dictionary costs the language model: cross-entropy and KL, and shares recovered.

Per predicted token, in nats, with H the cross-entropy of the token that follows and D the KL
from the model as it is: "spliced" sees the reconstruction, "ablated" sees the baseline.

`ce_recovered` (1): (H_ablated - H_spliced) / (H_ablated - H_base).
`kl_recovered` (1): 1 - D(base || spliced) / D(base || ablated).

Both are 1 for a perfect reconstruction and 0 for one as bad as the baseline; they may leave that
range. The baseline is part of the name of the number: `zero` puts zeros in place of the
activation, `mean` its mean over tokens (`site_mean`), which is the harder one to beat. Sums over
tokens are divided once, so how rows are put into batches changes nothing, up to rounding.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from interp_jax.interventions.dictionary_splice import Splice
from interp_jax.interventions.placing import compose
from interp_jax.interventions.reads import Read, Reduction
from interp_jax.interventions.run import require_touched
from interp_jax.interventions.verbs import replace, scale
from interp_jax.interventions.where import EVERYWHERE, Where
from interp_jax.models.batch import Batch
from interp_jax.models.decoder import Decoder
from interp_jax.models.sites import Site
from interp_jax.models.tree import pytree_dataclass
from interp_jax.runtime.errors import UserError

VERSIONS = {"ce_recovered": 1, "kl_recovered": 1}
Baseline = Literal["zero", "mean"]

# Positions of a row whose logits exist at once, three times over.
_POSITIONS = 64


class RecoveredSums(NamedTuple):
    """Sums over predicted tokens, float32 [] each, in nats. Add them up; `recovered` divides.

    Attributes:
        tokens: how many tokens were predicted.
        ce_base, ce_spliced, ce_ablated: cross-entropy of the following token.
        kl_spliced, kl_ablated: KL from the network as it is.
    """

    tokens: jax.Array
    ce_base: jax.Array
    ce_spliced: jax.Array
    ce_ablated: jax.Array
    kl_spliced: jax.Array
    kl_ablated: jax.Array


def recovered(
    network: Decoder,
    batches: Batch | Iterable[Batch],
    splice: Splice,
    *,
    baseline: Baseline = "zero",
    mean: jax.Array | None = None,
    predicting: Where = EVERYWHERE,
) -> dict[str, float | str]:
    """Cross-entropy and KL recovered by a splice.

    Args:
        network: as it is. Nothing may be placed at `final_norm` or `logits`.
        batches: rows of tokens; each batch of another shape is another program.
        splice: made by `splice(site, dictionary, error=False)`. Its `where` is the baseline's
            too: leave out there what the dictionary was not trained on, such as the BOS token.
        baseline: what the activation is replaced with for H_ablated.
        mean: float32 [D] of the site, for `mean`; see `site_mean`.
        predicting: tokens whose prediction counts; the last of a row predicts nothing.

    Returns:
        `ce_recovered`, `kl_recovered`, the means they are made of (`ce_base`, `ce_spliced`,
        `ce_ablated`, `kl_spliced`, `kl_ablated`), `tokens`, and `baseline`. A share whose
        denominator is 0 is NaN.

    Raises:
        UserError: no predicted token, a splice that touched none, a mean that is missing or
            superfluous, or taps beyond the last block.
    """
    if (baseline == "mean") != (mean is not None) or baseline not in ("zero", "mean"):
        raise UserError(
            found=f"baseline {baseline!r} {'with' if mean is not None else 'without'} a mean",
            expected="`zero` without a mean, or `mean` with one", do="make it with site_mean",
        )  # fmt: skip
    site, where = splice.site, splice.where
    if baseline == "zero":
        ablated = scale(site, 0.0, where=where, name="ablated")
    else:
        ablated = replace(site, mean, where=where, name="ablated")
    sums, counts = [], []
    for batch in [batches] if isinstance(batches, Batch) else batches:
        one, tape = recovered_sums(network, batch, splice, ablated, predicting)
        sums.append(one)
        counts.append(tape)
    if not sums:
        raise UserError(found="no batches", expected="at least one", do="give some tokens")
    # Scalars only; brought over at the end, so that the device never waits.
    held = jax.device_get(counts)
    require_touched({name: np.concatenate([c[name] for c in held]) for name in held[0]})
    total = np.sum(np.asarray(jax.device_get(sums), np.float64), axis=0)
    return _shares(RecoveredSums(*total), baseline)


def _shares(total: RecoveredSums, baseline: str) -> dict[str, float | str]:
    if total.tokens == 0:
        raise UserError(
            found="no predicted token", expected="at least one",
            do="use rows of two tokens or more, and check `predicting`",
        )  # fmt: skip
    means = {k: float(v / total.tokens) for k, v in total._asdict().items() if k != "tokens"}
    gap = means["ce_ablated"] - means["ce_base"]
    lost = means["kl_ablated"]
    nan = float("nan")
    return {
        "ce_recovered": (means["ce_ablated"] - means["ce_spliced"]) / gap if gap else nan,
        "kl_recovered": 1 - means["kl_spliced"] / lost if lost else nan,
        **means,
        "tokens": float(total.tokens),
        "baseline": baseline,
    }


def recovered_sums(
    network: Decoder, batch: Batch, spliced: Any, ablated: Any, predicting: Where = EVERYWHERE
) -> tuple[RecoveredSums, dict[str, jax.Array]]:
    """Sums of one batch, in one compiled program, for any two interventions.

    Args:
        network, batch, predicting: as in `recovered`.
        spliced: what is judged.
        ablated: what it is judged against.

    Returns:
        the sums, and touched counts by tape name.

    Raises:
        UserError: taps at `final_norm` or `logits`, or an intervention there.
    """
    for one in (network, spliced(network), ablated(network)):
        late = [p.tap.name for p in one.taps if p.tap.site.name in ("final_norm", "logits")]
        if late:
            raise UserError(
                found=f"{', '.join(late)} beyond the last block",
                expected="interventions in the blocks or at the embedding",
                do="detach what stands at final_norm and logits",
            )
    return _sums(network, batch, spliced, ablated, predicting)


@jax.jit
def _sums(network, batch: Batch, spliced, ablated, predicting: Where):
    last = Read("recovered", Site("resid_post", (network.config.n_layers - 1,)))
    # Packed columns: a row's next token stands beside it.
    packed = Batch(
        batch.tokens, batch.valid, batch.positions, batch.roles, batch.lengths, order=None
    )
    streams, counts = [], {}
    for edit in (None, spliced, ablated):
        _, tape = compose(edit, last)(network)(packed, logits_at="none")
        streams.append(tape.pop("recovered")[0])
        tape.pop("touched/recovered")
        counts |= {name: rows for name, rows in tape.items() if name.startswith("touched/")}
    follows = jnp.roll(batch.tokens, -1, axis=1)
    counted = predicting(batch) & batch.valid
    counted &= jnp.concatenate([batch.valid[:, 1:], jnp.zeros_like(batch.valid[:, :1])], axis=1)
    parts = [_chunks(a) for a in (jnp.stack(streams, axis=2), follows, counted)]
    each = jax.lax.map(partial(_compare, network), tuple(parts))
    return RecoveredSums(*(jnp.sum(part) for part in each)), counts


def _chunks(array: jax.Array) -> jax.Array:
    """[B, T, ...] -> [N, positions, ...], padded with zeros."""
    flat = array.reshape(-1, *array.shape[2:])
    padding = [(0, -flat.shape[0] % _POSITIONS)] + [(0, 0)] * (flat.ndim - 1)
    return jnp.pad(flat, padding).reshape(-1, _POSITIONS, *flat.shape[1:])


def _compare(network: Decoder, part) -> RecoveredSums:
    """Sums over a few positions: streams [P, 3, D], following tokens [P], which count [P]."""
    streams, follows, counted = part
    # One loop body for all three: where streams have the same bits, so have their logits.
    own = lambda x: jax.nn.log_softmax(network.unembed(x[None])[0].astype(jnp.float32), axis=-1)
    log_probs = jax.lax.map(own, streams.swapaxes(0, 1)).swapaxes(0, 1)
    index = jnp.broadcast_to(follows[:, None, None], (*log_probs.shape[:2], 1))
    entropy = -jnp.take_along_axis(log_probs, index, axis=-1)[..., 0]  # [P, 3]
    base = log_probs[:, :1]
    divergence = jnp.sum(jnp.exp(base) * (base - log_probs[:, 1:]), axis=-1)  # [P, 2]
    sums = [counted, *entropy.T, *divergence.T]
    zero = jnp.zeros((), jnp.float32)
    return RecoveredSums(
        *(jnp.sum(jnp.where(counted, value.astype(jnp.float32), zero)) for value in sums)
    )


def site_mean(
    network: Decoder,
    batches: Batch | Iterable[Batch],
    site: str | Site,
    where: Where = EVERYWHERE,
) -> np.ndarray:
    """The mean activation over tokens, float32 [D], for the `mean` baseline.

    Args:
        site: one layer of a site with a plain width, e.g. `resid_post[12]`.
        where: which tokens, as in the splice.

    Raises:
        UserError: another kind of site, or no token.
    """
    site = Site.parse(site) if isinstance(site, str) else site
    if site.axes not in ("BTD", "BTF", "BTV") or (site.layered and len(site.layers or ()) != 1):
        raise UserError(
            found=f"site {site}", expected="one layer, with one vector for each token",
            do="name the layer, for example resid_post[12]",
        )  # fmt: skip
    sums = []
    for batch in [batches] if isinstance(batches, Batch) else batches:
        sums.append(_site_sum(network, batch, site, where))
    held = jax.device_get(sums)
    tokens = sum(float(count) for _, count in held)
    if tokens == 0:
        raise UserError(found="no token", expected="at least one", do="check the where-clause")
    total = np.sum([np.asarray(value, np.float64) for value, _ in held], axis=0)
    return (total / tokens).astype(np.float32)


@partial(jax.jit, static_argnames=("site",))
def _site_sum(network: Decoder, batch: Batch, site: Site, where: Where):
    _, tape = Read("mean", site, where, _TokenSum())(network)(batch, logits_at="none")
    value = tape["mean"][0] if site.layered else tape["mean"]
    return jnp.sum(value, axis=0), jnp.sum(tape["touched/mean"]).astype(jnp.float32)


@pytree_dataclass
class _TokenSum(Reduction):
    """[B, D]: the sum over the tokens asked for."""

    def __call__(self, value: jax.Array, mask: jax.Array, context: Any) -> jax.Array:
        return jnp.einsum("bt,btd->bd", mask.astype(value.dtype), value)
