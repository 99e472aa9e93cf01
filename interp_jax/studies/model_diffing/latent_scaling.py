"""Latent Scaling: how much of a latent each model's activations really hold (arXiv 2504.02922).

For latent j with vector v (its decoder row for the chat model, for targets of both models) and
code f_i at token i,

    beta = argmin_b sum_i |b f_i v - y_i|^2 = sum_i f_i <v, y_i> / (sum_i f_i^2 |v|^2)

for four targets y of each model m: `activation` h; `activation_no_bias` h - b_dec;
`reconstruction` xhat, with bias and the latent's own part; `error` h - xhat with the latent's own
part put back. The ratios of base over chat are

    nu_eps (error)            high: the base residual still holds the latent's direction, which
                              the dictionary left out: complete shrinkage
    nu_r   (reconstruction)   high: other latents write it for the base model: latent decoupling
    nu_act, nu_act_no_bias    of the activations themselves

and a latent that is the chat model's own has low nu_eps and low nu_r. With C = sum f^2,
D = |v|^2 and the raw residual e = h - xhat,

    beta_error_m = sum f <v, e_m> / (C D) + <v, d_m> C_m / (C D)
    beta_act_m   = beta_recon_m + sum f <v, e_m> / (C D)

so one pass with two targets for each model gives all of them, for all latents (`moments`). C_m is
sum of f times the code by which model m's reconstruction was made: C itself, but for decoupled
codes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from interp_jax.dictionaries import metrics
from interp_jax.dictionaries.dictionary import Dictionary
from interp_jax.studies.model_diffing.moments import MODELS, Moments, MomentsPlan

TARGETS = ("error", "reconstruction", "activation", "activation_no_bias")
RATIOS = {
    "nu_eps": "error",
    "nu_r": "reconstruction",
    "nu_act": "activation",
    "nu_act_no_bias": "activation_no_bias",
}


@dataclasses.dataclass(frozen=True)
class LatentScaling:
    """Coefficients of every latent, float64 [F]; NaN where a latent never fires.

    Attributes:
        tokens: how many were seen.
        active: tokens at which each latent is active (above the floor, if there was one).
        largest: the largest scaled code of each latent.
        betas: `TARGET_MODEL` -> coefficient, e.g. `error_base`.
        ratios: `nu_eps`, `nu_r`, `nu_act`, `nu_act_no_bias`: base over chat. A latent whose chat
            coefficient is 0 has NaN.
        errors: standard error of each ratio, by leaving out one group of documents at a time;
            NaN where fewer than two groups have the latent.
        controls: the same ratios and betas with a control vector in place of v, by its name.
        fve, fve_base, fve_chat, l0: of the dictionary on these tokens, by threshold.
    """

    tokens: int
    active: np.ndarray
    largest: np.ndarray
    betas: Mapping[str, np.ndarray]
    ratios: Mapping[str, np.ndarray]
    errors: Mapping[str, np.ndarray]
    controls: Mapping[str, Mapping[str, np.ndarray]]
    fve: float
    fve_base: float
    fve_chat: float
    l0: float

    @property
    def alive(self) -> np.ndarray:
        """bool [F]: active at least once."""
        return self.active > 0


@dataclasses.dataclass(frozen=True)
class Geometry:
    """Inner products of vectors with what is fixed; float64, [W, F] or [W, 2, F] over models.

    Attributes:
        square: |v|^2.
        own: <v, d_m>, d_m the latent's decoder row for model m.
        bias: <v, b_m>, b_m the decoder bias of model m.
    """

    square: np.ndarray
    own: np.ndarray
    bias: np.ndarray


def geometry(dictionary: Dictionary, vectors: jax.Array, plan: MomentsPlan) -> Geometry:
    """Of vector tables [W, F, D], in the space of the activations."""

    def dot(a, b):
        return jnp.sum(a * b, axis=-1)

    biases = dictionary.restore(dictionary.array("decoder_bias")[None])[0]
    square, own, bias = [], [], []
    for table in vectors:
        square.append(dot(table, table))
        outs = (plan.base, plan.chat)
        own.append(jnp.stack([dot(table, dictionary.written_rows(out)) for out in outs]))
        # A row for each latent: the bias is the same for all of them.
        bias.append(jnp.stack([dot(table, biases[out][None]) for out in outs]))
    host = lambda parts: np.asarray(jnp.stack(parts), np.float64)
    return Geometry(host(square), host(own), host(bias))


def latent_scaling(
    moments: Moments, dictionary: Dictionary, vectors: jax.Array, plan: MomentsPlan
) -> LatentScaling:
    """The coefficients that the sums of a pass give.

    Args:
        moments: of all tokens.
        dictionary, vectors, plan: as in the pass.
    """
    sums = np.asarray(moments.high, np.float64) + np.asarray(moments.low, np.float64)
    groups = {name: sums[:, :, place] for place, name in enumerate(plan.names)}
    fixed = geometry(dictionary, vectors, plan)
    whole = {name: each.sum(0) for name, each in groups.items()}
    own = betas(whole, fixed, 0, plan.vectors[0])
    controls = {}
    for table, name in enumerate(plan.vectors[1:], start=1):
        found = betas(whole, fixed, table, name)
        controls[name] = {**found, **ratios(found)}
    quality = {name: np.asarray(of) for name, of in metrics.summary(moments.quality).items()}
    per_model = quality["fve_per_output"]
    return LatentScaling(
        tokens=int(moments.rows),
        active=whole["active"],
        largest=np.asarray(moments.largest, np.float64),
        betas=own,
        ratios=ratios(own),
        errors=_jackknife(groups, whole, fixed, plan.vectors[0]),
        controls=controls,
        fve=float(quality["fve"]),
        fve_base=float(per_model[plan.base]),
        fve_chat=float(per_model[plan.chat]),
        l0=float(quality["l0"]),
    )


def betas(
    sums: Mapping[str, np.ndarray], fixed: Geometry, table: int, name: str
) -> dict[str, np.ndarray]:
    """Every coefficient of one table of vectors, `TARGET_MODEL` -> float64 [F]."""
    norm = _positive(sums["square"] * fixed.square[table])
    found = {}
    for place, model in enumerate(MODELS):
        left = sums[f"{name}/residual_{model}"] / norm
        told = sums[f"{name}/reconstruction_{model}"] / norm
        own = fixed.own[table, place] * sums[f"own_{model}"] / norm
        bias = fixed.bias[table, place] * sums["code"] / norm
        found |= {
            f"error_{model}": left + own,
            f"reconstruction_{model}": told,
            f"activation_{model}": told + left,
            f"activation_no_bias_{model}": told + left - bias,
        }
    return found


def ratios(of: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Base over chat, by name."""
    return {
        name: of[f"{target}_base"] / _nonzero(of[f"{target}_chat"])
        for name, target in RATIOS.items()
    }


def _jackknife(groups, whole, fixed: Geometry, name: str) -> dict[str, np.ndarray]:
    """Standard error of each ratio; a group without the latent changes nothing and is not one."""
    count = len(groups["active"])
    left_out = {ratio: [] for ratio in RATIOS}
    for g in range(count):
        rest = {each: whole[each] - groups[each][g] for each in whole}
        for ratio, value in ratios(betas(rest, fixed, 0, name)).items():
            left_out[ratio].append(value)
    has = groups["active"] > 0
    n = has.sum(0)
    errors = {}
    for ratio, values in left_out.items():
        values = np.where(has, np.stack(values), 0.0)
        mean = values.sum(0) / np.maximum(n, 1)
        spread = (np.square(values - mean) * has).sum(0)
        errors[ratio] = np.where(n > 1, np.sqrt((n - 1) / np.maximum(n, 1) * spread), np.nan)
    return errors


def _positive(norm: np.ndarray) -> np.ndarray:
    return np.where(norm > 0, norm, np.nan)


def _nonzero(value: np.ndarray) -> np.ndarray:
    return np.where(value != 0, value, np.nan)
