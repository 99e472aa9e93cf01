"""Dictionaries in a network: closed forms with the package's own dictionaries, and refusals.

The contract of interventions (strength zero, counts, raggedness, layouts, generation, vmap, grad,
devices) is held in `test_contract`, by cases of `contract_cases`; see `test_dictionary_execution`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from interp_jax.dictionaries.build import crosscoder, sae, transcoder
from interp_jax.dictionaries.config import DictionaryConfig
from interp_jax.dictionaries.dictionary import Dictionary
from interp_jax.interventions import reads, verbs
from interp_jax.interventions.dictionary import (
    ablate_latent,
    clamp_latent,
    read_latents,
    splice,
    steer_latent,
)
from interp_jax.interventions.dictionary_reads import Max, TopLatents
from interp_jax.interventions.placing import detach, tap_names
from interp_jax.interventions.where import Where
from interp_jax.runtime.errors import UserError
from tests.interventions.contract import (
    LENGTHS,
    ROWS,
    batch_of,
    close,
    network,
    noise,
    same_bits,
)
from tests.interventions.small_dictionaries import (
    D,
    F,
    around,
    each,
    normalised,
    own,
    seen,
    small,
    told_by,
)


def test_a_splice_is_the_reconstruction():
    edits = [splice(f"resid_post[{i}]", d, error=False) for i, d in enumerate(each())]
    tape = seen(*(part for i, edit in enumerate(edits) for part in around(i, edit)), layers=5)
    for i, d in enumerate(each()):
        before, after = tape[f"before{i}"][0], tape[f"after{i}"][0]
        told, code, _ = jax.device_get(told_by(d, before))
        for row, length in enumerate(LENGTHS):
            close(after[row, :length], told[row, :length])
            assert np.max(np.abs(told[row, :length] - before[row, :length])) > 0.1
            assert 0 < np.mean(code[row, :length] > 0) < 0.9


def test_clamping_changes_the_contribution_of_the_latents_and_nothing_else():
    """x + (v - f_j) d_j, with f of the whole dictionary; values per row, one entry for none."""
    latents = np.asarray([[3, 5, -1], [0, 7, 2], [20, 1, 4], [-1, 23, 9]], np.int32)
    values = 2 * np.abs(noise(ROWS, 3, tag="values"))
    edits = [
        clamp_latent(f"resid_post[{i}]", d, latents, values, units=("code", "scaled")[i % 2])
        for i, d in enumerate(each())
    ]
    tape = seen(*(part for i, edit in enumerate(edits) for part in around(i, edit)), layers=5)
    changed = 0
    for i, d in enumerate(each()):
        before, after = tape[f"before{i}"][0], tape[f"after{i}"][0]
        wanted = values / (np.asarray(d.scale())[latents] if i % 2 else 1)
        rows, codes = np.asarray(d.written_rows()), jax.device_get(told_by(d, before))[1]
        for row, length in enumerate(LENGTHS):
            code = codes[row, :length]
            told = np.asarray(before)[row, :length]
            for p, j in enumerate(latents[row]):
                if j >= 0:
                    told = told + (wanted[row, p] - code[:, j])[:, None] * rows[j]
                    changed += np.sum(code[:, j] > 0)
            close(after[row, :length], told)
    assert changed > 50  # some of the latents were active


def test_a_clamped_latent_reads_as_the_value_where_rows_are_apart():
    """With decoder and encoder dual to each other, and all active, what is set is what is read."""
    arrays = {
        "encoder": jnp.eye(D), "decoder": jnp.eye(D), "encoder_bias": jnp.full(D, 9.0),
        "decoder_bias": jnp.full((1, D), -9.0),
    }  # fmt: skip
    d = Dictionary(DictionaryConfig(width=D, latents=D, activation="relu"), arrays)
    value = np.asarray([0.5, 2.0, 3.0, 0.0], np.float32)
    tape = seen(
        clamp_latent("resid_post[0]", d, 6, value, where=Where(positions=[1])),
        read_latents("resid_post[0]", d, latents=[6, 2], where=Where(positions=[1])),
    )
    np.testing.assert_allclose(
        tape["read_latents:resid_post[0]"][0, :, 1, 0], value, rtol=1e-5, atol=1e-5
    )
    np.testing.assert_array_equal(tape["touched/clamp_latent:resid_post[0]"], np.ones(ROWS))


def test_numbers_and_masks_and_one_latent_after_the_other_agree():
    latents = np.asarray([2, 9, 17])
    mask = np.isin(np.arange(F), latents)
    site = "resid_post[0]"
    for d in (each()[0], each()[1], each()[4]):
        one = seen(ablate_latent(site, d, latents), verbs.read(site, name="x"))["x"]
        two = seen(ablate_latent(site, d, mask), verbs.read(site, name="x"))["x"]
        rows = seen(
            ablate_latent(site, d, np.tile(mask, (ROWS, 1))), verbs.read(site, name="x")
        )["x"]  # fmt: skip
        close(one, two)
        close(one, rows)
        bare = seen(verbs.read(site, name="x"))["x"]
        assert float(jnp.max(jnp.abs(one - bare))) > 0.05


def test_ablating_all_latents_leaves_error_and_bias():
    d = each()[0]
    gone = ablate_latent("resid_post[0]", d, np.ones(F, bool))
    tape = seen(*around(0, gone))
    before, after = tape["before0"][0, 0], tape["after0"][0, 0]
    rest = before - d(before) + d.decode(jnp.zeros((before.shape[0], F)))
    close(after[: LENGTHS[0]], rest[: LENGTHS[0]])


def test_steering_adds_the_row_in_the_units_asked_for():
    d = normalised("jumprelu", 3)
    rows, scale = np.asarray(d.written_rows()), np.asarray(d.scale())
    wanted = {
        "code": rows[5] * 2, "scaled": rows[5] * 2 / scale[5],
        "unit": rows[5] * 2 / np.linalg.norm(rows[5]),
    }  # fmt: skip
    for units, vector in wanted.items():
        steer = steer_latent("resid_post[0]", d, 5, 2.0, units=units)
        tape = seen(*around(0, steer))
        moved = tape["after0"][0, 0] - tape["before0"][0, 0]
        np.testing.assert_allclose(moved, np.tile(vector, (10, 1)), atol=2e-6)
        assert tap_names(steer(small(1))) == ["steer_latent:resid_post[0]"]
    several = steer_latent("resid_post[0]", d, [5, 6], amount=[2.0, -1.0])
    tape = seen(*around(0, several))
    moved = tape["after0"][0, 0] - tape["before0"][0, 0]
    np.testing.assert_allclose(moved, np.tile(2 * rows[5] - rows[6], (10, 1)), atol=2e-6)


def test_amounts_by_own_position_leave_later_tokens_alone():
    d, amount = own("relu"), noise(ROWS, 4, tag="amount")
    tape = seen(*around(0, steer_latent("resid_post[0]", d, 5, 2.0, amount=amount)))
    moved = np.asarray(tape["after0"][0] - tape["before0"][0])
    told = 2 * amount[..., None] * np.asarray(d.written_rows())[5]
    np.testing.assert_allclose(moved[:, :4], told, atol=3e-6)
    assert not np.any(moved[:, 4:])
    np.testing.assert_array_equal(tape["touched/steer_latent:resid_post[0]"], 4)


def test_a_row_of_length_zero_steers_nowhere():
    d = own("relu")
    d = Dictionary(d.config, d.arrays() | {"decoder": d.array("decoder").at[5].set(0.0)})
    for units in ("code", "scaled", "unit"):
        tape = seen(*around(0, steer_latent("resid_post[0]", d, 5, 2.0, units=units)))
        same_bits(tape["after0"], tape["before0"])


def test_with_the_error_term_bits_stay_and_gradients_say_what_reaches_earlier_layers():
    """An exact dictionary, frozen error: the base's gradient. An empty one: none at all."""
    eye = jnp.eye(D)
    arrays = {
        "encoder": jnp.concatenate([eye, -eye]), "decoder": jnp.concatenate([eye, -eye]),
        "encoder_bias": jnp.zeros(2 * D), "decoder_bias": jnp.zeros((1, D)),
    }  # fmt: skip
    config = DictionaryConfig(width=D, latents=2 * D, activation="relu")
    exact = Dictionary(config, arrays)
    empty = Dictionary(config, arrays | {"decoder": jnp.zeros((2 * D, D))})
    other = Dictionary(config, arrays | {"decoder": noise(2 * D, D) / 4})
    net, batch = small(2), batch_of("llama")

    @jax.jit
    def slope(between):
        def score(push):
            before = verbs.add("resid_post[0]", push)
            logits, _ = verbs.compose(before, between)(net)(batch)
            return jnp.sum(jnp.sin(logits[:, 3])), logits

        return jax.value_and_grad(score, has_aux=True)(jnp.zeros(D))

    (_, base), plain = slope(None)
    put = lambda d, **options: splice("resid_post[1]", d, **options)
    for edit, wanted in (
        (put(exact, freeze_error=True), plain), (put(empty, freeze_error=True), 0 * plain),
        (put(other), plain),
    ):  # fmt: skip
        (_, logits), found = slope(edit)
        same_bits(logits, base)
        close(found, wanted, tolerance=1e-4)
    (_, logits), found = slope(put(other, freeze_error=True))
    same_bits(logits, base)
    (_, logits), part = slope(put(other, freeze_error=True, strength=0.25))
    same_bits(logits, base)
    close(part, 0.75 * plain + 0.25 * found, tolerance=1e-4)
    assert np.linalg.norm(found - plain) > 0.1 * np.linalg.norm(plain)


