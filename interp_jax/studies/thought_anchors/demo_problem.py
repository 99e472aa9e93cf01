"""The problem of the demo, found once by screening."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ScreenedProblem:
    """A generated problem and how the screened model did on it.

    Attributes:
        dataset, seed, index: of a reasoning-gym generator.
        correct, samples: of the traces that were read.
        candidates: how many problems were screened.
        chosen_by: how it was chosen among them.
        model: the model screened.
    """

    dataset: str
    seed: int
    index: int
    correct: int
    samples: int
    candidates: int
    chosen_by: str
    model: str

    @property
    def spec(self) -> str:
        """As `problems.load_problem` takes it."""
        return f"reasoning_gym:{self.dataset}:{self.seed}:{self.index}"


DEMO = ScreenedProblem("chain_sum", 0, 0, 0, 0, 0, "", "smollm2-135m-instruct")
