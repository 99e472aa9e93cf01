"""The study from end to end: problem, base trace, rollouts, three methods, report.

    from interp_jax.studies.thought_anchors.config import ThoughtAnchorsConfig
    from interp_jax.studies.thought_anchors.run import run

    result = run(ThoughtAnchorsConfig(workdir="runs/demo"))
    print(result.report)

Every stage leaves its results in the workdir: the same config run again there goes on where it
was. The workdir holds `config.json`, `provenance.json`, the journals `base.jsonl` and
`rollouts.jsonl`, `white_box.npz`, the released file layout in `trace/`, `metrics.jsonl` and
`report.html`.
"""

from __future__ import annotations

import contextlib
import datetime
import io
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from interp_jax.generation.language_model import LanguageModel, load
from interp_jax.generation.prompts import Prompt
from interp_jax.runtime.compilation import CompileCounter, enable_compilation_cache
from interp_jax.runtime.metrics import open_writers
from interp_jax.runtime.process import is_writer
from interp_jax.runtime.progress import Progress
from interp_jax.runtime.provenance import Provenance, library_versions
from interp_jax.runtime.workdir import Workdir
from interp_jax.studies.thought_anchors.asking import Trace, ask, chosen_problem, given_trace
from interp_jax.studies.thought_anchors.base_trace import find_base_trace
from interp_jax.studies.thought_anchors.config import ThoughtAnchorsConfig
from interp_jax.studies.thought_anchors.normalise import normalise_suppression
from interp_jax.studies.thought_anchors.presenting import Findings, report_parts, scalars
from interp_jax.studies.thought_anchors.problems import Problem
from interp_jax.studies.thought_anchors.receiver import (
    ReceiverHeads,
    find_receiver_heads,
    too_short,
)
from interp_jax.studies.thought_anchors.records import released_trace
from interp_jax.studies.thought_anchors.released import write_trace
from interp_jax.studies.thought_anchors.report import write_report
from interp_jax.studies.thought_anchors.rollouts import Rollouts, make_rollouts
from interp_jax.studies.thought_anchors.scoring import Scores, score_rollouts
from interp_jax.studies.thought_anchors.screen import ScreenResult, screen
from interp_jax.studies.thought_anchors.suppression import (
    FLOOR,
    SOURCES_AT_ONCE,
    Suppression,
    suppression_effects,
)
from interp_jax.text.embeddings import load_minilm

REPORT = "report.html"
WHITE_BOX = "white_box.npz"


@dataclass(frozen=True)
class Result:
    """What a run found, and where it is.

    Attributes:
        workdir, report: paths.
        found: all results.
        facts: of this run, as lines for the eye.
    """

    workdir: Path
    report: Path
    found: Findings
    facts: tuple[str, ...]

    @property
    def trace(self) -> Trace:
        """The base trace."""
        return self.found.trace


def run(config: ThoughtAnchorsConfig, lm: LanguageModel | None = None) -> Result:
    """Runs the study, or goes on with it.

    Args:
        config: what to do.
        lm: the model, if it is loaded already; it must be the one that `config.model` names.

    Raises:
        UserError: bad input, a workdir of another config, no base trace that will do.
    """
    config, began = config.resolved(), time.monotonic()
    problem = None if config.trace is not None else chosen_problem(config)
    with _started(config) as (workdir, counter):
        lm = lm or loaded(config)
        trace_or_prompt = _asked(lm, problem, config)
        write_provenance(workdir, lm, problem, config)
        with open_writers(workdir.path, tensorboard=config.tensorboard) as writer:
            rollouts = scores = None
            if problem is None:
                trace = trace_or_prompt
            else:
                with workdir.journal("base.jsonl") as journal:
                    trace = find_base_trace(lm, problem, trace_or_prompt, config, journal)
                _say(f"Base trace: try {trace.tries}, {len(trace.sentences)} sentences, "
                     f"{len(trace.tokens)} tokens.")
                with workdir.journal("rollouts.jsonl") as journal:
                    rollouts = make_rollouts(lm, problem, trace, config, journal, writer)
                scores = score_rollouts(trace, rollouts, load_minilm(), config)
            receiver, suppression = _white_box(lm, trace, config, workdir)
            found = Findings(problem, trace, rollouts, scores, receiver, suppression)
            writer.scalars(0 if rollouts is None else len(rollouts.all), scalars(found))
        report = _write(workdir, lm, found, config, time.monotonic() - began, counter)
    lines = _facts(found, config, time.monotonic() - began, counter)
    return Result(workdir.path, report, found, lines)


