"""Directions: means against a plain computation; a file that refuses the wrong model."""

import dataclasses
import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from interp_jax.interventions import verbs
from interp_jax.interventions.directions import (
    Direction,
    from_contrast_pairs,
    load_direction,
    weights_hash,
)
from interp_jax.interventions.reads import Last
from interp_jax.interventions.where import Where
from interp_jax.models.decoder import build_decoder
from interp_jax.models.sites import Site
from interp_jax.runtime.errors import UserError
from interp_jax.runtime.provenance import Provenance
from tests.interventions.contract import (
    CONFIGS,
    LENGTHS,
    batch_of,
    forward,
    network,
    own,
    padded,
    parameters,
    same_bits,
    token_rows,
)


def origin(net) -> Provenance:
    return Provenance(
        model="tiny", weights=weights_hash(net), tokenizer="none", dtype="float32", seed=0,
        data="pairs",
    )  # fmt: skip


def test_a_difference_of_means_is_what_it_says():
    net, config = network("llama"), CONFIGS["llama"]
    positive, negative = token_rows(config), token_rows(config, seed=9)
    halves = [padded(positive[:3]), padded(positive[3:], left=True)]
    made = from_contrast_pairs(net, halves, padded(negative), "resid_post[1]", origin(net))
    means = []
    for rows in (positive, negative):
        seen = forward(verbs.read("resid_post[1]", name="x")(net), padded(rows))[1]["x"][0]
        means.append(np.mean([own(seen, i, n).mean(0) for i, n in enumerate(LENGTHS)], axis=0))
    np.testing.assert_allclose(made.vector, means[0] - means[1], atol=1e-6)
    assert made.vector.dtype == np.float32 and made.provenance.site == "resid_post[1]"
    every = from_contrast_pairs(
        net, padded(positive), padded(negative), "resid_post", origin(net), reduce=Last()
    )
    assert every.vector.shape == (3, 16)
    np.testing.assert_allclose(np.linalg.norm(every.unit().vector, axis=-1), 1, atol=1e-6)


def test_it_steers_where_it_was_read():
    net, batch = network("llama", "scanned"), batch_of("llama")
    rows = np.linspace(-1, 1, 48, dtype=np.float32).reshape(3, 16)
    direction = Direction(rows, Site("resid_post"), "activation", origin(net))
    per_layer = verbs.compose(*(verbs.add(f"resid_post[{l}]", 2 * rows[l]) for l in range(3)))
    same_bits(
        forward(direction.add(np.float32(2.0))(net), batch)[0], forward(per_layer(net), batch)[0]
    )


def test_it_comes_back_from_its_file_and_only_for_its_model(tmp_path):
    net = network("llama")
    made = from_contrast_pairs(
        net, batch_of("llama"), batch_of("llama", left=True), "mlp_hidden[0,2]", origin(net)
    )
    path = made.save(tmp_path / "direction.safetensors")
    assert [file.name for file in tmp_path.iterdir()] == ["direction.safetensors"]
    assert list(load_file(path)) == ["vector"]
    # The scanned network has the same weights, so it is the same model.
    back = load_direction(path, network("llama", "scanned"))
    np.testing.assert_array_equal(back.vector, made.vector)
    assert dataclasses.replace(back, vector=0 * made.vector) is not made
    assert (back.site, back.scale, back.provenance) == (made.site, made.scale, made.provenance)

    other = dict(parameters(CONFIGS["llama"]))
    other["final_norm.gain"] = other["final_norm.gain"] * 2
    with pytest.raises(UserError, match="weights"):
        load_direction(path, build_decoder(CONFIGS["llama"], other))
    with pytest.raises(UserError, match="layers below 3"):
        dataclasses.replace(made, site=Site("mlp_hidden", (0, 7))).save(path)
        load_direction(path, net)
    with pytest.raises(UserError, match="width"):
        dataclasses.replace(made, site=Site("mlp_out", (0, 2))).save(path)
        load_direction(path, net)


def test_what_is_no_direction_is_refused(tmp_path):
    net = network("llama")
    path = tmp_path / "direction.safetensors"
    with pytest.raises(UserError, match="no readable file"):
        load_direction(path, net)
    whole = Direction(np.ones(16), Site("resid_mid", (1,)), "unit", origin(net)).save(path)
    data = whole.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    del header["__metadata__"]
    bare = json.dumps(header).encode()
    headless = len(bare).to_bytes(8, "little") + bare + data[8 + size :]
    for spoiled in (data[:-9], b"", data[:20], headless):
        path.write_bytes(spoiled)
        with pytest.raises(UserError, match="damaged"):
            load_direction(path, net)
    with pytest.raises(UserError, match="finite"):
        Direction(np.full(16, np.nan), Site("resid_mid", (1,)), "unit", origin(net))
    with pytest.raises(UserError, match="shape"):
        Direction(np.ones((2, 16)), Site("resid_mid", (1,)), "unit", origin(net))
    with pytest.raises(UserError, match="single vector"):
        from_contrast_pairs(net, batch_of("llama"), batch_of("llama"), "head_out[1]", origin(net))
    with pytest.raises(UserError, match="without a token"):
        from_contrast_pairs(
            net, batch_of("llama"), batch_of("llama"), "resid_mid[1]", origin(net),
            where=Where(positions=[8]),
        )  # fmt: skip
