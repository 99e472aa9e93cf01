"""Training a dictionary on a model's activations, harvest included, beside caching them first.

    python benchmarks/dictionaries_harvest.py [--quick] [--json PATH] [--peer_python PATH]

SmolLM2-135M, the stream after block 15, rows of 256 tokens; 16,384 latents, 2,048 rows a step,
k = 100, float32 on both sides, all cores. A round is four steps and the harvest of as many rows
as they take. Ours is what `scripts/train_dictionary.py` runs: networks, a ring in memory, steps.
The peers write activations to a file and train from it in random order
(`dictionaries_harvest_peer.py`): `dictionary_learning`'s trainer on one model (only with
`--peer_python`, see `dictionaries.py`), a plain torch crosscoder on two. Their forward pass stops
at the layer that is read, and they get tokens ready made. Sides alternate; compilation is not in
the times. The floor is the FLOPs of the layers that are run, at the rate of a bare matrix product
of this run, plus the floor of the steps.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from dictionaries import Peer, ceilings, floor
from measuring import keep, processor, versions

import interp_jax as ij
from interp_jax.dictionaries.fit import Fit
from interp_jax.dictionaries.fit_config import FitConfig
from interp_jax.dictionaries.row_source import HarvestSource
from interp_jax.models.config import parameter_shapes
from interp_jax.models.safetensors_write import save_hf
from interp_jax.text.streams_mixed import open_streams

LENGTH, LAYER, CHUNK = 256, 15, 8


class Ours:
    """A run that has begun."""

    def __init__(self, lm, models: int, sizes: dict[str, int], steps: int):
        kind = "sae" if models == 1 else "crosscoder"
        rows = sizes["rows"]
        config = FitConfig(
            kind=kind, layers=(LAYER,), latents=sizes["latents"], k=sizes["k"], batch_size=rows,
            ring_rows=2 * steps * rows, eval_rows=0, context=LENGTH, rows_at_once=CHUNK,
            lr=1e-4, checkpoint_every=0, other_model="the same" if models > 1 else None,
        )
        stream = open_streams(["docstrings"], lm.tokenizer, LENGTH, pack=True)
        what = config.harvest(lm.network.config.n_layers, lm.tokenizer.special.bos)
        source = HarvestSource([lm.network] * models, stream, what, CHUNK, LENGTH)
        self.run, self.steps = Fit(config, source), steps
        self.state = self.run.first_state()

    def round(self) -> float:
        """Seconds of as many rows drawn and harvested."""
        start = time.perf_counter()
        for _ in range(self.steps):
            self.state, metrics = self.run.step(self.state, self.run.feed.draw())
            float(metrics["loss"][0])  # waits
        return time.perf_counter() - start


def harvest_flops(config) -> float:
    """Of one token through the layers that are run."""
    layers = "|".join(f"layers.{n}." for n in range(LAYER + 1)).split("|")
    shapes = parameter_shapes(config)
    weights = sum(
        int(np.prod(shape)) for name, shape in shapes.items()
        if any(part in name for part in layers) and len(shape) > 1
    )
    attention = 2 * config.n_heads * config.head_dim * (LAYER + 1) * LENGTH / 2
    return 2.0 * (weights + attention)


def main() -> None:
    """Measures, prints a table, writes the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small dictionary, one round")
    parser.add_argument("--json", type=Path, help="write the rows here")
    parser.add_argument("--peer_python", help="interpreter that has dictionary_learning")
    options = parser.parse_args()
    sizes = {"width": 576, "latents": 16_384, "rows": 2048, "k": 100}
    steps, rounds = (2, 1) if options.quick else (4, 3)
    if options.quick:
        sizes |= {"latents": 2048, "k": 16}
    flops, bandwidth = ceilings()
    lm = ij.load("smollm2-135m-instruct", dtype="float32")
    print(f"{processor()}; {versions()}\n{flops / 1e9:.0f} GFLOP/s")
    pairs = [("crosscoder", 2, sys.executable)]
    if options.peer_python:
        pairs.insert(0, ("dictionary_learning", 1, options.peer_python))
    found = []
    for name, models, python in pairs:
        with tempfile.TemporaryDirectory() as folder:
            save_hf(f"{folder}/model", lm.network.config, lm.network.parameters())
            stream = open_streams(["docstrings"], lm.tokenizer, LENGTH, pack=True)
            needed = (rounds + 1) * steps * sizes["rows"] // LENGTH
            np.save(f"{folder}/tokens.npy", stream.next(needed).tokens)
            ours = Ours(lm, models, sizes, steps)
            ours.round()
            ours.round()  # past the first filling of the ring
            peer = Peer(python, name, folder, LAYER, steps, *sizes.values(),
                        script="dictionaries_harvest_peer.py")  # fmt: skip
            times = {"ours": [], "theirs": []}
            for _ in range(rounds):
                times["ours"].append(ours.round() / steps)
                times["theirs"].append(peer.step() / steps)
            peer.close()
        mine, theirs = (statistics.median(times[side]) for side in ("ours", "theirs"))
        read = models * sizes["rows"] * harvest_flops(lm.network.config) / flops
        least = read + floor(models, *sizes.values(), flops, bandwidth)
        found.append({
            "case": f"harvest and BatchTopK step, {models} model{'s' * (models > 1)}",
            "metric": "time per step", "unit": "s", "peer": f"cached first, {name}",
            "ours": mine, "theirs": theirs, "ratio": theirs / mine, "floor": least,
            "device": processor(), "versions": versions() | peer.versions,
            "sizes": sizes | {"layer": LAYER, "length": LENGTH, "dtype": "float32",
                              "steps": steps, "rounds": rounds, "each": times},
        })
        print(f"{found[-1]['case']:<36}{name:<22}{mine:>8.3f}{theirs:>8.3f} s "
              f"{theirs / mine:>6.2f} times; floor {least:.3f} s, of it harvest {read:.3f}",
              flush=True)
        del ours
    keep(found, options.json)


if __name__ == "__main__":
    main()
