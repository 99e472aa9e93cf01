"""Receiver heads: sentence attention of a trace in one pass, beside holding all attention.

    python benchmarks/thought_anchors_receiver.py [--quick] [--json PATH]

SmolLM2-135M (30 layers, 9 heads; its real weights) in float32 and a trace of 2,048 tokens cut
into sentences (`--quick`: 512). Each side gives the mean attention between sentences of every
layer and head, [L, H, S, S], and they must agree to 1e-5. The output head is not run.

Peers:
  all attention       this library, attention of every layer kept as [L, H, T, T] in one program,
                      then averaged: what the published code does. Bytes only (it is never run).
  reference path      this library, one layer's matrix at a time, before attention was pooled
  transformers        eager attention with `output_attentions=True`, then two matmuls for each
                      layer in torch (where both are installed)

Sides alternate, numbers are medians. "temporary" is what a compiled program allocates beyond its
arguments and results; for torch, the bytes of the attention it returns. The floor counts the
multiply-adds of the matrices, of causal attention (half of the square), and of the sums over
sentences, at the rate of a bare matmul measured between the rounds; for bytes it is the stream,
T D numbers, and the MLP's hidden layer of the N tokens that are run at once, 2 N F. The share of
the cores that other processes took stands in every row of times.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax
import jax.numpy as jnp
import numpy as np
from measuring import keep, processor, timed, versions

from interp_jax.generation.language_model import load
from interp_jax.interventions.reads import AsIs, SpanMeans, span_weights
from interp_jax.interventions.verbs import read
from interp_jax.models.batch import Batch
from interp_jax.models.config import parameter_shapes
from interp_jax.models.decoder import Decoder
from interp_jax.models.safetensors_write import save_hf
from interp_jax.models.token_parts import part_length
from interp_jax.text.sentences import split_sentences, token_ranges

ROUNDS = 3


def main() -> None:
    """Runs the cases, prints a table, writes the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="512 tokens, one round")
    parser.add_argument("--json", type=Path, help="write the rows there")
    options = parser.parse_args()
    rows = cases(options.quick)
    print(f"{'case':<34}{'metric':<12}{'peer':<22}{'ours':>9}{'theirs':>10}{'ratio':>8}{'floor':>9}")
    for row in rows:
        print(
            f"{row['case']:<34}{row['metric']:<12}{row['peer']:<22}{row['ours']:>9.2f}"
            f"{row['theirs']:>10.2f}{row['ratio']:>8.2f}{row['floor']:>9.2f} {row['unit']}"
        )
    keep(rows, options.json)


def cases(quick: bool) -> list[dict]:
    """Rows of the benchmark schema: compiled temporary bytes, and time."""
    length, rounds = (512, 1) if quick else (2048, ROUNDS)
    lm = load(dtype="float32", layout="unrolled")
    ids, spans = trace_of(lm.tokenizer, length)
    network, batch = lm.network, Batch.make(ids[None])
    programs = {
        "ours": compiled(pooled, network, batch, spans),
        "reference path": compiled(
            pooled, dataclasses.replace(network, path="reference"), batch, spans
        ),
    }
    whole = jax.jit(materialised).lower(network, batch, spans).compile()
    temporary = {name: mib(program) for name, (_, program) in programs.items()}
    temporary["all attention"] = mib(whole)
    sides = {name: run for name, (run, _) in programs.items()}
    with tempfile.TemporaryDirectory() as folder:
        peer = transformers_side(folder, network, ids, spans)
        if peer is not None:
            sides["transformers"] = peer
            temporary["transformers"] = attention_mib(network, length)
        found = {name: np.asarray(run()) for name, run in sides.items()}
        for name, means in found.items():
            off = float(np.abs(means - found["ours"]).max())
            if off > 1e-5 or means.shape != found["ours"].shape:
                raise SystemExit(f"{name} disagrees by {off}")
            print(f"{name}: largest difference {off:.1e}", flush=True)
        times, rate, others = alternate(sides, rounds)
    shapes = parameter_shapes(network.config)
    base = {
        "case": f"sentence attention T={length}",
        "device": processor(), "versions": versions(),
        "sizes": {
            "T": length, "sentences": len(spans), "model": "SmolLM2-135M-Instruct",
            "layers": network.config.n_layers, "heads": network.config.n_heads,
            "dtype": "float32", "rounds": rounds, "gflops_per_s": round(rate / 1e9, 1),
        },
    }  # fmt: skip
    line = lambda metric, unit, name, ours, theirs, floor, **more: base | {
        "metric": metric, "unit": unit, "peer": name, "ours": ours, "theirs": theirs,
        "ratio": theirs / ours, "floor": floor, "sizes": base["sizes"] | more,
    }  # fmt: skip
    width, hidden = network.config.width, network.config.mlp_width
    least = 4 * (length * width + 2 * part_length(length) * hidden) / 2**20
    rows = [
        line("temporary", "MiB", name, temporary["ours"], theirs, least)
        for name, theirs in temporary.items() if name != "ours"
    ]
    floor = work(network, shapes, length, len(spans)) / rate
    rows += [
        line("time", "s", name, times["ours"], theirs, floor, others_share=round(others, 3))
        for name, theirs in times.items() if name != "ours"
    ]
    return rows


