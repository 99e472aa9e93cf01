"""How a training step of a dictionary grows with the number of devices: bytes, work and messages.

    python benchmarks/dictionaries_devices.py [--quick] [--json PATH]

Eight fake devices share the cores of this machine, so the seconds say little; what counts is what
the compiled step of one device holds and does. Latents are cut along `model`, or rows along
`data`; the step is the one that `scripts/train_dictionary.py --mesh=...` runs, with its state
donated. Bytes are those of one device by the compiler's account: state and rows (arguments) and
temporaries. FLOPs are of one device. Messages are the bytes of its collectives' results.
"""

from __future__ import annotations

import os

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
).strip()
os.environ["JAX_PLATFORMS"] = "cpu"

import argparse
import math
import re
import statistics
import time
from pathlib import Path

import jax
import jax.numpy as jnp
from measuring import keep, processor, versions

from interp_jax.dictionaries.fit import Fit
from interp_jax.dictionaries.fit_config import FitConfig
from interp_jax.dictionaries.fit_step import dictionary_step
from interp_jax.dictionaries.placement import row_sharding
from interp_jax.dictionaries.row_source import Chunk
from interp_jax.runtime.mesh import make_mesh

MESHES = ("data:1,model:1", "data:1,model:2", "data:1,model:4", "data:1,model:8", "data:2,model:1",
          "data:4,model:1", "data:8,model:1", "data:2,model:4")  # fmt: skip
COLLECTIVE = re.compile(r"= (.+?) (?:all-reduce|all-gather|reduce-scatter|all-to-all"
                        r"|collective-permute)(?:-start)?\(")
BYTES = {"f32": 4, "s32": 4, "u32": 4, "pred": 1, "bf16": 2}


class Random:
    """A source of normal rows, of which only the shapes matter here."""

    def __init__(self, rows: int, width: int):
        self.size, self._at = rows, 0
        self.shapes = {"x": jax.ShapeDtypeStruct((2, width), jnp.float32)}

    def next(self) -> Chunk:
        """The next rows."""
        self._at += 1
        x = jax.random.normal(jax.random.key(self._at), (self.size, *self.shapes["x"].shape))
        return Chunk({"x": x}, [True] * self.size)

    def cursor(self) -> int:
        """Where it stands."""
        return self._at

    def seek(self, cursor: int) -> None:
        """Puts it there."""
        self._at = cursor


def message_bytes(text: str) -> int:
    """Bytes of the results of all collectives of a compiled program, loop bodies counted once."""
    total = 0
    for shapes in COLLECTIVE.findall(text):
        for kind, axes in re.findall(r"(\w+)\[([\d,]*)\]", shapes):
            total += BYTES.get(kind, 4) * math.prod(int(n) for n in axes.split(",") if n)
    return total


def case(name: str, width: int, latents: int, rows: int, rounds: int) -> dict:
    """One mesh."""
    sizes = [int(part.split(":")[1]) for part in name.split(",")]
    mesh = make_mesh(name, jax.devices()[: math.prod(sizes)])
    config = FitConfig(
        kind="crosscoder", layers=(0, 1), latents=latents, k=32, batch_size=rows, decode="dense",
        ring_rows=2 * rows, eval_rows=0, context=rows, rows_at_once=1, warm_up=1,
    )
    run = Fit(config, Random(rows, width), mesh)
    state, x = run.first_state(), run.feed.draw()
    x = jax.tree.map(lambda a: jax.device_put(a, row_sharding(a.shape, mesh)), x)
    function = run.step
    program = dictionary_step.lower(state, x, function.operands, function.structure).compile()
    memory, cost = program.memory_analysis(), program.cost_analysis()
    times = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        state, metrics = function(state, x)
        jax.block_until_ready((state, metrics))
        times.append(time.perf_counter() - start)
    return {
        "case": "crosscoder step as devices grow", "mesh": name, "device": processor(),
        "versions": versions(), "seconds": statistics.median(times[1:]),
        "held_mib": memory.argument_size_in_bytes / 2**20,
        "temporary_mib": memory.temp_size_in_bytes / 2**20,
        "gflop": cost["flops"] / 1e9, "messages_mib": message_bytes(program.as_text()) / 2**20,
        "sizes": {"width": width, "latents": latents, "rows": rows, "k": 32, "inputs": 2,
                  "rounds": rounds},
    }


def main() -> None:
    """Measures, prints a table, writes the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes, one round")
    parser.add_argument("--json", type=Path, help="write the rows here")
    options = parser.parse_args()
    sizes = (32, 256, 64, 1) if options.quick else (256, 8192, 1024, 3)
    print(f"{processor()}, as eight devices; {versions()}\n{'mesh':<16}{'held':>9}{'temporary':>11}"
          f"{'messages':>10} MiB{'GFLOP':>8}{'seconds':>9}")
    found = []
    for name in MESHES:
        found.append(one := case(name, *sizes))
        print(f"{name:<16}{one['held_mib']:>9.1f}{one['temporary_mib']:>11.1f}"
              f"{one['messages_mib']:>10.1f}    {one['gflop']:>8.1f}{one['seconds']:>9.3f}",
              flush=True)
    keep(found, options.json)


if __name__ == "__main__":
    main()
