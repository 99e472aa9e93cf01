"""GGUF files: every element type, the format's three habits, and what is refused."""

import gguf
import jax
import numpy as np
import pytest
from gguf.quants import dequantize, quantize

from interp_jax.models import gguf_io
from interp_jax.models.config import LayerKind, Llama3Scaling, Rope, parameter_shapes
from interp_jax.models.gguf_config import llama3_factors
from interp_jax.models.gguf_io import read_gguf, split_half_rows
from interp_jax.models.sources import DEFAULT_MODEL, locate
from interp_jax.models.weight_names import gguf_names
from interp_jax.runtime.errors import UserError
from interp_jax.testing.host_bytes import most_held, sizes
from interp_jax.testing.tiny import random_parameters, tiny_config

#: Config fields that GGUF has, as the files of each architecture would hold them.
CONFIGS = {
    "llama": dict(pattern=(LayerKind(None, Rope(500.0)),), head_dim=8),
    "qwen2": dict(pattern=(LayerKind(None, Rope(500.0)),)),
    "qwen3": dict(
        pattern=(LayerKind(None, Rope(500.0, linear_factor=4.0)),), qkv_bias=False, out_bias=False
    ),
    "gemma": dict(qkv_bias=False, out_bias=False, tied_head=True),
    "gemma2": dict(query_scale=12**-0.5, qkv_bias=False, out_bias=False),
    "gemma3": dict(query_scale=12**-0.5, qkv_bias=False, out_bias=False),
}


def config_of(arch, **over):
    return tiny_config(arch, **{**CONFIGS[arch], **over})


