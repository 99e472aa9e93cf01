"""The cases of the accelerator benchmark; each yields rows of the benchmark schema."""

from __future__ import annotations

import dataclasses
import time
from functools import partial

import accelerator_torch as peer
import jax
import jax.numpy as jnp
import numpy as np
from accelerator_models import (
    make_config,
    make_trace,
    median_seconds,
    random_weights,
    torch_model,
)
from thought_anchors_suppression import flops, our_flops

from interp_jax.dictionaries.build import crosscoder, sae
from interp_jax.dictionaries.recipe import Recipe, quickest
from interp_jax.dictionaries.training import paper_optimiser, start, train_step
from interp_jax.generation.engine import Engine
from interp_jax.generation.prefixes import at_cut, make_prefix
from interp_jax.generation.requests import Request
from interp_jax.generation.sampling_params import SamplingParams
from interp_jax.interventions.reads import SpanMeans
from interp_jax.interventions.verbs import read
from interp_jax.models.batch import Batch
from interp_jax.models.decoder import build_decoder
from interp_jax.models.fused import fused_attention
from interp_jax.studies.thought_anchors.suppression import suppression_effects
from interp_jax.studies.thought_anchors.suppression_plan import plan_suffixes

LAYOUTS = ("scanned", "unrolled")
ROWS = (1, 16, 64)
SAMPLING = {"temperature": 0.6, "top_p": 0.95}


@dataclasses.dataclass(frozen=True)
class Ceilings:
    """FLOP/s of a bfloat16 matmul, bytes/s of a copy (read and written)."""

    flops: float
    bandwidth: float


def measure_ceilings(quick: bool) -> Ceilings:
    """The best of a large product in XLA and torch, and of a large copy."""
    size = 256 if quick else 8192
    x = jax.random.normal(jax.random.key(0), (size, size), jnp.bfloat16)
    product = jax.jit(lambda x: x @ x)
    seconds = min(median_seconds(lambda: product(x), 10),
                  peer.matmul_seconds(size))
    big = jnp.ones(2**20 if quick else 2**30, jnp.float32)
    copied = jax.jit(lambda x: x + 1)
    moved = median_seconds(lambda: copied(big), 5)
    return Ceilings(2.0 * size**3 / seconds, 2.0 * big.nbytes / moved)


def row(case, metric, unit, peer_name, ours, theirs, floor, **sizes) -> dict:
    """A row; times are better when small, rates when large."""
    ratio = ours / theirs if unit.endswith("/s") else theirs / ours
    return {"case": case, "metric": metric, "unit": unit, "peer": peer_name, "ours": ours,
            "theirs": theirs, "ratio": ratio, "floor": floor, "sizes": sizes}


def share_of_floor(row: dict) -> str:
    """How much of what the floor allows was reached."""
    if not row["floor"]:
        return ""
    rate = row["unit"].endswith("/s")
    return f"{row['ours'] / row['floor'] if rate else row['floor'] / row['ours']:.2f}"


def attention(shape: str, ceilings: Ceilings, quick: bool):
    """The 8B shape's attention, forward and with gradient."""
    config = make_config(shape)
    heads, key_heads, width = config.n_heads, config.n_kv_heads, config.head_dim
    for rows, length in ((2, 128),) if quick else ((4, 2048), (1, 8192)):
        q, k, v = (
            jax.random.normal(jax.random.key(n), (rows, length, h, width), jnp.bfloat16)
            for n, h in enumerate((heads, key_heads, key_heads))
        )
        at = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32), (rows, length))

        def ours(q, k, v, at=at):
            out, _ = fused_attention(q, k, v, lower=jnp.zeros_like(at), upper=at,
                                     key_positions=at, scale=width**-0.5)
            return out.astype(jnp.bfloat16)

        def cudnn(q, k, v):
            return jax.nn.dot_product_attention(q, k, v, is_causal=True, implementation="cudnn")

        sides = {"ours": ours} | ({} if quick else {"jax.nn, cuDNN": cudnn})
        work = 4.0 * rows * heads * width * length * (length + 1) / 2
        exact = np.asarray(peer.exact_attention(q, k, v))
        print(f"attention: relative error ours {peer.relative(ours(q, k, v), exact):.1e}")
        for metric, count in (("forward", 1.0), ("with gradient", 3.5)):
            times = {}
            for name, side in sides.items():
                run = jax.jit(side)
                if metric != "forward":
                    run = jax.jit(jax.grad(
                        lambda q, k, v, side=side: jnp.sum(side(q, k, v).astype(jnp.float32) ** 2),
                        argnums=(0, 1, 2)))
                times[name] = median_seconds(partial(run, q, k, v), 5, peer.CALLS)
            times["torch sdpa"] = peer.attention_seconds(q, k, v, metric != "forward")
            floor = 1e3 * work * count / ceilings.flops
            for name in [n for n in times if n != "ours"]:
                yield row(f"attention {rows} x {length}, {metric}", "time", "ms", name,
                          1e3 * times["ours"], 1e3 * times[name], floor, heads=heads,
                          key_heads=key_heads, head_dim=width)


