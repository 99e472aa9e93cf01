"""Latent Scaling in one pass, held to dense least squares, and to what cannot change it."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from interp_jax.dictionaries import metrics
from interp_jax.dictionaries.build import crosscoder, sae
from interp_jax.dictionaries.dictionary import Dictionary
from interp_jax.runtime.errors import UserError
from interp_jax.studies.model_diffing.latent_scaling import latent_scaling
from interp_jax.studies.model_diffing.moments import (
    MomentsPlan,
    add_moments,
    groups_of,
    no_moments,
    vector_tables,
)
from interp_jax.studies.model_diffing.subsets import verdicts
from tests.studies.model_diffing.planted import activations, random_crosscoder

pytestmark = pytest.mark.core
ROWS = 64
VECTORS = ("own", "random", "shuffled")


def scaled(dictionary, x, *, keep=None, documents=None, batch=None, floor=None, **fields):
    plan = MomentsPlan(**{"vectors": VECTORS, "groups": 4} | fields)
    vectors = vector_tables(dictionary, plan, jax.random.key(7))
    keep = np.ones(len(x), bool) if keep is None else keep
    group = groups_of(np.arange(len(x)) // 4 if documents is None else documents, plan.groups)
    moments = no_moments(dictionary, plan)
    for at in range(0, len(x), batch or len(x)):
        part = slice(at, at + (batch or len(x)))
        moments = add_moments(
            moments, dictionary, x[part], jnp.asarray(keep[part]), jnp.asarray(group[part]),
            vectors, plan, floor,
        )
    return latent_scaling(moments, dictionary, vectors, plan), vectors, moments


def least_squares(dictionary, x, vectors, floor=None):
    """`betas` of each table by numpy's lstsq on f v against y, latent by latent, in float64."""
    f64 = lambda a: np.asarray(a, np.float64)
    code, told = f64(dictionary.encode(x)), f64(dictionary(x))
    own_code = [code[:, 0], code[:, 1]] if code.ndim == 3 else [code, code]
    value = own_code[1].copy()
    if floor is not None:
        shown = f64(dictionary.scaled(dictionary.encode(x)))
        value[(shown[:, 1] if shown.ndim == 3 else shown) < floor] = 0
    h, rows = f64(x), [f64(dictionary.written_rows(m)) for m in (0, 1)]
    bias = f64(dictionary.restore(dictionary.array("decoder_bias")[None])[0])
    found = []
    for table in f64(vectors):
        betas = {}
        for m, model in enumerate(("base", "chat")):
            for j in range(value.shape[1]):
                error = h[:, m] - (told[:, m] - own_code[m][:, j, None] * rows[m][j])
                targets = {"activation": h[:, m], "activation_no_bias": h[:, m] - bias[m],
                           "reconstruction": told[:, m], "error": error}  # fmt: skip
                a = (value[:, j, None] * table[j]).reshape(-1, 1)
                for name, y in targets.items():
                    beta = np.linalg.lstsq(a, y.reshape(-1), rcond=None)[0][0]
                    silent = not np.any(value[:, j])
                    betas.setdefault(f"{name}_{model}", []).append(np.nan if silent else beta)
        found.append({name: np.asarray(of) for name, of in betas.items()})
    return found


CASES = {
    "batch_topk": {},
    "relu": {"activation": "relu"},
    "normalised": {"normaliser": True},
    "decoupled": {"code_norm": "decoupled"},
    "skip": {"skip": True},
    "one encoder": {"encoder_inputs": (1,)},
}


