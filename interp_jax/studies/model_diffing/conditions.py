"""Conditions of the causality experiment: what the chat model goes on from.

Every condition is one formula with other numbers, so they all run in one compiled program:

    h = h_base + share * (h_chat - h_base) + sum_j weight_j f_j row_j

    none            share 0, no latents: the base model's activations
    full            share 1, no latents: the chat model's own; KL 0 but for rounding
    template        share 1 at template tokens, 0 elsewhere
    all             share 0, difference rows d_chat - d_base of all latents: the base error and
                    the chat reconstruction, up to the difference of biases, which is not added
    error           share 1, difference rows with weight -1: the chat error and the base
                    reconstruction
    swap a set      share 0, difference rows of its latents
    add a set       share 0, chat rows of its latents
    random rows     share 0, for each latent of a set a random direction as long as its
                    difference row: what any push of that size does
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from interp_jax.dictionaries.dictionary import Dictionary
from interp_jax.runtime import keys
from interp_jax.runtime.errors import UserError
from interp_jax.studies.model_diffing.subsets import (
    Halves,
    eligible,
    halves_by_delta,
    halves_by_scaling,
)

Rows = Literal["difference", "chat", "random"]
ROWS: tuple[Rows, ...] = ("difference", "chat", "random")


@dataclasses.dataclass(frozen=True)
class Condition:
    """One way to make the patched activation.

    Attributes:
        name: unique.
        share: of the chat activation at all tokens.
        template_share: of it at template tokens.
        rows: which rows the latents write.
        weight: times the code.
        latents: int [n] or None: which latents; None for all, empty for none.
        template_only: latents are patched at template tokens alone.
    """

    name: str
    share: float = 0.0
    template_share: float | None = None
    rows: Rows = "difference"
    weight: float = 1.0
    latents: np.ndarray | None = dataclasses.field(default_factory=lambda: np.zeros(0, np.int64))
    template_only: bool = False


class Table(NamedTuple):
    """Conditions as arrays. A pytree: other latents compile nothing anew.

    Attributes:
        share: float32 [Q]. template_share: float32 [Q].
        rows: int32 [Q], index into `ROWS`.
        weights: float32 [Q, F].
        template_only: bool [Q].
    """

    share: jax.Array
    template_share: jax.Array
    rows: jax.Array
    weights: jax.Array
    template_only: jax.Array


def table(conditions: Sequence[Condition], latents: int) -> Table:
    """Conditions as arrays over F latents.

    Raises:
        UserError: none, a name twice, or a latent that is not there.
    """
    names = [condition.name for condition in conditions]
    if not names or len(set(names)) < len(names):
        raise UserError(
            found=f"conditions {', '.join(names) or '(none)'}", expected="at least one, each once",
            do="give each its own name",
        )
    weights = np.zeros((len(conditions), latents), np.float32)
    for row, condition in zip(weights, conditions, strict=True):
        chosen = slice(None) if condition.latents is None else np.asarray(condition.latents)
        if condition.latents is not None and chosen.size:
            if chosen.min() < 0 or chosen.max() >= latents:
                raise UserError(
                    found=f"latent {chosen.max()} in condition {condition.name!r}",
                    expected=f"numbers from 0 to {latents - 1}", do="correct the set",
                )
        row[chosen] = condition.weight
    shares = [c.share for c in conditions]
    at_template = [c.share if c.template_share is None else c.template_share for c in conditions]
    return Table(
        jnp.asarray(shares, jnp.float32), jnp.asarray(at_template, jnp.float32),
        jnp.asarray([ROWS.index(c.rows) for c in conditions], jnp.int32), jnp.asarray(weights),
        jnp.asarray([c.template_only for c in conditions]),
    )


def rows_table(dictionary: Dictionary, base: int, chat: int, key: jax.Array) -> jax.Array:
    """float32 [3 F, D]: the rows that latents can write, in the order of `ROWS`."""
    own = dictionary.written_rows(chat)
    difference = own - dictionary.written_rows(base)
    random = jax.random.normal(keys.fold(key, "random rows"), own.shape)
    length = jnp.linalg.norm(difference, axis=1, keepdims=True)
    random = random * length / jnp.linalg.norm(random, axis=1, keepdims=True)
    return jnp.concatenate([difference, own, random])


@dataclasses.dataclass(frozen=True)
class Sets:
    """The sets of latents that the experiment compares.

    Attributes:
        chosen: the effective chat-only set after the filter.
        by_delta, by_scaling: its halves.
        thresholds: name -> latents.
        random_halves: random halves of `chosen`: what the halves by a score are held against.
        others: random sets of the same size from the eligible latents outside of `chosen`.
    """

    chosen: np.ndarray
    by_delta: Halves
    by_scaling: Halves
    thresholds: Mapping[str, np.ndarray]
    random_halves: tuple[np.ndarray, ...]
    others: tuple[np.ndarray, ...]


def choose_sets(
    delta: np.ndarray,
    ratios: Mapping[str, np.ndarray],
    alive: np.ndarray,
    effective: np.ndarray,
    *,
    random_sets: int = 3,
    seed: int = 0,
) -> Sets:
    """The sets of the paper's table.

    Args:
        delta: [F], the paper's Delta.
        ratios: `nu_eps`, `nu_r` and `nu_act`, each [F].
        alive: bool [F].
        effective: int [n], see `subsets.effective_chat_only`.
        random_sets: how many random sets of each kind. seed: of them.

    Raises:
        UserError: fewer than two latents are left after the filter.
    """
    fit = eligible(ratios["nu_eps"], ratios["nu_r"], alive)
    chosen = np.asarray(effective)[fit[effective]]
    if len(chosen) < 2:
        raise UserError(
            found=f"{len(chosen)} of {len(effective)} effective chat-only latents that are alive "
            "and have both ratios in range",
            expected="at least two, to cut in halves",
            do="take a larger set, more tokens for the ratios, or a dictionary trained for longer",
        )
    outside = np.setdiff1d(np.flatnonzero(fit), chosen)


    def draw(of: np.ndarray, kind: int) -> tuple[np.ndarray, ...]:
        count = min(len(chosen) // 2, len(of))
        numbers = range(random_sets if count else 0)
        chance = [np.random.default_rng([seed, kind, n]) for n in numbers]
        return tuple(np.sort(one.choice(of, count, replace=False)) for one in chance)

    act = np.abs(ratios["nu_act"])
    return Sets(
        chosen=chosen,
        by_delta=halves_by_delta(chosen, delta),
        by_scaling=halves_by_scaling(chosen, ratios["nu_eps"], ratios["nu_r"]),
        thresholds={
            "Delta >= 0.7": np.flatnonzero(np.asarray(delta) >= 0.7),
            "|nu_act| <= 0.6": np.flatnonzero(act <= 0.6),
            "|nu_act| <= 0.3": np.flatnonzero(act <= 0.3),
        },
        random_halves=draw(chosen, 0),
        others=draw(outside, 1),
    )


def paper_conditions(sets: Sets) -> list[Condition]:
    """The conditions of the paper's table and their controls."""
    halves = {
        "best half by Delta": sets.by_delta.best,
        "worst half by Delta": sets.by_delta.worst,
        "best half by scaling": sets.by_scaling.best,
        "worst half by scaling": sets.by_scaling.worst,
    }
    conditions = [
        Condition("none"),
        Condition("full", share=1.0),
        Condition("template", template_share=1.0),
        Condition("all latents", latents=None),
        Condition("error", share=1.0, weight=-1.0, latents=None),
    ]
    conditions += [Condition(name, latents=of) for name, of in halves.items()]
    conditions += [Condition(f"{name}, added", rows="chat", latents=of)
                   for name, of in halves.items()]
    conditions += [Condition(f"{name}, template only", latents=of, template_only=True)
                   for name, of in halves.items() if name.startswith("best")]
    conditions += [Condition(f"{name}, random rows", rows="random", latents=of)
                   for name, of in halves.items() if name.startswith("best")]
    conditions += [Condition(f"{name}, added", rows="chat", latents=of)
                   for name, of in sets.thresholds.items()]
    conditions += [Condition(f"random half {number + 1}", latents=of)
                   for number, of in enumerate(sets.random_halves)]
    conditions += [Condition(f"other latents {number + 1}", latents=of)
                   for number, of in enumerate(sets.others)]
    return conditions
