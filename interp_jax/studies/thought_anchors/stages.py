"""The parts of a run, each on the files of one workdir: made, or read where they are there.

    stage       makes                              from
    base        base.jsonl                         the problem
    rollouts    rollouts.jsonl                     base.jsonl
    forced      forced.jsonl                       base.jsonl
    score       scores.json, resilience.jsonl,     rollouts.jsonl (and forced.jsonl, if asked)
                trace/
    labels      labels.json, trace/                base.jsonl
    white_box   white_box.npz, trace/              base.jsonl
                (and masking.npz, if asked)
    ablation    ablation.npz, ablation.jsonl       base.jsonl, white_box.npz
    report      report.html, trace/                base.jsonl, and whatever else is there

`trace/` is the released file layout, written with everything that is there by then.
"""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from interp_jax.generation.language_model import LanguageModel, load
from interp_jax.generation.prompts import Prompt
from interp_jax.runtime.errors import UserError
from interp_jax.runtime.metrics import MetricWriter
from interp_jax.runtime.process import is_writer
from interp_jax.runtime.progress import Progress
from interp_jax.runtime.workdir import Workdir
from interp_jax.studies.thought_anchors.asking import Trace
from interp_jax.studies.thought_anchors.base_trace import find_base_trace
from interp_jax.studies.thought_anchors.branches import Encode, make_resilience
from interp_jax.studies.thought_anchors.config import ThoughtAnchorsConfig
from interp_jax.studies.thought_anchors.forced import ForcedAnswers, make_forced, read_forced
from interp_jax.studies.thought_anchors.labels.judged import label_with_judge
from interp_jax.studies.thought_anchors.labels.labels import Dropped, Labels
from interp_jax.studies.thought_anchors.labels.rules import label_with_rules
from interp_jax.studies.thought_anchors.problems import Problem
from interp_jax.studies.thought_anchors.receiver import (
    ReceiverHeads,
    find_receiver_heads,
    too_short,
)
from interp_jax.studies.thought_anchors.rollouts import Rollouts, make_rollouts, read_rollouts
from interp_jax.studies.thought_anchors.scoring import Scores, remembered, score_rollouts
from interp_jax.studies.thought_anchors.suppression import (
    SOURCES_AT_ONCE,
    Suppression,
    suppression_effects,
)
from interp_jax.text.judges.endpoint import EndpointConfig, EndpointJudge
from interp_jax.text.judges.judge import Judge
from interp_jax.text.judges.local import LocalJudge

BASE, ROLLOUTS, FORCED = "base.jsonl", "rollouts.jsonl", "forced.jsonl"
RESILIENCE, SCORES = "resilience.jsonl", "scores.json"
LABELS, JUDGE_LOG = "labels.json", "judge.jsonl"
WHITE_BOX, REPORT, TRACE = "white_box.npz", "report.html", "trace"


@dataclass(frozen=True)
class Work:
    """What the stages of one run share.

    Attributes:
        config: of the run. workdir: where everything is.
        lm: the model.
        writer: of metrics.
        encoder: makes the sentence encoder, when it is needed.
    """

    config: ThoughtAnchorsConfig
    workdir: Workdir
    lm: LanguageModel
    writer: MetricWriter
    encoder: Callable[[], Encode]

    def has(self, name: str) -> bool:
        """Whether a file is there (opening a journal would make it)."""
        return (self.workdir / name).exists()

    def missing(self, name: str, stage: str) -> UserError:
        """That a stage lacks what another one makes."""
        what = "an unfinished" if self.has(name) else "no"
        return UserError(
            found=f"{what} {self.workdir / name}",
            expected=f"what --stage={stage} makes there",
            do=f"run the same command with --stage={stage} first",
        )


def base_stage(work: Work, problem: Problem, prompt: Prompt, *, make: bool) -> Trace:
    """The base trace.

    Raises:
        UserError: none that will do; or not `make`, and it is not there.
    """
    trace = None
    if make or work.has(BASE):
        with work.workdir.journal(BASE) as journal:
            trace = find_base_trace(work.lm, problem, prompt, work.config, journal, make=make)
    if trace is None:
        raise work.missing(BASE, "base")
    return trace


def rollouts_stage(work: Work, problem: Problem, trace: Trace, *, make: bool) -> Rollouts | None:
    """The rollouts; None if not all are there and they are not to be made."""
    if not make and not work.has(ROLLOUTS):
        return None
    with work.workdir.journal(ROLLOUTS) as journal:
        if make:
            return make_rollouts(work.lm, problem, trace, work.config, journal, work.writer)
        return read_rollouts(work.lm, problem, trace, work.config, journal)


def forced_stage(
    work: Work, problem: Problem, trace: Trace, *, make: bool
) -> ForcedAnswers | None:
    """The forced answers; None if there are to be none, or not all are there and none is made."""
    if not work.config.forced_rollouts or not (make or work.has(FORCED)):
        return None
    with work.workdir.journal(FORCED) as journal:
        if make:
            return make_forced(work.lm, problem, trace, work.config, journal, work.writer)
        return read_forced(work.lm, problem, trace, work.config, journal)


