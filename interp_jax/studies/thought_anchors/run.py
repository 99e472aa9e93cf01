"""The study from end to end: problem, base trace, rollouts, three methods, report.

    from interp_jax.studies.thought_anchors.config import ThoughtAnchorsConfig
    from interp_jax.studies.thought_anchors.run import run

    result = run(ThoughtAnchorsConfig(workdir="runs/demo"))
    print(result.report)

Every stage leaves its results in the workdir (`stages` lists the files): the same config run again
there goes on where it was, and `stage` runs one part alone. Beside them the workdir holds
`config.json`, `provenance.json` and `metrics.jsonl`.
"""

from __future__ import annotations

import contextlib
import datetime
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from interp_jax.generation.language_model import LanguageModel, load
from interp_jax.generation.prompts import Prompt
from interp_jax.runtime.compilation import CompileCounter, enable_compilation_cache
from interp_jax.runtime.metrics import open_writers
from interp_jax.runtime.process import is_writer
from interp_jax.runtime.provenance import Provenance, library_versions
from interp_jax.runtime.workdir import Workdir
from interp_jax.studies.thought_anchors.ablation_answers import problems_to_answer
from interp_jax.studies.thought_anchors.ablation_stage import ablation_stage, require_heads
from interp_jax.studies.thought_anchors.asking import Trace, ask, chosen_problem, given_trace
from interp_jax.studies.thought_anchors.branches import Encode
from interp_jax.studies.thought_anchors.config import ThoughtAnchorsConfig
from interp_jax.studies.thought_anchors.masking_stage import masking_stage
from interp_jax.studies.thought_anchors.normalise import normalise_suppression
from interp_jax.studies.thought_anchors.presenting import Findings, report_parts, scalars
from interp_jax.studies.thought_anchors.problems import Problem
from interp_jax.studies.thought_anchors.records import released_trace
from interp_jax.studies.thought_anchors.released import write_trace
from interp_jax.studies.thought_anchors.report import write_report
from interp_jax.studies.thought_anchors.run_facts import run_facts
from interp_jax.studies.thought_anchors.screen import ScreenResult, screen
from interp_jax.studies.thought_anchors.stages import (
    REPORT,
    TRACE,
    Work,
    base_stage,
    forced_stage,
    labelling_judge,
    labels_stage,
    read_scores,
    rollouts_stage,
    say,
    score_stage,
    white_box_stage,
)
from interp_jax.text.embeddings import load_minilm


@dataclass(frozen=True)
class Result:
    """What a run found, and where it is.

    Attributes:
        workdir: path. report: path; None where the stage that was run makes none.
        found: all results that are there.
        facts: of this run, as lines for the eye.
    """

    workdir: Path
    report: Path | None
    found: Findings
    facts: tuple[str, ...]

    @property
    def trace(self) -> Trace:
        """The base trace."""
        return self.found.trace


def run(config: ThoughtAnchorsConfig, lm: LanguageModel | None = None) -> Result:
    """Runs the study or the one stage that `config.stage` names, or goes on with it.

    Args:
        config: what to do.
        lm: the model, if it is loaded already; it must be the one that `config.model` names.

    Raises:
        UserError: bad input, a workdir of another config, no base trace that will do, or a stage
            whose inputs are not there.
    """
    config, began = config.resolved(), time.monotonic()
    if config.released is not None:
        from interp_jax.studies.thought_anchors.run_released import run_released

        return run_released(config, lm)
    problem = None if config.trace is not None else chosen_problem(config)
    if config.labels == "endpoint" and config.stage in ("all", "labels"):
        labelling_judge(config)  # a missing key is told before hours of work
    if config.ablate_heads:
        problems_to_answer(config, problem)  # and so is a file that cannot be read
    with started(config) as (workdir, counter):
        lm = lm or loaded(config)
        require_heads(config, lm.network.config)
        asked = given_trace(lm, config) if problem is None else _asked(lm, problem, config)
        write_provenance(workdir, lm, problem, config)
        report = None
        with open_writers(workdir.path, tensorboard=config.tensorboard) as writer:
            work = Work(config, workdir, lm, writer, encoder)
            found = find(work, problem, asked)
            rollouts = found.rollouts
            writer.scalars(0 if rollouts is None else len(rollouts.all), scalars(found))
        if config.stage not in ("base", "rollouts", "forced"):
            prompt_text = _prompt_text(lm, found.trace)
            if is_writer():
                write_trace(workdir / TRACE, _released(found, prompt_text))
        if config.stage in ("all", "report"):
            seconds = time.monotonic() - began
            facts = run_of(found, config, workdir, seconds, counter)
            report = workdir / REPORT
            if is_writer():
                write_report(
                    report,
                    report_parts(found, config) | {"model": model_facts(lm), "run": facts},
                )
    lines = run_facts(found, config, time.monotonic() - began, str(counter))
    return Result(workdir.path, report, found, lines)


