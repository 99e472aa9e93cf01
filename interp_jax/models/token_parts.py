"""What each token goes through alone, for a few tokens after another.

On a CPU the MLP of many tokens at once writes hidden values far larger than the caches, and reads
them back from memory: cut into parts of about a thousand tokens it takes three quarters of the
time (measured with 3,264 tokens of width 576 on two cores), and holds a part's hidden values in
place of all. An accelerator is better off with one large product.
"""

from __future__ import annotations

from collections.abc import Callable

import jax

from interp_jax.models.in_place import in_place

_WHOLE = 1536  # so many tokens are not cut
_SHORTEST, _LONGEST = 512, 1152


def part_length(tokens: int) -> int:
    """How many of so many tokens are run at once on this backend: a divisor, or all of them.

    Over several devices nothing is cut: parts would run across what each of them holds.
    """
    if jax.default_backend() != "cpu" or jax.device_count() > 1 or tokens <= _WHOLE:
        return tokens
    fitting = [n for n in range(_SHORTEST, _LONGEST + 1) if tokens % n == 0]
    return max(fitting, default=tokens)


def in_parts(function: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
    """`function` over parts of the tokens, one after another.

    Args:
        function: [N, D] -> [N, D] of the same dtype, for each of N tokens alone.
        x: [B, T, D].

    Returns:
        [B, T, D].
    """
    rows, length, width = x.shape
    size = part_length(rows * length)
    if size == rows * length:
        return function(x)
    parts = x.reshape(-1, size, width)
    parts, _ = in_place(lambda part, _: (function(part), None), parts, None)
    return parts.reshape(rows, length, width)
