"""Several dictionaries from one harvest: what differs between them, as numbers.

k, learning rate, coefficients and seed are leaves of the training state or operands of the step, so
a sweep is one program under `vmap`.
"""

from __future__ import annotations

import dataclasses
import itertools
import math

from interp_jax.runtime.errors import UserError


@dataclasses.dataclass(frozen=True)
class Variant:
    """One dictionary of a sweep.

    Attributes:
        k: mean active latents per row.
        lr: full learning rate; None: the default of its size.
        sparsity: weight of the sparsity term.
        auxiliary: weight of the auxiliary loss.
        seed: of its initialisation. All see the same rows in the same order.
        name: what tells it from the others, and names its folder; empty when it is alone.
    """

    k: int
    lr: float | None
    sparsity: float
    auxiliary: float
    seed: int
    name: str = ""


_KINDS = {"k": int, "lr": float, "sparsity": float, "auxiliary": float, "seed": int}


def parse_variants(text: str, base: Variant, activation: str) -> tuple[Variant, ...]:
    """Every combination of the lists in `text`, e.g. `k=50,100;lr=1e-4,3e-4`.

    Args:
        text: empty for `base` alone.
        base: what is not named is taken from it.
        activation: of the dictionaries; a name that it does not use is refused.

    Raises:
        UserError: a name unknown, unused or twice, a value that is no number in range, or a
            combination twice.
    """

    def refuse(found: str, expected: str) -> UserError:
        return UserError(
            found=f"{found} in dictionaries {text!r}", expected=expected,
            do="write for example k=50,100;lr=1e-4,3e-4",
        )  # fmt: skip

    lists: dict[str, list[int | float]] = {}
    for part in filter(None, (part.strip() for part in text.split(";"))):
        name, _, values = (piece.strip() for piece in part.partition("="))
        if name not in _KINDS:
            raise refuse(f"{name!r}", f"names among {', '.join(_KINDS)}")
        if name in lists:
            raise refuse(f"{name} twice", "each name once")
        sampled = activation in ("topk", "batch_topk")
        if name in (("sparsity",) if sampled else ("k", "auxiliary")):
            raise refuse(f"{name}, which {activation} does not use", "what makes a difference")
        lists[name] = [_number(name, value.strip(), refuse) for value in values.split(",")]
    variants = []
    for values in itertools.product(*lists.values()):
        chosen = dict(zip(lists, values, strict=True))
        name = "_".join(f"{n}{v:g}" for n, v in chosen.items())
        variants.append(dataclasses.replace(base, **chosen, name=name))
    if len({variant.name for variant in variants}) < len(variants):
        raise refuse("the same dictionary twice", "each combination once")
    return tuple(variants)


def _number(name: str, text: str, refuse) -> int | float:
    low = 1 if name == "k" else 0
    try:
        value = _KINDS[name](text)
    except ValueError:
        value = math.nan
    if not low <= value < 2**31:
        raise refuse(f"{name} = {text!r}", f"a number of at least {low}")
    return value
