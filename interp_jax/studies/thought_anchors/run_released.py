"""Stages on a trace that is there already, in the released layout (`--released`).

    score       importance, sentence matrix, summary and CF++ from chunk_*/solutions.json (and the
                forced answers in the folder beside it, if it is there)
    labels      tags and dependencies
    white_box   receiver heads and suppression of the base solution's text, by the model here
    ablation    these heads ablated, by the model here
    report      the report of whatever is there

The folder itself is only read. What a stage makes goes to `trace/` in the workdir, and what is
there takes the place of the folder's own files for the stages after it. `all` runs those stages
whose inputs are there, and keeps the released labels.
"""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from interp_jax.generation.language_model import LanguageModel
from interp_jax.generation.prompts import Prompt
from interp_jax.generation.requests import Stats
from interp_jax.models import roles
from interp_jax.runtime.errors import UserError
from interp_jax.runtime.metrics import open_writers
from interp_jax.runtime.process import is_writer
from interp_jax.studies.thought_anchors.ablation_stage import ablation_stage, require_heads
from interp_jax.studies.thought_anchors.asking import Trace
from interp_jax.studies.thought_anchors.config import ThoughtAnchorsConfig
from interp_jax.studies.thought_anchors.labels.labels import Labels, apply_labels, labels_of_records
from interp_jax.studies.thought_anchors.labels.taxonomy import UNKNOWN
from interp_jax.studies.thought_anchors.masking_stage import masking_stage
from interp_jax.studies.thought_anchors.normalise import normalise_suppression
from interp_jax.studies.thought_anchors.presenting import Findings, report_parts, resampling_part
from interp_jax.studies.thought_anchors.presenting_released import recorded_resampling
from interp_jax.studies.thought_anchors.problems import Problem
from interp_jax.studies.thought_anchors.records import score_parts
from interp_jax.studies.thought_anchors.released import ReleasedTrace, read_trace, write_trace
from interp_jax.studies.thought_anchors.released_matrices import (
    impacts_from_matrix,
    matrix_from_impacts,
)
from interp_jax.studies.thought_anchors.report import write_report
from interp_jax.studies.thought_anchors.rollout_pools import RolloutPool
from interp_jax.studies.thought_anchors.rollouts import Rollout, Rollouts
from interp_jax.studies.thought_anchors.scoring import Scores, remembered, score_rollouts
from interp_jax.studies.thought_anchors.stages import (
    REPORT,
    SCORES,
    TRACE,
    Work,
    labels_stage,
    read_scores,
    white_box_stage,
)
from interp_jax.text.answers import answer_rule
from interp_jax.text.sentences import split_sentences, token_ranges

RULE = "boxed"
_BASE_FOLDER = re.compile(r"(correct|incorrect)_base_solution")


@dataclasses.dataclass(frozen=True)
class Released:
    """A released trace and what was read out of it.

    Attributes:
        folder: where it is. name: for the eye.
        files: its files, those that the workdir has in place of the folder's own.
        problem: as far as it is recorded.
        trace: text and sentences; without tokens until a model reads it.
    """

    folder: Path
    name: str
    files: ReleasedTrace
    problem: Problem
    trace: Trace

    @property
    def texts(self) -> list[str]:
        """The sentences."""
        return [sentence.text for sentence in self.trace.sentences]

    def missing(self, name: str, do: str) -> UserError:
        """That a stage lacks a file."""
        return UserError(
            found=f"no {self.folder / name}", expected="a released trace that has it", do=do
        )


