"""AdamW with a warm-up, a decay of the learning rate, and a clip of the gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from interp_jax.finetuning.config import FinetuneConfig


def learning_rate(config: FinetuneConfig) -> Callable[[jax.Array], jax.Array]:
    """Step -> rate: with w = warm_up and T = steps, lr t / w up to w, then
    lr (T - t) / (T - w) (linear) or lr (1 + cos(pi (t - w) / (T - w))) / 2 (cosine).
    """
    top, warm, total = config.lr, config.warm_up, config.steps

    def rate(step: jax.Array) -> jax.Array:
        t = jnp.asarray(step, jnp.float32)
        done = jnp.clip((t - warm) / (total - warm), 0.0, 1.0)
        after = {
            "linear": 1.0 - done,
            "cosine": (1.0 + jnp.cos(jnp.pi * done)) / 2.0,
            "constant": jnp.ones_like(done),
        }[config.schedule]
        return top * jnp.where(t < warm, t / max(warm, 1), after)

    return rate


def optimiser_of(config: FinetuneConfig) -> optax.GradientTransformation:
    """The run's optimiser; its state is float32 beside float32 values."""
    adamw = optax.adamw(
        learning_rate(config), b1=config.b1, b2=config.b2, eps=config.eps,
        weight_decay=config.weight_decay, mask=decayed,
    )  # fmt: skip
    return optax.chain(optax.clip_by_global_norm(config.clip), adamw) if config.clip else adamw


def decayed(values: Any) -> Any:
    """Which leaves are decayed: all but biases and norm gains."""
    name = lambda path: jax.tree_util.keystr(path[-1:]).strip(".[]'")
    return jax.tree_util.tree_map_with_path(
        lambda path, _: name(path) not in ("bias", "gain"), values
    )