@pytest.mark.parametrize(
    ("name", "capacity"),
    [*((name, 20) for name in CASES), ("batch_topk", 2), ("normalised", 2)],
)
def test_one_pass_is_least_squares(name, capacity):
    d, x = random_crosscoder(**CASES[name]), activations(ROWS)
    if name == "skip":
        skip = 0.1 * jax.random.normal(jax.random.key(3), d.array("skip").shape)
        d = Dictionary(d.config, d.arrays() | {"skip": skip})
    found, vectors, moments = scaled(d, x, capacity=capacity)
    crowded = int(np.max(np.sum(np.asarray(d.encode(x)) > 0, axis=-1)))
    dense = name == "decoupled" or crowded > capacity
    assert int(moments.dense_batches) == dense and (capacity == 2) <= dense
    expected = least_squares(d, x, vectors)
    own = [found.betas, found.controls["random"], found.controls["shuffled"]]
    for told, betas in zip(own, expected, strict=True):
        for target, value in betas.items():
            np.testing.assert_allclose(told[target], value, rtol=2e-4, atol=2e-5, err_msg=target)
    np.testing.assert_allclose(
        found.ratios["nu_eps"], expected[0]["error_base"] / expected[0]["error_chat"], rtol=1e-3,
        atol=1e-4,
    )
    assert np.isnan(found.ratios["nu_r"][-1]) and not found.alive[-1]
    assert found.alive.sum() > 10


