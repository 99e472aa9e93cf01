"""The module: shapes, code norms, gauge, kinds, and what its config refuses."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from interp_jax.dictionaries.activations import jumprelu, step
from interp_jax.dictionaries.build import (
    build,
    crosscoder,
    geometric_median,
    normaliser,
    sae,
    start_bias,
    transcoder,
)
from interp_jax.dictionaries.config import DictionaryConfig, axis_letters, parameter_shapes
from interp_jax.dictionaries.delta import delta
from interp_jax.dictionaries.dictionary import Dictionary
from interp_jax.runtime.errors import UserError
from interp_jax.runtime.mesh import make_mesh, named_sharding

pytestmark = pytest.mark.core
D, F, B = 6, 20, 8


def scrambled(dictionary: Dictionary, key) -> Dictionary:
    """Every float array moved a little, so that nothing is zero, tied or alike by accident."""
    arrays = dictionary.arrays()
    for i, (name, array) in enumerate(sorted(arrays.items())):
        if array.dtype == jnp.float32 and name not in ("threshold", "scale_in", "scale_out"):
            noise = jax.random.normal(jax.random.fold_in(key, i), array.shape)
            arrays[name] = array + 0.3 * noise
    return Dictionary(dictionary.config, arrays)


def shape(method, *axes: int) -> tuple[int, ...]:
    return jax.eval_shape(method, jax.ShapeDtypeStruct(axes, jnp.float32)).shape


def test_shapes_with_and_without_an_axis_of_inputs(fresh_key):
    plain, pair = sae(D, F, fresh_key(), k=3), crosscoder(2, D, F, fresh_key(), k=3)
    assert shape(plain.encode, B, D) == (B, F)
    assert shape(plain, 2, B, D) == (2, B, D)
    assert shape(plain, B, 1, D) == (B, 1, D)
    assert shape(pair.encode, B, 2, D) == (B, F)
    assert shape(pair, 3, B, 2, D) == (3, B, 2, D)
    apart = crosscoder(2, D, F, fresh_key(), k=3, code_norm="decoupled")
    assert shape(apart.encode, B, 2, D) == (B, 2, F)
    assert shape(apart.activations, B, 2, D) == (B, F)
    assert shape(apart, B, 2, D) == (B, 2, D)
    across = transcoder(D, 4, F, fresh_key(), k=3, skip=True)
    assert shape(across, B, D) == (B, 4)
    to_one = crosscoder(3, D, F, fresh_key(), k=3, outputs=1, encoder_inputs=(0, 2))
    assert shape(to_one, B, 3, D) == (B, D)


def test_encoder_subset_reads_only_its_inputs(fresh_key):
    d = crosscoder(3, D, F, fresh_key(), activation="relu", encoder_inputs=(2, 0))
    x = jax.random.normal(fresh_key(), (B, 3, D))
    enc = np.asarray(d.array("encoder")).reshape(F, 2, D)
    expected = np.einsum("bd,fd->bf", x[:, 2], enc[:, 0]) + np.einsum(
        "bd,fd->bf", x[:, 0], enc[:, 1]
    )
    np.testing.assert_allclose(d.encode(x), np.maximum(expected, 0), atol=1e-5)
    np.testing.assert_array_equal(d.encode(x), d.encode(x.at[:, 1].set(9.0)))


@pytest.mark.parametrize("norm", ["crosscoder", "sae", "mixed", "none", "decoupled"])
def test_code_norms(fresh_key, norm):
    d = scrambled(crosscoder(2, D, F, fresh_key(), k=3, code_norm=norm), fresh_key())
    rows = np.asarray(d.decoder_rows())
    each = np.linalg.norm(rows, axis=-1)
    flat = np.linalg.norm(rows.reshape(F, -1), axis=-1)
    expected = {
        "crosscoder": each.sum(1),
        "sae": flat,
        "mixed": 1.0 * flat + 0.1 * each.sum(1),
        "none": np.ones(F),
        "decoupled": each.T,
    }[norm]
    np.testing.assert_allclose(d.scale(), expected, rtol=1e-6)


def test_selection_ranks_scaled_codes_and_keeps_unscaled_ones(fresh_key):
    """Oracles 1 and 2 of the crosscoder spec."""
    d = scrambled(crosscoder(2, D, F, fresh_key(), k=3), fresh_key())
    x = jax.random.normal(fresh_key(), (B, 2, D))
    pre = np.asarray(d.read(x)) @ np.asarray(d.array("encoder")).T + np.asarray(
        d.array("encoder_bias")
    )
    code = np.maximum(pre, 0)
    order = np.argsort(-(code * np.asarray(d.scale())).ravel(), kind="stable")[: 3 * B]
    expected = np.zeros(B * F)
    expected[order] = code.ravel()[order]
    got = d.encode(x, "training")
    np.testing.assert_allclose(got, expected.reshape(B, F), atol=1e-5)
    assert int((got > 0).sum()) == min(3 * B, int((code > 0).sum()))
    few = d.encode(x, "training", k=F)  # fewer positives than asked: all, and no error
    assert int((few > 0).sum()) == int((code > 0).sum())


def test_decoupled_selects_per_output(fresh_key):
    d = scrambled(crosscoder(2, D, F, fresh_key(), k=3, code_norm="decoupled"), fresh_key())
    x = jax.random.normal(fresh_key(), (B, 2, D))
    code = d.encode(x, "training")
    assert [int(n) for n in (code > 0).sum((0, 2))] == [3 * B, 3 * B]
    expected = jnp.einsum("bof,fod->bod", code, d.decoder_rows()) + d.array("decoder_bias")[None]
    np.testing.assert_allclose(d(x) * 0 + d.decode(code), expected, atol=1e-5)


def test_threshold_is_strict_and_on_scaled_codes(fresh_key):
    d = scrambled(crosscoder(2, D, F, fresh_key(), k=3), fresh_key())
    x = jax.random.normal(fresh_key(), (B, 2, D))
    scaled = d.activations(x)  # the threshold is -1 at first: all positive ones
    edge = jnp.sort(scaled.ravel())[-5]
    d = Dictionary(d.config, d.arrays() | {"threshold": edge})
    assert int((d.encode(x) > 0).sum()) == 4


def test_gauge(fresh_key):
    """Oracle 3: a latent's scale can move between encoder and decoder."""
    d = scrambled(crosscoder(2, D, F, fresh_key(), k=3), fresh_key())
    x = jax.random.normal(fresh_key(), (B, 2, D))
    c = jnp.exp2(jnp.round(2 * jax.random.normal(fresh_key(), (F,))))  # exact in floats
    moved = {
        "encoder": d.array("encoder") * c[:, None],
        "encoder_bias": d.array("encoder_bias") * c,
        "decoder": d.array("decoder") / c[:, None],
    }
    other = Dictionary(d.config, d.arrays() | moved)
    for select in ("training", "inference"):
        np.testing.assert_allclose(d(x, select), other(x, select), atol=1e-5)
        np.testing.assert_allclose(
            d.activations(x, select), other.activations(x, select), atol=1e-5
        )
    np.testing.assert_array_equal(delta(d.decoder_norms()), delta(other.decoder_norms()))


