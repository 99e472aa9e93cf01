"""Twins against planted decoders and codes, and against counting by hand."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from interp_jax.dictionaries.config import DictionaryConfig
from interp_jax.dictionaries.delta import delta
from interp_jax.dictionaries.dictionary import Dictionary
from interp_jax.runtime.errors import UserError
from interp_jax.studies.model_diffing.twins import (
    EDGES,
    Twins,
    add_joint,
    cosines_above,
    twin_pairs,
)

pytestmark = pytest.mark.core


def planted(base, chat, **arrays):
    """A crosscoder with decoder rows [F, D] for each model, and its Delta."""
    base, chat = (np.asarray(of, np.float32) for of in (base, chat))
    latents, width = base.shape
    fields = {"normaliser": True} if "scale_out" in arrays else {}
    config = DictionaryConfig(width, latents, 2, activation="relu", **fields)
    d = Dictionary(config, {
        "encoder": jnp.zeros((latents, 2 * width)), "encoder_bias": jnp.zeros(latents),
        "decoder": jnp.asarray(np.concatenate([base, chat], axis=1)),
        "decoder_bias": jnp.zeros((2, width)), **arrays,
    })  # fmt: skip
    return d, np.asarray(delta(d.decoder_norms()))


def turned(degrees):
    """A unit vector in the plane."""
    angle = np.deg2rad(degrees)
    return np.asarray([np.cos(angle), np.sin(angle)])


def test_pairs_are_of_the_rows_that_the_latents_write_with():
    """arccos 0.9 is 25.8 degrees."""
    base = [turned(90) / 10, turned(200) / 10, turned(25), 3 * turned(26), turned(0), turned(-1)]
    chat = [turned(0), 2 * turned(25), turned(0) / 10, turned(0) / 10, turned(0), 0 * turned(0)]
    d, of = planted(base, chat)
    alive = np.ones(6, bool)
    found = twin_pairs(d, of, alive, base=0, chat=1)
    # Latents 0 and 1 are chat-only, 2, 3 and 5 base-only, 4 is shared.
    pairs = list(zip(found.chat.tolist(), found.base.tolist(), strict=True))
    assert pairs == [(0, 2), (0, 5), (1, 2), (1, 3)]
    np.testing.assert_allclose(
        found.cosine, np.cos(np.deg2rad([25, 1, 0, 1])), rtol=0, atol=1e-6
    )
    assert found.joint.shape == (4, 5, 5) and not np.any(found.joint)
    alive[2] = False
    assert twin_pairs(d, of, alive, base=0, chat=1).base.tolist() == [5, 3]
    looser = twin_pairs(d, of, alive, base=0, chat=1, threshold=0.89)
    assert list(zip(looser.chat, looser.base, strict=True)) == [(0, 3), (0, 5), (1, 3), (1, 5)]
    assert len(twin_pairs(d, of, np.zeros(6, bool), base=0, chat=1).chat) == 0


def test_rows_are_compared_in_the_space_of_the_activations():
    scale = jnp.asarray([[1.0, 1.0], [4.0, 1.0]])
    shift = jnp.zeros((2, 2))
    d, of = planted(
        [[0, 0], [1, 4]], [[4, 4], [0, 0]], scale_in=scale, scale_out=scale, shift_in=shift,
        shift_out=shift,
    )
    found = twin_pairs(d, of, np.ones(2, bool), base=0, chat=1)
    assert (found.chat.tolist(), found.base.tolist()) == ([0], [1])
    assert found.cosine[0] == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("block", [4, 7, 64])
def test_blocks_find_what_all_pairs_hold(block):
    draw = np.random.default_rng(0)
    rows, others = draw.normal(size=(23, 3)), draw.normal(size=(17, 3))
    rows[5] = 0
    with np.errstate(invalid="ignore"):
        unit = [of / np.linalg.norm(of, axis=1, keepdims=True) for of in (rows, others)]
    whole = unit[0] @ unit[1].T
    for threshold in (0.0, 0.5, 0.9):
        a, b, cosine = cosines_above(
            jnp.asarray(rows, jnp.float32), jnp.asarray(others, jnp.float32), threshold, block
        )
        want = np.nonzero(whole > threshold)
        assert len(a) and np.array_equal(a, want[0]) and np.array_equal(b, want[1])
        np.testing.assert_allclose(cosine, whole[want], rtol=0, atol=1e-5)


@pytest.mark.parametrize("threshold", [1.0, -0.1, float("nan")])
def test_a_threshold_that_is_no_cosine_of_twins_is_refused(threshold):
    with pytest.raises(UserError, match="at least 0 and below 1"):
        cosines_above(jnp.zeros((0, 2)), jnp.zeros((0, 2)), threshold)


def pairs_of(chat, base):
    return Twins(
        np.asarray(chat), np.asarray(base), np.ones(len(chat), np.float32),
        jnp.zeros((len(chat), 5, 5), jnp.int32),
    )


def test_a_joint_table_that_is_known():
    # By latent, in shares of maxima of 2, 4 and 1: below 1e-6 is silence, above the maximum is top.
    shares = np.asarray([
        [0.0, 0.0, 0.9], [5e-7, 0.05, 0.9], [0.05, 0.2, 0.9], [0.2, 0.5, 0.0], [0.5, 0.75, 0.0],
        [0.75, 0.75, 0.0], [1.5, 1.0, 0.0], [0.9, 0.3, 0.0], [0.9, 0.9, 0.9],
    ])  # fmt: skip
    maxima = np.asarray([2, 4, 1], np.float32)
    keep = np.arange(9) < 8  # the last token is padding
    twins = add_joint(
        pairs_of([0, 0], [1, 2]), jnp.asarray(shares * maxima, jnp.float32), jnp.asarray(keep),
        jnp.asarray(maxima),
    )
    want = np.zeros((2, 5, 5), int)
    for a, b in [(0, 0), (0, 1), (1, 2), (2, 3), (3, 4), (4, 4), (4, 4), (4, 2)]:
        want[0, a, b] += 1
    for a, b in [(0, 4), (0, 4), (1, 4), (2, 0), (3, 0), (4, 0), (4, 0), (4, 0)]:
        want[1, a, b] += 1
    np.testing.assert_array_equal(twins.joint, want)
    assert twins.strong.tolist() == [4, 6]
    assert twins.divergence.tolist() == [2 / 4, 1.0]


def test_without_a_strong_token_the_divergence_is_not_known():
    twins = pairs_of([0], [1])
    assert np.isnan(twins.divergence[0])
    weak = jnp.full((10, 2), 0.5)
    twins = add_joint(twins, weak, jnp.ones(10, bool), jnp.ones(2))
    assert twins.joint[0, 3, 3] == 10 and twins.strong[0] == 0 and np.isnan(twins.divergence[0])


def test_batches_add_up_for_more_pairs_than_go_at_once():
    draw = np.random.default_rng(1)
    scaled = np.where(draw.random((60, 20)) < 0.6, draw.random((60, 20)), 0).astype(np.float32)
    keep, maxima = draw.random(60) < 0.8, scaled.max(0)
    chat, base = np.divmod(np.arange(100), 10)
    twins = pairs_of(chat, base + 10)
    for part in (slice(0, 30), slice(30, 60)):
        twins = add_joint(
            twins, jnp.asarray(scaled[part]), jnp.asarray(keep[part]), jnp.asarray(maxima)
        )
    bucket = np.digitize(scaled / maxima, np.asarray(EDGES, np.float32))[keep]
    for k, (a, b) in enumerate(zip(twins.chat, twins.base, strict=True)):
        want = np.zeros((5, 5), int)
        np.add.at(want, (bucket[:, a], bucket[:, b]), 1)
        np.testing.assert_array_equal(twins.joint[k], want)
        top = bucket[:, [a, b]] == 4
        assert twins.divergence[k] == pytest.approx((top.sum(1) == 1).sum() / top.any(1).sum())


def test_one_program_for_all_batches(compile_counter):
    twins = pairs_of([0, 1], [2, 3])
    batch = lambda seed: (jax.random.uniform(jax.random.key(seed), (8, 4)), jnp.ones(8, bool))
    batches, maxima = [batch(seed) for seed in range(3)], jnp.ones(4)
    twins = add_joint(twins, *batches[0], maxima)
    with compile_counter() as counter:
        for each in batches[1:]:
            twins = add_joint(twins, *each, maxima)
    assert counter.count == 0 and np.asarray(twins.joint).sum() == 2 * 24
    assert add_joint(pairs_of([], []), *batches[0], maxima).joint.shape == (0, 5, 5)