def write(path, config, params, kinds=None, arch=None, extra=(), tensors=None):
    """A GGUF file of these parameters, written as the converters do."""
    arch = arch or config.family
    writer = gguf.GGUFWriter(path, arch)
    kinds = kinds or {}
    writer.add_block_count(config.n_layers)
    writer.add_context_length(config.max_context)
    writer.add_embedding_length(config.width)
    writer.add_feed_forward_length(config.mlp_width)
    writer.add_head_count(config.n_heads)
    writer.add_head_count_kv(config.n_kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    full = next((k for k in config.pattern if k.window is None), config.pattern[0])
    writer.add_rope_freq_base(full.rope.theta)
    if full.rope.linear_factor != 1:
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(full.rope.linear_factor)
    if config.attn_softcap is not None:
        writer.add_attn_logit_softcapping(config.attn_softcap)
    if config.logit_softcap is not None:
        writer.add_final_logit_softcapping(config.logit_softcap)
    near = [k for k in config.pattern if k.window is not None]
    if near:
        writer.add_sliding_window(near[0].window)
        if near[0].rope.theta != full.rope.theta:
            writer.add_float32(f"{arch}.rope.freq_base_swa", near[0].rope.theta)
    for key, value in extra:
        writer.add_uint32(key, value)
    stored = {}
    for name, theirs in gguf_names(config).items():
        array = np.asarray(params[name], np.float32)
        array = array.T if name.endswith(".weight") else array
        if arch == "llama" and name.split(".")[-2] in ("q", "k"):
            heads = config.n_heads if ".q." in name else config.n_kv_heads
            shape = array.shape
            array = array.reshape(heads, 2, shape[0] // heads // 2, *shape[1:])
            array = array.swapaxes(1, 2).reshape(shape)
        if name.endswith(".gain"):
            array = array + np.float32(config.norm_offset)
        stored[theirs] = np.ascontiguousarray(array)
    for name, array in (stored | (tensors or {})).items():
        kind = kinds.get(name, "F32")
        if kind == "F32":
            writer.add_tensor(name, array)
        else:
            quant = gguf.GGMLQuantizationType[kind]
            raw = array if array.dtype == np.uint8 else quantize(array, quant)
            writer.add_tensor(name, raw, raw_dtype=quant)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.core
@pytest.mark.parametrize("arch", list(CONFIGS))
def test_each_architecture_comes_back(arch, tmp_path):
    config = config_of(arch)
    params = random_parameters(config)
    back, read = read_gguf(write(tmp_path / "m.gguf", config, params))
    assert back == config
    assert {name: x.shape for name, x in read.items()} == parameter_shapes(config)
    for name, array in read.items():
        # Gemma's gains lose a bit or two in the +1 of the file.
        tolerance = 2e-7 if config.norm_offset and name.endswith(".gain") else 0.0
        np.testing.assert_allclose(array, params[name], rtol=0, atol=tolerance, err_msg=name)


@pytest.mark.core
@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0"])
def test_element_types_are_decoded_as_the_package_decodes_them(kind, tmp_path):
    config = config_of("llama", width=64, mlp_width=96)
    params = random_parameters(config)
    matrices = [
        n
        for n, ours in zip(gguf_names(config).values(), params, strict=True)
        if params[ours].ndim == 2
    ]
    path = write(tmp_path / "m.gguf", config, params, dict.fromkeys(matrices, kind))
    _, read = read_gguf(path)
    quant = gguf.GGMLQuantizationType[kind]
    for name in ("layers.1.up.weight", "embed.table", "layers.2.down.weight"):
        array = np.asarray(params[name])
        array = array.T if name.endswith(".weight") else array
        expected = dequantize(quantize(np.ascontiguousarray(array), quant), quant)
        expected = expected.T if name.endswith(".weight") else expected
        np.testing.assert_array_equal(read[name], expected.astype(np.float32), err_msg=name)
        assert np.abs(expected - np.asarray(params[name])).max() > 0, "nothing was lost"


@pytest.mark.core
@pytest.mark.parametrize("kind", ["Q4_K", "Q5_K", "Q6_K"])
def test_k_types_are_decoded_as_the_package_decodes_them(kind, tmp_path):
    """The package cannot write these, so the blocks are random bytes with finite scales."""
    config = config_of("llama", width=256, n_heads=2, n_kv_heads=1)
    quant = gguf.GGMLQuantizationType[kind]
    block, block_bytes = gguf.GGML_QUANT_SIZES[quant]
    raw = np.random.default_rng(0).integers(0, 256, (config.mlp_width, 256 // block * block_bytes))
    raw = raw.astype(np.uint8).reshape(-1, block_bytes)
    half = np.float16(0.01).tobytes()
    spots = (block_bytes - 2,) if kind == "Q6_K" else (0, 2)
    for at in spots:
        raw[:, at : at + 2] = np.frombuffer(half, np.uint8)
    raw = raw.reshape(config.mlp_width, -1)
    params = random_parameters(config)
    path = write(
        tmp_path / "m.gguf",
        config,
        params,
        {"blk.1.ffn_up.weight": kind},
        tensors={"blk.1.ffn_up.weight": raw},
    )
    _, read = read_gguf(path)
    expected = dequantize(raw, quant).T
    assert np.isfinite(expected).all() and expected.std() > 0
    np.testing.assert_array_equal(read["layers.1.up.weight"], expected)


@pytest.mark.core
def test_unpermuting_is_the_recipe():
    heads, rows, columns = 3, 24, 5
    stored = np.random.default_rng(0).standard_normal((rows, columns))
    out = np.empty_like(stored)
    out[split_half_rows(rows, heads)] = stored
    recipe = stored.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2)
    np.testing.assert_array_equal(out, recipe.reshape(rows, columns))


@pytest.mark.core
@pytest.mark.parametrize("arch", ["llama", "gemma3"])
def test_each_device_decodes_its_own_part(arch, tmp_path):
    config = config_of(arch)
    params = random_parameters(config)
    path = write(tmp_path / "m.gguf", config, params)
    mesh = jax.make_mesh(
        (4,), ("model",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:4]
    )

    def sharding_for(name, shape):
        axis = max((i for i, n in enumerate(shape) if n % 4 == 0), default=None)
        parts = ["model" if i == axis else None for i in range(len(shape))]
        return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*parts))

    _, whole = read_gguf(path)
    _, parts = read_gguf(path, sharding_for=sharding_for)
    for name in whole:
        np.testing.assert_array_equal(parts[name], whole[name], err_msg=name)


@pytest.mark.core
def test_host_holds_one_tensor_and_its_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr(gguf_io, "CHUNK", 1 << 14)
    config = config_of("llama", width=128, mlp_width=512, vocab_size=16384)
    params = random_parameters(config)
    matrices = [n for n in gguf_names(config).values() if "norm" not in n and "bias" not in n]
    path = write(tmp_path / "m.gguf", config, params, dict.fromkeys(matrices, "Q4_1"))
    read_gguf(path)
    most, read = most_held(lambda: read_gguf(path), gguf_io._Source, monkeypatch)
    largest, total = sizes(read)
    assert total > 1.2 * largest
    assert largest <= most < 1.25 * largest


@pytest.mark.core
def test_llama3_factors_are_recognised_and_others_refused(tmp_path):
    scaling = Llama3Scaling(8.0, 1.0, 4.0, 8192)
    config = config_of("llama", pattern=(LayerKind(None, Rope(500000.0, llama3=scaling)),))
    params = random_parameters(config)
    table = llama3_factors(500000.0, config.head_dim, scaling).astype(np.float32)
    path = write(tmp_path / "m.gguf", config, params, tensors={"rope_freqs.weight": table})
    assert read_gguf(path)[0].pattern == config.pattern
    odd = table * np.linspace(1, 1.1, table.size, dtype=np.float32)
    path = write(tmp_path / "o.gguf", config, params, tensors={"rope_freqs.weight": odd})
    with pytest.raises(UserError, match="rope_freqs.weight"):
        read_gguf(path)


@pytest.mark.core
def test_refusals(tmp_path):
    config = config_of("llama")
    params = random_parameters(config)
    with pytest.raises(UserError, match="architecture 'mamba'"):
        read_gguf(write(tmp_path / "a.gguf", config, params, arch="mamba"))
    extra = [("llama.expert_count", 8)]
    with pytest.raises(UserError, match="llama.expert_count"):
        read_gguf(write(tmp_path / "b.gguf", config, params, extra=extra))
    loose = {"blk.0.ffn_gate_inp.weight": np.zeros((4, 32), np.float32)}
    with pytest.raises(UserError, match="unexpected: blk.0.ffn_gate_inp.weight"):
        read_gguf(write(tmp_path / "c.gguf", config, params, tensors=loose))
    kinds = {"blk.0.ffn_up.weight": "Q5_1"}
    with pytest.raises(UserError, match=r"blk.0.ffn_up.weight Q5_1"):
        read_gguf(write(tmp_path / "d.gguf", config, params, kinds))
    with pytest.raises(UserError, match="no GGUF file"):
        read_gguf(tmp_path / "absent.gguf")
    (tmp_path / "e.gguf").write_bytes(b"PK" + bytes(100))
    with pytest.raises(UserError, match="does not begin with GGUF"):
        read_gguf(tmp_path / "e.gguf")


@pytest.mark.core
@pytest.mark.parametrize("share", [0.01, 0.05, 0.5, 0.999])
def test_truncated_file_is_named(share, tmp_path):
    config = config_of("llama")
    path = write(tmp_path / "m.gguf", config, random_parameters(config))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(UserError, match=r"m\.gguf (truncated|whose header breaks off)"):
        read_gguf(path)


def test_the_default_model_is_what_the_package_decodes():
    """Three tensors of SmolLM2 by the plain recipe: decode, undo the rows, transpose."""
    path = locate(DEFAULT_MODEL).path
    config, read = read_gguf(path)
    assert (config.n_layers, config.width, config.n_heads, config.n_kv_heads) == (30, 576, 9, 3)
    assert sum(x.size for x in read.values()) == 134_515_008
    tensors = gguf_io.open_gguf(path)
    for name, heads in (("blk.7.attn_q.weight", 9), ("blk.7.attn_k.weight", 3)):
        t = tensors.tensors[name]
        raw = tensors.data[t.offset : t.offset + t.n_bytes].reshape(t.shape[0], -1)
        w = dequantize(np.array(raw), gguf.GGMLQuantizationType[t.kind])
        rows, cols = w.shape
        w = w.reshape(heads, rows // heads // 2, 2, cols).swapaxes(1, 2).reshape(rows, cols)
        part = "q" if heads == 9 else "k"
        np.testing.assert_array_equal(read[f"layers.7.{part}.weight"], w.T)
