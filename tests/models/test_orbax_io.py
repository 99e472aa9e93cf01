"""Parameters through an Orbax checkpoint and back."""

import numpy as np
import pytest

from interp_jax.models.orbax_io import read_orbax, save_orbax
from interp_jax.models.sharding import parameter_sharding
from interp_jax.runtime.errors import UserError
from interp_jax.runtime.mesh import make_mesh
from interp_jax.testing.tiny import random_parameters, tiny_config


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_round_trip_is_exact(family, tmp_path):
    config = tiny_config(family)
    params = random_parameters(config, 0)
    save_orbax(tmp_path / "model", config, params)
    again, read = read_orbax(tmp_path / "model")
    assert again == config
    assert read.keys() == params.keys()
    assert all(np.array_equal(read[n], params[n]) for n in params)


def test_each_device_reads_its_own_part(tmp_path):
    config = tiny_config("llama")
    params = random_parameters(config, 0)
    save_orbax(tmp_path / "model", config, params)
    sharding_for = parameter_sharding(make_mesh("data:4,model:2"))
    _, read = read_orbax(tmp_path / "model", sharding_for=sharding_for)
    for name, value in params.items():
        assert np.array_equal(read[name], value)
        assert read[name].sharding == sharding_for(name, value.shape)
    gate = read["layers.0.gate.weight"]
    assert gate.addressable_shards[0].data.shape[1] == gate.shape[1] // 2


def test_refusals(tmp_path):
    config = tiny_config("llama")
    params = random_parameters(config, 0)
    save_orbax(tmp_path / "model", config, params)
    with pytest.raises(UserError, match="a new folder"):
        save_orbax(tmp_path / "model", config, params)
    with pytest.raises(UserError, match="config.json"):
        read_orbax(tmp_path / "nothing")
    with pytest.raises(UserError, match="bfloat16"):
        read_orbax(tmp_path / "model", dtype="bfloat16")