def trace_of(tokenizer, length: int) -> tuple[np.ndarray, np.ndarray]:
    """int32 [length] tokens of a reasoning made by rule, and its sentences' ranges [S, 2]."""
    parts = []
    for n in range(3, 3 + length // 10):
        parts += [
            f"Next we look at {n} rows with {n + 4} stones in each of them, and count all stones.",
            f"That makes {n} times {n + 4}, which is {n * (n + 4)}, so the sum so far grows again.",
            "Wait, is the order of the rows important here, or does only their number count?",
            f"It does not matter, because {n + 4} times {n} is also {n * (n + 4)}.",
        ]
    text = " ".join(parts)
    encoded = tokenizer.encode(text)
    ranges = token_ranges(
        split_sentences(text), text, [tuple(pair) for pair in encoded.offsets.tolist()]
    )
    ids = np.asarray(encoded.ids, np.int32)
    if len(ids) < length:
        raise SystemExit(f"the text has {len(ids)} tokens, fewer than {length}")
    return ids[:length], np.asarray(ranges[ranges[:, 1] <= length], np.int32)


def pooled(network: Decoder, batch: Batch, spans) -> jax.Array:
    """[L, H, S, S], reduced inside the pass."""
    look = read("attn_weights", reduce=SpanMeans(spans), name="means")
    _, tape = look(network)(batch, logits_at="none")
    return tape["means"][:, 0]


def materialised(network: Decoder, batch: Batch, spans) -> jax.Array:
    """The same, with the attention of all layers there before any of it is averaged."""
    look = read("attn_weights", reduce=AsIs(), name="matrix")
    _, tape = look(network)(batch, logits_at="none")
    # Without the barrier a compiler averages each layer before it makes the next.
    matrix = jax.lax.optimization_barrier(tape["matrix"][:, 0])
    weights = span_weights(spans, batch, matrix.dtype)[0]
    return jnp.einsum("lhts,it,js->lhij", matrix, weights, weights)


def compiled(function, network: Decoder, batch: Batch, spans):
    """(a call of the compiled program, the program)."""
    program = jax.jit(function).lower(network, batch, spans).compile()
    return lambda: jax.block_until_ready(program(network, batch, spans)), program


def transformers_side(folder: str, network: Decoder, ids, spans):
    """The same with transformers and torch, or None where they are not installed."""
    try:
        import torch
        import transformers
    except ImportError:
        return None
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(os.cpu_count() or 1)
    save_hf(f"{folder}/m", network.config, network.parameters())
    model = transformers.AutoModelForCausalLM.from_pretrained(
        f"{folder}/m", dtype=torch.float32, attn_implementation="eager"
    ).eval()
    tokens = torch.from_numpy(ids[None].astype(np.int64))
    average = torch.zeros(len(spans), len(ids))
    for row, (start, end) in enumerate(spans):
        average[row, start:end] = 1.0 / max(end - start, 1)

    def run() -> np.ndarray:
        with torch.inference_mode():
            out = model.model(tokens, output_attentions=True, use_cache=False)
            return torch.stack(
                [average @ weights[0] @ average.T for weights in out.attentions]
            ).numpy()

    return run


def work(network: Decoder, shapes: dict, length: int, sentences: int) -> float:
    """Floating-point operations that the task needs."""
    config = network.config
    body = sum(int(np.prod(s)) for n, s in shapes.items() if ".weight" in n and "head" not in n)
    pairs = config.n_layers * config.n_heads * length * (length + 1) / 2
    sums = pairs * sentences + config.n_layers * config.n_heads * length * sentences**2
    return 2.0 * (body * length + pairs * 2 * config.head_dim + sums)


def attention_mib(network: Decoder, length: int) -> float:
    """[L, H, T, T] in float32."""
    return network.config.n_layers * network.config.n_heads * length**2 * 4 / 2**20


def mib(program) -> float:
    """What a compiled program allocates beyond its arguments and results, in MiB."""
    return program.memory_analysis().temp_size_in_bytes / 2**20


def alternate(sides: dict, rounds: int) -> tuple[dict[str, float], float, float]:
    """Median seconds of each side, the matmul rate in FLOP/s, and what others took at most."""
    x = jnp.ones((2048, 1024), jnp.float32)
    matmul = jax.jit(lambda x: x @ x.T).lower(x).compile()
    everything = {**sides, "matmul": lambda: jax.block_until_ready(matmul(x))}
    jax.block_until_ready(matmul(x))
    times: dict[str, list[float]] = {name: [] for name in everything}
    worst = 0.0
    for _ in range(rounds):
        for name, run in everything.items():
            _, seconds, others = timed(run)
            times[name].append(seconds)
            if name != "matmul":
                worst = max(worst, others)
    rate = 2 * 2048 * 2048 * 1024 / min(times.pop("matmul"))
    return {name: statistics.median(several) for name, several in times.items()}, rate, worst


if __name__ == "__main__":
    main()
