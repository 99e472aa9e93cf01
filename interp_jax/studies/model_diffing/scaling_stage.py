"""Latent scaling as a stage: one pass over the tokens, gone on with after a kill."""

from __future__ import annotations

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np

from interp_jax.runtime import keys
from interp_jax.runtime.errors import UserError
from interp_jax.runtime.progress import Progress
from interp_jax.studies.model_diffing.latent_scaling import LatentScaling, latent_scaling
from interp_jax.studies.model_diffing.moments import (
    Moments,
    MomentsPlan,
    add_moments,
    groups_of,
    no_moments,
    vector_tables,
)
from interp_jax.studies.model_diffing.work import SCALING, Work, say

_STATE = "scaling_{name}_state.npz"
_SCALARS = ("tokens", "fve", "fve_base", "fve_chat", "l0")


def scaling_stage(work: Work, *, make: bool) -> LatentScaling:
    """The coefficients of every latent.

    Raises:
        UserError: not `make`, and they are not there; or too little data.
    """
    if work.has(SCALING):
        return _read(work.load(SCALING))
    if not make:
        raise work.missing(SCALING, "scaling")
    config, d = work.config, work.dictionary
    plan = MomentsPlan(
        vectors=("own", *config.controls), base=config.base_output, chat=config.chat_output,
        groups=config.groups, capacity=config.capacity,
        rows_at_once=1 if jax.default_backend() == "cpu" else 256,
    )
    vectors = vector_tables(d, plan, keys.fold(work.key, "scaling"))
    floor = None
    if config.floor:
        own = dataclasses.replace(plan, vectors=("own",), groups=1)
        maxima = _pass(work, own, vectors[:1], None, "maxima").largest
        floor = config.floor * maxima
    moments = _pass(work, plan, vectors, floor, "sums")
    if int(moments.dense_batches):
        say(f"{int(moments.dense_batches)} batches had a token with more than {plan.capacity} "
            "active latents and were computed densely.")
    found = latent_scaling(moments, d, vectors, plan)
    work.save(SCALING, _arrays(found))
    for name in ("maxima", "sums"):
        (work.workdir / _STATE.format(name=name)).unlink(missing_ok=True)
    return found


def _pass(work: Work, plan: MomentsPlan, vectors, floor, name: str) -> Moments:
    """The sums over `config.tokens` tokens; a pass that was stopped goes on at its checkpoint."""
    config, file = work.config, _STATE.format(name=name)
    moments, done, cursor = no_moments(work.dictionary, plan), 0, None
    leaves, tree = jax.tree.flatten(moments)
    if work.has(file):
        kept = work.load(file)
        cursor = json.loads(str(kept["cursor"]))
        held = [jnp.asarray(kept[f"leaf_{n}"]) for n in range(len(leaves))]
        moments = jax.tree.unflatten(tree, held)
    seen = int(moments.rows)
    with Progress(config.tokens, f"latent scaling, {name}", unit="tokens", start=seen,
                  log_every=config.log_every) as bar:  # fmt: skip
        for rows in work.rows(held_out=False, cursor=cursor) if seen < config.tokens else ():
            x, keep = work.activations(rows)
            group = np.repeat(groups_of(rows.documents, plan.groups), rows.tokens.shape[1])
            moments = add_moments(
                moments, work.dictionary, x, jnp.asarray(keep), jnp.asarray(group), vectors, plan,
                floor,
            )
            done, seen = done + 1, seen + int(keep.sum())
            bar.update(int(keep.sum()))
            if done % config.checkpoint_every == 0:
                state = {f"leaf_{n}": leaf for n, leaf in enumerate(jax.tree.leaves(moments))}
                work.save(file, {"cursor": json.dumps(rows.cursor), **state})
            if seen >= config.tokens:
                break
    if not seen:
        raise UserError(
            found="no token that counts in the data", expected="at least one",
            do="give longer rows, or lower skip_first",
        )
    if seen < config.tokens:
        say(f"The data ended after {seen} of {config.tokens} tokens.")
    return moments


def _arrays(found: LatentScaling) -> dict[str, np.ndarray]:
    arrays = {name: np.asarray(getattr(found, name)) for name in _SCALARS}
    arrays |= {"active": found.active, "largest": found.largest}
    for group in ("betas", "ratios", "errors"):
        arrays |= {f"{group}/{name}": of for name, of in getattr(found, group).items()}
    for control, of in found.controls.items():
        arrays |= {f"controls/{control}/{name}": value for name, value in of.items()}
    return arrays


def _read(arrays: dict[str, np.ndarray]) -> LatentScaling:
    inside = lambda start: {
        name.removeprefix(start): of for name, of in arrays.items() if name.startswith(start)
    }
    controls: dict[str, dict[str, np.ndarray]] = {}
    for name, of in inside("controls/").items():
        control, _, rest = name.partition("/")
        controls.setdefault(control, {})[rest] = of
    scalars = {name: arrays[name].item() for name in _SCALARS}
    return LatentScaling(
        active=arrays["active"], largest=arrays["largest"], betas=inside("betas/"),
        ratios=inside("ratios/"), errors=inside("errors/"), controls=controls, **scalars,
    )