def run_screen(config: ThoughtAnchorsConfig, lm: LanguageModel | None = None) -> ScreenResult:
    """Looks for a problem (`--screen`); the table goes to `screen.json` in the workdir."""
    config = config.resolved()
    with _started(config) as (workdir, _):
        lm = lm or loaded(config)
        write_provenance(workdir, lm, None, config)
        with workdir.journal("screen.jsonl") as journal:
            result = screen(lm, config, journal)
        workdir.write_json("screen.json", result.to_json())
    return result


def loaded(config: ThoughtAnchorsConfig) -> LanguageModel:
    """The model that a config names."""
    return load(config.model, dtype=config.dtype, revision=config.revision)


@contextlib.contextmanager
def _started(config: ThoughtAnchorsConfig) -> Iterator[tuple[Workdir, CompileCounter]]:
    workdir = Workdir(config.workdir, config)
    if config.compilation_cache_dir is not None:
        enable_compilation_cache(config.compilation_cache_dir)
    with CompileCounter() as counter:
        yield workdir, counter


def _asked(
    lm: LanguageModel, problem: Problem | None, config: ThoughtAnchorsConfig
) -> Prompt | Trace:
    if problem is None:
        return given_trace(lm, config)
    return ask(lm, problem.question, config.instruction, config.opening)


def write_provenance(
    workdir: Workdir, lm: LanguageModel, problem: Problem | None, config: ThoughtAnchorsConfig
) -> None:
    """Writes `provenance.json`."""
    data = config.trace if problem is None else problem.source
    provenance = Provenance(
        model=lm.origin.model_id, weights=lm.origin.weights, tokenizer=lm.origin.tokenizer,
        dtype=lm.origin.dtype, seed=config.seed, data=data, config=workdir.config,
    )
    workdir.write_json("provenance.json", provenance.to_json())


def _white_box(
    lm: LanguageModel, trace: Trace, config: ThoughtAnchorsConfig, workdir: Workdir
) -> tuple[ReceiverHeads | None, Suppression]:
    """The two methods that look inside the model; kept in the workdir once done."""
    path, count = workdir / WHITE_BOX, len(trace.sentences)
    short = too_short(count) is not None
    if path.exists():
        with np.load(path, allow_pickle=False) as kept:
            receiver = None if short else ReceiverHeads(
                [tuple(pair) for pair in kept["heads"].tolist()], kept["kurtosis"], kept["scores"]
            )
            return receiver, Suppression(kept["effects"], kept["keyless"])
    receiver, arrays = None, {}
    if not short:
        receiver = find_receiver_heads(
            lm.network, trace, proximity=config.proximity, top=config.receiver_heads
        )
        arrays = {
            "heads": np.asarray(receiver.heads, np.int32), "kurtosis": receiver.kurtosis,
            "scores": receiver.scores,
        }
    with Progress(count, "suppression", unit="sentences", log_every=config.log_every) as bar:
        suppression = suppression_effects(
            lm.network, trace, at_once=min(SOURCES_AT_ONCE, config.batch_size),
            on_progress=bar.update,
        )
    buffer = io.BytesIO()
    np.savez(buffer, effects=suppression.effects, keyless=suppression.keyless, **arrays)
    workdir.write_bytes(WHITE_BOX, buffer.getvalue())
    return receiver, suppression