def test_gradients_reach_the_dictionary():
    """End-to-end training: the slope along one array, against a finite difference.

    With relu: the code of the others jumps at its threshold, and a difference would see that.
    """
    d, net, batch = own("relu"), small(2), batch_of("llama")

    floats = {k: v for k, v in d.arrays().items() if v.dtype == jnp.float32}
    rest = {k: v for k, v in d.arrays().items() if k not in floats}
    full = jax.jit(jax.value_and_grad(lambda f: _score(d.config, f | rest, net, batch)))
    slope = full(floats)[1]
    for name in ("decoder", "encoder", "encoder_bias"):
        size = jnp.linalg.norm(slope[name].ravel())
        step = 0.02 * slope[name] / size  # along the gradient, where a slope is largest
        ends = [full(floats | {name: floats[name] + s * step})[0] for s in (1, -1)]
        np.testing.assert_allclose(float(ends[0] - ends[1]) / 2, 0.02 * size, rtol=0.03)


def _score(config, arrays, net, batch):
    spliced = splice("resid_post[1]", Dictionary(config, arrays), error=False)
    return jnp.sum(jnp.sin(spliced(net)(batch)[0][:, :4]))


def test_a_transcoder_stands_in_for_the_mlp():
    t = own("relu", skip=True, centred=False, code_norm="none")
    edit = splice("mlp_out[0,2]", t, error=False, reads="mlp_in", name="put")
    tape = seen(
        verbs.read("mlp_in[0,2]", name="in"), edit, verbs.read("mlp_out[0,2]", name="out"),
        clamp_latent("mlp_out[0,2]", t, 4, 1.5, reads="mlp_in", name="set"),
        verbs.read("mlp_out[0,2]", name="set_out"), layers=3,
    )  # fmt: skip
    for layer in (0, 1):
        x, y = tape["in"][layer, 0], tape["out"][layer, 0]
        close(y, t(x))
        told = y + (1.5 - t.encode(x)[:, 4])[:, None] * t.written_rows()[4][None]
        close(tape["set_out"][layer, 0], told)
    net = edit(small(3))
    assert tap_names(net) == ["put#in", "put"] and not tap_names(detach(net, "put"))
    same_bits(tape["touched/put"], 2 * np.asarray(LENGTHS, np.int32))