def forward(shape: str, ceilings: Ceilings, quick: bool):
    """A forward pass of full rows."""
    config, (rows, length) = make_config(shape), (2, 64) if quick else (4, 2048)
    params = random_weights(config)
    ids = np.random.default_rng(0).integers(8, config.vocab_size, (rows, length)).astype(np.int32)
    network, batch = build_decoder(config, params, layout="scanned"), Batch.make(ids)
    run = jax.jit(lambda network, batch: network(batch, logits_at="last")[0])
    logits = np.asarray(run(network, batch))[:, 0]
    ours = median_seconds(lambda: run(network, batch), 5)
    model = torch_model(config, params)
    theirs, found = peer.forward_seconds(model, ids)
    print(f"forward {shape}: relative difference of logits {peer.relative(logits, found):.1e}")
    floor = flops(config, rows * length, length / 2, rows) / ceilings.flops
    yield row(f"forward {shape}, {rows} x {length}", "time", "ms", "transformers, sdpa",
              1e3 * ours, 1e3 * theirs, 1e3 * floor, layout="scanned", dtype="bfloat16")


def decode(shape: str, ceilings: Ceilings, quick: bool):
    """Rollouts from one prefix."""
    config = make_config(shape)
    prefix_length, new = (32, 8) if quick else (512, 128)
    params = random_weights(config)
    model = torch_model(config, params)
    rng = np.random.default_rng(0)
    ids = rng.integers(8, config.vocab_size, prefix_length).astype(np.int32)
    weights = sum(a.nbytes for name, a in params.items()
                  if name != "embed.table" or config.tied_head)
    token = 2 * config.n_layers * config.n_kv_heads * config.head_dim * 2  # bytes of one's keys
    rates: dict = {}
    for layout in LAYOUTS:
        network = build_decoder(config, params, layout=layout)

        def ours(rows, network=network):
            engine = Engine(network, SamplingParams.make(**SAMPLING), batch_size=rows)
            shared, key = make_prefix(network, ids), jax.random.key(0)
            tokens, roles, cut = at_cut(shared, prefix_length)
            asked = [Request(tokens, jax.random.fold_in(key, n), new, roles, cut, n)
                     for n in range(rows)]
            return sum(len(sample.tokens) for sample in engine.run(asked, shared))

        for rows in (2,) if quick else ROWS:
            begin = time.perf_counter()
            ours(rows)
            first = time.perf_counter() - begin
            seconds = median_seconds(lambda rows=rows, ours=ours: ours(rows), 3)
            rates[layout, rows] = rows * new / seconds
            print(f"decode {shape} {layout}, {rows} rows: {rows * new / seconds:.0f} tokens/s, "
                  f"first call {first:.1f} s", flush=True)
        del network
    for rows in sorted({rows for _, rows in rates}):
        theirs = rows * new / peer.generate_seconds(model, ids, rows, new, SAMPLING)
        layout = max(LAYOUTS, key=lambda name: rates[name, rows])
        step = (weights + token * (prefix_length + rows * new / 2)) / ceilings.bandwidth
        step = max(step, flops(config, rows, prefix_length + new / 2, rows) / ceilings.flops)
        yield row(f"rollouts {shape}, {rows} rows", "new tokens per second", "tokens/s",
                  "generate, shared cache", rates[layout, rows], theirs, rows / step,
                  layout=layout, prefix=prefix_length, new_tokens=new, dtype="bfloat16",
                  **{f"{name}_tokens_per_s": round(rates[name, rows], 1)
                     for name in LAYOUTS})


