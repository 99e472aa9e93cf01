"""Hugging Face folders in and out: exact, sharded, in parts, frugal, and loud when broken."""

import errno
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from interp_jax.models import safetensors_io, safetensors_write
from interp_jax.models.config import parameter_shapes
from interp_jax.models.safetensors_io import read_hf
from interp_jax.models.safetensors_write import save_hf
from interp_jax.runtime.errors import UserError
from interp_jax.testing.host_bytes import most_held, sizes
from interp_jax.testing.tiny import FAMILIES, random_parameters, tiny_config

pytestmark = pytest.mark.core


def assert_same(ours, theirs):
    assert list(ours) == list(theirs)
    for name in ours:
        assert ours[name].dtype == theirs[name].dtype, name
        np.testing.assert_array_equal(
            np.asarray(ours[name]), np.asarray(theirs[name]), err_msg=name
        )


@pytest.fixture
def saved(tmp_path):
    config = tiny_config("llama")
    params = random_parameters(config)
    return config, params, save_hf(tmp_path / "model", config, params)


@pytest.mark.parametrize("family", FAMILIES)
def test_round_trip_is_exact(family, tmp_path):
    config = tiny_config(family)
    params = random_parameters(config)
    back, read = read_hf(save_hf(tmp_path / "m", config, params))
    assert back == config
    assert_same(read, params)


def test_shards_with_an_index_hold_the_same(saved, tmp_path):
    config, params, _ = saved
    folder = save_hf(tmp_path / "sharded", config, params, max_shard_bytes=20_000)
    files = sorted(p.name for p in folder.glob("*.safetensors"))
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert len(files) > 2 and set(index["weight_map"].values()) == set(files)
    assert index["metadata"]["total_size"] == sum(x.nbytes for x in params.values())
    assert_same(read_hf(folder)[1], params)


def test_bfloat16_keeps_gains_in_float32_and_writes_what_it_holds(saved, tmp_path):
    config, params, folder = saved
    _, read = read_hf(folder, dtype="bfloat16")
    for name, array in read.items():
        wanted = jnp.float32 if name.endswith(".gain") else jnp.bfloat16
        assert array.dtype == wanted
        assert jnp.array_equal(array, params[name].astype(wanted)), name
    assert_same(read_hf(save_hf(tmp_path / "b", config, read), dtype="bfloat16")[1], read)