def test_two_transcoders_in_one_block_each_read_their_own_input():
    one, two = (transcoder(D, D, F, jax.random.key(s), activation="relu") for s in (1, 2))
    shift = noise(D, tag="shift")
    tape = seen(
        verbs.read("mlp_in[0]", name="in"),
        splice("mlp_out[0]", one, error=False, reads="mlp_in", strength=0.5),
        verbs.add("mlp_in[0]", shift),
        splice("mlp_out[0]", two, error=False, reads="mlp_in", strength=0.5),
        verbs.read("mlp_out[0]", name="out"),
    )
    bare = seen(verbs.add("mlp_in[0]", shift), verbs.read("mlp_out[0]", name="out"))["out"][0, 0]
    x = tape["in"][0, 0]
    close(tape["out"][0, 0], 0.25 * bare + 0.25 * one(x) + 0.5 * two(x + shift[None]))


def test_heads_stand_side_by_side():
    d = own("relu")
    look = lambda name: verbs.read("head_out[0]", name=name)
    tape = seen(look("before"), splice("head_out[0]", d, error=False), look("after"))
    before, after = (tape[name][0, 0].reshape(10, D) for name in ("before", "after"))
    close(after, d(before))


def test_a_crosscoder_is_written_at_the_output_asked_for():
    two = crosscoder(2, D, F, jax.random.key(0), activation="relu", tied=False)
    rows = np.asarray(two.decoder_rows())
    for output in (0, 1):
        steer = steer_latent("resid_post[0]", two, 5, 2.0, output=output)
        tape = seen(*around(0, steer))
        moved = tape["after0"][0, 0] - tape["before0"][0, 0]
        np.testing.assert_allclose(moved, np.tile(2 * rows[5, output], (10, 1)), atol=2e-6)
    alone = crosscoder(
        2, D, F, jax.random.key(0), activation="relu", encoder_inputs=(1,), transposed=False
    )
    tape = seen(*around(0, splice("resid_post[0]", alone, error=False, output=0)))
    x = tape["before0"][0, 0]
    told = alone(jnp.stack([jnp.full_like(x, 7.0), x], axis=1))[:, 0]
    close(tape["after0"][0, 0], told)


