"""The one description of a decoder that every other part reads.

A `ModelConfig` says everything that changes the computation and nothing else;
where it came from (a Hugging Face `config.json`, GGUF metadata) is the
business of `families`. It is static: two networks with equal configs share
one compilation.
"""

from __future__ import annotations

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True)
class Llama3Scaling:
    """Llama 3.1 frequency scaling: long wavelengths are stretched by `factor`."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_context: int


@dataclasses.dataclass(frozen=True)
class Rope:
    """Rotary embedding: angles `position * theta^(-2i/head_dim)`, split halves.

    Attributes:
        theta: base of the geometric series of frequencies.
        linear_factor: positions are divided by it (1 leaves them).
        llama3: the Llama 3.1 scaling, applied to frequencies; None for none.
    """

    theta: float
    linear_factor: float = 1.0
    llama3: Llama3Scaling | None = None


@dataclasses.dataclass(frozen=True)
class LayerKind:
    """What may differ between the layers of one network.

    Attributes:
        window: a query at position p sees keys at p-window+1..p; None sees all.
        rope: this layer's rotary embedding.
    """

    window: int | None
    rope: Rope


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A decoder. Axis letters: D width, H heads, K key-value heads, V vocabulary.

    Attributes:
        family: key of the weight-name table (`llama`, `mistral`, `qwen2`,
            `qwen3`, `gemma`, `gemma2`, `gemma3`).
        pattern: the repeating layer pattern; layer l is `pattern[l % len(pattern)]`.
        mlp_width: width of `mlp_hidden`.
        activation: of the gate; `gelu_tanh` is Gemma's.
        norm_offset: added to every stored norm weight (Gemma: 1).
        norm_eps: inside the square root of the RMS.
        embed_scale: the embedding is multiplied by it (Gemma: sqrt(D)).
        query_scale: queries are multiplied by it before the scores.
        attn_softcap, logit_softcap: x -> cap * tanh(x / cap); None for none.
        qkv_bias, out_bias, mlp_bias: whether those projections have biases.
        qk_norm: RMS norm over each head of q and k, before the rotation.
        post_norms: Gemma 2 and 3 also normalise what is added to the stream.
        tied_head: logits come from the embedding table.
        max_context: longest sequence the weights were made for, in tokens.
    """

    family: str
    vocab_size: int
    width: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    mlp_width: int
    pattern: tuple[LayerKind, ...]
    query_scale: float
    norm_eps: float = 1e-5
    norm_offset: float = 0.0
    embed_scale: float = 1.0
    activation: Literal["silu", "gelu_tanh", "gelu"] = "silu"
    attn_softcap: float | None = None
    logit_softcap: float | None = None
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    post_norms: bool = False
    tied_head: bool = False
    max_context: int = 2048

    def layer_kind(self, layer: int) -> LayerKind:
        """The kind of layer `layer`, counted from 0."""
        return self.pattern[layer % len(self.pattern)]


def parameter_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Canonical name -> shape of every parameter. Matrices are [in, out].

    This table is the contract between the weight readers, the writers and
    `decoder.build_decoder`.
    """
    d, f, hd = config.width, config.mlp_width, config.head_dim
    h, k = config.n_heads, config.n_kv_heads
    shapes: dict[str, tuple[int, ...]] = {"embed.table": (config.vocab_size, d)}
    for layer in range(config.n_layers):
        at = f"layers.{layer}."
        shapes[at + "attn_norm.gain"] = (d,)
        shapes[at + "q.weight"] = (d, h * hd)
        shapes[at + "k.weight"] = (d, k * hd)
        shapes[at + "v.weight"] = (d, k * hd)
        shapes[at + "o.weight"] = (h * hd, d)
        if config.qkv_bias:
            shapes[at + "q.bias"] = (h * hd,)
            shapes[at + "k.bias"] = (k * hd,)
            shapes[at + "v.bias"] = (k * hd,)
        if config.out_bias:
            shapes[at + "o.bias"] = (d,)
        if config.qk_norm:
            shapes[at + "q_norm.gain"] = (hd,)
            shapes[at + "k_norm.gain"] = (hd,)
        shapes[at + "mlp_norm.gain"] = (d,)
        shapes[at + "gate.weight"] = (d, f)
        shapes[at + "up.weight"] = (d, f)
        shapes[at + "down.weight"] = (f, d)
        if config.mlp_bias:
            shapes[at + "gate.bias"] = (f,)
            shapes[at + "up.bias"] = (f,)
            shapes[at + "down.bias"] = (d,)
        if config.post_norms:
            shapes[at + "attn_post_norm.gain"] = (d,)
            shapes[at + "mlp_post_norm.gain"] = (d,)
    shapes["final_norm.gain"] = (d,)
    if not config.tied_head:
        shapes["head.weight"] = (d, config.vocab_size)
    return shapes
