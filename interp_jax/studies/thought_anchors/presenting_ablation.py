"""Head ablation as the report and the terminal want it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from interp_jax.studies.thought_anchors.ablation_answers import CONDITIONS
from interp_jax.studies.thought_anchors.ablation_stage import NO_PROBLEMS, Ablation
from interp_jax.studies.thought_anchors.rollout_pools import Estimate

CHANGES = (("receiver", "random"), ("receiver", "none"), ("random", "none"))
MEASURES = ("kl", "log_probability")


def ablation_part(ablation: Ablation | None) -> dict[str, Any] | None:
    """`ablation` of `report_data`."""
    if ablation is None:
        return None
    if ablation.effects is None:
        return {"not_shown": ablation.not_shown}
    effects, answers = ablation.effects, ablation.answers
    part: dict[str, Any] = {
        "heads": [{"layer": layer, "head": head} for layer, head in effects.heads],
        "overlapping": effects.overlapping,
        "answers": {"not_shown": NO_PROBLEMS},
    }
    for measure in MEASURES:
        first, *rest = effects.effects(measure).tolist()
        part[measure] = {"value": first, "controls": rest, "p_value": effects.p_value(measure)}
    if answers is not None:
        part["answers"] = {
            "problems": answers.problems, "samples": answers.samples,
            "conditions": [
                {
                    "name": name, **_value(answers.accuracy(name)),
                    "unanswered": answers.unanswered_share(name),
                }
                for name in CONDITIONS
            ],
            "changes": [
                {"name": name, "against": other, **_value(answers.change(name, other))}
                for name, other in CHANGES
            ],
        }
    return part


def ablation_lines(ablation: Ablation) -> Iterator[str]:
    """For the terminal."""
    if ablation.effects is None:
        yield f"Head ablation: not shown. {ablation.not_shown}"
        return
    effects, count = ablation.effects, len(ablation.effects.heads)
    kl = effects.effects("kl")
    yield (
        f"Head ablation, {count} receiver heads: KL on the trace {kl[0]:.4f} nats a token; "
        f"{len(kl) - 1} sets of random heads of the same layers {kl[1:].mean():.4f} "
        f"({kl[1:].min():.4f} to {kl[1:].max():.4f}), p = {effects.p_value():.3f}."
    )
    if effects.overlapping:
        layers = ", ".join(map(str, effects.overlapping))
        yield (
            f"In layers {layers} more than half of the heads are ablated, so the random sets hold "
            "some of them too."
        )
    answers = ablation.answers
    if answers is None:
        yield NO_PROBLEMS
        return
    told = []
    for name in CONDITIONS:
        one = answers.accuracy(name)
        told.append(f"{name} {one.value:.1%} ({one.low:.1%} to {one.high:.1%})")
    change = answers.change("receiver", "random")
    yield (
        f"Right answers with heads ablated: {', '.join(told)}; receiver minus random "
        f"{change.value:+.3f} ({change.low:+.3f} to {change.high:+.3f}); {answers.problems} "
        f"problems, {answers.samples} answers each; 95 % intervals, for these problems."
    )


def _value(estimate: Estimate) -> dict[str, Any]:
    return {"value": estimate.value, "interval": [estimate.low, estimate.high]}
