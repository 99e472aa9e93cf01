"""Template-token statistics against counting by hand."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from interp_jax.models import roles
from interp_jax.studies.model_diffing.bootstrap import Resamples
from interp_jax.studies.model_diffing.template_tokens import (
    ASSISTANT,
    BOS,
    OTHER,
    SYSTEM,
    TEMPLATE,
    USER,
    Slots,
    add_counts,
    no_counts,
    share_above,
    template_statistics,
    token_categories,
)

pytestmark = pytest.mark.core
T, U, S, R, A = roles.TEMPLATE, roles.USER, roles.SYSTEM, roles.REASONING, roles.ANSWER
GEMMA = Slots(3, 5, 2)


def categories(kinds, bos=None, tokens=None, slots=GEMMA):
    kinds = np.asarray([kinds], np.int8)
    tokens = np.full(kinds.shape, 9) if tokens is None else np.asarray([tokens])
    return token_categories(tokens, np.ones(kinds.shape, bool), kinds, bos, slots)[0].tolist()


def test_ten_slots_of_a_pair_of_turns():
    """Oracle: Gemma writes ten tokens around a user's and an assistant's turn."""
    pair = [T] * 3 + [U] * 2 + [T] * 5 + [A] * 2 + [T] * 2
    numbered = lambda *n: [TEMPLATE + i for i in n]
    one = [*numbered(1, 2, 3), USER, USER, *numbered(4, 5, 6, 7, 8), ASSISTANT, ASSISTANT,
           *numbered(9, 10)]  # fmt: skip
    assert GEMMA.count == 10
    assert categories([T, *pair, *pair], bos=5, tokens=[5] + [9] * 28) == [BOS, *one, *one]


def test_what_does_not_fit_the_slots_is_just_template():
    # A system turn before, reasoning within, a run of another length between.
    kinds = [T] * 2 + [S] + [T] * 5 + [U] + [T] * 4 + [R] + [A] + [T]
    assert categories(kinds) == [
        TEMPLATE, TEMPLATE, SYSTEM, TEMPLATE, TEMPLATE, *[TEMPLATE + i for i in (1, 2, 3)], USER,
        *[TEMPLATE] * 4, ASSISTANT, ASSISTANT, TEMPLATE + 9,
    ]  # fmt: skip
    assert categories([T, U, T, A], slots=None) == [TEMPLATE, USER, TEMPLATE, ASSISTANT]
    assert categories([roles.IMAGE]) == [OTHER]


def test_padding_is_nothing():
    kinds = np.asarray([[T, U, T]], np.int8)
    valid = np.asarray([[True, True, False]])
    assert token_categories(np.zeros((1, 3)), valid, kinds, None)[0].tolist() == [5, 3, -1]


def counted(scaled, category, group, maxima, batch):
    counts = no_counts(scaled.shape[1], 3, GEMMA)
    for at in range(0, len(scaled), batch):
        part = slice(at, at + batch)
        counts = add_counts(
            counts, jnp.asarray(scaled[part]), jnp.asarray(category[part]),
            jnp.asarray(group[part]), jnp.asarray(maxima),
        )
    return counts


def test_counts_and_shares_by_hand():
    draw = np.random.default_rng(0)
    scaled = np.where(draw.random((60, 5)) < 0.4, draw.random((60, 5)), 0).astype(np.float32)
    scaled[:, 4] = 5e-4  # below what counts as active
    category = draw.integers(-1, TEMPLATE + 4, 60).astype(np.int32)
    group = draw.integers(0, 3, 60).astype(np.int32)
    maxima = scaled.max(0)
    found = template_statistics(counted(scaled, category, group, maxima, 20))
    for j in range(4):
        on = (scaled[:, j] > 1e-3) & (category > BOS)
        template = on & (category >= TEMPLATE)
        assert found.share[j] == pytest.approx(template.sum() / on.sum())
        assert found.user[j] == pytest.approx((on & (category == USER)).sum() / on.sum())
        assert found.assistant[j] == pytest.approx((on & (category == ASSISTANT)).sum() / on.sum())
        bos = (scaled[:, j] > 1e-3) & (category == BOS)
        assert found.bos[j] == pytest.approx(bos.sum() / (on.sum() + bos.sum()))
        for slot in range(10):
            here = on & (category == TEMPLATE + 1 + slot)
            assert found.slots[j, slot] == pytest.approx(here.sum() / on.sum())
        bucket = np.digitize(scaled[:, j] / maxima[j], [0.1, 0.4, 0.7])
        for b in range(4):
            within = on & (bucket == b)
            if within.any():
                share = (template & (bucket == b)).sum() / within.sum()
                assert found.by_strength[j, b] == pytest.approx(share)
        for g in range(3):
            assert found.groups[g, j].tolist() == [
                (template & (group == g)).sum(), (on & ~template & (group == g)).sum()
            ]
    assert np.isnan(found.share[4]) and np.isnan(found.user[4])
    own = category > BOS
    assert found.of_data == pytest.approx((category >= TEMPLATE).sum() / own.sum())


def test_the_headline_counts_latents_and_draws_groups():
    groups = np.zeros((4, 3, 2), int)
    groups[:, 0] = [9, 1]  # always mostly template
    groups[:, 1] = [1, 9]  # never
    groups[:2, 2], groups[2:, 2] = [4, 1], [0, 5]  # half of the groups
    found = template_statistics(no_counts(3, 4, None))
    found = type(found)(**{**found.__dict__, "groups": groups})
    r = Resamples(4)
    sure = share_above(found, np.asarray([0, 1]), 0.5, r)
    assert (sure.value, sure.low, sure.high) == (0.5, 0.5, 0.5)
    torn = share_above(found, np.asarray([2]), 0.5, r)
    assert torn.value == 0.0 and torn.low == 0.0 and torn.high == 1.0