def test_a_code_for_each_output_is_that_of_the_output_asked_for():
    apart = crosscoder(
        2, D, F, jax.random.key(0), k=3, code_norm="decoupled", encoder_inputs=(0,),
        transposed=False, tied=False,
    )  # fmt: skip
    arrays = apart.arrays() | {"threshold": jnp.asarray([0.1, 0.5])}
    apart = Dictionary(apart.config, arrays)
    tape = seen(
        *around(0, ablate_latent("resid_post[0]", apart, np.ones(F, bool), output=1)),
        read_latents("resid_post[0]", apart, latents=[1, 2], units="scaled", output=1, name="code"),
        verbs.read("resid_post[0]", name="x"),
    )
    pair = lambda x: jnp.stack([x, 0 * x], axis=1)
    x = tape["before0"][0, 0]
    code = apart.encode(pair(x))[:, 1]
    close(tape["after0"][0, 0], x - code @ apart.decoder_rows()[:, 1])
    scaled = apart.encode(pair(tape["x"][0, 0]))[:, 1] * apart.scale()[1][None]
    close(tape["code"][0, 0], scaled[:, 1:3])


def test_codes_are_read_and_reduced():
    d, site = each()[3], "resid_post[0]"
    tape = seen(
        verbs.read(site, name="x"),
        read_latents(site, d, name="top"),
        read_latents(site, d, reduce=reads.AsIs(), name="all"),
        read_latents(site, d, latents=[7, -1, 2], units="scaled", name="few"),
        read_latents(site, d, reduce=reads.Mean(), units="scaled", name="mean"),
        read_latents(site, d, reduce=TopLatents(3, Max()), name="max"),
    )
    tape = jax.device_get(tape)
    _, codes, scales = jax.device_get(told_by(d, tape["x"][0]))
    for row, length in enumerate(LENGTHS):
        code, scaled = codes[row, :length], scales[row, :length]
        close(tape["all"][0, row, :length], code)
        assert not np.any(tape["all"][0, row, length:])
        values, index = tape["top"][0, row, :length, 0], tape["top"][0, row, :length, 1]
        close(values, np.take_along_axis(code, np.asarray(index, int), -1))
        close(values, -np.sort(-code)[:, :16])
        few = scaled[:, [7, 0, 2]] * np.asarray([1, 0, 1], np.float32)
        close(tape["few"][0, row, :length], few)
        close(tape["mean"][0, row], scaled.mean(0))
        close(tape["max"][0, row, 0], np.sort(code.max(0))[::-1][:3])
        close(code.max(0)[np.asarray(tape["max"][0, row, 1], int)], tape["max"][0, row, 0])


