"""Foreign layouts: exact round trips, the same numbers as their formulas, refusals by name."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from interp_jax.dictionaries.build import crosscoder, sae
from interp_jax.dictionaries.dictionary import Dictionary
from interp_jax.dictionaries.formats.crosscoder import read_crosscoder, write_crosscoder
from interp_jax.dictionaries.formats.dictionary_learning import (
    read_dictionary_learning,
    write_dictionary_learning,
)
from interp_jax.dictionaries.formats.files import Loaded, read_tensors
from interp_jax.dictionaries.formats.gemma_scope import read_gemma_scope, write_gemma_scope
from interp_jax.dictionaries.formats.kissane import read_kissane, write_kissane
from interp_jax.dictionaries.formats.native import read_native, write_native
from interp_jax.dictionaries.formats.saelens import read_saelens, write_saelens
from interp_jax.dictionaries.formats.saex import read_saex, write_saex
from interp_jax.runtime.errors import UserError

M, D, F, B = 2, 5, 12, 7


@pytest.fixture
def draw(request):
    rng = np.random.default_rng(len(request.node.name))
    return lambda *shape, dtype=np.float32: rng.normal(size=shape).astype(dtype)


def same_files(a, b):
    x, y = read_tensors(a), read_tensors(b)
    assert set(x) == set(y)
    for name in x:
        assert x[name].dtype == y[name].dtype, name
        np.testing.assert_array_equal(x[name], y[name], err_msg=name)


def relu(x):
    return np.maximum(x, 0)


def crosscoder_files(folder, draw, prefix="", **more):
    folder.mkdir()
    tensors = {
        "encoder.weight": draw(M, D, F),
        "encoder.bias": draw(F),
        "decoder.weight": draw(M, F, D),
        "decoder.bias": draw(M, D),
    } | more
    save_file(
        {prefix + n: np.array(t, order="C") for n, t in tensors.items()},
        folder / "model.safetensors",
    )
    config = {"activation_dim": D, "dict_size": F, "num_layers": M}
    (folder / "config.json").write_text(json.dumps(config))
    return tensors


def test_crosscoder_batch_topk(tmp_path, draw):
    t = crosscoder_files(
        tmp_path / "a",
        draw,
        code_normalization_id=np.asarray(1),
        k=np.asarray(3, np.int32),
        threshold=np.asarray(0.7, np.float32),
        target_rms=np.asarray(1.0, np.float32),
        activation_mean=np.full((M, D), np.nan, np.float32),
        activation_std=np.full((M, D), np.nan, np.float32),
        activation_global_scale=np.ones(M, np.float32),
    )
    loaded = read_crosscoder(tmp_path / "a")
    x = draw(B, M, D)
    code = relu(np.einsum("bmd,mdf->bf", x, t["encoder.weight"]) + t["encoder.bias"])
    scaled = code * np.linalg.norm(t["decoder.weight"], axis=2).sum(0)
    code = np.where(scaled > 0.7, code, 0)
    np.testing.assert_allclose(loaded.dictionary.encode(x), code, atol=1e-5)
    out = np.einsum("bf,mfd->bmd", code, t["decoder.weight"]) + t["decoder.bias"]
    np.testing.assert_allclose(loaded.dictionary(x), out, atol=1e-4)
    assert int(loaded.dictionary.array("k")) == 3
    write_crosscoder(tmp_path / "b", loaded)
    same_files(tmp_path / "a/model.safetensors", tmp_path / "b/model.safetensors")
    assert json.loads((tmp_path / "b/config.json").read_text()) == loaded.json["config.json"]


def test_crosscoder_old_files(tmp_path, draw):
    biases = draw(M, F)
    crosscoder_files(tmp_path / "a", draw, prefix="_orig_mod.", **{"encoder.bias": biases})
    d = read_crosscoder(tmp_path / "a").dictionary
    assert (d.config.activation, d.config.code_norm) == ("relu", "crosscoder")
    np.testing.assert_allclose(d.array("encoder_bias"), biases.sum(0), rtol=1e-6)


def test_crosscoder_normaliser(tmp_path, draw):
    mean, std = draw(M, D), np.exp(draw(M, D))
    scale = (2.0 / np.sqrt((std**2).sum(-1) + 1e-8)).astype(np.float32)
    crosscoder_files(
        tmp_path / "a",
        draw,
        target_rms=np.asarray(2.0, np.float32),
        activation_mean=mean,
        activation_std=std,
        activation_global_scale=scale,
        code_normalization_id=np.asarray(2),
    )
    loaded = read_crosscoder(tmp_path / "a")
    x = draw(B, M, D)
    np.testing.assert_allclose(
        loaded.dictionary.normalise(jnp.asarray(x)), (x - mean) * scale[:, None], rtol=1e-5
    )
    write_crosscoder(tmp_path / "b", loaded)
    same_files(tmp_path / "a/model.safetensors", tmp_path / "b/model.safetensors")
    with pytest.raises(UserError, match="activation_mean"):
        write_crosscoder(tmp_path / "c", Loaded(loaded.dictionary))


def test_our_crosscoders_go_out_and_come_back(tmp_path, fresh_key):
    for i, norm in enumerate(("crosscoder", "sae", "mixed", "none", "decoupled")):
        d = crosscoder(3, D, F, fresh_key(), k=3, code_norm=norm, encoder_inputs=(0, 2))
        write_crosscoder(tmp_path / str(i), Loaded(d))
        back = read_crosscoder(tmp_path / str(i)).dictionary
        assert back.config == d.config
        for name, array in d.arrays().items():
            np.testing.assert_array_equal(array, back.array(name), err_msg=name)


def test_crosscoder_refusals(tmp_path, draw):
    crosscoder_files(tmp_path / "a", draw, mystery=np.ones(1, np.float32))
    with pytest.raises(UserError, match="mystery"):
        read_crosscoder(tmp_path / "a")
    crosscoder_files(tmp_path / "b", draw)
    for field, value in (("riddle", 1), ("latent_processor", "f"), ("dict_size", F + 1)):
        (tmp_path / "b/config.json").write_text(json.dumps({field: value}))
        with pytest.raises(UserError, match=field):
            read_crosscoder(tmp_path / "b")
    (tmp_path / "c").mkdir()
    (tmp_path / "c/model_final.pt").write_bytes(b"")
    with pytest.raises(UserError, match="convert the pickle"):
        read_crosscoder(tmp_path / "c")
    with pytest.raises(UserError, match="save_file"):
        read_tensors(tmp_path / "c/model_final.pt")


def test_corrupt_and_object_files_are_refused(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0junk")
    np.savez(tmp_path / "b.npz", W_enc=np.array([{"a": 1}], object), allow_pickle=True)
    for name in ("a.safetensors", "b.npz"):
        with pytest.raises(UserError, match="cannot be read"):
            read_tensors(tmp_path / name)


def test_kissane(tmp_path, draw):
    folder = tmp_path / "a"
    folder.mkdir()
    t = {"W_enc": draw(M, D, F), "W_dec": draw(F, M, D), "b_enc": draw(F), "b_dec": draw(M, D)}
    t = {name: tensor.astype(np.float16) for name, tensor in t.items()}
    save_file(t, folder / "cc_weights.safetensors")
    (folder / "cfg.json").write_text(json.dumps({"d_in": D, "dict_size": F, "l1_coeff": 2}))
    scales = np.array([0.5, 2.0], np.float32)
    loaded = read_kissane(folder, scales)
    x = draw(B, M, D)
    wide = {name: tensor.astype(np.float32) for name, tensor in t.items()}
    code = relu(np.einsum("bmd,mdf->bf", x * scales[:, None], wide["W_enc"]) + wide["b_enc"])
    np.testing.assert_allclose(loaded.dictionary.encode(x), code, atol=1e-4)
    out = np.einsum("bf,fmd->bmd", code, wide["W_dec"]) + wide["b_dec"]
    np.testing.assert_allclose(loaded.dictionary(x), out / scales[:, None], rtol=1e-4, atol=1e-4)
    write_kissane(tmp_path / "b", loaded)
    same_files(folder / "cc_weights.safetensors", tmp_path / "b/cc_weights.safetensors")
    assert not read_kissane(folder, None).dictionary.config.normaliser
    (folder / "cfg.json").write_text(json.dumps({"twist": 2}))
    with pytest.raises(UserError, match="twist"):
        read_kissane(folder, None)


def linear_sae(draw):
    return {"encoder.weight": draw(F, D), "decoder.weight": draw(D, F), "encoder.bias": draw(F)}


def test_dictionary_learning(tmp_path, draw):
    k = {"k": np.asarray(3, np.int32), "threshold": np.asarray(0.2, np.float32)}
    matrix = {"W_enc": draw(D, F), "b_enc": draw(F), "W_dec": draw(F, D), "b_dec": draw(D)}
    gate = {n: draw(F) for n in ("r_mag", "gate_bias", "mag_bias")} | {"decoder_bias": draw(D)}
    lin = linear_sae(draw)
    weights = {n: lin[n] for n in ("encoder.weight", "decoder.weight")}
    cases = {
        "AutoEncoder": lin | {"bias": draw(D)},
        "AutoEncoderNew": lin | {"decoder.bias": draw(D)},
        "GatedAutoEncoder": weights | gate,
        "JumpReluAutoEncoder": matrix | {"threshold": np.abs(draw(F))},
        "AutoEncoderTopK": lin | {"b_dec": draw(D)} | k,
        "BatchTopKSAE": lin | {"b_dec": draw(D)} | k,
        "MatryoshkaBatchTopKSAE": matrix | k | {"group_sizes": np.asarray([4, 8])},
    }
    x = draw(B, D)
    for name, t in cases.items():
        folder = tmp_path / name
        folder.mkdir()
        save_file({n: np.array(a, order="C") for n, a in t.items()}, folder / "ae.safetensors")
        (folder / "config.json").write_text(json.dumps({"trainer": {"dict_class": name, "lr": 1}}))
        loaded = read_dictionary_learning(folder / "ae.safetensors")
        code, out = their_forward(name, t, x)
        ours = loaded.dictionary.encode(x)
        shown = loaded.dictionary.activations(x)
        np.testing.assert_allclose(shown, code, atol=1e-4, err_msg=name)
        np.testing.assert_allclose(loaded.dictionary.decode(ours), out, atol=1e-4, err_msg=name)
        for suffix in ("safetensors", "npz"):
            back = tmp_path / f"{name}-{suffix}" / f"ae.{suffix}"
            write_dictionary_learning(back, loaded)
            same_files(folder / "ae.safetensors", back)
            fresh = read_dictionary_learning(back).dictionary
            assert fresh.config == loaded.dictionary.config


def their_forward(name, t, x):
    """What their `encode` and `forward` give."""
    b_dec = t.get("bias", t.get("decoder.bias", t.get("b_dec", t.get("decoder_bias"))))
    enc = t["W_enc"] if "W_enc" in t else t["encoder.weight"].T
    dec = t["W_dec"] if "W_dec" in t else t["decoder.weight"].T
    b_enc = t.get("b_enc", t.get("encoder.bias", 0))
    norm = np.linalg.norm(dec, axis=1)
    centred = name not in ("AutoEncoderNew", "JumpReluAutoEncoder")
    z = (x - b_dec if centred else x) @ enc
    if name == "GatedAutoEncoder":
        f = (z + t["gate_bias"] > 0) * relu(np.exp(t["r_mag"]) * z + t["mag_bias"])
    else:
        f = relu(z + b_enc)
    if name == "JumpReluAutoEncoder":
        f = f * (z + b_enc > t["threshold"])
    elif name == "AutoEncoderTopK":
        f = f * (f >= np.sort(f, axis=1)[:, -3:-2])
    elif "threshold" in t:
        f = f * (f > t["threshold"])
    scaled = name in ("GatedAutoEncoder", "JumpReluAutoEncoder", "AutoEncoderNew")
    return f * norm if scaled else f, f @ dec + b_dec


def test_dictionary_learning_refusals(tmp_path, draw):
    save_file(linear_sae(draw), tmp_path / "ae.safetensors")
    with pytest.raises(UserError, match="dict_class"):
        read_dictionary_learning(tmp_path / "ae.safetensors")
    with pytest.raises(UserError, match="b_dec"):
        read_dictionary_learning(tmp_path / "ae.safetensors", "BatchTopKSAE")


def saelens_files(folder, tensors, **cfg):
    folder.mkdir()
    save_file(
        {n: np.array(a, order="C") for n, a in tensors.items()}, folder / "sae_weights.safetensors"
    )
    base = {"d_in": D, "d_sae": F, "dtype": "float32", "device": "cpu", "metadata": {"a": 1}}
    (folder / "cfg.json").write_text(json.dumps(base | cfg))


def test_saelens(tmp_path, draw):
    w = {"W_enc": draw(D, F), "W_dec": draw(F, D), "b_dec": draw(D), "b_enc": draw(F)}
    bare = {n: a for n, a in w.items() if n != "b_enc"}
    wide = {"W_dec": draw(F, 3), "b_dec": draw(3), "W_skip": draw(3, D)}
    norm = np.linalg.norm(w["W_dec"], axis=1)
    x = draw(B, D)
    z = (x - w["b_dec"]) @ w["W_enc"]
    gate = {n: draw(F) for n in ("b_gate", "r_mag", "b_mag")}
    top = relu(z + w["b_enc"]) * norm
    level = np.abs(draw(F))
    raw = relu(x @ w["W_enc"] + w["b_enc"])
    cases = {
        "standard": (w, {}, relu(z + w["b_enc"])),
        "gated": (
            bare | gate,
            {},
            (z + gate["b_gate"] > 0) * relu(z * np.exp(gate["r_mag"]) + gate["b_mag"]),
        ),
        "jumprelu": (
            w | {"threshold": level},
            {"apply_b_dec_to_input": False},
            raw * (x @ w["W_enc"] + w["b_enc"] > level),
        ),
        "topk": (
            w,
            {"k": 3, "rescale_acts_by_decoder_norm": True},
            top * (top >= np.sort(top, axis=1)[:, -3:-2]),
        ),
        "skip_transcoder": (w | wide, {"d_out": 3, "apply_b_dec_to_input": False}, raw),
    }
    for name, (t, cfg, code) in cases.items():
        saelens_files(tmp_path / name, t, architecture=name, **cfg)
        loaded = read_saelens(tmp_path / name)
        d = loaded.dictionary
        np.testing.assert_allclose(d.activations(x), code, atol=1e-4, err_msg=name)
        f = code / norm if name == "topk" else code
        out = f @ t["W_dec"] + t["b_dec"]
        if name == "skip_transcoder":
            out = out + x @ t["W_skip"].T
        np.testing.assert_allclose(d(x), out, atol=1e-4, err_msg=name)
        back = tmp_path / f"{name}-back"
        write_saelens(back, loaded)
        same_files(tmp_path / name / "sae_weights.safetensors", back / "sae_weights.safetensors")
        assert json.loads((back / "cfg.json").read_text()) == loaded.json["cfg.json"]
        write_saelens(tmp_path / f"{name}-new", Loaded(d))  # without their config beside
        again = read_saelens(tmp_path / f"{name}-new").dictionary
        np.testing.assert_array_equal(again(x), d(x))


def test_saelens_scaling_and_refusals(tmp_path, draw):
    w = {"W_enc": draw(D, F), "W_dec": draw(F, D), "b_dec": draw(D), "b_enc": draw(F)}
    saelens_files(tmp_path / "a", w, normalize_activations="expected_average_only_in")
    with pytest.raises(UserError, match="norm_scale"):
        read_saelens(tmp_path / "a")
    d = read_saelens(tmp_path / "a", norm_scale=0.25).dictionary
    x = draw(B, D)
    code = relu((x * 0.25 - w["b_dec"]) @ w["W_enc"] + w["b_enc"])
    np.testing.assert_allclose(d(x), (code @ w["W_dec"] + w["b_dec"]) / 0.25, atol=1e-3)
    refused = {
        "normalize_activations": "layer_norm",
        "architecture": "temporal",
        "new_switch": True,
        "finetuning_scaling_factor": True,
    }
    for i, (field, value) in enumerate(refused.items()):
        saelens_files(tmp_path / f"r{i}", w, **{field: value})
        with pytest.raises(UserError, match=field):
            read_saelens(tmp_path / f"r{i}")


def test_batch_topk_leaves_as_jumprelu(tmp_path, fresh_key):
    d = sae(D, F, fresh_key(), k=3, code_norm="sae")
    d = Dictionary(d.config, d.arrays() | {"threshold": jnp.float32(0.4)})
    write_saelens(tmp_path / "a", Loaded(d))
    x = jax.random.normal(fresh_key(), (B, D))
    np.testing.assert_allclose(read_saelens(tmp_path / "a").dictionary(x), d(x), atol=1e-6)


def test_gemma_scope(tmp_path, draw):
    t = {"W_enc": draw(D, F), "b_enc": draw(F), "W_dec": draw(F, D), "b_dec": draw(D)}
    t["threshold"] = np.abs(draw(F))
    np.savez(tmp_path / "params.npz", **t)
    loaded = read_gemma_scope(tmp_path / "params.npz")
    x = draw(B, D)
    pre = x @ t["W_enc"] + t["b_enc"]
    code = relu(pre) * (pre > t["threshold"])
    np.testing.assert_allclose(loaded.dictionary(x), code @ t["W_dec"] + t["b_dec"], atol=1e-4)
    write_gemma_scope(tmp_path / "back.npz", loaded)
    same_files(tmp_path / "params.npz", tmp_path / "back.npz")
    low = {n.lower(): a.astype(ml_dtypes.bfloat16) for n, a in t.items()}
    low["affine_skip_connection"] = draw(D, D).astype(ml_dtypes.bfloat16)
    save_file(low, tmp_path / "two.safetensors")
    second = read_gemma_scope(tmp_path / "two.safetensors")
    d = second.dictionary
    skip = np.asarray(low["affine_skip_connection"], np.float32)
    np.testing.assert_allclose(d(x) - d.decode(d.encode(x)), x @ skip, atol=1e-4)
    write_gemma_scope(tmp_path / "two-back.safetensors", second)
    same_files(tmp_path / "two.safetensors", tmp_path / "two-back.safetensors")
    np.savez(tmp_path / "odd.npz", extra=np.ones(1), **t)
    with pytest.raises(UserError, match="extra"):
        read_gemma_scope(tmp_path / "odd.npz")


def test_saex(tmp_path, draw):
    t = {"W_enc": draw(D, F), "b_enc": draw(F), "W_dec": draw(F, D), "b_dec": draw(D)}
    t |= {"scaling_factor": np.exp(draw(F)), "s_gate": draw(F), "b_gate": draw(F)}
    t |= {"mean_norm": np.asarray(3.0, np.float32), "tgt_mean_norm": np.asarray(2.0, np.float32)}
    save_file(t, tmp_path / "a.safetensors")
    loaded = read_saex(tmp_path / "a.safetensors")
    x = draw(B, D)
    z = (x * D**0.5 / 3) @ t["W_enc"]
    inner = z * np.log1p(np.exp(t["s_gate"])) * t["scaling_factor"] + t["b_gate"]
    code = (z + t["b_enc"] > 0) * relu(inner)
    np.testing.assert_allclose(loaded.dictionary.encode(x), code, atol=1e-4)
    out = (code @ t["W_dec"] + t["b_dec"]) / (D**0.5 / 2)
    np.testing.assert_allclose(loaded.dictionary(x), out, atol=1e-4)
    write_saex(tmp_path / "b.safetensors", loaded)
    same_files(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    t["s_gate"], t["b_gate"] = np.zeros(F, np.float32), np.zeros(F, np.float32)
    save_file(t, tmp_path / "c.safetensors")
    with pytest.raises(UserError, match="gated"):
        read_saex(tmp_path / "c.safetensors")
    plain = read_saex(tmp_path / "c.safetensors", gated=False)
    code = relu(z + t["b_enc"]) * t["scaling_factor"]
    np.testing.assert_allclose(plain.dictionary.encode(x), code, atol=1e-4)
    write_saex(tmp_path / "d.safetensors", plain)
    same_files(tmp_path / "c.safetensors", tmp_path / "d.safetensors")


def test_native_keeps_everything(tmp_path, fresh_key):
    d = sae(D, F, fresh_key(), k=3, prefixes=(4, F))
    silent = jnp.arange(F, dtype=jnp.int32)
    d = Dictionary(d.config, d.arrays() | {"silent_tokens": silent})
    write_native(tmp_path / "a", Loaded(d, {"dictionary.json": {"provenance": {"seed": 1}}}))
    back = read_native(tmp_path / "a")
    assert back.dictionary.config == d.config
    assert back.json["dictionary.json"]["provenance"] == {"seed": 1}
    for name, array in d.arrays().items():
        np.testing.assert_array_equal(array, back.dictionary.array(name))
    assert load_file(tmp_path / "a/dictionary.safetensors")["silent_tokens"].dtype == np.int32


def test_a_changed_dictionary_does_not_go_into_a_narrow_dtype(tmp_path, draw):
    t = {"W_enc": draw(D, F), "b_enc": draw(F), "W_dec": draw(F, D), "b_dec": draw(D)}
    t = {n: a.astype(np.float16) for n, a in (t | {"threshold": np.abs(draw(F))}).items()}
    np.savez(tmp_path / "a.npz", **t)
    loaded = read_gemma_scope(tmp_path / "a.npz")
    d = loaded.dictionary
    changed = Dictionary(d.config, d.arrays() | {"decoder": d.array("decoder") * 1.0001})
    with pytest.raises(UserError, match="W_dec"):
        write_gemma_scope(tmp_path / "b.npz", Loaded(changed, dtypes=loaded.dtypes))
    write_gemma_scope(tmp_path / "b.npz", Loaded(changed))