def test_swapped_models_swap_delta(fresh_key):
    """Oracle 4."""
    d = scrambled(crosscoder(2, D, F, fresh_key(), k=3), fresh_key())
    swap = {n: d.array(n).reshape(F, 2, D)[:, ::-1].reshape(F, -1) for n in ("encoder", "decoder")}
    other = Dictionary(d.config, d.arrays() | swap)
    total = delta(d.decoder_norms()) + delta(other.decoder_norms())
    np.testing.assert_allclose(total, 1, atol=1e-6)


def test_init(fresh_key):
    d = crosscoder(2, D, F, fresh_key(), k=3, init_norm=0.005)
    rows = d.array("encoder").reshape(F, 2, D)
    np.testing.assert_allclose(jnp.linalg.norm(rows, axis=-1), 0.005, rtol=1e-5)
    np.testing.assert_array_equal(rows[:, 0], rows[:, 1])
    np.testing.assert_array_equal(d.array("encoder"), d.array("decoder"))
    np.testing.assert_array_equal(delta(d.decoder_norms()), 0.5)
    loose = crosscoder(2, D, F, fresh_key(), k=3, tied=False, transposed=False)
    rows = loose.array("encoder").reshape(F, 2, D)
    assert not np.allclose(rows[:, 0], rows[:, 1])
    assert not np.allclose(loose.array("encoder"), loose.array("decoder"))


def test_centred_and_skip(fresh_key):
    d = scrambled(sae(D, F, fresh_key(), activation="relu", centred=True), fresh_key())
    x = jax.random.normal(fresh_key(), (B, D))
    enc, bias = np.asarray(d.array("encoder")), np.asarray(d.array("decoder_bias"))[0]
    code = np.maximum((np.asarray(x) - bias) @ enc.T + np.asarray(d.array("encoder_bias")), 0)
    np.testing.assert_allclose(d.encode(x), code, atol=1e-5)
    np.testing.assert_allclose(d(x), code @ np.asarray(d.array("decoder")) + bias, atol=1e-5)
    t = scrambled(transcoder(D, 4, F, fresh_key(), activation="relu", skip=True), fresh_key())
    with_skip, without = t(x), t.decode(t.encode(x))
    np.testing.assert_allclose(with_skip - without, x @ t.array("skip"), atol=1e-5)


def test_normaliser_is_undone(fresh_key):
    mean, std = jnp.full((2, D), 3.0), jnp.stack([jnp.full(D, 2.0), jnp.full(D, 0.5)])
    stats = normaliser(mean, std) | normaliser(mean, std, side="out")
    np.testing.assert_allclose(stats["scale_in"][:, 0], [1 / (2 * D**0.5), 2 / D**0.5], rtol=1e-6)
    per_neuron = normaliser(mean, std, None)
    np.testing.assert_allclose(per_neuron["scale_in"][1], 2.0, rtol=1e-6)
    c = DictionaryConfig(inputs=2, width=D, latents=F, activation="relu", normaliser=True)
    d = build(c, fresh_key(), statistics=stats)
    x = 3 + jax.random.normal(fresh_key(), (B, 2, D))
    np.testing.assert_allclose(d.restore(d.normalise_targets(x)), x, atol=1e-5)
    np.testing.assert_allclose(d.decode(jnp.zeros((B, F))), jnp.broadcast_to(mean, (B, 2, D)))
    plain = Dictionary(
        dataclasses.replace(c, normaliser=False),
        {k: v for k, v in d.arrays().items() if k not in stats},
    )
    np.testing.assert_allclose(d.encode(x), plain.encode(d.normalise(x)), atol=1e-6)