def suppression(shape: str, ceilings: Ceilings, quick: bool):
    """The suppression matrix."""
    config = make_config(shape)
    trace = make_trace(config, 120 if quick else 1096, 8 if quick else 44)
    params, spans = random_weights(config), trace.spans
    count, end = len(spans), int(spans[:, 1].max())
    network = build_decoder(config, params, layout="scanned")
    effects = suppression_effects(network, trace).effects
    ours = median_seconds(lambda: suppression_effects(network, trace), 3) / count
    model = torch_model(config, params)
    plan = plan_suffixes(spans[:, 0], end)
    mine = our_flops(config, plan, spans[:, 0]) / count
    whole = flops(config, end, end, end)
    print(f"suppression {shape}: {mine / 1e12:.2f} TFLOP a source, {whole / 1e12:.2f} in full")
    for name in ("vectorised", "published"):
        seconds, kl, sources = peer.suppression_seconds(model, trace, name, quick)
        cells = np.asarray([[np.log(one[a:b] + 1e-9).mean() for a, b in spans] for one in kl])
        apart = [np.abs(cell - effects[:, source])[source + 1 :].max()
                 for cell, source in zip(cells, sources, strict=True)]
        print(f"suppression {shape}, {name}: cells at most {max(apart):.3f} apart")
        yield row(f"suppression {shape}, {end} tokens, {count} sentences", "time per source", "ms",
                  f"torch, {name}", 1e3 * ours, 1e3 * seconds, 1e3 * mine / ceilings.flops,
                  counted_ratio=round(whole / mine, 2), largest_cell_difference=float(max(apart)))


def receiver(shape: str, ceilings: Ceilings, quick: bool):
    """Sentence attention of all heads."""
    config = make_config(shape)
    length, sentences = (128, 8) if quick else (2048, 64)
    trace, params = make_trace(config, length, sentences), random_weights(config)
    network, batch = build_decoder(config, params, layout="scanned"), Batch.make(trace.ids[None])

    @jax.jit
    def means(network, batch):
        look = read("attn_weights", reduce=SpanMeans(trace.spans), name="means")
        return look(network)(batch, logits_at="none")[1]["means"][:, 0]

    program = means.lower(network, batch).compile()
    found = np.asarray(program(network, batch))
    ours = median_seconds(lambda: program(network, batch), 5)
    theirs, expected, held = peer.receiver_seconds(
        torch_model(config, params, "eager"), trace.ids, trace.spans)
    print(f"receiver {shape}: relative difference {peer.relative(found, expected):.1e}")
    pairs = config.n_layers * config.n_heads * length**2 / 2
    floor = (flops(config, length, length / 2, 0) + 2 * pairs * sentences) / ceilings.flops
    sizes = dict(tokens=length, sentences=sentences)
    yield row(f"receiver heads {shape}, T = {length}", "time", "ms", "transformers, eager",
              1e3 * ours, 1e3 * theirs, 1e3 * floor, **sizes)
    yield row(f"receiver heads {shape}, T = {length}", "temporary", "MiB", "transformers, eager",
              program.memory_analysis().temp_size_in_bytes / 2**20, held / 2**20, None, **sizes)


def dictionary(shape: str, ceilings: Ceilings, quick: bool):
    """One training step."""
    width, latents, rows, k = (64, 512, 128, 8) if quick else (2304, 73_728, 2048, 100)
    for inputs in (1, 2):
        make = sae if inputs == 1 else partial(crosscoder, inputs)
        module = make(width, latents, jax.random.key(0), k=k, matmul_dtype="bfloat16")
        optimiser = paper_optimiser(1e-4)
        recipe = Recipe(**quickest(latents, k))
        step = jax.jit(
            lambda state, x, recipe=recipe, optimiser=optimiser: train_step(
                state, x, recipe, optimiser),
            donate_argnums=0)
        shape_x = (rows, inputs, width) if inputs > 1 else (rows, width)
        x = jax.random.normal(jax.random.key(1), shape_x, jnp.float32)
        state, box = start(module, optimiser), []
        del module

        def once(step=step, x=x, box=box):
            box[0], metrics = step(box[0], x)
            metrics["loss"].block_until_ready()
            return metrics

        box.append(state)
        del state
        ours = median_seconds(once, 9)
        print(f"dictionary, {inputs} inputs: l0 {float(once()['l0']):.1f}")
        box.clear()
        theirs = peer.dictionary_seconds(inputs, width, latents, rows, k)
        work = 10.0 * rows * inputs * width * latents
        # Adam reads the gradient, a parameter and two moments, and writes three of them.
        moved = 7.0 * 4 * 2 * inputs * width * latents
        floor = work / ceilings.flops + moved / ceilings.bandwidth
        yield row(f"dictionary step, M = {inputs}, D {width}, F {latents}, B {rows}", "time", "ms",
                  "plain torch, bfloat16", 1e3 * ours, 1e3 * theirs, 1e3 * floor, k=k,
                  share_of_matmul_rate=round(work / ours / ceilings.flops, 3))


