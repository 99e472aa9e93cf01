"""Adaptive numbers of rollouts: a sentence whose accuracy is known well enough gets no more.

Rollouts are looked at in the order of their numbers, never in the order in which they happened to
finish, and only at fixed numbers of them. So the decision depends on nothing but the rollouts that
are in the journal, and a run that was stopped decides as an unbroken one.

The rounds go one after the other: as long as a sentence lacks rollouts of a round, no other begins
a later one. A round then asks for the same rollouts however often the run was stopped, which is
what decides the size of its batches (`sampling`).

Stopping on a narrow interval favours sentences whose accuracy looks extreme: with few rollouts the
reported interval is a little too narrow there. The minimum keeps that small, and the report says
how many rollouts each sentence got.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from interp_jax.studies.thought_anchors.config import ThoughtAnchorsConfig
from interp_jax.studies.thought_anchors.intervals import wilson_interval


@dataclass(frozen=True)
class StoppingRule:
    """When a sentence has enough rollouts.

    Attributes:
        most: never more.
        width: of the interval, below which a sentence stops; None never stops early.
        least: never fewer.
        step: rollouts between two looks.
    """

    most: int
    width: float | None = None
    least: int = 16
    step: int = 8

    @classmethod
    def of(cls, config: ThoughtAnchorsConfig) -> StoppingRule:
        """The rule that a config asks for."""
        return cls(
            config.rollouts, config.adaptive_width, config.adaptive_minimum, config.adaptive_round
        )

    @property
    def looks(self) -> tuple[int, ...]:
        """Numbers of rollouts at which it is decided whether more are made; the last is `most`."""
        if self.width is None:
            return (self.most,)
        return (*range(min(self.least, self.most), self.most, self.step), self.most)

    def round_of(self, wanted: Mapping[int, int], lacking: Iterable[int]) -> dict[int, range]:
        """The rollouts of the earliest round that is not done, those that are there included.

        Args:
            wanted: by sentence, how many it is to have, as `wanted` says.
            lacking: sentences that do not have as many; at least one.

        Returns:
            By sentence, the numbers of its rollouts in that round.
        """
        look = min(wanted[index] for index in lacking)
        before = max((one for one in self.looks if one < look), default=0)
        # A sentence that wants more than this look has not stopped at an earlier one.
        return {index: range(before, look) for index, most in wanted.items() if most >= look}

    def wanted(self, outcomes: Sequence[bool | None]) -> int:
        """How many rollouts a sentence is to have, judging by those there are.

        Args:
            outcomes: of rollouts 0, 1, 2, ... without a gap: right, wrong, or None for a rollout
                without an answer, which the estimate of accuracy leaves out.

        Returns:
            At most `len(outcomes)` when no more are needed (those beyond do not count), else the
            next look.
        """
        for look in self.looks:
            if len(outcomes) < look or look == self.most or self.narrow(outcomes[:look]):
                return look
        raise AssertionError("the last look is the most")

    def narrow(self, outcomes: Sequence[bool | None]) -> bool:
        """Whether the 95 % Wilson interval of the accuracy is narrower than the width."""
        known = [bool(outcome) for outcome in outcomes if outcome is not None]
        low, high = wilson_interval(sum(known), len(known))
        return self.width is not None and float(high - low) < self.width
