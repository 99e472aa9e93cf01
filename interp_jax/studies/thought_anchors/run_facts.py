"""What a run did and found, in lines for the terminal."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from interp_jax.studies.thought_anchors.config import ThoughtAnchorsConfig
from interp_jax.studies.thought_anchors.masking_graph import MaskingGraph
from interp_jax.studies.thought_anchors.masking_stage import edges
from interp_jax.studies.thought_anchors.presenting import Findings
from interp_jax.studies.thought_anchors.presenting_ablation import ablation_lines
from interp_jax.studies.thought_anchors.receiver import too_short
from interp_jax.studies.thought_anchors.rollouts import Rollouts
from interp_jax.studies.thought_anchors.scoring import Scores
from interp_jax.studies.thought_anchors.suppression import FLOOR


def run_facts(
    found: Findings, config: ThoughtAnchorsConfig, seconds: float, compiled: str
) -> tuple[str, ...]:
    """The lines that a script prints at the end.

    Args:
        found: what is there.
        config: of the run.
        seconds: it took.
        compiled: how much was compiled, in words.
    """
    lines = [f"This run took {seconds:.1f} s and compiled {compiled}."]
    if found.rollouts is not None and found.rollouts.all:
        lines += _made(found.rollouts, config)
    if found.forced is not None:
        made = sum(map(len, found.forced.by_boundary.values()))
        lines.append(
            f"Forced answers: {made} at {len(found.forced.by_boundary)} boundaries; without an "
            f"answer: {found.forced.unanswered_share:.1%}."
        )
    if found.scores is not None:
        lines += _resampling(found.scores)
    if found.labels is not None:
        counts = {tag: n for tag, n in found.labels.counts().items() if n}
        listed = ", ".join(f"{n} {tag.replace('_', ' ')}" for tag, n in counts.items())
        lines.append(f"Labels by {found.labels.by}: {listed}.")
    if found.suppression is not None:
        lines += _white_box(found)
    if found.masking is not None:
        lines += _masking(found.masking)
    if found.ablation is not None:
        lines += ablation_lines(found.ablation)
    return tuple(lines)


def _masking(graph: MaskingGraph) -> Iterator[str]:
    listed = edges(graph)
    if not listed:
        yield "Masking graph: no sentence has a later one far enough from the end."
        return
    first = listed[0]
    yield (
        f"Masking graph: deleting sentence {first['source']} changes sentence {first['target']} "
        f"most (mean KL {first['mean']:.3f} nats a token), of {len(listed)} edges."
    )


def _white_box(found: Findings) -> Iterator[str]:
    if found.receiver is None:
        yield f"Receiver heads: not shown. {too_short(len(found.trace.sentences))}"
    else:
        best = int(np.nanargmax(found.receiver.scores))
        yield f"Receiver heads: later sentences look back most at sentence {best}."
        if int(found.trace.spans[0, 0]) == 0:
            yield (
                "Nothing stands before sentence 0: heads with nothing to look for rest on its "
                "first token, and may be called receiver heads for that. --prompt puts a question "
                "before it."
            )
    effects = found.suppression.effects
    later = np.tril(np.ones(effects.shape, bool), -1)
    if later.any() and effects[later].max() > FLOOR:
        target, source = np.unravel_index(np.where(later, effects, -np.inf).argmax(), later.shape)
        yield (
            f"Attention suppression: hiding sentence {source} disturbs sentence {target} most "
            f"(mean ln KL {effects[target, source]:.2f})."
        )


def _made(rollouts: Rollouts, config: ThoughtAnchorsConfig) -> Iterator[str]:
    sizes = [len(own) for own in rollouts.by_sentence.values()]
    if rollouts.tokens:
        each = f"{min(sizes)}" if min(sizes) == max(sizes) else f"{min(sizes)} to {max(sizes)}"
        yield (
            f"Rollouts: {rollouts.tokens} tokens sampled in {rollouts.seconds:.1f} s of this run "
            f"({rollouts.tokens / rollouts.seconds:.0f} tokens/s), {each} for each of "
            f"{len(rollouts.by_sentence)} sentences."
        )
        busy = rollouts.stats.busy_while_waiting
        if busy is not None:
            yield f"Rows busy while rollouts were waiting: {busy:.0%}."
    else:
        yield "Rollouts: all were there from an earlier run."
    if config.adaptive_width is not None:
        yield rollouts.saved(config)
    yield (
        f"Unfinished: {rollouts.unfinished_share:.1%}; without an answer (unfinished included): "
        f"{rollouts.unanswered_share:.1%}."
    )


def _resampling(scores: Scores) -> Iterator[str]:
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