def score_stage(
    work: Work, problem: Problem, trace: Trace, rollouts: Rollouts | None,
    forced: ForcedAnswers | None,
) -> Scores:
    """Importance, sentence matrix, CF++ and resilience.

    Raises:
        UserError: rollouts or forced answers that it needs are not there.
    """
    config = work.config
    if rollouts is None:
        raise work.missing(ROLLOUTS, "rollouts")
    if config.forced_rollouts and forced is None:
        raise work.missing(FORCED, "forced")
    encode, resilience = remembered(work.encoder()), []
    if config.resilience_rounds:
        with (
            work.workdir.journal(ROLLOUTS) as begun,
            work.workdir.journal(RESILIENCE) as journal,
        ):
            resilience = make_resilience(
                work.lm, problem, trace, config, begun, journal, encode, work.writer
            )
    texts = [sentence.text for sentence in trace.sentences]
    scores = score_rollouts(
        texts, rollouts.by_sentence, encode, config,
        forced=None if forced is None else forced.pools(), resilience=resilience,
    )
    work.workdir.write_json(SCORES, scores.to_json())
    return scores


def read_scores(work: Work) -> Scores | None:
    """What `score_stage` wrote, if it did."""
    return Scores.from_json(_json(work.workdir / SCORES)) if work.has(SCORES) else None


def labels_stage(
    work: Work, question: str, texts: list[str], *, make: bool
) -> Labels | None:
    """The labels by whom the config names; those of another labeller are made anew.

    Without `make`, those that are there, by whomever.
    """
    config = work.config
    asked = {"labels": config.labels}
    if config.labels == "rules":
        asked["label_links"] = config.label_links
    if config.labels in ("endpoint", "local"):
        asked["judge_model"] = config.judge_model
    if config.labels == "endpoint":
        asked["judge_url"] = config.judge_url
    if work.has(LABELS):
        kept = _json(work.workdir / LABELS)
        same = kept.pop("asked") == asked
        if same or not make:
            return Labels(**kept | {
                "tags": tuple(map(tuple, kept["tags"])),
                "depends_on": tuple(map(tuple, kept["depends_on"])),
                "dropped": Dropped(**kept["dropped"]),
            })
    if not make or config.labels == "none":
        return None
    labels = _labelled(work, question, texts)
    work.workdir.write_json(LABELS, {"asked": asked, **dataclasses.asdict(labels)})
    return labels


def _labelled(work: Work, question: str, texts: list[str]) -> Labels:
    if work.config.labels == "rules":
        return label_with_rules(question, texts, links=work.config.label_links)
    judge = labelling_judge(work.config, work.workdir / JUDGE_LOG)
    labels = label_with_judge(judge, question, texts)
    say(f"Labels by {labels.by}: {judge.totals.line()}.")
    return labels


def labelling_judge(config: ThoughtAnchorsConfig, log: Path | None = None) -> Judge:
    """The judge that a config names; every reply goes to `log`.

    Raises:
        UserError: the endpoint's key is not set, or its client is not installed.
    """
    if config.labels == "local":
        return LocalJudge(load(config.judge_model, dtype=config.dtype), log=log)
    where = EndpointConfig(
        config.judge_model, config.judge_url, api_key_env=config.judge_key_variable
    )
    return EndpointJudge(where, log=log)


def white_box_stage(
    work: Work, trace: Trace, *, make: bool
) -> tuple[ReceiverHeads | None, Suppression | None]:
    """The two methods that look inside the model; kept in the workdir once done."""
    config, path, count = work.config, work.workdir / WHITE_BOX, len(trace.sentences)
    short = too_short(count) is not None
    if path.exists():
        with np.load(path, allow_pickle=False) as kept:
            receiver = None if short else ReceiverHeads(
                [tuple(pair) for pair in kept["heads"].tolist()], kept["kurtosis"], kept["scores"]
            )
            return receiver, Suppression(kept["effects"], kept["keyless"])
    if not make:
        return None, None
    receiver, arrays = None, {}
    if not short:
        receiver = find_receiver_heads(
            work.lm.network, trace, proximity=config.proximity, top=config.receiver_heads
        )
        arrays = {
            "heads": np.asarray(receiver.heads, np.int32), "kurtosis": receiver.kurtosis,
            "scores": receiver.scores,
        }
    with Progress(count, "suppression", unit="sentences", log_every=config.log_every) as bar:
        suppression = suppression_effects(
            work.lm.network, trace, at_once=min(SOURCES_AT_ONCE, config.batch_size),
            on_progress=bar.update,
        )
    buffer = io.BytesIO()
    np.savez(buffer, effects=suppression.effects, keyless=suppression.keyless, **arrays)
    work.workdir.write_bytes(WHITE_BOX, buffer.getvalue())
    return receiver, suppression


def say(line: str) -> None:
    """Prints a line, once however many processes there are."""
    if is_writer():
        print(line, flush=True)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(
            found=f"{path}, which is not valid JSON ({error})", expected="a complete file",
            do="delete it and run its stage again",
        ) from error
