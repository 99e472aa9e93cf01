"""Rotary embeddings between `config.json` and `Rope`, in both spellings.

transformers 4 writes `rope_theta`, `rope_scaling` and (Gemma 3)
`rope_local_base_freq`; transformers 5 writes `rope_parameters`, for Gemma 3 one
per layer type. Both are read; the first is written, because both versions and
other tools read it.
"""

from __future__ import annotations

from typing import Any

from interp_jax.models.config import Llama3Scaling, ModelConfig, Rope
from interp_jax.models.hf_fields import Fields
from interp_jax.runtime.errors import UserError

FULL, SLIDING = "full_attention", "sliding_attention"
_LLAMA3_KEYS = (
    "factor",
    "low_freq_factor",
    "high_freq_factor",
    "original_max_position_embeddings",
)
_DEFAULT_THETA = {FULL: {"gemma3": 1_000_000.0}, SLIDING: {}}


def ropes_from_hf(fields: Fields) -> dict[str, Rope]:
    """Layer type -> `Rope`, for `full_attention` and `sliding_attention`.

    Raises:
        UserError: a scaling other than none, linear or llama3, a field of the
            scaling that is not known, or two spellings that contradict each other.
    """
    family = fields.family
    default = {kind: table.get(family, 10_000.0) for kind, table in _DEFAULT_THETA.items()}
    theta = fields.get("rope_theta")
    scaling = fields.get("rope_scaling") or {}
    local = fields.get("rope_local_base_freq") if family == "gemma3" else None
    new = fields.get("rope_parameters") or {}
    nested = {kind for kind in (FULL, SLIDING) if isinstance(new.get(kind), dict)}
    if nested and (extra := sorted(set(new) - {FULL, SLIDING})):
        raise _refusal("rope_parameters with the further fields " + ", ".join(extra))
    if nested and family != "gemma3":
        raise _refusal(f"rope_parameters per layer type in family {family}")
    both = new.get(FULL, {}) if nested else new
    for old, now in ((theta, both.get("rope_theta")), (local, _theta_of(new.get(SLIDING)))):
        if old is not None and now is not None and float(old) != float(now):
            raise _refusal(f"rope bases {old} and {now} in the two spellings of one field")
    if scaling and both and dict(scaling) != dict(both):
        merged = {k: v for k, v in both.items() if k != "rope_theta"}
        if {k: v for k, v in scaling.items() if k != "rope_theta"} != merged:
            raise _refusal("rope_scaling and rope_parameters that differ")
    chosen = {**scaling, **both}
    full = _rope(chosen, chosen.pop("rope_theta", None) or theta or default[FULL])
    if family != "gemma3":
        return {FULL: full, SLIDING: full}
    near = dict(new.get(SLIDING, {})) if nested else {}
    sliding = _rope(near, near.pop("rope_theta", None) or local or default[SLIDING])
    return {FULL: full, SLIDING: sliding}


def _theta_of(parameters: dict[str, Any] | None) -> Any:
    return parameters.get("rope_theta") if parameters else None


def _refusal(found: str) -> UserError:
    return UserError(
        found=found,
        expected="a plain, linear or llama3 rotary embedding",
        do="use a model with one of these, or check its config.json",
    )


def _rope(parameters: dict[str, Any], theta: float) -> Rope:
    """One rope from its scaling fields (without the base)."""
    left = dict(parameters)
    names = {left.pop("rope_type", None), left.pop("type", None)} - {None}
    if len(names) > 1:
        raise _refusal(f"two rope types {sorted(names)}")
    kind = names.pop() if names else "default"
    if left.pop("partial_rotary_factor", 1) not in (1, None):
        raise _refusal("partial_rotary_factor below 1")
    if kind == "default":
        if left.get("factor") in (None, 1):
            left.pop("factor", None)
        rope = Rope(theta=float(theta))
    elif kind == "linear":
        if "factor" not in left:
            raise _refusal("linear rope scaling without a factor")
        rope = Rope(theta=float(theta), linear_factor=float(left.pop("factor")))
    elif kind == "llama3":
        if missing := [key for key in _LLAMA3_KEYS if key not in left]:
            raise _refusal("llama3 rope scaling without " + ", ".join(missing))
        factor, low, high, context = (left.pop(key) for key in _LLAMA3_KEYS)
        scaling = Llama3Scaling(float(factor), float(low), float(high), int(context))
        rope = Rope(theta=float(theta), llama3=scaling)
    else:
        raise _refusal(f"rope type {kind!r}")
    if left:
        raise _refusal(f"rope fields {sorted(left)} for rope type {kind!r}")
    return rope


def ropes_to_hf(config: ModelConfig) -> dict[str, Any]:
    """The rope fields of config.json for `config`, in the older spelling."""
    ropes = {kind.window is None: kind.rope for kind in config.pattern}
    full = ropes.get(True, ropes.get(False))
    assert full is not None
    out: dict[str, Any] = {"rope_theta": full.theta, "rope_scaling": None}
    if full.llama3 is not None:
        s = full.llama3
        values = (s.factor, s.low_freq_factor, s.high_freq_factor, s.original_context)
        named = dict(zip(_LLAMA3_KEYS, values, strict=True))
        out["rope_scaling"] = {"rope_type": "llama3", **named}
    elif full.linear_factor != 1.0:
        out["rope_scaling"] = {"rope_type": "linear", "factor": full.linear_factor}
    if config.family == "gemma3" and False in ropes:
        out["rope_local_base_freq"] = ropes[False].theta
        if True not in ropes:
            # Every layer is local: the global base is unused, and must not copy the local one.
            out |= {"rope_theta": 1_000_000.0, "rope_scaling": None}
    return out
