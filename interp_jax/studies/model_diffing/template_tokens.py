"""Where latents fire: on the chat template's tokens, on the user's words, or on the answer.

Of a latent's active tokens (scaled code above 1e-3; BOS is counted apart), the share that the
template wrote; the same for each token of the template, for user and assistant, and by how strong
the activation is, in buckets cut at 0.1, 0.4 and 0.7 of the latent's maximum.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from interp_jax.generation.language_model import LanguageModel
from interp_jax.models import roles
from interp_jax.studies.model_diffing.bootstrap import Interval, Resamples, divide

ACTIVE = 1e-3
EDGES = (0.1, 0.4, 0.7)
BOS, OTHER, SYSTEM, USER, ASSISTANT, TEMPLATE = range(6)
CATEGORIES = ("bos", "other", "system", "user", "assistant", "template")
_OF_ROLE = {
    roles.SYSTEM: SYSTEM, roles.USER: USER, roles.TEMPLATE: TEMPLATE,
    roles.REASONING: ASSISTANT, roles.ANSWER: ASSISTANT, roles.IMAGE: OTHER,
}  # fmt: skip
_ANSWERS = (roles.REASONING, roles.ANSWER)


@dataclasses.dataclass(frozen=True)
class Slots:
    """How many tokens the template writes around one user's and one assistant's turn.

    They are numbered from 1: before the user's words, between the two turns, after the answer.
    Gemma has 3 + 5 + 2.
    """

    opening: int
    between: int
    closing: int

    @property
    def count(self) -> int:
        """Of one pair of turns."""
        return self.opening + self.between + self.closing


def template_slots(lm: LanguageModel) -> Slots | None:
    """The slots of a model's chat template, or None where there is none to number."""
    if lm.chat_template is None:
        return None
    turns = [{"role": role, "content": "word"} for role in ("user", "assistant") * 2]
    kinds = lm.chat_template.encode(lm.tokenizer, turns).roles
    runs = _runs(kinds)
    find = lambda before, after: [
        stop - start for start, stop, a, b in runs if a in before and b in after
    ]
    between = find((roles.USER,), _ANSWERS)
    turn, end = find(_ANSWERS, (roles.USER,)), find(_ANSWERS, (None,))
    if len(between) != 2 or len(turn) != 1 or len(end) != 1 or end[0] > turn[0]:
        return None
    return Slots(turn[0] - end[0], between[0], end[0])


def _runs(kinds: np.ndarray) -> list[tuple[int, int, int | None, int | None]]:
    """Runs of template tokens: start, stop, the role before and the role after."""
    own = np.concatenate([[False], np.asarray(kinds) == roles.TEMPLATE, [False]])
    edges = np.flatnonzero(own[1:] != own[:-1]).reshape(-1, 2)
    return [
        (int(a), int(b), int(kinds[a - 1]) if a else None,
         int(kinds[b]) if b < len(kinds) else None)
        for a, b in edges
    ]  # fmt: skip


def token_categories(
    tokens: np.ndarray, valid: np.ndarray, kinds: np.ndarray, bos: int | None,
    slots: Slots | None = None,
) -> np.ndarray:
    """int32 [B, T]: `CATEGORIES` by number, TEMPLATE + n for slot n of it, -1 for padding.

    Args:
        tokens, valid, kinds: [B, T] each; `kinds` are roles. Rows are single conversations whose
            own tokens stand at the left.
        bos: id of the BOS token, None where there is none.
        slots: how template tokens are numbered; what does not fit them stays TEMPLATE.
    """
    out = np.full(np.shape(tokens), OTHER, np.int32)
    for role, category in _OF_ROLE.items():
        out[np.asarray(kinds) == role] = category
    for row in range(len(out)) if slots is not None else ():
        length = int(np.sum(valid[row]))
        for start, stop, before, after in _runs(kinds[row, :length]):
            _number(out[row], start, stop, before, after, slots)
    if bos is not None:
        out[np.asarray(tokens) == bos] = BOS
    return np.where(valid, out, -1).astype(np.int32)


def _number(row: np.ndarray, start: int, stop: int, before, after, slots: Slots) -> None:
    size, first = stop - start, TEMPLATE + 1
    between = first + slots.opening
    closing = between + slots.between
    if before in _ANSWERS:
        if after is None or (after == roles.USER and size == slots.closing + slots.opening):
            count = min(slots.closing, size)
            row[start : start + count] = closing + np.arange(count)
    if after == roles.USER and size >= slots.opening:
        row[stop - slots.opening : stop] = first + np.arange(slots.opening)
    if before == roles.USER and after in _ANSWERS and size == slots.between:
        row[start:stop] = between + np.arange(size)


