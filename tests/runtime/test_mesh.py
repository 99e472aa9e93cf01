"""Meshes are read from text; sizes that do not fit are refused; letters map to axes."""

from __future__ import annotations

import jax
import pytest
from jax.sharding import AxisType, PartitionSpec

from interp_jax.runtime.errors import UserError
from interp_jax.runtime.mesh import (
    LETTERS,
    describe_letters,
    make_mesh,
    named_sharding,
    parse_mesh,
    partition_spec,
)

pytestmark = pytest.mark.core


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        ("data:8", {"data": 8}),
        ("data:-1", {"data": 8}),
        ("data:2,model:4", {"data": 2, "model": 4}),
        (" model : 4 , data : -1 ", {"model": 4, "data": 2}),
        ("data:8,model:-1", {"data": 8, "model": 1}),
    ],
)
def test_sizes(text, sizes):
    assert parse_mesh(text, 8) == sizes
    mesh = make_mesh(text)
    assert dict(mesh.shape) == sizes
    assert set(mesh.axis_types) == {AxisType.Auto}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data:4", "multiply to 4 .* expected the 8 devices"),
        ("data:3,model:-1", "multiply to 3 before the -1 .* a divisor of the 8 devices"),
        ("data:16,model:-1", "multiply to 16 before"),
        ("data:-1,model:-1", "-1 twice"),
        ("data:2,data:4", "axis 'data' twice"),
        ("rows:8", "axis 'rows' .* data, fsdp, model"),
        ("", "axis ''"),
        ("data", "size ''"),
        ("data:0", "size '0'"),
        ("data:-2", "size '-2'"),
        ("data:eight", "size 'eight'"),
    ],
)
def test_refused(text, message):
    with pytest.raises(UserError, match=message):
        make_mesh(text)


def test_some_of_the_devices():
    mesh = make_mesh("data:2,model:1", jax.devices()[4:6])
    assert list(mesh.devices.ravel()) == jax.devices()[4:6]


def test_letters_map_to_the_axes_that_are_there():
    mesh = make_mesh("data:2,model:4")
    assert partition_spec("BTD", mesh) == PartitionSpec("data", None, None)
    assert partition_spec("BHTT", mesh) == PartitionSpec("data", "model", None, None)
    # An axis is used once: of heads and features, the first.
    assert partition_spec("HF", mesh) == PartitionSpec("model", None)
    assert named_sharding("BTF", mesh).shard_shape((4, 3, 8)) == (2, 3, 2)
    with pytest.raises(UserError, match="axis letter 'Q'"):
        partition_spec("BQ", mesh)
    table = describe_letters(mesh).splitlines()
    assert len(table) == len(LETTERS) and "B  data" in table
    assert "T  whole on every device" in table
