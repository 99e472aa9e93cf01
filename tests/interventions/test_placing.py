"""Placing: several edits in one tree, in any order, and trees that say what is in them."""

import dataclasses
import re

import jax
import numpy as np
import pytest
import treescope

from interp_jax.interventions import verbs
from interp_jax.interventions.lora import lora, merge_lora
from interp_jax.interventions.placing import detach, tap_names
from interp_jax.interventions.run import run
from interp_jax.interventions.where import Where
from interp_jax.models.decoder import build_decoder
from interp_jax.models.stack import Stack
from interp_jax.runtime.errors import UserError
from tests.interventions.contract import (
    CONFIGS,
    LENGTHS,
    batch_of,
    close,
    forward,
    network,
    noise,
    own,
    parameters,
    quick_forward,
    same_bits,
)

VECTOR = noise(16, tag="placing")


# Two layers, four times, and one more: enough that stacks remain when layers leave.
NINE = dataclasses.replace(CONFIGS["gemma"], n_layers=9)


def parts():
    """Edits and reads that split a stack, mixed with those that do not."""
    return {
        "steer": verbs.add("resid_post[1,5]", VECTOR, name="steer"),
        "weights": verbs.read("attn_weights[2]", name="weights"),
        "late": verbs.scale("attn_scores[8]", 0.5, name="late"),
        "stream": verbs.read("resid_post", name="stream"),
        "wide": verbs.add(
            "mlp_out", np.stack([VECTOR] * 9), name="wide", per_layer=True, strength=0.1
        ),
    }  # fmt: skip


@pytest.mark.parametrize("order", [list(parts()), list(parts())[::-1]])
def test_a_stack_is_split_around_what_is_in_it_already(order):
    whole = verbs.compose(*(parts()[name] for name in order))
    batch = batch_of("gemma")
    flat, split = (
        whole(build_decoder(NINE, parameters(NINE), layout)) for layout in ("unrolled", "scanned")
    )
    kinds = [type(segment).__name__ for segment in split.segments]
    assert kinds == ["Block"] * 4 + ["Stack", "Block"]
    assert set(tap_names(split)) == set(parts()) == set(tap_names(flat))
    close(quick_forward(flat, batch), quick_forward(split, batch))
    if order[0] == "steer":  # taking out some leaves the others
        fewer = [detach(net, "steer", "late") for net in (flat, split)]
        close(*(quick_forward(net, batch) for net in fewer))


def test_only_the_layers_asked_for_leave_the_stack():
    net = network("llama", "scanned")
    split = verbs.compose(
        verbs.add("resid_post", VECTOR, name="steer"), verbs.read("attn_weights[0]", name="weights")
    )(net)
    kinds = [type(s).__name__ for s in split.segments]
    assert kinds == ["Block", "Stack"] and split.segments[1].start == 1
    again = verbs.add("mlp_out[0,2]", VECTOR, name="more")(split)
    flat = verbs.add("mlp_out[0,2]", VECTOR)(verbs.add("resid_post", VECTOR)(network("llama")))
    close(forward(again, batch_of("llama"))[0], forward(flat, batch_of("llama"))[0])
    tape = forward(again, batch_of("llama"))[1]
    np.testing.assert_array_equal(tape["touched/steer"], [30, 21, 27, 12])
    np.testing.assert_array_equal(tape["touched/more"], [20, 14, 18, 8])


def test_unrolling_keeps_what_is_placed_and_scanning_refuses():
    edit = verbs.compose(
        verbs.add("resid_post", VECTOR, layer_weights=np.asarray([1, 0, 2], np.float32)),
        verbs.read("head_out[1]", name="heads"),
    )
    net = edit(network("llama", "scanned"))
    close(forward(net.with_layout("unrolled"), batch_of("llama")), forward(net, batch_of("llama")))
    with pytest.raises(UserError, match="detach"):
        edit(network("llama")).with_layout("scanned")
    back = detach(net.with_layout("unrolled")).with_layout("scanned")
    assert isinstance(back.segments[0], Stack)
    same_bits(forward(back, batch_of("llama"))[0], forward(detach(net), batch_of("llama"))[0])


