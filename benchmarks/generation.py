"""Generation beside transformers `generate`, in one run.

    python benchmarks/generation.py [--quick] [--json PATH]

SmolLM2-135M, dequantised once and exported by us, so that both sides run the same dense weights.
Both get the same prompt ids and make the same number of tokens for every row (no row may stop).
Sampled at temperature 0.6 and top-p 0.95 (the target) and greedy (beside it); transformers in
float32 and bfloat16, inference mode, sdpa, all cores; ours in both too. Sides alternate, numbers
are medians; compilation and warm-up are apart.

The floor of one step is what a row must multiply, 2 x 134.5 M per token (projections and head),
at the rate of a bare matmul of that many rows, measured in this run on our side; attention and
sampling are not in it. At one row the weights themselves (4 or 2 bytes each) must be read once a
step, which the bare matmul at one row pays as well.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax
import jax.numpy as jnp
import numpy as np

import interp_jax as ij
from interp_jax.models.safetensors_write import save_hf

PROMPT, DTYPES = 64, ("float32", "bfloat16")
MODES = {"sampled": {"temperature": 0.6, "top_p": 0.95}, "greedy": {"temperature": 0.0}}


def main() -> None:
    """Parse the options, run every case, print the table and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few tokens, one round")
    parser.add_argument("--json", type=Path, help="write the rows there")
    options = parser.parse_args()
    tokens, rounds = (8, 1) if options.quick else (32, 3)
    batches = (1, 16) if options.quick else (1, 16, 64)
    import torch
    import transformers

    torch.set_num_threads(os.cpu_count() or 1)
    transformers.logging.set_verbosity_error()
    ours = {dtype: ij.load(dtype=dtype) for dtype in DTYPES}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        save_hf(path, ours["float32"].network.config, ours["float32"].network.parameters())
        theirs = {
            dtype: transformers.AutoModelForCausalLM.from_pretrained(
                path, dtype=getattr(torch, dtype), attn_implementation="sdpa"
            ).eval()
            for dtype in DTYPES
        }
    print(f"prompt {PROMPT} tokens, {tokens} new, {rounds} rounds, load {os.getloadavg()[0]:.1f}")
    rows = []
    for batch in batches:
        rates = {
            ("ours", d): our_rate(batch, d) for d in DTYPES
        } | {("theirs", d): torch_rate(batch, d) for d in DTYPES}
        print(f"batch {batch}, bare matmul GFLOP/s: " + ", ".join(
            f"{side} {d} {rate / 1e9:.0f}" for (side, d), rate in rates.items()
        ))
        prompts = np.random.default_rng(batch).integers(100, 40000, (batch, PROMPT))
        for mode in MODES:
            rows.append(measure(ours, theirs, prompts, mode, tokens, rounds, rates))
            row = rows[-1]
            print(
                f"{row['case']:<22} ours {row['ours']:7.1f} ({row['sizes']['ours_dtype']})  "
                f"transformers {row['theirs']:7.1f} ({row['sizes']['theirs_dtype']})  tokens/s  "
                f"ratio {row['ratio']:.2f}  floor {row['floor']:.0f}", flush=True,
            )
    if options.json:
        partial = options.json.with_suffix(".partial")
        partial.write_text(json.dumps(rows, indent=1) + "\n")
        partial.replace(options.json)


def measure(ours, theirs, prompts, mode: str, tokens: int, rounds: int, rates) -> dict:
    """One row: the better of our dtypes beside the better of transformers' two."""
    sides = {}
    for d in DTYPES:
        sides["ours", d] = lambda d=d: our_run(ours[d], prompts, mode, tokens)
        sides["theirs", d] = lambda d=d: their_run(theirs[d], prompts, mode, tokens)
    for side, once in sides.items():
        print(f"  warm-up {side[0]} {side[1]}: {timed(once):.1f} s", flush=True)
    times = {side: [] for side in sides}
    for _ in range(rounds):
        for side, once in sides.items():
            times[side].append(timed(once))
    made = len(prompts) * tokens
    speed = {side: made / statistics.median(spent) for side, spent in times.items()}
    print("  " + ", ".join(f"{s} {d} {v:.1f} tokens/s" for (s, d), v in speed.items()))
    best = {
        who: max((d for d in DTYPES), key=lambda d: speed[who, d]) for who in ("ours", "theirs")
    }
    mine, other = speed["ours", best["ours"]], speed["theirs", best["theirs"]]
    import torch
    import transformers

    return {
        "case": f"batch {len(prompts)} {mode}", "metric": "throughput", "unit": "tokens/s",
        "peer": "transformers generate", "ours": mine, "theirs": other, "ratio": mine / other,
        "floor": rates["ours", best["ours"]] / (2 * 134.5e6),
        "device": f"CPU, {os.cpu_count()} cores, {platform.machine()}",
        "versions": {
            "jax": jax.__version__, "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "sizes": {
            "prompt": PROMPT, "new": tokens, "rounds": rounds, "load": os.getloadavg()[0],
            "ours_dtype": best["ours"], "theirs_dtype": best["theirs"],
            "all": {f"{s} {d}": v for (s, d), v in speed.items()},
        },
    }


def our_run(lm, prompts, mode: str, tokens: int) -> None:
    """Makes exactly `tokens` for every row."""
    made = lm.generate(
        list(prompts), max_new_tokens=tokens, stop_tokens=[], batch_size=len(prompts),
        **MODES[mode],
    )
    assert all(len(one.tokens) == tokens for one in made)


def their_run(model, prompts, mode: str, tokens: int) -> None:
    """The same with transformers."""
    import torch

    ids = torch.tensor(prompts)
    how = {"do_sample": False}
    if mode == "sampled":
        how = {"do_sample": True, "temperature": 0.6, "top_p": 0.95, "top_k": 0}
    with torch.inference_mode():
        made = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens,
            min_new_tokens=tokens, eos_token_id=None, pad_token_id=0, **how,
        )
    assert made.shape[1] == PROMPT + tokens


def timed(once) -> float:
    """Seconds of one call."""
    began = time.perf_counter()
    once()
    return time.perf_counter() - began


def our_rate(batch: int, dtype: str) -> float:
    """FLOP/s of bare matmuls of one block's width, `batch` rows, thirty different weights."""
    weights = [jnp.ones((576, 1536), dtype) * (1 + i) for i in range(30)]
    x = jnp.ones((batch, 576), dtype)
    one = lambda x, w: jnp.einsum("bi,io->bo", x, w, preferred_element_type=jnp.float32)
    product = jax.jit(lambda x, ws: [one(x, w) for w in ws])
    once = lambda: jax.block_until_ready(product(x, weights))
    once()
    return 30 * 2 * batch * 576 * 1536 / statistics.median(timed(once) for _ in range(7))


def torch_rate(batch: int, dtype: str) -> float:
    """The same with torch."""
    import torch

    kind = getattr(torch, dtype)
    weights = [torch.ones((1536, 576), dtype=kind) * (1 + i) for i in range(30)]
    x = torch.ones((batch, 576), dtype=kind)
    once = lambda: [torch.nn.functional.linear(x, w) for w in weights]
    with torch.inference_mode():
        once()
        return 30 * 2 * batch * 576 * 1536 / statistics.median(timed(once) for _ in range(7))


if __name__ == "__main__":
    main()
