"""The suppression matrix of SmolLM2-135M beside two ways of doing it in torch, in one run.

    python benchmarks/thought_anchors_suppression.py [--quick] [--json PATH]

A trace of a thousand tokens and more, made of arithmetic steps (always the same text); every
sentence is hidden once; float32 on all cores; the same weights on all sides. The peers:

*published*: transformers, one full forward per source with its columns masked by an additive
[1, 1, T, T] mask (sdpa); logits go to the host, where each position's softmax and KL are taken by
scipy, one after another, the baseline's softmax kept from before.

*vectorised*: transformers, several sources in one batch (sdpa, inference mode), and the KL of all
positions in torch, the baseline's log-probabilities kept from before.

*published, nucleus*: the KL that the released scores were made with, on both sides: theirs sorts
each position's probabilities for the nucleus of 0.9999 (at most 100 tokens, logits in float16) and
takes the KL over the union of two nuclei, position by position on the host; ours is
`reference_compat=True`.

All do the same work for every source, so only a few sources are run per round and seconds per
source are compared: for the whole matrix theirs is extrapolated linearly. Ours is the whole
matrix, its unedited run included, divided by the sources. Sides alternate, numbers are
medians. Compilation (printed) is not in the times.

Counted work, in multiply-adds of matrices and attention: theirs is every token of the trace for
every source; ours the suffixes and unedited rows that are really run. The floor is our FLOPs at the
best rate of a bare matrix product of the same run. Against the vectorised side the ratio that
counting predicts is (their FLOPs / ours) x (our matmul rate / torch's); the share of it that is
reached is printed.

Neighbours on the machine disturb wall time. So CPU seconds of the process stand in a row of their
own, and the share of the cores that others took meanwhile in every row.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import pathlib
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import jax
import jax.numpy as jnp
import numpy as np
from measuring import keep, processor, timed, versions, wait_until_quiet

from interp_jax.generation.language_model import LanguageModel, load
from interp_jax.generation.prompts import Prompt
from interp_jax.models.config import ModelConfig, parameter_shapes
from interp_jax.models.decoder import Decoder
from interp_jax.models.safetensors_write import save_hf
from interp_jax.studies.thought_anchors.asking import Trace
from interp_jax.studies.thought_anchors.comparing import base_of
from interp_jax.studies.thought_anchors.suppression import (
    FLOOR,
    SOURCES_AT_ONCE,
    TEMPERATURE,
    span_effects,
    suppression_effects,
)
from interp_jax.studies.thought_anchors.suppression_compat import CAP, FILLER, NUCLEUS
from interp_jax.studies.thought_anchors.suppression_plan import SuffixPlan, plan_suffixes
from interp_jax.studies.thought_anchors.suppression_suffix import (
    edited_streams,
    suffix_batch,
    unedited_trace,
)
from interp_jax.text.sentences import split_sentences, token_ranges

OPENINGS = ("First", "Next", "Then", "After that", "So", "Now", "Wait, check this", "Therefore")
THINGS = ("apples", "coins", "pages", "litres of water", "bricks", "tickets")


def make_trace(lm: LanguageModel, sentences: int) -> Trace:
    """Arithmetic in steps, each a sentence of some 23 tokens."""
    lines, total = [], 7
    for n in range(sentences):
        more = (n * 37 + 11) % 89 + 2
        start, thing = OPENINGS[n % len(OPENINGS)], THINGS[n % len(THINGS)]
        lines.append(
            f"{start}, we have {total} {thing} and add {more} more, which makes {total + more}."
        )
        total += more
    text = " ".join(lines)
    asked = lm.tokenizer.encode("How many are there in the end? Think step by step.\n\n")
    out = lm.tokenizer.encode(text, add_special=False)
    parts = tuple(split_sentences(text))
    ranges = token_ranges(parts, text, [tuple(pair) for pair in out.offsets.tolist()])
    roles = np.zeros(len(asked.ids), np.int8)
    return Trace(Prompt(np.asarray(asked.ids, np.int32), roles), out.ids, text, parts, ranges)


class Peer:
    """transformers with the same weights."""

    def __init__(self, lm: LanguageModel, trace: Trace):
        import torch
        import transformers

        transformers.logging.set_verbosity_error()
        torch.set_num_threads(os.cpu_count() or 1)
        with tempfile.TemporaryDirectory() as folder:
            save_hf(f"{folder}/m", lm.network.config, lm.network.parameters())
            self.model = transformers.AutoModelForCausalLM.from_pretrained(
                f"{folder}/m", dtype=torch.float32, attn_implementation="sdpa"
            ).eval()
        self.torch, self.spans = torch, trace.spans
        self.ids = torch.from_numpy(trace.ids[: trace.spans[-1, 1]].astype(np.int64))[None]
        self.base = self.logits([None])[0]
        self.log_p = torch.log_softmax(self.base / TEMPERATURE, -1)
        self.p = np.exp(self.log_p.numpy())
        self.base_nucleus = None

    def logits(self, sources):
        """[B, T, V] with the columns of each source masked."""
        torch, length = self.torch, self.ids.shape[1]
        least = torch.finfo(torch.float32).min
        mask = torch.full((length, length), least).triu(1)[None, None].repeat(len(sources), 1, 1, 1)
        for row, source in enumerate(sources):
            if source is not None:
                start, end = self.spans[source]
                mask[row, :, :, start:end] = least
        with torch.inference_mode():
            ids = self.ids.expand(len(sources), -1)
            return self.model(input_ids=ids, attention_mask=mask, use_cache=False).logits

    def published(self, sources) -> np.ndarray:
        """KL of every position, [len(sources), T]."""
        from scipy.special import rel_entr, softmax

        found = []
        for source in sources:
            logits = self.logits([source])[0].numpy()
            found.append([
                rel_entr(p, softmax(z / TEMPERATURE)).sum()
                for p, z in zip(self.p, logits, strict=True)
            ])
        return np.asarray(found)

    def nucleus(self, logits) -> list[dict[int, float]]:
        """The kept tokens of each position of logits [T, V], and their logits."""
        torch, kept = self.torch, []
        for z in logits:
            p, order = torch.softmax(z / TEMPERATURE, -1).sort(descending=True)
            size = min(int((p.cumsum(-1) < NUCLEUS).sum()) + 1, CAP)
            own = order[:size]
            kept.append(dict(zip(own.tolist(), z[own].half().float().tolist(), strict=True)))
        return kept

    def published_nucleus(self, sources) -> np.ndarray:
        """KL of every position over the union of two nuclei, [len(sources), T]."""
        found = []
        if self.base_nucleus is None:
            self.base_nucleus = self.nucleus(self.base)
        for source in sources:
            pairs = zip(self.base_nucleus, self.nucleus(self.logits([source])[0]), strict=True)
            found.append([self.union_kl(base, other) for base, other in pairs])
        return np.asarray(found)

    @staticmethod
    def union_kl(base: dict[int, float], other: dict[int, float]) -> float:
        """KL of two nuclei, a token that one side lacks having the filler's logit."""
        union = sorted(base.keys() | other.keys())
        sides = (
            np.asarray([one.get(token, FILLER) for token in union]) / TEMPERATURE
            for one in (base, other)
        )
        log_p, log_q = (z - z.max() - np.log(np.exp(z - z.max()).sum()) for z in sides)
        return float((np.exp(log_p) * (log_p - log_q)).sum())

    def vectorised(self, sources) -> np.ndarray:
        """The same, in one batch."""
        torch = self.torch
        logits = self.logits(list(sources))
        with torch.inference_mode():
            log_q = torch.log_softmax(logits.div_(TEMPERATURE), -1)
            del logits
            kl = torch.stack([(self.log_p.exp() * (self.log_p - one)).sum(-1) for one in log_q])
        return kl.numpy()

    def exact(self, source: int) -> np.ndarray:
        """The same from float64 sums, [T]; not timed."""
        torch = self.torch
        logits = self.logits([source])[0]
        found = []
        for q, p in zip(logits.split(64), self.base.split(64), strict=True):
            log_p, log_q = (torch.log_softmax(z.double() / TEMPERATURE, -1) for z in (p, q))
            found.append((log_p.exp() * (log_p - log_q)).sum(-1))
        return torch.cat(found).clamp(min=0).numpy()


