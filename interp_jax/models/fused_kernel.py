"""Fused attention as GPU kernels (Pallas, through Triton): the pass, and in `fused_kernel_backward`
its gradient.

The same sums as `fused`, in blocks, with an online softmax (Dao et al. 2022, algorithm 1); the
whole loop over keys is one kernel, so scores never leave the chip. Ranges, soft-caps and
suppressions are inside, which a vendor's kernels cannot do. Each row of the batch skips the
blocks of keys that it cannot see.

Taken where one GPU is visible and the head fits (`fits`): on several, XLA does not know how to
cut a kernel, and would gather its operands. jax has announced that this route to Triton will go;
a release without it falls back to plain XLA.
"""

from __future__ import annotations

import importlib.util
import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from interp_jax.models.fused_blocks import NOWHERE, dtypes
from interp_jax.models.suppression import Suppression

LOG2E = math.log2(math.e)
_LARGEST_HEAD = 256


class Blocks(NamedTuple):
    """Queries and keys in a block (powers of two), warps of a program, stages of its pipeline."""

    queries: int
    keys: int
    warps: int
    stages: int


def fits(q: jax.Array, k: jax.Array) -> bool:
    """Whether the kernel runs here: one GPU, and a head size that is a power of two from 16."""
    width = q.shape[-1]
    shape = 16 <= width <= _LARGEST_HEAD and width & (width - 1) == 0
    kind = k.dtype in (jnp.bfloat16, jnp.float16, jnp.float32) and q.dtype != jnp.float64
    one = jax.default_backend() == "gpu" and jax.device_count() == 1
    return shape and kind and one and importlib.util.find_spec(
        "jax.experimental.pallas.triton") is not None


