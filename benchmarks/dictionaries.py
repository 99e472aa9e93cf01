"""One training step of BatchTopK dictionaries beside torch, in one run.

    python benchmarks/dictionaries.py [--quick] [--json PATH] [--peer_python PATH]

Width 576, 16,384 latents, 2,048 rows, k = 100, float32, all cores, random activations. The peers:

  dictionary_learning   its BatchTopK trainer (SAE). It needs an environment of its own (nnsight
                        below 0.4), whose interpreter is `--peer_python`; left out without.
  plain torch           a two-model crosscoder as it is commonly written: dense, a flat topk, Adam

Each peer runs in a process of its own and takes a step when it is told to, so sides alternate and
nobody computes meanwhile. Ours is the recipe that `quickest` gives, with donated state. Compilation
is not in the times. The floor counts the multiply-adds of a dense encoder pass and of what the
sparse path must do (k active latents a row) at the rate of a bare matrix product of this run, and
the bytes of Adam's update at the rate of a copy.

Then ours alone: seconds and compiled temporary bytes as F grows.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
from measuring import keep, processor, timed, versions

from interp_jax.dictionaries.build import crosscoder, sae
from interp_jax.dictionaries.recipe import Recipe, quickest
from interp_jax.dictionaries.training import paper_optimiser, start, train_step


class Peer:
    """A peer's process, of a script beside this one."""

    def __init__(self, python: str, *arguments, script: str = "dictionaries_peer.py"):
        script = Path(__file__).with_name(script)
        self.process = subprocess.Popen(
            [python, str(script), *map(str, arguments)], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True,
        )
        self.versions = json.loads(self._line())
        assert self._line().strip() == "ready"

    def _line(self) -> str:
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("the peer's process ended; its error stands above")
        return line

    def step(self) -> float:
        """Seconds of one step."""
        self.process.stdin.write("step\n")
        self.process.stdin.flush()
        return float(self._line())

    def close(self) -> None:
        """Ends the process."""
        self.process.stdin.close()
        self.process.wait()


class Ours:
    """A dictionary in training."""

    def __init__(self, inputs: int, width: int, latents: int, rows: int, k: int):
        make = sae if inputs == 1 else partial(crosscoder, inputs)
        optimiser, recipe = paper_optimiser(1e-4), Recipe(**quickest(latents, k))
        shape = (rows, width) if inputs == 1 else (rows, inputs, width)
        self.x = jax.random.normal(jax.random.key(1), shape)
        self.state = start(make(width, latents, jax.random.key(0), k=k), optimiser)
        step = jax.jit(
            lambda state, x: train_step(state, x, recipe, optimiser), donate_argnums=0
        )
        self.program = step.lower(self.state, self.x).compile()

    def step(self) -> float:
        """Seconds of one step."""
        begin = time.perf_counter()
        self.state, metrics = self.program(self.state, self.x)
        float(metrics["loss"])  # waits
        return time.perf_counter() - begin

    @property
    def temporary(self) -> int:
        """Bytes that the step allocates beyond its arguments and results."""
        return self.program.memory_analysis().temp_size_in_bytes


def ceilings() -> tuple[float, float]:
    """FLOP/s of a float32 product, bytes/s of a copy (read and written)."""
    a = jax.random.normal(jax.random.key(0), (2048, 576))
    b = jax.random.normal(jax.random.key(1), (576, 16_384))
    product, copy = jax.jit(jnp.dot), jax.jit(lambda x: x + 1)
    fastest = lambda f, *x: min(
        timed(lambda: f(*x).block_until_ready())[1] for _ in range(7)
    )
    work, moved = 2.0 * a.shape[0] * a.shape[1] * b.shape[1], 2.0 * b.nbytes
    return work / fastest(product, a, b), moved / fastest(copy, b)


def floor(inputs: int, width: int, latents: int, rows: int, k: int, flops, bandwidth) -> float:
    """Seconds that a step takes at least."""
    wide = inputs * width
    dense = 2.0 * rows * wide * latents
    # Decoding, its two gradients, and the encoder's gradient, at k latents a row.
    sparse = 4 * 2.0 * rows * k * wide
    return (dense + sparse) / flops + 7.0 * 4 * 2 * latents * wide / bandwidth


def main() -> None:
    """Measures, prints a table, writes the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes, two rounds")
    parser.add_argument("--json", type=Path, help="write the rows here")
    parser.add_argument("--peer_python", help="interpreter that has dictionary_learning")
    options = parser.parse_args()
    width, latents, rows, k = (64, 1024, 256, 16) if options.quick else (576, 16_384, 2048, 100)
    rounds = 2 if options.quick else 5
    flops, bandwidth = ceilings()
    print(f"{processor()}; {versions()}\n{flops / 1e9:.0f} GFLOP/s, copies {bandwidth / 1e9:.1f} "
          "GB/s")
    found = []
    base = {"device": processor(), "versions": versions()}
    sizes = {"width": width, "latents": latents, "rows": rows, "k": k, "dtype": "float32"}
    pairs = [("crosscoder", 2, sys.executable)]
    if options.peer_python:
        pairs.insert(0, ("dictionary_learning", 1, options.peer_python))
    else:
        print("dictionary_learning is left out: no --peer_python")
    for name, inputs, python in pairs:
        ours = Ours(inputs, width, latents, rows, k)
        peer = Peer(python, name, width, latents, rows, k)
        ours.step()
        times = {"ours": [], "theirs": []}
        for _ in range(rounds):
            times["ours"].append(ours.step())
            times["theirs"].append(peer.step())
        peer.close()
        mine, theirs = (statistics.median(times[side]) for side in ("ours", "theirs"))
        least = floor(inputs, width, latents, rows, k, flops, bandwidth)
        shown = "plain torch" if name == "crosscoder" else name
        found.append(base | {
            "case": f"BatchTopK step, {inputs} input{'s' * (inputs > 1)}", "metric": "time",
            "unit": "s", "peer": shown, "ours": mine, "theirs": theirs, "ratio": theirs / mine,
            "floor": least, "versions": versions() | peer.versions,
            "sizes": sizes | {"rounds": rounds},
        })
        print(f"{found[-1]['case']:<30}{shown:<22}{mine:>8.3f}{theirs:>8.3f} s "
              f"{theirs / mine:>6.2f} times; floor {least:.3f} s", flush=True)
        del ours
    for some in ((512, 1024) if options.quick else (4096, 8192, 16_384, 32_768)):
        ours = Ours(1, width, some, rows, k)
        ours.step()
        seconds = statistics.median(ours.step() for _ in range(3))
        least = floor(1, width, some, rows, k, flops, bandwidth)
        found.append(base | {
            "case": "BatchTopK step as F grows", "metric": "time", "unit": "s", "peer": None,
            "ours": seconds, "theirs": None, "ratio": None, "floor": least,
            "sizes": sizes | {"latents": some, "temporary_mib": ours.temporary / 2**20},
        })
        print(f"F {some:>6}: {seconds:.3f} s, floor {least:.3f} s, "
              f"{ours.temporary / 2**20:.0f} MiB temporary", flush=True)
        del ours
    keep(found, options.json)


if __name__ == "__main__":
    main()
