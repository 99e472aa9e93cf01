"""Fused attention beside `jax.nn.dot_product_attention` and torch, in one run.

    python benchmarks/attention.py [--quick] [--json PATH]

Causal attention in float32 with SmolLM2-135M's heads (9 query heads, 3 key heads, width 64).
Torch (where installed) gets its keys repeated beforehand and runs in inference mode. The sides
alternate; numbers are medians. The floor counts the multiply-adds that a causal mask leaves,
4 T^2 H hd / 2 forward and 3.5 times that with the gradient (five products in the backward
pass, and the forward's two), at the rate of a bare matmul measured between the rounds.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax
import jax.numpy as jnp
import numpy as np
from measuring import keep

from interp_jax.models.fused import fused_attention

HEADS, KEY_HEADS, WIDTH = 9, 3, 64


def main() -> None:
    """Parse the options, run every size, print the table and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="short sequences, few rounds")
    parser.add_argument("--json", type=Path, help="write the rows there")
    options = parser.parse_args()
    sizes = [(1, 256), (2, 128)] if options.quick else [(1, 512), (8, 512), (1, 2048)]
    rounds = 3 if options.quick else 7
    rows = []
    print(f"{'case':<28}{'peer':<36}{'metric':<10}{'ours':>10}{'theirs':>10}{'floor':>9}{'ratio':>8}")
    for batch, length in sizes:
        for row in measure(batch, length, rounds):
            rows.append(row)
            floor = "" if row["floor"] is None else f"{row['floor']:.1f}"
            print(
                f"{row['case']:<28}{row['peer']:<36}{row['metric']:<10}{row['ours']:>10.1f}"
                f"{row['theirs']:>10.1f}{floor:>9}{row['ratio']:>8.2f}",
                flush=True,
            )
    keep(rows, options.json)


def measure(batch: int, length: int, rounds: int) -> list[dict]:
    """Rows of one size: time forward and with gradients, and compiled temporary bytes."""
    rng = np.random.default_rng(0)
    q, k, v = (
        rng.normal(size=(batch, length, heads, WIDTH)).astype(np.float32)
        for heads in (HEADS, KEY_HEADS, KEY_HEADS)
    )
    operands = tuple(map(jnp.asarray, (q, k, v)))
    rows = []
    for mode in ("forward", "gradient"):
        ours = compiled(_ours, mode, operands)
        theirs = compiled(_jax_nn, mode, operands)
        agree(ours(*operands), theirs(*operands))
        sides = {
            "ours": lambda ours=ours: jax.block_until_ready(ours(*operands)),
            "jax.nn.dot_product_attention": lambda theirs=theirs: jax.block_until_ready(
                theirs(*operands)
            ),
        }
        torch_side = _torch(mode, q, k, v)
        if torch_side is not None:
            sides["torch scaled_dot_product_attention"] = torch_side
        times, rate = alternate(sides, rounds)
        work = 4 * batch * length**2 / 2 * HEADS * WIDTH * (1 if mode == "forward" else 3.5)
        floor = 1e3 * work / rate
        case = f"{mode} B={batch} T={length}"
        for peer in list(sides)[1:]:
            rows.append(row_of(case, "time", "ms", peer, times["ours"], times[peer], floor))
        rows.append(
            row_of(
                case, "temporary", "MiB", "jax.nn.dot_product_attention",
                temporary_mib(ours), temporary_mib(theirs), None,
            )  # fmt: skip
        )
        for row in rows[-len(sides) :]:
            row["sizes"] = {
                "B": batch, "T": length, "H": HEADS, "K": KEY_HEADS, "hd": WIDTH,
                "rounds": rounds, "gflops_per_s": round(rate / 1e9, 1),
            }  # fmt: skip
    return rows


def _ours(q, k, v):
    rows, length = q.shape[:2]
    positions = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32)[None], (rows, length))
    return fused_attention(
        q, k, v, lower=jnp.zeros_like(positions), upper=positions, key_positions=positions,
        scale=WIDTH**-0.5,
    )[0]  # fmt: skip


def _jax_nn(q, k, v):
    return jax.nn.dot_product_attention(q, k, v, is_causal=True)


def compiled(attend, mode: str, operands):
    """The compiled program: attention, or it with the gradients of half its squared norm."""
    if mode == "forward":
        return jax.jit(attend).lower(*operands).compile()

    def with_gradient(*operands):
        out, pull = jax.vjp(attend, *operands)
        return out, pull(out)

    return jax.jit(with_gradient).lower(*operands).compile()


def _torch(mode: str, q, k, v):
    """The same on torch, or None where it is not installed."""
    try:
        import torch
    except ImportError:
        return None
    attend = torch.nn.functional.scaled_dot_product_attention
    repeated = (q, *(np.repeat(x, HEADS // KEY_HEADS, axis=2) for x in (k, v)))
    tensors = [torch.from_numpy(np.ascontiguousarray(x.transpose(0, 2, 1, 3))) for x in repeated]

    def forward():
        with torch.inference_mode():
            return attend(*tensors, is_causal=True)

    def with_gradient():
        leaves = [tensor.detach().requires_grad_() for tensor in tensors]
        out = attend(*leaves, is_causal=True)
        out.backward(out.detach())
        return out

    run = forward if mode == "forward" else with_gradient
    difference = np.abs(run().detach().numpy().transpose(0, 2, 1, 3) - _jax_nn(q, k, v)).max()
    if difference > 1e-4:
        raise SystemExit(f"torch disagrees by {difference}")
    return run


def agree(ours, theirs) -> None:
    """Refuse to time two sides that do not compute the same."""
    for x, y in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        difference, size = float(jnp.abs(x - y).max()), float(jnp.abs(y).max())
        if difference > 1e-5 * max(1.0, size):
            raise SystemExit(f"the two sides disagree by {difference} of {size}")


def alternate(sides: dict, rounds: int) -> tuple[dict[str, float], float]:
    """Median milliseconds of each side, taken in turns, and the matmul rate in FLOP/s."""
    x = jnp.ones((1024, 1024), jnp.float32)
    matmul = jax.jit(lambda x: x @ x).lower(x).compile()
    everything = {**sides, "matmul": lambda: jax.block_until_ready(matmul(x))}
    for run in everything.values():
        run()
    times = {name: [] for name in everything}
    for _ in range(rounds):
        for name, run in everything.items():
            start = time.perf_counter()
            run()
            times[name].append(1e3 * (time.perf_counter() - start))
    medians = {name: statistics.median(several) for name, several in times.items()}
    return medians, 2 * 1024**3 / (medians["matmul"] / 1e3)


def temporary_mib(program) -> float:
    """What a compiled program allocates beyond its inputs and outputs, in MiB."""
    return program.memory_analysis().temp_size_in_bytes / 2**20


def row_of(case, metric, unit, peer, ours, theirs, floor) -> dict:
    """One row of the benchmark schema; a ratio above 1 means ours is better."""
    versions = {"python": platform.python_version(), "jax": jax.__version__}
    if "torch" in sys.modules:
        versions["torch"] = sys.modules["torch"].__version__
    return {
        "case": case, "metric": metric, "unit": unit, "peer": peer, "ours": ours,
        "theirs": theirs, "ratio": theirs / ours, "floor": floor,
        "device": f"{jax.devices()[0].device_kind} x {os.cpu_count()} cores",
        "versions": versions,
    }  # fmt: skip


if __name__ == "__main__":
    main()
