"""Head ablation before the output projection, with matched random controls (oracle 20)."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interp_jax.generation.prompts import Prompt
from interp_jax.interventions.placing import compose
from interp_jax.interventions.run import run
from interp_jax.interventions.verbs import ablate_heads, read
from interp_jax.models.batch import Batch
from interp_jax.models.decoder import build_decoder
from interp_jax.models.sites import Site
from interp_jax.runtime.errors import UserError
from interp_jax.studies.thought_anchors.asking import Trace
from interp_jax.studies.thought_anchors.head_ablation import (
    KeepHeads,
    ablate_with_controls,
    matched_random_heads,
)
from interp_jax.studies.thought_anchors.kl import divergence
from interp_jax.testing.tiny import random_parameters, tiny_config
from interp_jax.text.sentences import Sentence

HEADS, HEAD_DIM = 8, 4
CONFIG = tiny_config("llama", n_heads=HEADS, n_kv_heads=2, head_dim=HEAD_DIM)
LOUD, DEAD = (1, 5), (2, 3)  # planted: a head that is loud, and one whose output goes nowhere


@pytest.fixture(scope="module")
def parameters():
    """Biases included: what stays when all heads of a layer are gone."""
    params = dict(random_parameters(CONFIG))
    for (layer, head), factor in ((LOUD, 12.0), (DEAD, 0.0)):
        name = f"layers.{layer}.o.weight"
        rows = np.arange(HEADS * HEAD_DIM) // HEAD_DIM == head
        params[name] = params[name] * np.where(rows, factor, 1.0).astype(np.float32)[:, None]
    return params


@pytest.fixture(scope="module")
def network(parameters):
    return build_decoder(CONFIG, parameters)


@pytest.fixture(scope="module")
def trace():
    rng = np.random.default_rng(1)
    ends = np.cumsum(rng.integers(2, 7, 8))
    ranges = np.stack([np.concatenate([[0], ends[:-1]]), ends], axis=1).astype(np.int32)
    prompt = Prompt(rng.integers(3, 101, 4).astype(np.int32), np.zeros(4, np.int8))
    tokens = rng.integers(3, 101, ends[-1]).astype(np.int32)
    return Trace(prompt, tokens, "", tuple(Sentence("x", 0, 1, 1) for _ in ranges), ranges)


def kept(network, keep, layers):
    """`attn_out` [N, B, T, D], logits and touched counts with heads kept by factor."""
    rng = np.random.default_rng(2)
    tokens = np.broadcast_to(rng.integers(3, 101, (1, 9)), (keep.shape[1], 9))
    edit = KeepHeads("keep", Site("head_out", layers), keep=keep)
    logits, tape = run(
        network, Batch.make(tokens), edit, read(Site("attn_out", layers), name="out"),
        allow_untouched=True,
    )
    return np.asarray(tape["out"]), np.asarray(logits), np.asarray(tape["touched/keep"])


@pytest.mark.parametrize("layout", ["unrolled", "scanned"])
def test_oracle_20_heads_add_up(parameters, layout):
    """All heads gone leaves the bias, none gone the bits, and the heads' shares add up."""
    network = build_decoder(CONFIG, parameters, layout)
    keep = np.zeros((1, HEADS + 2, HEADS), np.float32)
    keep[0, :HEADS] = np.eye(HEADS)  # row h keeps head h alone
    keep[0, HEADS] = 1  # all; the last row keeps none
    out, logits, touched = kept(network, keep, (1,))
    bias = np.asarray(parameters["layers.1.o.bias"])
    assert np.abs(bias).max() > 0.1
    assert np.array_equal(out[0, -1], np.broadcast_to(bias, out[0, -1].shape))
    shares = out[0, :HEADS] - bias
    assert np.allclose(shares.sum(0) + bias, out[0, HEADS], atol=1e-5)
    assert all(np.abs(share).max() > 1e-3 for share in shares)
    untouched, base, _ = kept(network, np.ones_like(keep), (1,))
    assert np.array_equal(out[0, HEADS], untouched[0, HEADS])
    assert np.array_equal(logits[HEADS], base[HEADS])
    assert touched.tolist() == [9] * HEADS + [0, 9]