@pytest.mark.core
def test_names_stay_apart_and_addresses_are_checked():
    net = network("llama")
    twice = verbs.compose(verbs.add("resid_mid[0]", VECTOR), verbs.add("resid_mid[0]", VECTOR))(net)
    assert tap_names(twice) == ["add:resid_mid[0]", "add:resid_mid[0]#2"]
    assert not tap_names(detach(twice, "add:resid_mid[0]"))
    with pytest.raises(UserError, match="layers below 3"):
        verbs.add("resid_mid[3]", VECTOR)(net)
    with pytest.raises(UserError, match="heads below 2"):
        verbs.add("attn_k[0].heads[2]", VECTOR[:4])(net)


@pytest.mark.core
def test_order_is_the_order_composed():
    net, batch = network("llama", "scanned"), batch_of("llama")
    put = verbs.replace("resid_mid[1]", VECTOR, name="put")
    half = verbs.scale("resid_mid[1]", 0.5, name="half")
    look = lambda name: verbs.read("resid_mid[1]", name=name)
    _, tape = forward(verbs.compose(look("a"), put, look("b"), half, look("c"))(net), batch)
    np.testing.assert_array_equal(tape["b"][0, 0, 0], VECTOR)
    np.testing.assert_array_equal(tape["c"][0, 0, 0], VECTOR / 2)
    assert not np.allclose(tape["a"], tape["b"])
    _, tape = forward(verbs.compose(half, put, look("d"))(net), batch)
    np.testing.assert_array_equal(tape["d"][0, 0, 0], VECTOR)


@pytest.mark.core
def test_run_proves_that_something_was_touched():
    net, batch = network("llama", "scanned"), batch_of("llama")
    nowhere = verbs.add("resid_post[1]", VECTOR, where=Where(positions=[50]))
    with pytest.raises(UserError, match="no token touched"):
        run(net, batch, nowhere)
    logits, _ = run(net, batch, nowhere, allow_untouched=True)
    same_bits(logits, run(net, batch)[0])
    some, _ = run(net, batch, logits_at=[3, -8])
    close(some, np.asarray(logits)[:, [3, 2]])
    each, _ = run(net, batch_of("llama", left=True), logits_at=np.asarray([[0], [3], [1], [6]]))
    close(each, np.asarray(logits)[:, :1])
    with pytest.raises(UserError, match="columns"):
        run(net, batch, logits_at=[10])


def test_a_merged_adapter_equals_the_attached_one():
    adapter = lora(CONFIGS["llama"], jax.random.key(1), targets=("q", "o", "down"), rank=2, rs=True)
    values = {
        name: {"a": pair["a"], "b": 0.05 * noise(*pair["b"].shape, tag=name)}
        for name, pair in adapter.trainable().items()
    }
    adapter, batch = adapter.with_trainable(values), batch_of("llama")
    for layout in ("unrolled", "scanned"):
        net = network("llama", layout)
        merged, attached = forward(merge_lora(net, adapter), batch), forward(adapter(net), batch)
        for row, length in enumerate(LENGTHS):
            close(own(merged[0], row, length), own(attached[0], row, length))
        assert not np.allclose(merged[0], forward(net, batch)[0], atol=1e-2)
    with pytest.raises(UserError, match="attach"):
        merge_lora(network("llama"), adapter.with_strength(0.5))


def test_a_notebook_shows_the_edit_in_its_block():
    look = verbs.suppress_attention(Where(spans=[[1, 3]]), layers=(2,), name="hide")
    net = verbs.compose(verbs.add("resid_post[1]", VECTOR, name="steer"), look)(network("llama"))
    with treescope.active_autovisualizer.set_scoped(None):
        shown = treescope.render_to_text(net)
    assert len(shown) < 30_000
    blocks = re.split(r"\bBlock\(", shown)[1:]
    assert len(blocks) == 3
    assert "Add(" not in blocks[0] and "SuppressAttention(" not in blocks[0] + blocks[1]
    for text, kind, site, name in (
        (blocks[1], "Add(", "resid_post", "steer"),
        (blocks[2], "SuppressAttention(", "attn_scores", "hide"),
    ):
        assert kind in text and site in text and name in text
    numbers = re.findall(r"-?\d+\.\d{4,}", shown)
    assert len(numbers) < 100, "weights are summarised, not listed"