def test_each_device_reads_its_own_part(saved, monkeypatch):
    config, params, folder = saved
    mesh = jax.make_mesh((8,), ("model",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec

    def sharding_for(name, shape):
        axis = next((i for i, size in enumerate(shape) if size % 8 == 0), None)
        parts = [None] * len(shape)
        if axis is not None:
            parts[axis] = "model"
        return jax.sharding.NamedSharding(mesh, spec(*parts))

    asked = []
    read = safetensors_io._Source.read
    monkeypatch.setattr(
        safetensors_io._Source,
        "read",
        lambda self, index, dtype: (
            asked.append((self.label, read(self, index, dtype).size)) or read(self, index, dtype)
        ),
    )
    _, loaded = read_hf(folder, sharding_for=sharding_for)
    assert_same(loaded, params)
    ups = [size for label, size in asked if label.endswith("layers.0.mlp.up_proj.weight")]
    assert ups == [32 * 40 // 8] * 8


@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_any_part_is_the_part_of_the_whole(data, tmp_path_factory):
    """`read(index)` is `read(everything)[index]`, whichever way the tensor is stored."""
    rows, columns = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 9))
    array = np.arange(rows * columns, dtype=np.float32).reshape(rows, columns)
    file = tmp_path_factory.mktemp("part") / "x.safetensors"
    save_file({"x": array}, file)
    transposed = data.draw(st.booleans())
    tensor = safetensors_io.safe_open(file, framework="np").get_slice("x")
    whole = array.T if transposed else array
    source = safetensors_io._Source(tensor, whole.shape, "x", transposed)
    index = tuple(
        slice(*sorted((data.draw(st.integers(0, n)), data.draw(st.integers(0, n)))))
        for n in whole.shape
    )
    np.testing.assert_array_equal(source.read(index, np.dtype(np.float32)), whole[index])


def test_host_holds_one_tensor_and_a_chunk(tmp_path, monkeypatch):
    """Bytes held beyond the arrays returned: the largest tensor and one chunk of it."""
    monkeypatch.setattr(safetensors_io, "CHUNK", 1 << 12)
    config = tiny_config("llama", width=128, mlp_width=512, vocab_size=4096)
    params = random_parameters(config)
    folder = save_hf(tmp_path / "big", config, params)
    read_hf(folder)  # what is imported on first use is not counted
    most, read = most_held(lambda: read_hf(folder), safetensors_io._Source, monkeypatch)
    largest, total = sizes(read)
    assert total > 2 * largest
    assert largest <= most < 1.25 * largest


def test_saving_is_all_or_nothing(saved, tmp_path, monkeypatch):
    config, params, folder = saved
    with pytest.raises(UserError, match="not empty"):
        save_hf(folder, config, params)
    broken = dict(params)
    del broken["final_norm.gain"]
    with pytest.raises(UserError, match="final_norm.gain missing"):
        save_hf(tmp_path / "new", config, broken)

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(safetensors_write, "_write_shard", full)
    with pytest.raises(UserError, match="space"):
        save_hf(tmp_path / "new", config, params)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model"]


def rewritten(folder, change):
    file = folder / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


def test_missing_unexpected_and_misshapen_tensors_are_told_together(saved):
    _, _, folder = saved

    def change(tensors):
        del tensors["model.layers.1.mlp.up_proj.weight"]
        tensors["model.layers.1.mlp.extra.weight"] = np.zeros(3, np.float32)
        tensors["model.norm.weight"] = np.zeros(7, np.float32)

    rewritten(folder, change)
    with pytest.raises(UserError) as error:
        read_hf(folder)
    for part in (
        str(folder),
        "1 tensors missing: model.layers.1.mlp.up_proj.weight",
        "1 tensors unexpected: model.layers.1.mlp.extra.weight",
        "model.norm.weight (7,) instead of (32,)",
    ):
        assert part in str(error.value)


@pytest.mark.parametrize("keep", [0, 5, 300, -8])
def test_truncated_file_is_named(saved, keep):
    _, _, folder = saved
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"model\.safetensors which is truncated"):
        read_hf(folder)


def test_missing_files_are_named(saved, tmp_path):
    config, params, folder = saved
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="neither model.safetensors nor"):
        read_hf(folder)
    sharded = save_hf(tmp_path / "s", config, params, max_shard_bytes=20_000)
    lost = sorted(sharded.glob("*.safetensors"))[1]
    lost.unlink()
    with pytest.raises(UserError, match=lost.name):
        read_hf(sharded)
    (sharded / "config.json").write_text("{")
    with pytest.raises(UserError, match="config.json which is no json"):
        read_hf(sharded)
    with pytest.raises(UserError, match="no file config.json"):
        read_hf(tmp_path / "nowhere")


def test_integer_weights_are_refused(saved):
    _, _, folder = saved
    rewritten(folder, lambda t: t.update({"model.norm.weight": np.zeros(32, np.int8)}))
    with pytest.raises(UserError, match="model.norm.weight I8"):
        read_hf(folder)


def test_a_stored_copy_of_a_tied_head_must_be_the_embedding(tmp_path):
    config = tiny_config("qwen2")
    params = random_parameters(config)
    folder = save_hf(tmp_path / "m", config, params)
    table = np.array(params["embed.table"])
    rewritten(folder, lambda t: t.update({"lm_head.weight": table}))
    assert_same(read_hf(folder)[1], params)
    rewritten(folder, lambda t: t.update({"lm_head.weight": table + np.float32(1)}))
    with pytest.raises(UserError, match="differs from the embedding"):
        read_hf(folder)


def test_shapes_are_those_of_the_contract(saved):
    config, params, folder = saved
    _, read = read_hf(folder)
    assert {name: x.shape for name, x in read.items()} == parameter_shapes(config)
