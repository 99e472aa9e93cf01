"""GGUF metadata into `ModelConfig`.

GGUF names an architecture and leaves some constants of the released models to
the reader's code (Gemma's query scale and local rope base); those are written
out here with their reason.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from interp_jax.models.config import LayerKind, Llama3Scaling, ModelConfig, Rope
from interp_jax.models.families import GEMMAS, repeating
from interp_jax.models.gguf_header import GGUFFile
from interp_jax.runtime.errors import UserError

ARCHITECTURES = ("llama", "qwen2", "qwen3", "gemma", "gemma2", "gemma3")
ROPE_FACTORS = "rope_freqs.weight"
#: The 27B members scale queries by sqrt(width / heads), not by the head width; known by depth.
_LARGE = {"gemma2": 46, "gemma3": 62}
_LOCAL_THETA = 10_000.0
_LLAMA3_CONTEXT = 8192


class _Metadata:
    """Keys of one architecture, remembering which were read."""

    def __init__(self, metadata: dict[str, Any], arch: str):
        self.metadata, self.arch = metadata, arch
        self.read: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        full = f"{self.arch}.{key}"
        self.read.add(full)
        return self.metadata.get(full, default)

    def need(self, key: str) -> Any:
        value = self.get(key)
        if value is None or isinstance(value, list):
            raise UserError(
                found=f"{self.arch}.{key} = {value!r} in the GGUF metadata",
                expected="one number for all layers",
                do="use another conversion of the model",
            )
        return value

    def unknown(self) -> list[str]:
        mine = (key for key in self.metadata if key.startswith(self.arch + "."))
        return sorted(set(mine) - self.read)


def config_from_gguf(file: GGUFFile) -> ModelConfig:
    """The config of a GGUF file: its metadata, and which tensors it has.

    Raises:
        UserError: an architecture, a metadata key or a value not known here.
    """
    arch = file.metadata.get("general.architecture")
    if arch not in ARCHITECTURES:
        raise UserError(
            found=f"GGUF architecture {arch!r} in {file.path}",
            expected="one of " + ", ".join(ARCHITECTURES),
            do="choose a model of one of these",
        )
    if file.metadata.get("split.count", 1) not in (0, 1):
        raise UserError(
            found=f"{file.path}, one of {file.metadata['split.count']} parts",
            expected="a GGUF file in one part",
            do="merge the parts first",
        )
    if "token_embd.weight" not in file.tensors:
        raise UserError(
            found=f"no tensor token_embd.weight in {file.path}",
            expected="a language model",
            do="fetch it again",
        )
    meta, tensors = _Metadata(file.metadata, arch), file.tensors
    width, heads = meta.need("embedding_length"), meta.need("attention.head_count")
    layers = meta.need("block_count")
    head_dim = meta.get("attention.key_length", width // heads)
    post = arch in ("gemma2", "gemma3")
    per_head = width / heads if layers == _LARGE.get(arch) else head_dim
    vocab = tensors["token_embd.weight"].shape[0]
    _same(meta, "attention.value_length", head_dim)
    _same(meta, "rope.dimension_count", head_dim)
    _same(meta, "vocab_size", vocab)
    # Where a cap does not belong to the family it is not read, and so refused below.
    attn_cap = meta.get("attn_logit_softcapping") if arch == "gemma2" else None
    logit_cap = meta.get("final_logit_softcapping") if post else None
    config = ModelConfig(
        family=arch,
        vocab_size=vocab,
        width=width,
        n_layers=layers,
        n_heads=heads,
        n_kv_heads=_kv_heads(meta, heads),
        head_dim=head_dim,
        mlp_width=meta.need("feed_forward_length"),
        pattern=_pattern(meta, file, layers, head_dim),
        query_scale=float(per_head) ** -0.5,
        norm_eps=_rounded(meta.need("attention.layer_norm_rms_epsilon")),
        norm_offset=1.0 if arch in GEMMAS else 0.0,
        embed_scale=width**0.5 if arch in GEMMAS else 1.0,
        activation="gelu_tanh" if arch in GEMMAS else "silu",
        attn_softcap=_cap(attn_cap),
        logit_softcap=_cap(logit_cap),
        qkv_bias="blk.0.attn_q.bias" in tensors,
        out_bias="blk.0.attn_output.bias" in tensors,
        mlp_bias="blk.0.ffn_gate.bias" in tensors,
        qk_norm=arch in ("qwen3", "gemma3"),
        post_norms=post,
        tied_head="output.weight" not in tensors,
        max_context=meta.need("context_length"),
    )
    if unknown := meta.unknown():
        raise UserError(
            found=f"GGUF metadata that is not known: {', '.join(unknown)}",
            expected=f"the keys of a plain {arch} network",
            do="choose another model",
        )
    return config


def _rounded(value: float) -> float:
    """A float32 of the file as the shortest decimal that has its bits (1e-05, not 9.99e-06)."""
    return float(str(np.float32(value)))


def _cap(value: float | None) -> float | None:
    return _rounded(value) if value else None


def _kv_heads(meta: _Metadata, heads: int) -> int:
    value = meta.get("attention.head_count_kv", heads)
    if isinstance(value, list) and len(set(value)) == 1:
        return value[0]
    return meta.need("attention.head_count_kv") if isinstance(value, list) else value


def _same(meta: _Metadata, key: str, expected: int) -> None:
    value = meta.get(key, expected)
    if value != expected:
        raise UserError(
            found=f"{meta.arch}.{key} = {value} in the GGUF metadata",
            expected=f"{expected}, as the other sizes say",
            do="choose another model",
        )


def _pattern(meta: _Metadata, file: GGUFFile, layers: int, head_dim: int) -> tuple[LayerKind, ...]:
    arch = meta.arch
    default = 1_000_000.0 if arch == "gemma3" else 10_000.0
    theta = _rounded(meta.get("rope.freq_base", default))
    kind, factor = meta.get("rope.scaling.type", "none"), meta.get("rope.scaling.factor", 1.0)
    meta.get("rope.scaling.finetuned")
    context = meta.get("rope.scaling.original_context_length", _LLAMA3_CONTEXT)
    if kind not in ("none", "linear"):
        raise UserError(
            found=f"rope scaling {kind!r} in the GGUF metadata",
            expected="none, linear, or Llama 3's factors",
            do="choose another model",
        )
    linear = _rounded(factor) if kind == "linear" else 1.0
    llama3 = _llama3(file, theta, head_dim, context)
    full = LayerKind(None, Rope(theta, linear, llama3))
    if arch not in ("gemma2", "gemma3"):
        _same(meta, "attention.sliding_window", 0)
        return (full,)
    local = _rounded(meta.get("rope.freq_base_swa", _LOCAL_THETA)) if arch == "gemma3" else theta
    near = LayerKind(
        meta.need("attention.sliding_window"),
        Rope(local) if arch == "gemma3" else full.rope,
    )
    every = meta.get("attention.sliding_window_pattern", 6 if arch == "gemma3" else 2)
    if isinstance(every, list):
        return repeating([near if windowed else full for windowed in every[:layers]])
    return repeating([near if (layer + 1) % every else full for layer in range(layers)])


def llama3_factors(theta: float, head_dim: int, scaling: Llama3Scaling) -> np.ndarray:
    """What each rope frequency is divided by under Llama 3.1's scaling. [head_dim/2] float64."""
    wavelength = 2 * math.pi * theta ** (np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    turns = scaling.original_context / wavelength
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    smooth = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return 1.0 / ((1.0 - smooth) / scaling.factor + smooth)


def _llama3(file: GGUFFile, theta: float, head_dim: int, context: int) -> Llama3Scaling | None:
    """The scaling behind a table of factors, if it is Llama 3.1's; refused otherwise.

    The file keeps the factors and not the four numbers they came from. The largest
    is the scaling's `factor`; the others are 1 and 4 in every released model, and
    the table computed from them must be the table of the file.
    """
    tensor = file.tensors.get(ROPE_FACTORS)
    if tensor is None:
        return None
    if tensor.kind == "F32":
        raw = file.data[tensor.offset : tensor.offset + tensor.n_bytes]
        table = np.frombuffer(raw.tobytes(), np.float32).astype(np.float64)
        if np.all(table == 1.0):
            return None
        scaling = Llama3Scaling(_rounded(float(table.max())), 1.0, 4.0, int(context))
        factors = llama3_factors(theta, head_dim, scaling)
        if table.shape == factors.shape and np.allclose(table, factors, rtol=1e-4):
            return scaling
    raise UserError(
        found=f"a tensor {ROPE_FACTORS} in {file.path} that is not Llama 3.1's scaling",
        expected="no rope factors, or those of Llama 3.1",
        do="use the Hugging Face checkpoint of this model",
    )