@dataclass(frozen=True)
class Cost:
    """What one call took, per source.

    Attributes:
        seconds, cpu: wall and processor seconds.
        extra: bytes that the process grew by at its highest; NaN where that cannot be known.
        others: share of the cores that other processes took.
    """

    seconds: float
    cpu: float
    extra: float
    others: float


def measure(function, sources: int) -> Cost:
    """Runs once."""
    resident, cpu = reset_peak(), time.process_time()
    _, seconds, others = timed(function)
    cpu = time.process_time() - cpu
    return Cost(seconds / sources, cpu / sources, status_bytes("VmHWM") - resident, others)


def status_bytes(name: str) -> float:
    """A line of /proc/self/status in bytes, NaN where there is none."""
    path = pathlib.Path("/proc/self/status")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((1024.0 * int(s.split()[1]) for s in lines if s.startswith(name)), float("nan"))


def reset_peak() -> float:
    """Starts the high-water mark of resident memory anew; returns what is resident.

    What was freed is given back to the system first, where the C library can.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    try:
        pathlib.Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return float("nan")
    return status_bytes("VmRSS")


def flops(config: ModelConfig, tokens: int, seen: float, predicted: int) -> float:
    """Of a forward pass of tokens that see so many keys on average, and the head."""
    shapes = parameter_shapes(config)
    body = sum(
        int(np.prod(shape)) for name, shape in shapes.items()
        if name.endswith(".weight") and name != "head.weight"
    )
    attention = 2 * config.n_heads * config.head_dim * config.n_layers * seen
    head = config.vocab_size * config.width
    return 2.0 * (tokens * (body + attention) + predicted * head)


def our_flops(config: ModelConfig, plan: SuffixPlan, firsts: np.ndarray) -> float:
    """Of the whole matrix: the unedited trace, suffixes, and the head for all of these.

    A source's own row meets the head from its first token (`firsts`) on, the unedited row from
    that of the first source of a comparison on; and twice before, for its `comparing.Base`.
    """
    total = flops(config, plan.columns, plan.columns / 2, 2 * plan.columns)
    for group in plan.groups:
        rows, seen = len(group.sources) + (not plan.apart), group.start + group.length / 2
        total += rows * flops(config, group.length, seen, 0)
        own = np.sort(firsts[list(group.sources)])
        compared = np.sum(plan.columns - own) + np.sum(plan.columns - own[::SOURCES_AT_ONCE])
        total += flops(config, 0, 0, int(compared))
    return total


def our_bytes(network: Decoder, trace: Trace, plan: SuffixPlan) -> dict[str, int]:
    """What the compiled programs of the largest group hold besides the weights."""
    end = int(trace.spans[:, 1].max())
    unedited = unedited_trace(network, trace, end, plan)
    rows = [(trace.ids[:end], trace.roles[:end])] * plan.rows
    batch = suffix_batch(rows, plan.groups[0], len(trace.ids))
    run = edited_streams.lower(
        network, batch, unedited, np.zeros(plan.rows, np.int32),
        np.zeros((plan.rows, 1, 2), np.int32),
    ).compile().memory_analysis()
    stream = jax.ShapeDtypeStruct((plan.columns, network.config.width), jnp.float32)
    heat = jnp.float32(TEMPERATURE)
    compare = span_effects.lower(
        network, (stream,) * (1 + SOURCES_AT_ONCE), jnp.int32(1), trace.spans, heat,
        np.zeros(1 + SOURCES_AT_ONCE, np.int32), base_of(network, unedited.stream, heat),
    ).compile().memory_analysis()
    return {
        "cache": sum(a.nbytes for a in jax.tree.leaves(unedited.prefix)),
        "streams": (1 + SOURCES_AT_ONCE) * plan.columns * network.config.width * 4,
        "scratch": max(run.temp_size_in_bytes + run.output_size_in_bytes,
                       compare.temp_size_in_bytes),
    }


def matmul_rates(config: ModelConfig, rows: int) -> dict[str, float]:
    """Best FLOP/s of [rows, D] x [D, 4 M] in XLA and in torch, in turns."""
    import torch

    rng = np.random.default_rng(0)
    x = rng.standard_normal((rows, config.width)).astype(np.float32)
    w = rng.standard_normal((config.width, 4 * config.mlp_width)).astype(np.float32)
    jx, jw, tx, tw = jnp.asarray(x), jnp.asarray(w), torch.from_numpy(x), torch.from_numpy(w)
    product = jax.jit(jnp.dot)
    sides = {"XLA": lambda: product(jx, jw).block_until_ready(), "torch": lambda: tx @ tw}
    best = dict.fromkeys(sides, float("inf"))
    for _ in range(12):
        for name, side in sides.items():
            start = time.perf_counter()
            side()
            best[name] = min(best[name], time.perf_counter() - start)
    return {name: 2.0 * x.size * w.shape[1] / seconds for name, seconds in best.items()}


def agree(peer: Peer, effects: np.ndarray, sources: list[int]) -> None:
    """Refuses to time sides that do not compute the same.

    Our cells are held to float64 sums over the peer's logits. The peers' own sums are float32:
    a KL below 1e-6 is rounding there, which a mean of ln KL would show, so theirs are held to
    float64 as KLs.
    """
    exact = np.stack([peer.exact(source) for source in sources])
    for name, run in (("published", peer.published), ("vectorised", peer.vectorised)):
        worst = np.abs(run(sources) - exact).max()
        print(f"  {name}: KL at most {worst:.1e} from float64, which reaches {exact.max():.2f}")
        if worst > 1e-4 * max(1.0, exact.max()):
            raise SystemExit(f"{name} does not compute the KL")
    for source, kl in zip(sources, exact, strict=True):
        logs = np.log(kl + 1e-9)
        cells = np.asarray([logs[start:end].mean() for start, end in peer.spans])
        apart = np.abs(cells - effects[:, source])[source + 1 :]
        print(f"  ours: cells of source {source} at most {apart.max():.4f} from float64, "
              f"mean {cells[source + 1 :].mean():.2f}")
        if apart.max() > 0.1:
            raise SystemExit("our matrix differs")


def agree_nucleus(peer: Peer, effects: np.ndarray, source: int) -> None:
    """The same for the truncated KL, in which one token more or less at a nucleus' edge is worth
    some 1e5 nats: rounding moves single cells, so the middle of them is held."""
    logs = np.log(peer.published_nucleus([source])[0].clip(min=0) + 1e-9)
    cells = np.asarray([logs[start:end].mean() for start, end in peer.spans])
    apart = np.abs(cells - effects[:, source])[source + 1 :]
    print(f"  nucleus: cells of source {source} {np.median(apart):.3f} apart in the middle, at "
          f"most {apart.max():.2f}; mean {cells[source + 1 :].mean():.2f}")
    if np.median(apart) > 0.5:
        raise SystemExit("our truncated matrix differs")


def cases(quick: bool = False, patience: float = 0.0, rounds: int = 3) -> list[dict]:
    """Measures; the rows of the benchmark."""
    deadline = time.monotonic() + 60 * patience
    lm, rounds, batch = load(dtype="float32"), 1 if quick else rounds, 2 if quick else 4
    trace = make_trace(lm, 12 if quick else 44)
    count, end, config = len(trace.spans), int(trace.spans[:, 1].max()), lm.network.config
    plan = plan_suffixes(trace.spans[:, 0], end)
    sizes = {
        "model": "SmolLM2-135M-Instruct", "dtype": "float32", "tokens": end, "sentences": count,
        "vectorised_batch": batch, "rounds": rounds,
    }
    print(f"{processor()}; {versions()}\n{end} tokens, {count} sentences; groups of "
          f"{[group.length for group in plan.groups]} positions, {plan.rows} rows a call")
    # Made once: an unrolled network would be copied into this layout at every call.
    network = lm.network.with_layout("scanned")
    start = time.perf_counter()
    effects = suppression_effects(network, trace).effects
    if set(effects[np.triu_indices(count, 1)].tolist()) != {FLOOR}:
        raise SystemExit("a target before its source is not the floor to the bit")
    print(f"our first call, compilation included: {time.perf_counter() - start:.1f} s")
    peer = Peer(lm, trace)
    spread = np.linspace(0, count - 3, rounds * batch + 1).astype(int).tolist()
    agree(peer, effects, spread[:1] if quick else spread[:2])
    truncated = partial(suppression_effects, network, trace, reference_compat=True)
    agree_nucleus(peer, truncated().effects, spread[0])
    costs: dict[str, list[Cost]] = {
        name: [] for name in ("ours", "published", "vectorised", "ours, nucleus",
                              "published, nucleus")
    }
    rates: list[dict[str, float]] = []
    for turn in range(rounds):
        some = spread[turn * batch : (turn + 1) * batch]
        wait_until_quiet(deadline)
        rates.append(matmul_rates(config, 1024))
        costs["ours"].append(measure(lambda: suppression_effects(network, trace), count))
        costs["published"].append(measure(lambda s=some: peer.published(s[:1]), 1))
        costs["vectorised"].append(measure(lambda s=some: peer.vectorised(s), batch))
        costs["ours, nucleus"].append(measure(truncated, count))
        costs["published, nucleus"].append(
            measure(lambda s=some: peer.published_nucleus(s[:1]), 1)
        )
        print("  " + ", ".join(
            f"{name} {own[-1].seconds:.2f} s a source (cpu {own[-1].cpu:.2f}, others "
            f"{own[-1].others:.0%})" for name, own in costs.items()), flush=True)
    peak = {side: max(rate[side] for rate in rates) for side in ("XLA", "torch")}
    middle = lambda side, field: statistics.median(getattr(one, field) for one in costs[side])
    ours = our_flops(config, plan, trace.spans[:, 0]) / count
    theirs = flops(config, end, end, end)
    held = our_bytes(network, trace, plan)
    predicted = theirs / ours * peak["XLA"] / peak["torch"]
    floor = ours / peak["XLA"]
    print(f"bare matmul, GFLOP/s: XLA {peak['XLA'] / 1e9:.0f}, torch {peak['torch'] / 1e9:.0f}\n"
          f"GFLOP a source: ours {ours / 1e9:.0f}, theirs {theirs / 1e9:.0f}: "
          f"{theirs / ours:.2f} times; with the rates {predicted:.2f} times\n"
          f"ours: {1e3 * middle('ours', 'seconds'):.0f} ms a source, "
          f"{ours / middle('ours', 'seconds') / 1e9:.0f} GFLOP/s; floor {1e3 * floor:.0f} ms\n"
          f"held by ours: { {name: round(size / 2**20) for name, size in held.items()} } MiB")
    rows, logits = [], 4.0 * end * config.vocab_size
    counted = {
        # The baseline's probabilities and one source's logits; the mask.
        "published": 2 * logits + 4.0 * end * end,
        # Logits and log-probabilities of the batch, the baseline's, one difference; the masks.
        "vectorised": (2 * batch + 2) * logits + 4.0 * batch * end * end,
    }
    for side, own in (("published", "ours"), ("vectorised", "ours"),
                      ("published, nucleus", "ours, nucleus")):
        others = max(one.others for name in (own, side) for one in costs[name])
        measured = [
            ("time per source", "s", middle(own, "seconds"), middle(side, "seconds"), floor),
            ("processor time per source", "s", middle(own, "cpu"), middle(side, "cpu"),
             floor * (os.cpu_count() or 1)),
            ("peak memory, measured", "MiB", middle(own, "extra") / 2**20,
             middle(side, "extra") / 2**20, None),
        ]
        if side in counted:
            measured.append(("bytes held, counted", "MiB", sum(held.values()) / 2**20,
                             counted[side] / 2**20, None))
        for metric, unit, mine, other, least in measured:
            rows.append({
                "case": "suppression matrix", "metric": metric, "unit": unit,
                "peer": f"torch, {side}", "ours": mine, "theirs": other, "ratio": other / mine,
                "floor": least, "device": processor(), "versions": versions(),
                "sizes": sizes | {"others_share": round(others, 3)},
            })
            print(f"{side:<20}{metric:<28}{mine:>10.2f}{other:>10.2f} {unit:<4}"
                  f"{other / mine:>8.2f}", flush=True)
    reached = middle("vectorised", "seconds") / middle("ours", "seconds") / predicted
    print(f"share of the predicted ratio reached against the vectorised side: {reached:.2f}")
    return rows


def main() -> None:
    """Parses the options, measures, writes the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a short trace, one round")
    parser.add_argument("--json", metavar="PATH", help="write the rows here")
    parser.add_argument("--patience", metavar="MINUTES", type=float, default=0.0)
    parser.add_argument("--rounds", type=int, default=3, help="how often each side is run")
    options = parser.parse_args()
    rows = cases(options.quick, options.patience, options.rounds)
    keep(rows, options.json)


if __name__ == "__main__":
    main()
