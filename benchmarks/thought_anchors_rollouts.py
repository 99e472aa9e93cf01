"""Rollouts of a long trace with SmolLM2-135M beside transformers `generate`, in one run.

    python benchmarks/thought_anchors_rollouts.py [--quick] [--json PATH] [--patience MINUTES]

The trace of `thought_anchors_suppression`: over a thousand tokens, 44 sentences. From just before
each of four sentences n rollouts of the same length are sampled at temperature 0.6 and top-p 0.95,
end-of-sequence off; the same weights, prefixes and lengths on both sides, in float32 and bfloat16.

Ours runs the trace once into one cache, and every rollout sees its own cut of it. The peers:

  generate      `generate(prefix, num_return_sequences=n)` for each sentence, as local generation
                is commonly written: it runs the prefix n times, once in every row
  shared cache  the prefix is run once, its cache repeated n times, and `generate` goes on from it

Prefills are in the times, compilation is not. Sides alternate; numbers are medians. The floor is
the decoding alone: FLOPs of the new tokens, with their attention to the prefix, at the best rate
of a bare matmul of the run.
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
from generation import matmul_rates
from measuring import keep, processor, rate, versions, wait_until_quiet
from thought_anchors_suppression import flops, make_trace

from interp_jax.generation.engine import Engine
from interp_jax.generation.language_model import load
from interp_jax.generation.prefixes import at_cut
from interp_jax.generation.prompts import Prompt
from interp_jax.generation.requests import Request
from interp_jax.generation.sampling_params import SamplingParams
from interp_jax.models.safetensors_write import save_hf

DTYPES = ("float32", "bfloat16")
SAMPLING = {"temperature": 0.6, "top_p": 0.95}


def ours(lm, trace, cuts: list[int], n: int, new: int):
    """A function that makes all rollouts, the trace's own pass included."""
    key = jax.random.key(0)

    def run() -> int:
        engine = Engine(lm.network, SamplingParams.make(**SAMPLING), batch_size=64)
        prefix = lm.prefix(Prompt(trace.ids, trace.roles))
        requests = []
        for item in range(len(cuts) * n):
            tokens, roles, cut = at_cut(prefix, cuts[item // n])
            requests.append(Request(tokens, jax.random.fold_in(key, item), new, roles, cut, item))
        return sum(len(sample.tokens) for sample in engine.run(requests, prefix))

    return run


def theirs(model, trace, cuts: list[int], n: int, new: int, *, shared: bool):
    """The same with transformers."""
    import torch
    from transformers import DynamicCache

    options = dict(
        SAMPLING, do_sample=True, top_k=0, max_new_tokens=new, min_new_tokens=new,
        eos_token_id=None, pad_token_id=0, use_cache=True,
    )

    def run() -> int:
        made, cache, seen = 0, DynamicCache(config=model.config), 0
        with torch.inference_mode():
            for cut in cuts:
                ids = torch.from_numpy(trace.ids[:cut].astype(np.int64))[None]
                if shared:
                    # Later prefixes go on from the cache of earlier ones.
                    model(ids[:, seen : cut - 1], past_key_values=cache, logits_to_keep=1)
                    seen, own = cut - 1, copy.deepcopy(cache)
                    own.batch_repeat_interleave(n)
                    out = model.generate(
                        ids.repeat(n, 1), attention_mask=torch.ones(n, cut, dtype=torch.long),
                        past_key_values=own, **options,
                    )
                else:
                    out = model.generate(
                        ids, attention_mask=torch.ones_like(ids), num_return_sequences=n, **options
                    )
                made += (out.shape[1] - cut) * len(out)
        return made

    return run


def cases(quick: bool = False, patience: float = 0.0) -> list[dict]:
    """Measures; the rows of the benchmark."""
    import torch
    import transformers

    deadline = time.monotonic() + 60 * patience
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(os.cpu_count() or 1)
    n, new, rounds = (4, 8, 1) if quick else (16, 32, 3)
    contenders: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as folder:
        for dtype in DTYPES:
            lm = load(dtype=dtype)
            if dtype == "float32":
                save_hf(f"{folder}/m", lm.network.config, lm.network.parameters())
                trace = make_trace(lm, 12 if quick else 44)
                spans, config = trace.spans, lm.network.config
                cuts = [int(spans[i, 0]) for i in np.linspace(0, len(spans) - 1, 5)[1:].astype(int)]
            model = transformers.AutoModelForCausalLM.from_pretrained(
                f"{folder}/m", dtype=getattr(torch, dtype), attn_implementation="sdpa"
            ).eval()
            contenders[f"interp_jax {dtype}"] = ours(lm, trace, cuts, n, new)
            contenders[f"generate {dtype}"] = theirs(model, trace, cuts, n, new, shared=False)
            contenders[f"shared cache {dtype}"] = theirs(model, trace, cuts, n, new, shared=True)
    print(f"{processor()}; {versions()}\n{len(trace.ids)} tokens, prefixes of {cuts}, {n} rollouts "
          f"of {new} tokens each")
    for name, run in contenders.items():
        if name.startswith("interp_jax"):
            print(f"first call of {name}, compilation included: {len(cuts) * n * new} tokens in "
                  f"{len(cuts) * n * new / rate(run)[0]:.1f} s")
    rates = {name: [] for name in contenders}
    shares = {name: [] for name in contenders}
    peak = matmul_rates(1024)
    for _ in range(rounds):
        wait_until_quiet(deadline)
        for name, run in contenders.items():
            speed, others = rate(run)
            rates[name].append(speed)
            shares[name].append(others)
            print(f"  {name}: {speed:.1f} tokens/s (others {others:.0%})", flush=True)
    middle = {name: statistics.median(own) for name, own in rates.items()}
    rows = []
    for peer in ("generate", "shared cache"):
        best = lambda side: max(DTYPES, key=lambda d: middle[f"{side} {d}"])
        mine, other = best("interp_jax"), best(peer)
        ours_rate, their_rate = middle[f"interp_jax {mine}"], middle[f"{peer} {other}"]
        token = flops(config, 1, float(np.mean(cuts)) + new / 2, 1)
        floor = max(peak[f"XLA {mine}"], peak[f"torch {mine}"]) * 1e9 / token
        others = max(np.median(shares[f"interp_jax {mine}"]), np.median(shares[f"{peer} {other}"]))
        rows.append({
            "case": "rollouts", "metric": "new tokens per second", "unit": "tokens/s",
            "peer": f"transformers, {peer}, {other}", "ours": ours_rate, "theirs": their_rate,
            "ratio": ours_rate / their_rate, "floor": floor, "device": processor(),
            "versions": versions(),
            "sizes": {
                "model": "SmolLM2-135M-Instruct", "tokens": len(trace.ids), "cuts": cuts, "n": n,
                "new_tokens": new, "our_dtype": mine, "rounds": rounds,
                "others_share": round(float(others), 3),
            },
        })
        print(f"{peer:<14}{ours_rate:>9.1f} ({mine}){their_rate:>9.1f} ({other})"
              f"{ours_rate / their_rate:>7.2f} times; floor {floor:.0f} tokens/s")
    return rows


def main() -> None:
    """Parses the options, measures, writes the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few short rollouts, one round")
    parser.add_argument("--json", type=Path, help="write the rows here")
    parser.add_argument("--patience", metavar="MINUTES", type=float, default=0.0)
    options = parser.parse_args()
    rows = cases(options.quick, options.patience)
    keep(rows, options.json)


if __name__ == "__main__":
    main()
