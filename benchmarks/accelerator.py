"""Real shapes on one accelerator, beside torch and transformers on the same chip, in one run.

    python benchmarks/accelerator.py [--quick] [--json PATH] [--cases NAME,NAME] [--shapes 1B,8B]

Random bfloat16 weights of the shapes of Llama 3.2 1B and Llama 3.1 8B, one copy for both sides.

  forward      4 rows of 2,048 tokens, logits of the last; transformers, sdpa
  attention    one layer's attention at the 8B shape; torch sdpa, and cuDNN through jax.nn
  decode       rollouts from a shared prefix of 512 tokens, T 0.6, top-p 0.95; `generate` from a
               repeated cache (dynamic)
  suppression  1,096 tokens in 44 sentences, exact KL; full forwards in batches of 8 with the KL on
               the device (vectorised), and one by one with the KL on the host (published)
  receiver     sentence attention at T = 2,048; eager attention returned and averaged
  dictionary   one training step of BatchTopK dictionaries; the same in plain torch

Each side's first call (compilation, tuning) is not in its time; medians of wall time. `floor` is
what counted FLOPs and bytes allow at the matmul rate and copy bandwidth measured in this run.
"""

from __future__ import annotations

import argparse
import gc
import os
import traceback
from pathlib import Path

# Both libraries share the chip.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import accelerator_cases as run_case
import jax
from measuring import keep, processor, versions

CASES = ("attention", "forward", "decode", "suppression", "receiver", "dictionary")


def main() -> None:
    """Runs the cases, prints a table, writes the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny shapes, on any backend")
    parser.add_argument("--json", type=Path, help="write the rows here")
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--shapes", default="1B,8B")
    parser.add_argument("--layouts", default=",".join(run_case.LAYOUTS), help="of decoding")
    parser.add_argument("--rows", default=",".join(map(str, run_case.ROWS)), help="of decoding")
    options = parser.parse_args()
    run_case.LAYOUTS = tuple(options.layouts.split(","))
    run_case.ROWS = tuple(int(rows) for rows in options.rows.split(","))
    shapes = ["tiny"] if options.quick else options.shapes.split(",")
    import torch  # noqa: F401  so that its version is told

    ceilings = run_case.measure_ceilings(options.quick)
    print(f"{processor()}; {versions()}\nmatmul {ceilings.flops / 1e12:.0f} TFLOP/s in bfloat16, "
          f"copies {ceilings.bandwidth / 1e12:.2f} TB/s", flush=True)
    rows, failed = [], []
    for case in options.cases.split(","):
        for shape in shapes if case not in ("attention", "dictionary") else [shapes[-1]]:
            try:
                for row in getattr(run_case, case)(shape, ceilings, options.quick):
                    row |= {"device": processor(), "versions": versions()}
                    rows.append(row)
                    share = run_case.share_of_floor(row)
                    print(f"{row['case']:<44}{row['peer']:<26}{row['ours']:>12.3f}"
                          f"{row['theirs']:>12.3f} {row['unit']:<9}{row['ratio']:>7.2f} times"
                          f"  of the floor {share}", flush=True)
            except Exception:
                failed.append(f"{case} {shape}")
                print(f"FAILED {case} {shape}\n{traceback.format_exc()[-3000:]}", flush=True)
            gc.collect()
            jax.clear_caches()
            torch.cuda.empty_cache()
            keep(rows, options.json)
    if failed:
        raise SystemExit("failed: " + ", ".join(failed))


if __name__ == "__main__":
    main()
