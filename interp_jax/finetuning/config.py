"""Every choice of a fine-tuning run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from interp_jax.models import roles
from interp_jax.runtime.config_fields import how as _speed
from interp_jax.runtime.config_fields import option as _field
from interp_jax.runtime.errors import UserError


@dataclass(frozen=True)
class FinetuneConfig:
    """The help of each field is its documentation. The defaults are those of the default LoRA of
    "Model Organisms for Emergent Misalignment" (arXiv 2506.11613), with a plain AdamW.

    Raises:
        UserError: values that do not go together.
    """

    method: Literal["lora", "full"] = _field("lora", "Train an adapter, or all weights.")
    rank: int = _field(32, "Rank of the adapter.", minimum=1)
    alpha: float = _field(64.0, "Numerator of the adapter's scale.")
    rslora: bool = _field(True, "The scale is alpha / sqrt(rank), not alpha / rank.")
    targets: tuple[str, ...] = _field(
        ("q", "k", "v", "o", "gate", "up", "down"), "Projections that have an adapter."
    )
    layers: tuple[int, ...] = _field((), "Layers that have one, from 0. Default: all.", minimum=0)
    seed: int = _field(0, "Root of the adapter's random start.", minimum=0, maximum=2**32 - 1)

    steps: int = _field(400, "Optimiser steps.", minimum=1)
    batch_size: int = _field(2, "Rows that run at once, over all processes.", minimum=1)
    accumulate: int = _field(8, "Such batches that make up one step.", minimum=1)
    loss_roles: tuple[str, ...] = _field(
        ("answer", "reasoning"),
        "Roles of the tokens that are learnt: by default what the assistant says. Empty: all.",
        choices=tuple(roles.NAMES),
    )
    end_of_turn: bool = _field(
        True, "The template's token right after a span of these roles is learnt as well."
    )
    lr: float = _field(1e-5, "Learning rate after the warm-up.", minimum=0.0)
    warm_up: int = _field(5, "Steps of linear warm-up; step 0 has no learning rate.", minimum=0)
    schedule: Literal["linear", "cosine", "constant"] = _field(
        "linear", "Course of the learning rate after it, to 0 at --steps."
    )
    b1: float = _field(0.9, "AdamW's beta 1.", minimum=0.0, maximum=1.0)
    b2: float = _field(0.999, "AdamW's beta 2.", minimum=0.0, maximum=1.0)
    eps: float = _field(1e-8, "AdamW's epsilon.", minimum=0.0)
    weight_decay: float = _field(
        0.01, "AdamW's decay, times the learning rate; not of biases and norm gains.", minimum=0.0
    )
    clip: float = _field(1.0, "Clip of the global gradient norm; 0: none.", minimum=0.0)

    remat: bool = _speed(
        False, "Compute blocks again for the gradient instead of keeping what they computed."
    )
    log_steps: int = _speed(1, "Steps between lines of metrics.jsonl.", minimum=1)
    checkpoint_every: int = _speed(100, "Steps between checkpoints; 0: none.", minimum=0)
    tensorboard: bool = _speed(False, "Write TensorBoard files beside the JSON lines.")

    def __post_init__(self):
        if unknown := [name for name in self.loss_roles if name not in roles.NAMES]:
            raise UserError(
                found=f"roles {', '.join(unknown)}",
                expected=f"roles among {', '.join(roles.NAMES)}",
                do="correct --loss_roles",
            )
        for name in ("rank", "steps", "batch_size", "accumulate", "log_steps"):
            if getattr(self, name) < 1:
                raise UserError(
                    found=f"{name} {getattr(self, name)}", expected="1 or more",
                    do=f"raise --{name}",
                )  # fmt: skip
        if not 0 <= self.warm_up < self.steps:
            raise UserError(
                found=f"a warm-up of {self.warm_up} in {self.steps} steps",
                expected="one that ends before the last step", do="change one of them",
            )
