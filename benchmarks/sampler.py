"""The sampler beside a sort-based one in JAX and beside transformers' warpers in torch.

All draw one token per row from the same logits on this machine, in turns, in one run:

    python benchmarks/sampler.py [--quick] [--json PATH]

`peaked` logits have a nucleus of a few tokens, as a language model's have (SmolLM2 at
temperature 0.6 and top-p 0.95: median 2, at most 13 in 256 positions). `flat` ones are normal,
with a nucleus of tens of thousands: the worst case for a threshold search.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from interp_jax.generation.sampler import sample
from interp_jax.generation.sampling_params import SamplingParams

CASES = {
    # name: (logits, options, passes over the logits that nothing can avoid)
    "greedy": ("peaked", dict(temperature=0.0), 1),
    "temperature": ("peaked", dict(temperature=0.6), 2),
    "top_p": ("peaked", dict(temperature=0.6, top_p=0.95), 2),
    "top_k": ("peaked", dict(temperature=0.6, top_k=50), 1),
    "top_k_top_p": ("peaked", dict(temperature=0.6, top_k=50, top_p=0.95), 1),
    "min_p": ("peaked", dict(temperature=0.6, min_p=0.05), 2),
    "top_p_flat": ("flat", dict(temperature=1.0, top_p=0.95), 2),
}


def make_logits(kind, rows, vocabulary):
    """f32 [rows, vocabulary], the same at every call."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(rows, vocabulary))
    if kind == "peaked":
        logits *= 2
        high = rng.integers(0, vocabulary, (rows, 24))
        np.put_along_axis(logits, high, 13 + 3 * rng.normal(size=(rows, 24)), axis=1)
    return logits.astype(np.float32)


def sort_based(options):
    """What one writes first: a descending sort, its cumulative sum, and Gumbel noise."""

    def draw(logits, key):
        if options["temperature"] == 0:
            return jnp.argmax(logits, axis=1)
        scores = logits / options["temperature"]
        if "top_k" in options:
            kth = jax.lax.top_k(scores, options["top_k"])[0][:, -1:]
            scores = jnp.where(scores < kth, -jnp.inf, scores)
        if "top_p" in options:
            order = jnp.argsort(-scores, axis=1)
            mass = jax.nn.softmax(jnp.take_along_axis(scores, order, axis=1), axis=1)
            dropped = jnp.cumsum(mass, axis=1) - mass >= options["top_p"]
            back = jnp.argsort(order, axis=1)
            scores = jnp.where(jnp.take_along_axis(dropped, back, axis=1), -jnp.inf, scores)
        if "min_p" in options:
            mass = jax.nn.softmax(scores, axis=1)
            low = mass < options["min_p"] * mass.max(axis=1, keepdims=True)
            scores = jnp.where(low, -jnp.inf, scores)
        return jax.random.categorical(key, scores, axis=1)

    return jax.jit(draw)


def torch_warpers(options, logits):
    """transformers' warpers, softmax and multinomial, on all cores; None where not installed."""
    try:
        import torch
        import transformers
    except ImportError:
        return None
    torch.set_num_threads(os.cpu_count() or 1)
    warpers = transformers.LogitsProcessorList()
    if options["temperature"] > 0:
        warpers.append(transformers.TemperatureLogitsWarper(options["temperature"]))
    if "top_k" in options:
        warpers.append(transformers.TopKLogitsWarper(options["top_k"]))
    if "top_p" in options:
        warpers.append(transformers.TopPLogitsWarper(options["top_p"]))
    if "min_p" in options:
        warpers.append(transformers.MinPLogitsWarper(options["min_p"]))
    scores = torch.from_numpy(logits)

    def draw():
        with torch.inference_mode():
            if options["temperature"] == 0:
                return torch.argmax(scores, dim=-1)
            probabilities = torch.softmax(warpers(None, scores), dim=-1)
            return torch.multinomial(probabilities, num_samples=1)

    return draw


def in_turns(functions, seconds, most):
    """Median milliseconds of each, called in turns after a warm-up."""
    for function in functions:
        jax.block_until_ready(function())
    times = [[] for _ in functions]
    end = time.perf_counter() + seconds
    while len(times[0]) < 3 or (time.perf_counter() < end and len(times[0]) < most):
        for function, own in zip(functions, times, strict=True):
            start = time.perf_counter()
            jax.block_until_ready(function())
            own.append((time.perf_counter() - start) * 1e3)
    return [statistics.median(own) for own in times]


def versions():
    """Library versions of this run."""
    found = {"python": platform.python_version(), "jax": jax.__version__}
    try:
        import torch
        import transformers
    except ImportError:
        return found
    return found | {"torch": torch.__version__, "transformers": transformers.__version__}


def measure(case, rows, vocabulary, seconds, most):
    """The rows of one case, one per peer."""
    kind, options, passes = CASES[case]
    logits = make_logits(kind, rows, vocabulary)
    on_device = jnp.asarray(logits)
    params = SamplingParams.make(**options)
    uniforms = jax.random.uniform(jax.random.key(0), (rows,))
    key = jax.random.key(1)
    ours = jax.jit(lambda *operands: sample(*operands))
    by_sort = sort_based(options)
    # One reduction over the same array: the rate at which this machine reads it.
    read = jax.jit(lambda x: x.max(axis=1))
    functions = {
        "interp_jax": lambda: ours(on_device, params, uniforms),
        "one read of the logits": lambda: read(on_device),
        "sort-based, jax": lambda: by_sort(on_device, key),
    }
    peer = torch_warpers(options, logits)
    if peer is not None:
        functions["warpers, transformers"] = peer
    medians = dict(zip(functions, in_turns(list(functions.values()), seconds, most), strict=True))
    own, one_read = medians.pop("interp_jax"), medians.pop("one read of the logits")
    device = f"{jax.devices()[0].device_kind}, {os.cpu_count()} cores"
    return [
        {
            "case": case,
            "metric": "time per step",
            "unit": "ms",
            "peer": name,
            "ours": own,
            "theirs": theirs,
            "ratio": theirs / own,
            "floor": passes * one_read,
            "device": device,
            "versions": versions(),
            "sizes": {"batch": rows, "vocabulary": vocabulary, "logits": kind, **options},
        }
        for name, theirs in medians.items()
    ]


def main():
    """Runs the cases, prints a table, writes the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer cases and repetitions")
    parser.add_argument("--json", metavar="PATH", help="write the rows here")
    arguments = parser.parse_args()
    cases = ["greedy", "temperature", "top_p", "top_p_flat"] if arguments.quick else list(CASES)
    batches = [16] if arguments.quick else [1, 16, 64]
    seconds, most = (1.0, 5) if arguments.quick else (4.0, 30)
    rows = []
    print(
        f"{'case':<14}{'batch':>6}  {'peer':<24}{'ours ms':>9}{'theirs ms':>11}{'ratio':>8}"
        f"{'floor ms':>10}"
    )
    for batch in batches:
        for case in cases:
            for row in measure(case, batch, 49152, seconds, most):
                rows.append(row)
                print(
                    f"{case:<14}{batch:>6}  {row['peer']:<24}{row['ours']:>9.2f}"
                    f"{row['theirs']:>11.2f}{row['ratio']:>8.1f}{row['floor']:>10.2f}",
                    flush=True,
                )
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump(rows, file, indent=1)
        print(f"wrote {arguments.json}")


if __name__ == "__main__":
    main()
