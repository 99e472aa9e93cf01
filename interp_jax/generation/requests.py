"""What is asked of the engine, and what comes back."""

from __future__ import annotations

import dataclasses
from typing import Literal

import jax
import numpy as np

from interp_jax.runtime.errors import UserError

Finish = Literal["stop", "length", "stop_string"]


@dataclasses.dataclass(frozen=True)
class Request:
    """One sample to make.

    Attributes:
        tokens: int [T], T >= 1; the row's own prompt. With a shared prefix and
            nothing of its own, the last prefix token (and `cut` one less).
        key: typed key of this sample; its draws depend on nothing else.
        budget: new tokens at most, the stop token included.
        roles: int [T] or None for zeros.
        cut: how many tokens of the shared prefix stand before `tokens`.
        item: index of the request for per-row interventions and bookkeeping.
    """

    tokens: np.ndarray
    key: jax.Array
    budget: int
    roles: np.ndarray | None = None
    cut: int = 0
    item: int = 0

    def __post_init__(self):
        if len(self.tokens) < 1:
            raise UserError(
                found="a prompt without tokens", expected="at least one token",
                do="give some text, or a start token",
            )
        if self.budget < 1:
            raise UserError(
                found=f"max_new_tokens = {self.budget}", expected="at least 1",
                do="ask for more tokens",
            )


@dataclasses.dataclass(frozen=True)
class Sample:
    """One finished sample.

    Attributes:
        item: of the request.
        tokens: int32 [n]; generated, the stop token included.
        log_probs: float32 [n], natural log, under the distribution drawn from.
        model_log_probs: float32 [n] under the plain model, or None.
        finish: `stop` (a stop token), `length` (budget) or `stop_string`.
        tape: counts (int) and reads of this row, see `collecting`.
        per_token: names of the reads that have one entry for each of `tokens`.
    """

    item: int
    tokens: np.ndarray
    log_probs: np.ndarray
    model_log_probs: np.ndarray | None
    finish: Finish
    tape: dict[str, np.ndarray]
    per_token: tuple[str, ...] = ()

    def first(self, n: int) -> Sample:
        """The sample as if it had ended after `n` tokens (counts and sums stay)."""
        cut = lambda a: None if a is None else a[:n]
        tape = {k: cut(a) if k in self.per_token else a for k, a in self.tape.items()}
        return dataclasses.replace(
            self, tokens=cut(self.tokens), log_probs=cut(self.log_probs),
            model_log_probs=cut(self.model_log_probs), tape=tape,
        )


@dataclasses.dataclass
class Stats:
    """What a run of the engine did.

    Attributes:
        steps: decode steps; row_steps: steps times slots.
        active_row_steps: row-steps that made a token.
        busy: share of all row-steps that were active.
        busy_while_waiting: the same while requests of the running bucket were
            still waiting; None if none ever waited.
        buckets: (slots of a row, rows) of each batch -> samples made in it.
        padding: share of cache slots that no token of its row ever filled.
        cache_bytes: largest cache held: prefix once, plus rows x suffix.
    """

    steps: int = 0
    row_steps: int = 0
    active_row_steps: int = 0
    waiting_row_steps: int = 0
    waiting_active: int = 0
    buckets: dict[tuple[int, int], int] = dataclasses.field(default_factory=dict)
    used_slots: int = 0
    held_slots: int = 0
    cache_bytes: int = 0

    @property
    def busy(self) -> float:
        """Active share of all row-steps, the ends of the buckets included."""
        return self.active_row_steps / self.row_steps if self.row_steps else 1.0

    @property
    def busy_while_waiting(self) -> float | None:
        """Active share of row-steps while the queue was not empty."""
        if not self.waiting_row_steps:
            return None
        return self.waiting_active / self.waiting_row_steps

    @property
    def padding(self) -> float:
        """Share of cache slots that stayed empty."""
        return 1 - self.used_slots / self.held_slots if self.held_slots else 0.0


def bucket(size: int, smallest: int = 16) -> int:
    """The next of 16, 24, 32, 48, 64, 96, ... : at most half of it is padding."""
    step = smallest
    while step < size:
        if step + step // 2 >= size:
            return step + step // 2
        step *= 2
    return step