def test_gated_is_a_jumprelu_with_a_second_threshold(fresh_key):
    for magnitude in ("exp", "softplus"):
        d = sae(D, F, fresh_key(), activation="gated", magnitude=magnitude, gain=True)
        d = scrambled(d, fresh_key())
        x = jax.random.normal(fresh_key(), (B, D))
        z = np.asarray(x) @ np.asarray(d.array("encoder")).T
        r = np.asarray(d.array("magnitude"))
        factor = np.exp(r) if magnitude == "exp" else np.log1p(np.exp(r))
        factor = factor * np.asarray(d.array("gain"))
        inner = z * factor + np.asarray(d.array("magnitude_bias"))
        expected = (z + np.asarray(d.array("encoder_bias")) > 0) * np.maximum(inner, 0)
        np.testing.assert_allclose(d.encode(x), expected, atol=1e-5)


def test_jumprelu_values_and_straight_through_gradients():
    pre = jnp.array([[0.5, 1.04, 1.2, 0.98]])
    level = jnp.ones(4)
    np.testing.assert_array_equal(jumprelu(pre, level, 0.1), [[0, pre[0, 1], pre[0, 2], 0]])
    to_pre, to_level = jax.grad(lambda p, t: jumprelu(p, t, 0.1).sum(), argnums=(0, 1))(pre, level)
    np.testing.assert_array_equal(to_pre, [[0, 1, 1, 0]])
    np.testing.assert_allclose(to_level, [0, -10, 0, -10])
    to_pre, to_level = jax.grad(lambda p, t: step(p, t, 0.1).sum(), argnums=(0, 1))(pre, level)
    np.testing.assert_array_equal(to_pre, 0)
    np.testing.assert_allclose(to_level, [0, -10, 0, -10])


def test_geometric_median():
    """Oracle 14."""
    line = jnp.array([0.0, 1.0, 2.0, 10.0, 11.0])[:, None, None] * jnp.ones((1, 2, 3))
    np.testing.assert_allclose(geometric_median(line), jnp.full((2, 3), 2.0), atol=1e-3)
    square = jnp.array([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])[:, None]
    np.testing.assert_allclose(geometric_median(square), [[0, 0]], atol=1e-5)
    far = line.at[-1].set(1e6)
    np.testing.assert_allclose(geometric_median(far), geometric_median(line), atol=1e-3)


def test_bias_starts_at_the_median(fresh_key):
    x = jax.random.normal(fresh_key(), (B, 2, D)) + 5
    d = start_bias(crosscoder(2, D, F, fresh_key(), k=3), x)
    np.testing.assert_allclose(d.array("decoder_bias"), geometric_median(x), atol=1e-6)


def test_every_array_has_letters_for_a_mesh(fresh_key):
    d = crosscoder(2, D, F, fresh_key(), k=3, code_norm="decoupled")
    mesh = make_mesh("data:2,model:4")
    for name, array in d.arrays().items():
        jax.device_put(array, named_sharding(axis_letters(name)[: array.ndim], mesh))
    assert axis_letters("encoder") == axis_letters("decoder") == "FD"


@pytest.mark.parametrize(
    "fields, word",
    [
        ({"activation": "sort"}, "sort"),
        ({"code_norm": "l2"}, "l2"),
        ({"latents": 0}, "latents"),
        ({"encoder_inputs": (0, 2)}, "encoder_inputs"),
        ({"prefixes": (4, 4, F)}, "prefixes"),
        ({"centred": True, "width_out": 3}, "centred"),
        ({"activation": "topk", "code_norm": "decoupled"}, "decoupled"),
        ({"gain": True}, "gain"),
    ],
)
def test_configs_that_make_no_sense_are_refused(fields, word):
    with pytest.raises(UserError, match=word):
        DictionaryConfig(**({"width": D, "latents": F} | fields))


def test_bad_arrays_and_inputs_are_refused(fresh_key):
    d = sae(D, F, fresh_key(), k=3)
    with pytest.raises(UserError, match="encoder of shape"):
        Dictionary(d.config, d.arrays() | {"encoder": jnp.ones((D, F))})
    with pytest.raises(UserError, match="skip"):
        Dictionary(d.config, d.arrays() | {"skip": jnp.ones((D, D))})
    with pytest.raises(UserError, match="activations of shape"):
        d.encode(jnp.ones((B, D + 1)))
    with pytest.raises(UserError, match="k = 99"):
        sae(D, F, fresh_key(), k=99)
    assert set(parameter_shapes(d.config)) <= set(d.arrays())
