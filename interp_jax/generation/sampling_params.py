"""What a sampler is told: temperature and filters, with numbers traced and structure static."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from interp_jax.runtime.errors import UserError

Number = float | int | np.ndarray | jax.Array


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["temperature", "top_p", "top_k", "min_p", "repetition_penalty"],
    meta_fields=[
        "greedy",
        "use_top_p",
        "use_top_k",
        "use_min_p",
        "use_repetition_penalty",
        "with_model_log_prob",
    ],
)
@dataclass(frozen=True)
class SamplingParams:
    """Temperature and filters of a sampler. Make one with `SamplingParams.make`.

    Every number is an array leaf, a scalar `[]` or one per row `[B]`, so a sweep over values
    compiles once. Which filters are switched on is static, so an unused one costs nothing.

    Attributes:
        temperature: f32, > 0 (not read when greedy).
        top_p: f32 in (0, 1]; 1 keeps everything.
        top_k: int32, >= 0; 0 keeps everything.
        min_p: f32 in [0, 1]; 0 keeps everything.
        repetition_penalty: f32, > 0; 1 changes nothing.
        greedy: take the most probable token (lowest id among equals), draw nothing.
        use_top_p, use_top_k, use_min_p, use_repetition_penalty: which filters exist.
        with_model_log_prob: whether the sampler also returns the log-probability of the token
            under the raw logits at temperature 1.
    """

    temperature: jax.Array
    top_p: jax.Array
    top_k: jax.Array
    min_p: jax.Array
    repetition_penalty: jax.Array
    greedy: bool = field(default=False)
    use_top_p: bool = field(default=False)
    use_top_k: bool = field(default=False)
    use_min_p: bool = field(default=False)
    use_repetition_penalty: bool = field(default=False)
    with_model_log_prob: bool = field(default=False)

    @classmethod
    def make(
        cls,
        temperature: Number = 1.0,
        top_p: Number | None = None,
        top_k: Number | None = None,
        min_p: Number | None = None,
        repetition_penalty: Number | None = None,
        *,
        with_model_log_prob: bool = False,
    ) -> SamplingParams:
        """Checks the values and decides the static structure.

        Args:
            temperature: >= 0, scalar or `[B]`; 0 (everywhere) is greedy decoding.
            top_p: nucleus mass in (0, 1]; None or a scalar 1 leaves the filter out.
            top_k: how many of the most probable tokens, >= 0; None or a scalar 0 leaves it out.
            min_p: least probability relative to the best token, in [0, 1]; None or a scalar 0
                leaves it out.
            repetition_penalty: > 0, divides positive and multiplies negative logits of tokens
                that the row has seen; None or a scalar 1 leaves it out.
            with_model_log_prob: ask for log-probabilities under the raw logits as well.

        Values that are traced (inside `jit`, `vmap`, `grad`) are not checked, and their filters
        are switched on.

        Raises:
            UserError: a value outside its range, or a temperature zero in some rows only.
        """
        temperature, zero = _checked("temperature", temperature, lambda v: v >= 0, ">= 0")
        greedy = zero is not None and bool(zero.size) and bool((zero == 0).all())
        if zero is not None and not greedy and bool((zero == 0).any()):
            raise UserError(
                found="a temperature of 0 in some rows and not in others",
                expected="0 in every row (greedy) or in none",
                do="sample the greedy rows in a call of their own",
            )
        top_p, use_top_p = _filter("top_p", top_p, 1.0, lambda v: (v > 0) & (v <= 1), "in (0, 1]")
        min_p, use_min_p = _filter("min_p", min_p, 0.0, lambda v: (v >= 0) & (v <= 1), "in [0, 1]")
        penalty, use_penalty = _filter(
            "repetition_penalty", repetition_penalty, 1.0, lambda v: v > 0, "> 0"
        )
        top_k, use_top_k = _filter(
            "top_k",
            top_k,
            0,
            lambda v: (v >= 0) & (v == np.floor(v)) & (v < 2**31),
            "an integer >= 0",
            jnp.int32,
        )
        return cls(
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            min_p=min_p,
            repetition_penalty=penalty,
            greedy=greedy,
            use_top_p=use_top_p and not greedy,
            use_top_k=use_top_k and not greedy,
            use_min_p=use_min_p and not greedy,
            use_repetition_penalty=use_penalty,
            with_model_log_prob=with_model_log_prob,
        )


def _checked(name, value, valid, expected, dtype=jnp.float32):
    """The value as an array leaf, and as numpy where it is known (None where it is traced)."""
    known = None
    if not isinstance(value, jax.core.Tracer):
        known = np.asarray(value)
        numeric = known.dtype.kind in "fiu" and known.ndim <= 1
        if not numeric or not np.isfinite(known).all() or not valid(known).all():
            raise UserError(
                found=f"{name}={value!r}",
                expected=f"{name} {expected}, finite, a scalar or one per row",
                do=f"pass such a {name}",
            )
    return jnp.asarray(value).astype(dtype), known


def _filter(name, value, off, valid, expected, dtype=jnp.float32):
    """An optional filter: its leaf and whether it exists. A scalar equal to `off` does not."""
    if value is None:
        return jnp.asarray(off, dtype), False
    array, known = _checked(name, value, valid, expected, dtype)
    return array, known is None or known.ndim > 0 or known.item() != off