def run_released(config: ThoughtAnchorsConfig, lm: LanguageModel | None = None):
    """Runs the stages that `config.stage` asks for; see `run.run` for the rest.

    Raises:
        UserError: a file that a stage needs is not there.
    """
    from interp_jax.studies.thought_anchors.run import (
        Result,
        encoder,
        loaded,
        run_of,
        started,
        write_provenance,
    )
    from interp_jax.studies.thought_anchors.run_facts import run_facts

    began, stage = time.monotonic(), config.stage
    make = lambda name: stage in ("all", name)
    one = read_released(Path(config.released), config, Path(config.workdir) / TRACE)
    if stage == "score" and not one.files.rollouts:
        raise one.missing("chunk_0/solutions.json", "name a trace with its rollouts")
    with started(config) as (workdir, counter), open_writers(
        workdir.path, tensorboard=config.tensorboard
    ) as writer:
        work = Work(config, workdir, lm, writer, encoder)
        rollouts = released_rollouts(one, config)
        scores = read_scores(work)
        if make("score") and rollouts is not None:
            scores = score_released(one, rollouts, config, work)
        labels = labels_stage(work, one.problem.question, one.texts, make=False)
        labels = labels or released_labels(one)
        if stage == "labels" or (stage == "all" and labels is None):
            labels = labels_stage(work, one.problem.question, one.texts, make=True)
        trace = one.trace
        if make("white_box") or config.ablate_heads:
            lm = lm or loaded(config)
            require_heads(config, lm.network.config)
            work = dataclasses.replace(work, lm=lm)
            trace = tokenised(one, lm)
            write_provenance(workdir, lm, one.problem, config)
        receiver, suppression = white_box_stage(work, trace, make=make("white_box"))
        masking = masking_stage(work, trace, make=make("white_box"))
        ablation = ablation_stage(work, one.problem, trace, receiver, make=make("ablation"))
        found = Findings(
            one.problem, trace, rollouts, scores, receiver, suppression, labels=labels,
            normalised=_released_matrix(one), masking=masking, ablation=ablation,
        )
        if is_writer():
            write_trace(workdir / TRACE, _changed(one, found, make))
        report = None
        if make("report"):
            seconds = time.monotonic() - began
            parts = _parts(one, found, config, lm) | {
                "run": run_of(found, config, workdir, seconds, counter)
            }
            report = workdir / REPORT
            if is_writer():
                write_report(report, parts)
        told = dataclasses.replace(found, rollouts=None)
        lines = run_facts(told, config, time.monotonic() - began, str(counter))
    return Result(workdir.path, report, found, lines)


def read_released(
    folder: Path, config: ThoughtAnchorsConfig, over: Path | None = None
) -> Released:
    """A trace from its folder.

    Args:
        over: a folder whose files, where it has them, take the place of the folder's own.

    Raises:
        UserError: there is no base solution or sentence list to read the text from, or the two do
            not agree.
    """
    files = read_trace(folder)
    if over is not None and over.is_dir():
        newer = {name: part for name, part in vars(read_trace(over)).items() if part}
        files = dataclasses.replace(files, **newer)
    if files.base_solution is not None:
        prompt, text = files.base_solution["prompt"], files.base_solution["solution"]
    elif files.chunks is not None:
        text, source = files.chunks["solution_text"], files.chunks["source_text"]
        prompt = source.partition(text)[0]
    else:
        raise UserError(
            found=f"neither base_solution.json nor chunks.json in {folder}",
            expected="the text of the trace", do="name the folder of a whole trace",
        )
    sentences = tuple(split_sentences(text))
    listed = files.chunks["chunks"] if files.chunks is not None else None
    if listed is None and files.labeled is not None:
        listed = [record["chunk"] for record in files.labeled]
    if listed is not None and listed != [sentence.text for sentence in sentences]:
        raise UserError(
            found=f"a list of {len(listed)} sentences in {folder} that are not the "
            f"{len(sentences)} of its text",
            expected="the sentences that the splitter finds",
            do="make the list again, or mend the text",
        )
    known = files.problem or {}
    problem = Problem(
        folder.name, known.get("problem", ""), known.get("gt_answer") or None,
        answer_rule(config.rule or RULE).name, str(folder),
    )
    empty = Prompt(np.zeros(0, np.int32), np.zeros(0, np.int8), text=prompt)
    ranges = np.zeros((len(sentences), 2), np.int32)
    trace = Trace(empty, np.zeros(0, np.int32), text, sentences, ranges)
    base = _BASE_FOLDER.fullmatch(folder.parent.name)
    name = f"{folder.parent.parent.name} on {folder.name}" if base else folder.name
    return Released(folder, name.replace("_", " "), files, problem, trace)


def released_rollouts(
    one: Released, config: ThoughtAnchorsConfig
) -> Rollouts | None:
    """The rollouts of the folder; requests that failed are left out. None without any."""
    if not one.files.rollouts:
        return None
    read = answer_rule(config.rule or RULE).normalise
    by_sentence = {
        index: tuple(
            Rollout(
                record["rollout"], record["chunk_resampled"], 0, True, read(record["answer"]),
                bool(record["is_correct"]),
            )
            for record in records if "error" not in record
        )
        for index, records in sorted(one.files.rollouts.items())
    }
    return Rollouts(by_sentence, 0, 0.0, 0, Stats())


def forced_pools(one: Released, config: ThoughtAnchorsConfig) -> dict[int, RolloutPool] | None:
    """Forced answers in `..._forced_answer/` beside the trace's own folder, if they are there."""
    parent = one.folder.parent
    beside = parent.with_name(parent.name + "_forced_answer") / one.folder.name
    if not beside.is_dir():
        return None
    read = answer_rule(config.rule or RULE).normalise
    pools = {}
    for index, records in (read_trace(beside).rollouts or {}).items():
        own = [record for record in records if "error" not in record]
        pools[index] = RolloutPool(
            [read(record["answer"]) for record in own],
            [bool(record["is_correct"]) for record in own],
        )
    return pools or None