def find(work: Work, problem: Problem | None, asked: Prompt | Trace) -> Findings:
    """Makes what the stage is to make and reads the rest of what is there."""
    stage = work.config.stage
    make = lambda name: stage in ("all", name)
    if problem is None:
        trace, found = asked, Findings(None, asked)
    else:
        trace = base_stage(work, problem, asked, make=make("base"))
        found = Findings(problem, trace)
        say(f"Base trace: try {trace.tries}, {len(trace.sentences)} sentences, "
            f"{len(trace.tokens)} tokens.")
        if stage == "base":
            return found
        rollouts = forced = scores = None
        if stage != "forced":
            rollouts = rollouts_stage(work, problem, trace, make=make("rollouts"))
        if stage != "rollouts":
            forced = forced_stage(work, problem, trace, make=make("forced"))
        if make("score"):
            scores = score_stage(work, problem, trace, rollouts, forced)
        elif rollouts is not None:
            scores = read_scores(work)
        found = Findings(problem, trace, rollouts, scores, forced=forced)
        if stage in ("rollouts", "forced"):
            return found
    question = problem.question if problem is not None else work.config.prompt or ""
    texts = [sentence.text for sentence in trace.sentences]
    labels = labels_stage(work, question, texts, make=make("labels"))
    receiver, suppression = white_box_stage(work, trace, make=make("white_box"))
    masking = masking_stage(work, trace, make=make("white_box"))
    ablation = ablation_stage(
        work, problem or _given(work.config), trace, receiver, make=make("ablation")
    )
    return found.with_parts(
        receiver=receiver, suppression=suppression, labels=labels, masking=masking,
        ablation=ablation,
    )


def _given(config: ThoughtAnchorsConfig) -> Problem | None:
    """The question before a given trace, where one was asked."""
    return None if config.prompt is None else chosen_problem(config)


def encoder() -> Encode:
    """The sentence encoder of the study."""
    return load_minilm().encode


def run_screen(config: ThoughtAnchorsConfig, lm: LanguageModel | None = None) -> ScreenResult:
    """Looks for a problem (`--screen`); the table goes to `screen.json` in the workdir."""
    config = config.resolved()
    with started(config) as (workdir, _):
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
def started(config: ThoughtAnchorsConfig) -> Iterator[tuple[Workdir, CompileCounter]]:
    """The workdir of a config, and a count of what is compiled meanwhile."""
    workdir = Workdir(config.workdir, config)
    if config.compilation_cache_dir is not None:
        enable_compilation_cache(config.compilation_cache_dir)
    with CompileCounter() as counter:
        yield workdir, counter


def _asked(lm: LanguageModel, problem: Problem, config: ThoughtAnchorsConfig) -> Prompt:
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


def _prompt_text(lm: LanguageModel, trace: Trace) -> str:
    text = trace.prompt.text
    return lm.tokenizer.decode(trace.prompt.ids) if text is None else text


def _released(found: Findings, prompt_text: str):
    normalised = None
    if found.suppression is not None:
        normalised = normalise_suppression(found.suppression.effects)
    return released_trace(
        found.problem, prompt_text, found.trace, found.rollouts, found.scores, normalised,
        found.labels, None if found.masking is None else found.masking.cleaned(),
    )


def model_facts(lm: LanguageModel) -> dict[str, Any]:
    """Which model it was, for the report."""
    network = lm.network.config
    return {
        "id": lm.origin.model_id, "weights": lm.origin.weights, "dtype": lm.origin.dtype,
        "layers": network.n_layers, "heads": network.n_heads,
    }


def run_of(
    found: Findings, config: ThoughtAnchorsConfig, workdir: Workdir, seconds: float,
    counter: CompileCounter,
) -> dict[str, Any]:
    """What this run did, for the report."""
    device = jax.devices()[0]
    made = [found.rollouts, found.forced, found.ablation and found.ablation.answers]
    tokens = sum(one.tokens for one in made if one is not None)
    sampled = {}
    if tokens:
        spent = sum(one.seconds for one in made if one is not None)
        sampled = {"tokens_generated": tokens, "tokens_per_second": tokens / spent}
    return {
        "seed": config.seed, "versions": library_versions(),
        "device": f"{jax.device_count()} x {device.device_kind} ({device.platform})",
        **sampled, "seconds": seconds, "compilations": counter.count,
        "date": datetime.date.today().isoformat(), "config": workdir.config,
    }