REFUSED = [
    (lambda d: splice("resid_post[0]", sae(D + 1, F, jax.random.key(0)), False), "width 17"),
    (lambda d: splice("attn_scores[0]", d, False), "one value for each token"),
    (lambda d: splice("head_out[0].heads[1]", d, False), "no heads named"),
    (lambda d: splice("resid_post[0]", d, False, freeze_error=True), "freeze_error"),
    (lambda d: splice("resid_post[0]", d, delta=np.ones(3, np.float32)), "a delta of shape"),
    (lambda d: splice("mlp_in[0]", d, False, reads="mlp_out"), "earlier in the same block"),
    (lambda d: splice("mlp_out[0]", d, False, reads="mlp_in[1]"), "earlier in the same block"),
    (lambda d: splice("resid_post[9]", d, False), "layers below 5"),
    (lambda d: steer_latent("resid_post[0]", d, 24), "from 0 to 23"),
    (lambda d: clamp_latent("resid_post[0]", d, [1, 1], 0.0), "each once"),
    (lambda d: clamp_latent("resid_post[0]", d, [1, 2], [1.0, 2.0, 3.0]), "values of shape"),
    (lambda d: clamp_latent("resid_post[0]", d, np.ones(3, bool), 0.0), "a mask over 3"),
    (lambda d: clamp_latent("resid_post[0]", d, [1.5], 0.0), "whole numbers"),
    (lambda d: clamp_latent("resid_post[0]", d, 1, np.nan), "finite"),
    (lambda d: steer_latent("resid_post[0]", d, 1, units="metres"), "units 'metres'"),
    (lambda d: read_latents("resid_post[0]", d, latents=np.ones(F, bool)), "a mask of latents"),
    (lambda d: splice("resid_post[0]", own("relu", skip=True), False), "reads="),
]


@pytest.mark.parametrize(("make", "said"), REFUSED, ids=[said for _, said in REFUSED])
def test_what_cannot_be_is_refused(make, said):
    with pytest.raises(UserError, match=said):
        make(each()[0])(network("gemma"))


def test_a_crosscoder_of_two_models_is_only_steered():
    both = crosscoder(2, D, F, jax.random.key(0), activation="relu")
    for make in (
        lambda: splice("resid_post[0]", both, error=False, output=0),
        lambda: clamp_latent("resid_post[0]", both, 1, 0.0, output=0),
        lambda: read_latents("resid_post[0]", both),
    ):
        with pytest.raises(UserError, match="only steer_latent works here"):
            make()(network("gemma"))
    with pytest.raises(UserError, match="say which with output="):
        steer_latent("resid_post[0]", both, 1)(network("gemma"))
    with pytest.raises(UserError, match="output 2"):
        steer_latent("resid_post[0]", both, 1, output=2)(network("gemma"))