class TemplateCounts(NamedTuple):
    """Active tokens of every latent.

    Attributes:
        counts: int32 [F, C, 4], by category and by share of the maximum.
        groups: int32 [G, F, 2], by group of conversations: on template tokens, on others.
        tokens: int32 [C], how many tokens there were.
    """

    counts: jax.Array
    groups: jax.Array
    tokens: jax.Array


def no_counts(latents: int, groups: int, slots: Slots | None) -> TemplateCounts:
    """Before the first token."""
    categories = len(CATEGORIES) + (0 if slots is None else slots.count)
    zeros = lambda *shape: jnp.zeros(shape, jnp.int32)
    return TemplateCounts(
        zeros(latents, categories, len(EDGES) + 1), zeros(groups, latents, 2), zeros(categories)
    )


def strength(
    scaled: jax.Array, maxima: jax.Array, edges: tuple[float, ...] = EDGES
) -> jax.Array:
    """int32, the bucket of an activation: how many of the edges its share of the maximum reaches.

    Args:
        scaled: float32, the scaled code. maxima: float32, above 0, of a shape that fits it.
        edges: ascending.
    """
    share = scaled / maxima
    return sum((share >= edge).astype(jnp.int32) for edge in edges)


@jax.jit
def add_counts(
    counts: TemplateCounts, scaled: jax.Array, category: jax.Array, group: jax.Array,
    maxima: jax.Array,
) -> TemplateCounts:
    """With one more batch.

    Args:
        scaled: float32 [N, F], the scaled code.
        category: int32 [N], of `token_categories`; -1 is not counted.
        group: int32 [N] in 0..G-1.
        maxima: float32 [F], of each latent.
    """
    one_hot = lambda of, count: jax.nn.one_hot(of, count, dtype=jnp.float32)
    member = one_hot(category, counts.tokens.shape[0])
    active = scaled > ACTIVE
    bucket = strength(scaled, jnp.maximum(maxima, ACTIVE)[None])
    # Sums of at most N ones are exact in float32.
    total = lambda of, mask: jnp.einsum("nc,nf->fc", of, mask.astype(jnp.float32))
    whole = lambda x: jnp.round(x).astype(jnp.int32)
    each = [whole(total(member, active & (bucket == b))) for b in range(len(EDGES) + 1)]
    own = one_hot(group, counts.groups.shape[0])
    template = (category >= TEMPLATE)[:, None]
    rest = (category > BOS)[:, None] & ~template
    split = [whole(total(own, active & of)).T for of in (template, rest)]
    return TemplateCounts(
        counts.counts + jnp.stack(each, axis=-1),
        counts.groups + jnp.stack(split, axis=-1),
        counts.tokens + whole(jnp.sum(member, axis=0)),
    )


@dataclasses.dataclass(frozen=True)
class TemplateStatistics:
    """Shares of a latent's active tokens, BOS left out; NaN where it has none. float64.

    Attributes:
        share: [F] on template tokens. user, assistant: [F].
        bos: [F], share of all active tokens that are BOS.
        slots: [F, P], on each numbered token of the template.
        by_strength: [F, 4], on template tokens, within each bucket of activation.
        of_data: share of template tokens in the data, which an indifferent latent would have.
        groups: int64 [G, F, 2], as counted.
    """

    share: np.ndarray
    user: np.ndarray
    assistant: np.ndarray
    bos: np.ndarray
    slots: np.ndarray
    by_strength: np.ndarray
    of_data: float
    groups: np.ndarray


def template_statistics(counts: TemplateCounts) -> TemplateStatistics:
    """From the counts of a whole pass."""
    by, tokens = np.asarray(counts.counts, np.float64), np.asarray(counts.tokens, np.float64)
    active = by.sum(-1)
    own = active[:, BOS + 1 :].sum(1)
    return TemplateStatistics(
        share=divide(active[:, TEMPLATE:].sum(1), own),
        user=divide(active[:, USER], own),
        assistant=divide(active[:, ASSISTANT], own),
        bos=divide(active[:, BOS], active.sum(1)),
        slots=divide(active[:, TEMPLATE + 1 :], own[:, None]),
        by_strength=divide(by[:, TEMPLATE:].sum(1), by[:, BOS + 1 :].sum(1)),
        of_data=float(divide(tokens[TEMPLATE:].sum(), tokens[BOS + 1 :].sum())),
        groups=np.asarray(counts.groups, np.int64),
    )


def share_above(
    found: TemplateStatistics, latents: np.ndarray, bound: float, resamples: Resamples
) -> Interval:
    """How many of some latents fire on template tokens more than `bound` of the time.

    Latents without an active token are left out. The interval draws groups of conversations.
    """
    template, rest = (found.groups[:, latents, k].T.astype(np.float64) for k in (0, 1))

    def above(sums: np.ndarray) -> np.ndarray:
        share = divide(*np.split(sums, 2))
        return divide((share > bound).sum(0), np.isfinite(share).sum(0))

    return resamples.of_sums(np.concatenate([template, template + rest]), above)