def test_rows_lose_what_the_verb_takes(network):
    """The same numbers as the general verb gives for one set of heads at a time."""
    keep = np.ones((2, 3, HEADS), np.float32)
    keep[0, 1, [0, 4]], keep[1, 2, 7] = 0, 0
    _, logits, _ = kept(network, keep, (0, 2))
    tokens = np.random.default_rng(2).integers(3, 101, (1, 9))
    for row, heads in enumerate(({}, {0: (0, 4)}, {2: (7,)})):
        alone, _ = run(network, Batch.make(tokens), ablate_heads(heads) if heads else compose())
        assert np.allclose(logits[row], np.asarray(alone)[0], atol=1e-5)


@pytest.fixture(scope="module")
def planted(network, trace):
    key = jax.random.key(0)
    return ablate_with_controls(network, trace, [LOUD], key=key, controls=9, at_once=4)


def test_planted_head_stands_out(planted):
    """A loud head does more than any control, by both measures; then p is 1 / (R + 1)."""
    assert {layer for heads in planted.controls for layer, _ in heads} == {LOUD[0]}
    assert all(LOUD not in heads for heads in planted.controls)
    for measure in ("kl", "log_probability"):
        effects = planted.effects(measure)
        assert effects[0] > effects[1:].max()
        assert planted.p_value(measure) == 0.1
    with pytest.raises(UserError, match="kl or log_probability"):
        planted.effects("accuracy")


def test_effects_are_those_of_single_runs(network, trace, planted):
    """KL at the sentence's tokens, and log-probability of its tokens, from plain logits."""
    batch = Batch.make(trace.ids[None])
    base, _ = run(network, batch)
    base = np.asarray(base)[0]
    ids, spans = trace.ids, trace.spans
    logs = lambda logits: np.asarray(jax.nn.log_softmax(logits, axis=-1))
    own = lambda logits, at: logs(logits)[at - 1, ids[at]].mean()
    for index, heads in enumerate([planted.heads, *planted.controls][:5]):
        (layer, head), = heads
        ablated, _ = run(network, batch, ablate_heads({layer: (head,)}))
        ablated = np.asarray(ablated)[0]
        kl = np.asarray(divergence(base, ablated))
        for sentence, (start, end) in enumerate(spans):
            at = np.arange(start, end)
            assert np.isclose(planted.kl[index, sentence], kl[at].mean(), rtol=1e-3, atol=1e-6)
            found = planted.log_probability[index, sentence]
            assert np.isclose(found, own(ablated, at), atol=1e-4)
            assert np.isclose(planted.base_log_probability[sentence], own(base, at), atol=1e-4)


def test_a_head_that_goes_nowhere_does_exactly_nothing(network, trace):
    found = ablate_with_controls(
        network, trace, [DEAD], key=jax.random.key(1), controls=3, at_once=4
    )
    assert np.array_equal(found.kl[0], np.zeros(len(trace.spans)))
    assert np.array_equal(found.log_probability[0], found.base_log_probability)
    assert found.p_value("kl") == 1 and (found.effects()[1:] > 0).all()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 99), counts=st.tuples(*[st.integers(0, 4)] * 3).filter(any))
def test_controls_match_layer_by_layer(seed, counts):
    """As many in each layer, never a chosen one where there are others, and no head twice."""
    rng = np.random.default_rng(seed)
    heads = [(n, int(h)) for n, c in enumerate(counts) for h in rng.permutation(6)[:c]]
    sets, overlapping = matched_random_heads(heads, 6, 4, jax.random.key(seed))
    assert overlapping == [n for n, c in enumerate(counts) if c > 3]
    for own in sets:
        assert len(set(own)) == len(own)
        assert [sum(n == layer for n, _ in own) for layer in range(3)] == list(counts)
        assert all(n in overlapping for n, _ in set(own) & set(heads))
    fewer, _ = matched_random_heads(heads, 6, 2, jax.random.key(seed))
    assert sets[:2] == fewer


@pytest.mark.parametrize("heads", [[], [(1, 2), (1, 2)], [(0, HEADS)], [(3, 0)]])
def test_heads_that_are_not_there_are_refused(network, trace, heads):
    with pytest.raises(UserError, match="different heads"):
        ablate_with_controls(network, trace, heads, key=jax.random.key(0))