def score_released(
    one: Released, rollouts: Rollouts, config: ThoughtAnchorsConfig, work: Work
) -> Scores:
    """What the folder's rollouts say; kept in `scores.json`."""
    scores = score_rollouts(
        one.texts, rollouts.by_sentence, remembered(work.encoder()), config,
        forced=forced_pools(one, config),
    )
    work.workdir.write_json(SCORES, scores.to_json())
    return scores


def released_labels(one: Released) -> Labels | None:
    """The labels in the sentence records, or None where nobody labelled them."""
    records = one.files.labeled or []
    if all(record["function_tags"] in ([], [UNKNOWN.name]) for record in records):
        return None
    labels = labels_of_records(records)
    lacking = len(one.texts) - len(labels)
    if not lacking:
        return labels
    return dataclasses.replace(
        labels, tags=(*labels.tags, *[(UNKNOWN.name,)] * lacking),
        depends_on=(*labels.depends_on, *[()] * lacking),
    )


def tokenised(one: Released, lm: LanguageModel) -> Trace:
    """The trace as a model reads it: prompt and text one after the other, up to the last sentence.

    What follows that (the answer after the thinking) cannot act back on it.
    """
    text, prompt = one.trace.text, one.trace.prompt.text or ""
    asked = lm.tokenizer.encode(prompt, add_special=True).ids
    out = lm.tokenizer.encode(text)
    ranges = token_ranges(one.trace.sentences, text, [tuple(pair) for pair in out.offsets.tolist()])
    kept = int(ranges[-1, 1])
    before = Prompt(
        np.asarray(asked, np.int32), np.full(len(asked), roles.USER, np.int8), text=prompt
    )
    return dataclasses.replace(
        one.trace, prompt=before, tokens=np.asarray(out.ids, np.int32)[:kept], ranges=ranges
    )


def _released_matrix(one: Released) -> np.ndarray | None:
    if one.files.step_suppression is None:
        return None
    return matrix_from_impacts(one.files.step_suppression, len(one.texts)).T


def _changed(one: Released, found: Findings, make) -> ReleasedTrace:
    """The files that this run made."""
    before = {record["chunk_idx"]: record for record in one.files.labeled or []}
    parts: dict[str, Any] = {}
    if make("score") and found.scores is not None and found.rollouts is not None:
        parts |= score_parts(
            found.scores, one.texts, one.problem.id, found.labels, before=before
        )
        parts["resampled"] = {
            index: [rollout.first for rollout in own]
            for index, own in found.rollouts.by_sentence.items()
        }
    elif make("labels") and found.labels is not None and before:
        parts["labeled"] = apply_labels(list(before.values()), found.labels)
    if make("white_box") and found.suppression is not None:
        normalised = normalise_suppression(found.suppression.effects)
        parts["step_suppression"] = impacts_from_matrix(normalised.T, one.texts)
    if make("white_box") and found.masking is not None:
        parts["step_masking"] = impacts_from_matrix(found.masking.cleaned().T, one.texts)
    return ReleasedTrace(**parts)


def _parts(
    one: Released, found: Findings, config: ThoughtAnchorsConfig, lm: LanguageModel | None
) -> Mapping[str, Any]:
    """The report's data."""
    parts = report_parts(dataclasses.replace(found, rollouts=None), config)
    parts["title"] = f"Which sentence mattered? {one.name}"
    # Who wrote the text is not recorded; the folder's name is all that tells.
    parts["model"] = {"id": one.name.partition(" on ")[0], "weights": "", "dtype": ""}
    if found.scores is not None and found.rollouts is not None:
        parts["resampling"] = resampling_part(
            found.scores, found.rollouts.by_sentence, len(one.texts)
        )
        parts["sentence_matrix"] = found.scores.matrix.matrix
        sizes = [len(own) for own in found.rollouts.by_sentence.values()]
        parts["rollouts"] = {
            "per_sentence": max(sizes), "unfinished_share": None,
            "unanswered_share": found.rollouts.unanswered_share, "temperature": None,
            "top_p": None, "max_new_tokens": None,
            "similarity_threshold": config.similarity_threshold,
        }
    elif one.files.labeled is not None:
        parts["resampling"] = recorded_resampling(
            one.files.labeled, one.files.resampled or {}, len(one.texts)
        )
        parts["notes"].append(
            "The files hold values and replacement sentences, but not the rollouts or no scores of "
            "them: neither answers nor intervals nor chance levels can be shown."
        )
    if one.files.step_importance is not None and "sentence_matrix" not in parts:
        parts["sentence_matrix"] = matrix_from_impacts(
            one.files.step_importance, len(one.texts)
        )
    if found.suppression is not None:
        parts["notes"].append(
            f"What looks inside a model looks into {config.model}, which read this text and did "
            "not write it."
        )
    return parts