def _write(
    workdir: Workdir, lm: LanguageModel, found: Findings, config: ThoughtAnchorsConfig,
    seconds: float, counter: CompileCounter,
) -> Path:
    trace, network = found.trace, lm.network.config
    prompt_text = trace.prompt.text
    if prompt_text is None:
        prompt_text = lm.tokenizer.decode(trace.prompt.ids)
    normalised = normalise_suppression(found.suppression.effects)
    device = jax.devices()[0]
    made: Rollouts | None = found.rollouts
    sampled = {}
    if made is not None and made.tokens:
        sampled = {
            "tokens_generated": made.tokens, "tokens_per_second": made.tokens / made.seconds,
        }
    data = report_parts(found, config) | {
        "model": {
            "id": lm.origin.model_id, "weights": lm.origin.weights, "dtype": lm.origin.dtype,
            "layers": network.n_layers, "heads": network.n_heads,
        },
        "run": {
            "seed": config.seed, "versions": library_versions(),
            "device": f"{jax.device_count()} x {device.device_kind} ({device.platform})",
            **sampled, "seconds": seconds, "compilations": counter.count,
            "date": datetime.date.today().isoformat(), "config": workdir.config,
        },
    }
    if is_writer():
        write_trace(
            workdir / "trace",
            released_trace(found.problem, prompt_text, trace, found.rollouts, found.scores,
                           normalised),
        )
        write_report(workdir / REPORT, data)
    return workdir / REPORT


def _facts(
    found: Findings, config: ThoughtAnchorsConfig, seconds: float, counter: CompileCounter
) -> tuple[str, ...]:
    """What this run did, in lines."""
    lines = [f"This run took {seconds:.1f} s and compiled {counter}."]
    if found.rollouts is not None:
        lines += _rollout_facts(found.rollouts, found.scores, config)
    if found.receiver is None:
        lines.append(f"Receiver heads: not shown. {too_short(len(found.trace.sentences))}")
    else:
        best = int(np.nanargmax(found.receiver.scores))
        lines.append(f"Receiver heads: later sentences look back most at sentence {best}.")
    effects = found.suppression.effects
    later = np.tril(np.ones(effects.shape, bool), -1)
    if later.any() and effects[later].max() > FLOOR:
        target, source = np.unravel_index(np.where(later, effects, -np.inf).argmax(), later.shape)
        lines.append(
            f"Attention suppression: hiding sentence {source} disturbs sentence {target} most "
            f"(mean ln KL {effects[target, source]:.2f})."
        )
    return tuple(lines)


def _rollout_facts(
    rollouts: Rollouts, scores: Scores, config: ThoughtAnchorsConfig
) -> Iterator[str]:
    if rollouts.tokens:
        yield (
            f"Rollouts: {rollouts.tokens} tokens sampled in {rollouts.seconds:.1f} s of this run "
            f"({rollouts.tokens / rollouts.seconds:.0f} tokens/s), {config.rollouts} for each of "
            f"{len(rollouts.by_sentence)} sentences."
        )
        busy = rollouts.stats.busy_while_waiting
        if busy is not None:
            yield f"Rows busy while rollouts were waiting: {busy:.0%}."
    else:
        yield "Rollouts: all were there from an earlier run."
    yield (
        f"Unfinished: {rollouts.unfinished_share:.1%}; without an answer (unfinished included): "
        f"{rollouts.unanswered_share:.1%}."
    )
    measured = [one for one in scores.importance if np.isfinite(one.resampling_importance_kl.low)]
    if not measured:
        yield "Resampling: too few rollouts gave an answer to compare two sentences."
        return
    best = max(measured, key=lambda one: one.resampling_importance_kl.value)
    kl, accuracy = best.resampling_importance_kl, best.resampling_importance_accuracy
    yield (
        f"Resampling: sentence {best.chunk_idx} moves the answers most: KL {kl.value:.3f} nats "
        f"(95 % interval {kl.low:.3f} to {kl.high:.3f}, chance reaches {kl.null_high:.3f}); "
        f"accuracy {accuracy.value:+.3f} ({accuracy.low:+.3f} to {accuracy.high:+.3f})."
    )


def _say(line: str) -> None:
    if is_writer():
        print(line, flush=True)