def kernel_attention(
    scale: float, softcap: float | None, q: jax.Array, k: jax.Array, v: jax.Array,
    lower: jax.Array, upper: jax.Array, key_positions: jax.Array,
    suppress: tuple[Suppression, ...], *, blocks: Blocks | None = None, interpret: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """Arguments and results as in `fused_attention`.

    Args:
        blocks: None for what was fastest where it was measured.
        interpret: run the kernel's steps as plain XLA, on any backend (for tests).
    """
    (rows, length, heads, width), key_heads = q.shape, k.shape[2]
    narrow, wide = dtypes(q, k)
    blocks = fitted(blocks or _forward_blocks(width, narrow), length, k.shape[1])
    operands = padded(blocks, q.astype(narrow), k, v, lower, upper, key_positions, suppress, wide)
    meets, whole = visibility(*operands[3:6], blocks)
    span = _spans(meets, whole)
    specs = query_side_specs(operands, blocks, heads // key_heads)
    by_head = pl.BlockSpec((None, None, blocks.queries), lambda i, h, b: (b, h, i))
    total = operands[0].shape[1]
    out, lse = call(
        partial(_kernel, scale=scale, softcap=softcap, bk=blocks.keys, wide=wide),
        blocks, interpret,
        grid=(total // blocks.queries, heads, rows),
        in_specs=[pl.BlockSpec((None, None, 4), lambda i, h, b: (b, i, 0)), *specs],
        out_specs=[specs[0], by_head],
        out_shape=[
            jax.ShapeDtypeStruct(operands[0].shape, wide),
            jax.ShapeDtypeStruct((rows, heads, total), wide),
        ],
    )(span, *operands)
    return out[:, :length], lse.swapaxes(1, 2)[:, :length]


def _kernel(span_ref, q_ref, k_ref, v_ref, lower_ref, upper_ref, at_ref, *rest, scale, softcap,
            bk, wide):
    """One block of queries of one head and row, over its keys."""
    *suppress, out_ref, lse_ref = rest
    q, lower, upper = q_ref[...], lower_ref[...], upper_ref[...]
    edits = in_threes(suppress)
    asked = [queries[...] * heads[...] != 0 for queries, heads, _ in edits]
    dot = product(q.dtype, wide)

    def step(masked, n, carry):
        top, total, mixed = carry
        here = pl.ds(n * bk, bk)
        scores, _ = block_scores(dot, q, k_ref[here, :], scale, softcap)
        if masked:
            scores = scores + mask(lower, upper, at_ref[here])
        for (_, _, keep_ref), own in zip(edits, asked, strict=True):
            scores = scores + jnp.where(own[:, None], keep_ref[here][None, :] * LOG2E, 0.0)
        highest = jnp.maximum(top, jnp.max(scores, axis=1))
        shrink = jnp.exp2(top - highest)
        weights = jnp.exp2(scores - highest[:, None])
        values = dot(weights.astype(q.dtype), v_ref[here, :], 1, 0)
        total = total * shrink + jnp.sum(weights, axis=1)
        return highest, total, mixed * shrink[:, None] + values

    # A finite floor, not -inf: (-inf) - (-inf) would be NaN for a block a query cannot see.
    carry = (
        jnp.full(q.shape[:1], float(jnp.finfo(wide).min) / 2, wide),
        jnp.zeros(q.shape[:1], wide), jnp.zeros(q.shape, wide),
    )
    first, last, seen_from, seen_to = (span_ref[n] for n in range(4))
    # Between the other two, every query sees every key, and no mask is made.
    carry = jax.lax.fori_loop(first, seen_from, partial(step, True), carry)
    carry = jax.lax.fori_loop(seen_from, seen_to, partial(step, False), carry)
    top, total, mixed = jax.lax.fori_loop(seen_to, last, partial(step, True), carry)
    seen = total > 0
    safe = jnp.where(seen, total, 1.0)
    out_ref[...] = mixed / safe[:, None]
    lse_ref[...] = jnp.where(seen, (top + jnp.log2(safe)) * (1 / LOG2E), -jnp.inf)


def product(narrow, wide):
    """dot(a, b, i, j): a and b multiplied over axis i of the one and j of the other."""
    # IEEE products where operands are float32: a matrix unit would cut them to ten bits.
    exact = jax.lax.Precision.HIGHEST if narrow == jnp.float32 else None
    return lambda a, b, i, j: jax.lax.dot_general(
        a, b, (((i,), (j,)), ((), ())), precision=exact, preferred_element_type=wide
    )


def block_scores(dot, q, k, scale: float, softcap: float | None):
    """Scores times log2(e) [bq, bk] before any mask, and the tanh of the soft-cap or None."""
    scores = dot(q, k, 1, 1)
    if softcap is None:
        return scores * (scale * LOG2E), None
    bent = jnp.tanh(scores * (scale / softcap))
    return bent * (softcap * LOG2E), bent


def mask(lower, upper, at):
    """0 where query [bq] sees key [bk], else -inf."""
    at = at[None, :]
    return jnp.where((lower[:, None] <= at) & (at <= upper[:, None]), 0.0, -jnp.inf)


def in_threes(refs) -> list:
    """References of suppressions: queries, heads, log_keep of each."""
    return [refs[n : n + 3] for n in range(0, len(refs), 3)]


def padded(blocks: Blocks, q, k, v, lower, upper, at, suppress, wide) -> list[jax.Array]:
    """Operands up to whole blocks. Suppressions become integers: a kernel has no booleans in
    memory."""
    bq, bk = blocks.queries, blocks.keys
    operands = [
        fill_up(q, bq, 0), fill_up(k, bk, 0), fill_up(v, bk, 0),
        fill_up(lower, bq, NOWHERE), fill_up(upper, bq, -1), fill_up(at, bk, NOWHERE),
    ]
    for one in suppress:
        operands += [
            fill_up(one.queries.astype(jnp.int32), bq, 0), one.heads.astype(jnp.int32),
            fill_up(one.log_keep.astype(wide), bk, 0),
        ]
    return operands


def query_side_specs(operands, blocks: Blocks, group: int) -> list[pl.BlockSpec]:
    """How `padded` operands are cut for the grid (query block, head, row)."""
    q, k = operands[:2]
    whole = pl.BlockSpec((None, k.shape[1]), lambda i, h, b: (b, 0))
    some = pl.BlockSpec((None, blocks.queries), lambda i, h, b: (b, i))
    keys = pl.BlockSpec(
        (None, k.shape[1], None, q.shape[3]), lambda i, h, b: (b, 0, h // group, 0)
    )
    own = pl.BlockSpec((None, blocks.queries, None, q.shape[3]), lambda i, h, b: (b, i, h, 0))
    edit = [some, pl.BlockSpec((1,), lambda i, h, b: (h,)), whole]
    return [own, keys, keys, some, some, whole, *edit * ((len(operands) - 6) // 3)]


def visibility(lower, upper, at, blocks: Blocks) -> tuple[jax.Array, jax.Array]:
    """bool [B, nq, nk] each: some query of a block may see some key; every one sees every one."""
    cut = lambda a, n: a.reshape(a.shape[0], -1, n)
    low, high, at = cut(lower, blocks.queries), cut(upper, blocks.queries), cut(at, blocks.keys)
    asks, exists = low <= high, at != NOWHERE
    least = jnp.where(asks, low, NOWHERE).min(axis=-1)[:, :, None]
    most = jnp.where(asks, high, -1).max(axis=-1)[:, :, None]
    earliest = at.min(axis=-1)[:, None, :]
    latest = jnp.where(exists, at, -1).max(axis=-1)[:, None, :]
    meets = (least <= latest) & (earliest <= most)
    whole = (low.max(axis=-1)[:, :, None] <= earliest) & (
        at.max(axis=-1)[:, None, :] <= high.min(axis=-1)[:, :, None]
    )
    return meets, whole


def _spans(meets: jax.Array, whole: jax.Array) -> jax.Array:
    """int32 [B, nq, 4]: key blocks to visit (first, one past the last), and within them a run in
    which all is seen."""
    first, last = run_of(meets)
    index = jax.lax.broadcasted_iota(jnp.int32, whole.shape, 2)
    start = jnp.where(whole, index, last[..., None]).min(axis=-1)
    # The run ends before the first block from there on that is not seen whole.
    broken = ~whole & (index >= start[..., None])
    end = jnp.where(broken, index, last[..., None]).min(axis=-1)
    return jnp.stack([first, last, start, jnp.maximum(end, start)], axis=-1)


def run_of(meets: jax.Array) -> tuple[jax.Array, jax.Array]:
    """int32 [..., ] each: the first index that is True and one past the last; equal for none."""
    index = jax.lax.broadcasted_iota(jnp.int32, meets.shape, meets.ndim - 1)
    last = jnp.where(meets, index + 1, 0).max(axis=-1)
    first = jnp.where(meets, index, jnp.int32(meets.shape[-1])).min(axis=-1)
    return jnp.minimum(first, last), last


def _forward_blocks(width: int, narrow) -> Blocks:
    if narrow == jnp.float32:
        return Blocks(64, 32, 4, 2)
    if width <= 64:
        return Blocks(128, 64, 4, 3)
    return Blocks(128, 64, 8, 3) if width == 128 else Blocks(64, 32, 4, 2)


def fitted(blocks: Blocks, length: int, context: int) -> Blocks:
    """Blocks no longer than what is there, and at least 16."""
    power = lambda n: 1 << max(4, (n - 1).bit_length())
    return blocks._replace(
        queries=min(blocks.queries, power(length)), keys=min(blocks.keys, power(context))
    )


def fill_up(x: jax.Array, block: int, fill: int, axis: int = 1) -> jax.Array:
    """An axis up to a whole number of blocks."""
    short = -x.shape[axis] % block
    if not short:
        return x
    widths = [(0, short if n == axis else 0) for n in range(x.ndim)]
    return jnp.pad(x, widths, constant_values=fill)


def call(kernel, blocks: Blocks, interpret: bool, **options):
    """`pallas_call` through Triton."""
    if not interpret:
        from jax.experimental.pallas import triton

        options["compiler_params"] = triton.CompilerParams(
            num_warps=blocks.warps, num_stages=blocks.stages
        )
    return pl.pallas_call(kernel, interpret=interpret, name="fused_attention", **options)