def test_rows_that_are_not_kept_count_for_nothing():
    d, x = random_crosscoder(), activations(ROWS)
    keep = np.arange(ROWS) % 3 > 0
    whole, _, _ = scaled(d, jnp.where(keep[:, None, None], x, jnp.nan), keep=keep)
    part, _, _ = scaled(d, x[keep], documents=(np.arange(ROWS) // 4)[keep])
    assert whole.tokens == part.tokens == keep.sum()
    for name, value in part.ratios.items():
        np.testing.assert_allclose(whole.ratios[name], value, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(whole.errors[name], part.errors[name], rtol=1e-3, atol=1e-5)
    np.testing.assert_array_equal(whole.active, part.active)
    np.testing.assert_allclose([whole.fve, whole.l0], [part.fve, part.l0], rtol=1e-5)


def test_batches_add_up_and_quality_is_that_of_the_metrics():
    d, x = random_crosscoder(), activations(ROWS)
    whole, vectors, _ = scaled(d, x)
    parts, _, _ = scaled(d, x, batch=16)
    for name, value in whole.betas.items():
        np.testing.assert_allclose(parts.betas[name], value, rtol=1e-4, atol=1e-5)
    summary = metrics.summary(metrics.evaluate(d, x))
    for found in (whole, parts):
        np.testing.assert_allclose(found.fve, summary["fve"], rtol=1e-5)
        np.testing.assert_allclose(
            [found.fve_base, found.fve_chat], summary["fve_per_output"], rtol=1e-5
        )
        np.testing.assert_allclose(found.l0, summary["l0"], rtol=1e-6)
    np.testing.assert_allclose(whole.largest, np.asarray(d.activations(x)).max(0), rtol=1e-6)


def test_a_floor_leaves_weak_tokens_out_of_the_fit_alone():
    d, x = random_crosscoder(), activations(ROWS)
    floor = 0.5 * jnp.max(d.activations(x), axis=0)
    for capacity in (20, 2):
        found, vectors, _ = scaled(d, x, floor=floor, capacity=capacity, vectors=("own",))
        expected = least_squares(d, x, vectors, np.asarray(floor, np.float64))[0]
        for target, value in expected.items():
            np.testing.assert_allclose(found.betas[target], value, rtol=2e-4, atol=2e-5)


def with_arrays(d, **arrays):
    return Dictionary(d.config, d.arrays() | arrays)


def test_gauge_and_swapped_models():
    d, x = random_crosscoder(), activations(ROWS)
    found, _, _ = scaled(d, x)
    # Oracle: an encoder row times c and its decoder rows over c are the same latent.
    c = jnp.exp(jax.random.normal(jax.random.key(4), (20, 1)))
    same = with_arrays(d, encoder=d.array("encoder") * c, decoder=d.array("decoder") / c,
                       encoder_bias=d.array("encoder_bias") * c[:, 0])  # fmt: skip
    other, _, _ = scaled(same, x)
    for name in found.betas:
        np.testing.assert_allclose(other.betas[name], found.betas[name], rtol=1e-3, atol=1e-4)
    # The models' names are the caller's to say.
    flip = lambda a: a.reshape(20, 2, 6)[:, ::-1].reshape(20, 12)
    turned = with_arrays(d, encoder=flip(d.array("encoder")), decoder=flip(d.array("decoder")),
                         decoder_bias=d.array("decoder_bias")[::-1])  # fmt: skip
    again, _, _ = scaled(turned, x[:, ::-1], base=1, chat=0)
    for name in found.betas:
        np.testing.assert_allclose(again.betas[name], found.betas[name], rtol=1e-3, atol=1e-4)


def test_a_vector_twice_as_long_has_half_the_beta():
    d, x = random_crosscoder(), activations(ROWS)
    plan = MomentsPlan(vectors=("own", "random"), groups=2)
    own = d.written_rows(1)
    vectors = jnp.stack([own, 2 * own])
    moments = add_moments(
        no_moments(d, plan), d, x, jnp.ones(ROWS, bool), jnp.zeros(ROWS, jnp.int32), vectors, plan
    )
    found = latent_scaling(moments, d, vectors, plan)
    for name, value in found.betas.items():
        np.testing.assert_allclose(2 * found.controls["random"][name], value, rtol=1e-4, atol=1e-6)


def test_a_perfect_reconstruction_has_chat_betas_of_one():
    """Orthogonal latents that explain everything, the base at its own scale; controls hold none."""
    width, scales = 400, jnp.asarray([1.0, 0.5, 0.3, 0.0])
    d = crosscoder(2, width, 4, jax.random.key(0), activation="relu")
    rows = jnp.eye(4, width)
    decoder = jnp.concatenate([rows * scales[:, None], rows], axis=1)
    encoder = jnp.concatenate([jnp.zeros_like(rows), rows], axis=1)
    d = with_arrays(d, encoder=encoder, decoder=decoder)
    code = jnp.where(jax.random.bernoulli(jax.random.key(1), 0.3, (ROWS, 4)),
                     jax.random.uniform(jax.random.key(2), (ROWS, 4), minval=0.5), 0.0)
    found, vectors, _ = scaled(d, d.decode(code))
    for target in ("error", "reconstruction", "activation"):
        np.testing.assert_allclose(found.betas[f"{target}_chat"], 1.0, rtol=1e-5)
        np.testing.assert_allclose(found.betas[f"{target}_base"], scales, atol=1e-5)
        # In 400 dimensions a direction's share of another has standard deviation 0.05.
        assert np.abs(found.controls["random"][f"{target}_chat"]).max() < 0.25
    assert found.fve == pytest.approx(1.0)
    norms = np.linalg.norm(np.asarray(vectors), axis=-1)
    np.testing.assert_allclose(norms, 1.0, rtol=1e-5)
    own, shuffled = np.asarray(vectors[0]), np.asarray(vectors[2])
    assert np.all(np.sum(own * shuffled, axis=1) == 0)  # nobody got its own row


def test_the_two_artefacts_and_the_real_thing_are_told_apart():
    """Closed forms. Latents 0 to 2 have no base row: by norms all three are chat-only.

    0: the base model has it at 0.3 and the dictionary left that out (complete shrinkage).
    1: the base model has it whole, written by latent 3 (latent decoupling).
    2: the base model does not have it.
    """
    width, rows = 6, jnp.eye(4, 6)[jnp.asarray([0, 1, 2, 1])]
    d = crosscoder(2, width, 4, jax.random.key(0), activation="relu")
    none = jnp.zeros_like(rows)
    base = none.at[3].set(rows[3])
    chat = rows.at[3].set(0.0)
    d = with_arrays(d, encoder=jnp.concatenate([none, rows], axis=1),
                    decoder=jnp.concatenate([base, chat], axis=1))  # fmt: skip
    on = jax.random.bernoulli(jax.random.key(2), 0.4, (ROWS, 3))
    code = jnp.where(on, jax.random.uniform(jax.random.key(1), (ROWS, 3)), 0.0)
    held = jnp.pad(code, ((0, 0), (0, 3)))
    x = jnp.stack([held * jnp.asarray([0.3, 1, 0, 0, 0, 0])[None], held], axis=1)
    found, _, _ = scaled(d, x, vectors=("own",))
    np.testing.assert_allclose(found.ratios["nu_eps"][:3], [0.3, 0, 0], atol=1e-5)
    np.testing.assert_allclose(found.ratios["nu_r"][:3], [0, 1, 0], atol=1e-5)
    np.testing.assert_allclose(found.ratios["nu_act"][:3], [0.3, 1, 0], atol=1e-5)
    assert verdicts(np.arange(3), found.ratios["nu_eps"], found.ratios["nu_r"]) == {
        "shrinkage": 1, "decoupling": 1, "chat_specific": 1, "both": 0, "unknown": 0,
    }  # fmt: skip


def test_standard_errors_are_those_of_left_out_groups():
    d, x = random_crosscoder(), activations(ROWS)
    documents = np.arange(ROWS) % 4
    found, _, _ = scaled(d, x, documents=documents)
    left = np.stack([
        scaled(d, x[documents != g], documents=documents[documents != g])[0].ratios["nu_act"]
        for g in range(4)
    ])
    firing = np.stack([np.any(np.asarray(d.encode(x[documents == g])) > 0, axis=0)
                       for g in range(4)]).all(0)  # fmt: skip
    error = np.sqrt(3 / 4 * np.square(left - left.mean(0)).sum(0))
    assert firing.sum() > 5
    np.testing.assert_allclose(found.errors["nu_act"][firing], error[firing], rtol=1e-2, atol=1e-4)
    assert np.isnan(found.errors["nu_act"][-1])
    one, _, _ = scaled(d, x, documents=np.zeros(ROWS, int))
    assert np.isnan(one.errors["nu_r"]).all()


def test_many_tokens_add_up_in_float32():
    """A million additions of one batch: plain float32 sums would stop growing."""
    d, x = random_crosscoder(latents=4), activations(8)
    plan = MomentsPlan(groups=1)
    vectors = vector_tables(d, plan, jax.random.key(0))
    one = add_moments(no_moments(d, plan), d, x, jnp.ones(8, bool), jnp.zeros(8, jnp.int32),
                      vectors, plan)  # fmt: skip
    from interp_jax.studies.model_diffing.moments import _compensated

    times = 300_000
    high, low = jax.jit(lambda s: jax.lax.fori_loop(
        0, times, lambda _, c: _compensated(*c, s), (jnp.zeros_like(s), jnp.zeros_like(s))
    ))(one.high)
    total = np.asarray(high, np.float64) + np.asarray(low, np.float64)
    np.testing.assert_allclose(total, times * np.asarray(one.high, np.float64), rtol=1e-6)


def test_one_program_for_all_batches(compile_counter):
    d, x = random_crosscoder(), activations(ROWS)
    scaled(d, x, batch=16)
    with compile_counter() as counter:
        scaled(d, x + 1, batch=16)
        scaled(with_arrays(d, decoder=2 * d.array("decoder")), x, batch=16)
    assert counter.count_of("add_moments") == 0


@pytest.mark.parametrize(
    ("dictionary", "fields", "says"),
    [
        (lambda: sae(6, 8, jax.random.key(0), k=2), {}, "a dictionary of 1 inputs"),
        (random_crosscoder, {"base": 1}, "models at outputs 1 and 1"),
        (random_crosscoder, {"chat": 2}, "models at outputs 0 and 2"),
    ],
)
def test_what_is_no_pair_is_refused(dictionary, fields, says):
    with pytest.raises(UserError, match=says):
        no_moments(dictionary(), dataclasses.replace(MomentsPlan(), **fields))


def test_an_unknown_control_is_refused():
    with pytest.raises(UserError, match="own, random or shuffled"):
        vector_tables(random_crosscoder(), MomentsPlan(vectors=("own", "other")),
                      jax.random.key(0))  # fmt: skip
