"""Loading onto a mesh: each device reads and holds its own part, and the numbers stay."""

import jax
import numpy as np
import pytest

from interp_jax.generation.language_model import load
from interp_jax.models import safetensors_io
from interp_jax.models.batch import Batch
from interp_jax.models.safetensors_write import save_hf
from interp_jax.models.sharding import LETTERS, parameter_sharding
from interp_jax.runtime.mesh import make_mesh
from interp_jax.testing.tiny import random_parameters, tiny_config

# Extent of the mesh axis that cuts each axis letter.
MESH = "data:2,fsdp:2,model:2"
CUT = {"D": 2, "H": 2, "K": 2, "F": 2, "V": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small Llama with a tokenizer, and biases to be cut as well."""
    words = load("glassllm-en").tokenizer
    config = tiny_config("llama", vocab_size=1024)
    path = tmp_path_factory.mktemp("tiny") / "m"
    return str(save_hf(path, config, random_parameters(config), words))


@pytest.mark.parametrize("layout", ["unrolled", "scanned"])
def test_a_sharded_load_has_the_same_numbers(folder, layout):
    alone, mesh = load(folder, layout=layout), make_mesh(MESH)
    spread = load(folder, layout=layout, mesh=mesh)
    wanted = alone.network.parameters()
    for name, value in spread.network.parameters().items():
        np.testing.assert_array_equal(value, wanted[name], err_msg=name)
    forward = jax.jit(lambda network, batch: network(batch)[0])
    tokens = np.random.default_rng(0).integers(4, 1024, (2, 12))
    valid = np.arange(12)[None, :] < np.asarray([[12], [7]])
    ours, theirs = (
        np.asarray(forward(lm.network, Batch.make(tokens, valid))) for lm in (spread, alone)
    )
    assert np.abs(theirs).max() > 1
    assert np.abs(ours - theirs)[valid].max() <= 1e-5 * np.abs(theirs).max()
    if layout == "scanned":  # which compiles sooner
        prompts = ["Alice was", "The Queen of"]
        outs = [lm.generate(prompts, max_new_tokens=4) for lm in (spread, alone)]
        assert [o.tokens.tolist() for o in outs[0]] == [o.tokens.tolist() for o in outs[1]]
        for one, two in zip(*outs, strict=True):
            np.testing.assert_allclose(one.log_probs, two.log_probs, rtol=0, atol=1e-4)


@pytest.mark.parametrize("layout", ["unrolled", "scanned"])
def test_each_device_holds_its_part_only(folder, layout):
    network = load(folder, layout=layout, mesh=make_mesh(MESH)).network
    for name, value in network.parameters().items():
        letters = LETTERS.get(".".join(name.split(".")[-2:]), "")
        part = tuple(
            size // CUT[letter] for size, letter in zip(value.shape, letters, strict=False)
        ) + value.shape[len(letters) :]
        assert len(value.addressable_shards) == 8
        assert {shard.data.shape for shard in value.addressable_shards} == {part}, name
        assert (letters == "") == name.endswith("gain"), name
    leaves = jax.tree.leaves(network)
    whole = sum(leaf.nbytes for leaf in leaves)
    held = sum(leaf.addressable_shards[0].data.nbytes for leaf in leaves)
    assert held < 0.27 * whole  # a quarter, and the norms


def test_a_dimension_that_does_not_divide_stays_whole():
    place = parameter_sharding(make_mesh("model:8"))
    assert place("embed.table", (101, 32)).spec == jax.sharding.PartitionSpec(None, None)
    assert place("embed.table", (104, 32)).spec == jax.sharding.PartitionSpec("model", None)
    assert place("layers.0.q.weight", (32, 64)).spec == jax.sharding.PartitionSpec(None, "model")
    gain = place("layers.0.attn_norm.gain", (32,))
    assert gain.is_fully_replicated


def test_each_device_reads_its_part_only(folder, monkeypatch):
    """No read of a file is larger than what one device holds of a parameter."""
    asked, read = [], safetensors_io._Source.read

    def spy(source, index, dtype):
        out = read(source, index, dtype)
        asked.append(out.size)
        return out

    monkeypatch.setattr(safetensors_io._Source, "read", spy)
    network = load(folder, mesh=make_mesh("model:8")).network
    values = network.parameters().values()
    assert set(asked) == {s.data.size for v in values for s in v.addressable_shards}
    assert max(asked) == network.embed.size // 8
