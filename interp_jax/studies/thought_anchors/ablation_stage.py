"""Head ablation as a stage: `--ablate_heads=N`, on the receiver heads that the white box found.

    ablation.npz     what ablating the heads, and matched random ones, does to the trace
    ablation.jsonl   answers to problems with receiver, random and no heads ablated

The heads are the N of largest kurtosis on this trace (`white_box.npz`). Both files say which heads
they are about, so the number can be changed and the stage run again.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np

from interp_jax.models.config import ModelConfig
from interp_jax.runtime.errors import UserError
from interp_jax.runtime.keys import fold, root_key
from interp_jax.runtime.progress import Progress
from interp_jax.studies.thought_anchors.ablation_answers import (
    AblationAnswers,
    make_answers,
    problems_to_answer,
    read_answers,
)
from interp_jax.studies.thought_anchors.asking import Trace
from interp_jax.studies.thought_anchors.config import ThoughtAnchorsConfig
from interp_jax.studies.thought_anchors.head_ablation import (
    CONTROLS,
    HeadAblation,
    Heads,
    ablate_with_controls,
    matched_random_heads,
)
from interp_jax.studies.thought_anchors.problems import Problem
from interp_jax.studies.thought_anchors.receiver import ReceiverHeads, too_short
from interp_jax.studies.thought_anchors.stages import WHITE_BOX, Work, say
from interp_jax.studies.thought_anchors.vertical import SKIP_LAYERS, select_receiver_heads

ABLATION, ABLATION_ANSWERS = "ablation.npz", "ablation.jsonl"
NO_PROBLEMS = (
    "Accuracy under ablation was not measured: no problem with a known answer was given. "
    "--ablation_problems names some."
)


@dataclass(frozen=True)
class Ablation:
    """What ablating receiver heads did.

    Attributes:
        effects: on the trace.
        answers: to problems; None where there was none to answer, or where they are not made yet.
        not_shown: why there is nothing, or None.
    """

    effects: HeadAblation | None = None
    answers: AblationAnswers | None = None
    not_shown: str | None = None


def require_heads(config: ThoughtAnchorsConfig, network: ModelConfig) -> None:
    """Raises UserError where more heads are to be ablated than can be receiver heads."""
    most = (network.n_layers - len(SKIP_LAYERS)) * network.n_heads
    if config.ablate_heads > most:
        raise UserError(
            found=f"--ablate_heads={config.ablate_heads}",
            expected=f"at most {most}, the heads of {config.model} after its first layer",
            do="ablate fewer",
        )


def ablation_stage(
    work: Work, problem: Problem | None, trace: Trace, receiver: ReceiverHeads | None, *,
    make: bool,
) -> Ablation | None:
    """Head ablation; None where it is not asked for, or not there and not to be made.

    Args:
        problem: the run's own, None for a given trace.

    Raises:
        UserError: there are no receiver heads yet; problems that cannot be read; an ablation
            that touched nothing.
    """
    config = work.config
    if not config.ablate_heads:
        return None
    short = too_short(len(trace.sentences))
    if short is not None:
        reason = (
            f"{short} So there are no receiver heads to ablate: a longer reasoning has some, which "
            "--trace reads from a text file."
        )
        if make:
            say(f"Head ablation: not done. {reason}")
        return Ablation(not_shown=reason)
    if receiver is None:
        if make:
            raise work.missing(WHITE_BOX, "white_box")
        return None
    heads = select_receiver_heads(receiver.kurtosis, config.ablate_heads)
    effects = _effects(work, trace, heads, make=make)
    if effects is None:
        return None
    return Ablation(effects, _answers(work, problem, heads, make=make))


def _effects(work: Work, trace: Trace, heads: Heads, *, make: bool) -> HeadAblation | None:
    path = work.workdir / ABLATION
    if path.exists():
        with np.load(path, allow_pickle=False) as kept:
            found = HeadAblation(
                _pairs(kept["heads"]), [_pairs(one) for one in kept["controls"]],
                kept["lengths"], kept["kl"], kept["log_probability"],
                kept["base_log_probability"], kept["overlapping"].tolist(),
            )
        if found.heads == heads:
            return found
    if not make:
        return None
    key = _key(work.config)
    with Progress(1 + CONTROLS, "heads ablated on the trace", unit="sets",
                  log_every=work.config.log_every) as bar:
        found = ablate_with_controls(
            work.lm.network, trace, heads, key=key, on_progress=bar.update
        )
    buffer = io.BytesIO()
    np.savez(
        buffer, heads=np.asarray(found.heads, np.int32),
        controls=np.asarray(found.controls, np.int32), lengths=found.lengths, kl=found.kl,
        log_probability=found.log_probability, base_log_probability=found.base_log_probability,
        overlapping=np.asarray(found.overlapping, np.int32),
    )
    work.workdir.write_bytes(ABLATION, buffer.getvalue())
    return found


def _answers(
    work: Work, problem: Problem | None, heads: Heads, *, make: bool
) -> AblationAnswers | None:
    problems = problems_to_answer(work.config, problem)
    if not problems:
        if make:
            say(NO_PROBLEMS)
        return None
    if not make and not work.has(ABLATION_ANSWERS):
        return None
    with work.workdir.journal(ABLATION_ANSWERS) as journal:
        if not make:
            return read_answers(work.lm, problems, heads, work.config, journal)
        controls, _ = matched_random_heads(
            heads, work.lm.network.config.n_heads, CONTROLS, _key(work.config)
        )
        return make_answers(work.lm, problems, heads, controls, work.config, journal)


def _key(config: ThoughtAnchorsConfig):
    """Of the random heads: the same ones on the trace and in the answers."""
    return fold(root_key(config.seed), "ablation controls")


def _pairs(array: np.ndarray) -> Heads:
    return [(int(layer), int(head)) for layer, head in array]
