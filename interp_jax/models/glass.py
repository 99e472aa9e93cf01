"""The small trained models of the package `glassllm`: npz weights and their own tokenizer.

A Llama in all but storage: weights are [in, out] already, rotary pairs lie side by
side (moved apart here, so that split halves give the same scores), and the
tokenizer is character BPE over chunks between spaces and newlines.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from interp_jax.models.config import LayerKind, ModelConfig, Rope
from interp_jax.models.placing import Index, ShardingFor, check_sources, place_parameters
from interp_jax.models.tokenizer import ControlToken, SpecialIds, Tokenizer

_NAMES = {
    "attn_norm.gain": "norm1.gamma",
    "q.weight": "attn.W_Q",
    "k.weight": "attn.W_K",
    "v.weight": "attn.W_V",
    "o.weight": "attn.W_O",
    "mlp_norm.gain": "norm2.gamma",
    "gate.weight": "ffn.W1",
    "up.weight": "ffn.W3",
    "down.weight": "ffn.W2",
}
_SPACE = "\u2581"
_SPECIAL = ("<pad>", "<unk>", "<bos>", "<eos>")


@dataclasses.dataclass
class _Source:
    """One array of the npz, columns already in place."""

    array: np.ndarray
    label: str

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    def read(self, index: Index, dtype: np.dtype) -> np.ndarray:
        return self.array[index].astype(dtype)


def read_glass(
    path: str | Path, dtype: str = "float32", sharding_for: ShardingFor | None = None
) -> tuple[ModelConfig, dict[str, jax.Array]]:
    """The config and canonical parameters of a glassllm npz file."""
    with np.load(path, allow_pickle=False) as data:
        arrays = dict(data)
    said = json.loads(str(arrays.pop("__config__")))
    head_dim = said["d_model"] // said["n_heads"]
    config = ModelConfig(
        family="llama",
        vocab_size=said["vocab_size"],
        width=said["d_model"],
        n_layers=said["n_layers"],
        n_heads=said["n_heads"],
        n_kv_heads=said["n_kv_heads"],
        head_dim=head_dim,
        mlp_width=arrays["blocks.0.ffn.W1"].shape[1],
        pattern=(LayerKind(None, Rope(said["rope_base"])),),
        query_scale=head_dim**-0.5,
        norm_eps=said["eps"],
        tied_head=True,
        max_context=said["max_len"],
    )
    names = {"embed.table": "E", "final_norm.gain": "norm_f.gamma"}
    for layer in range(config.n_layers):
        names |= {
            f"layers.{layer}.{ours}": f"blocks.{layer}.{theirs}" for ours, theirs in _NAMES.items()
        }
    sources = {}
    for ours, theirs in names.items():
        if theirs not in arrays:
            continue
        array = arrays.pop(theirs)
        if ours.endswith((".q.weight", ".k.weight")):
            # Columns are head, pair, part; wanted are head, part, pair.
            rows = array.shape[0]
            array = array.reshape(rows, -1, head_dim // 2, 2).swapaxes(2, 3).reshape(rows, -1)
        sources[ours] = _Source(array, theirs)
    check_sources(str(path), config, sources, list(arrays), names)
    return config, place_parameters(sources, config, dtype, sharding_for)


def read_glass_tokenizer(path: str | Path) -> Tokenizer:
    """The tokenizer of a glassllm model, same ids as the package's own."""
    said = json.loads(Path(path).read_text(encoding="utf-8"))
    merges = [tuple(pair) for pair in said["merges"]]
    entries = [*_SPECIAL, *said["alphabet"], *(a + b for a, b in merges)]
    vocab = {text: i for i, text in enumerate(entries)}
    backend = tokenizers.Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=False))
    backend.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Replace(" ", _SPACE)])
    chunks = tokenizers.Regex(rf"\n|{_SPACE}*[^{_SPACE}\n]+|{_SPACE}+")
    backend.pre_tokenizer = pre_tokenizers.Split(chunks, behavior="isolated")
    backend.decoder = decoders.Sequence([decoders.Replace(_SPACE, " "), decoders.Fuse()])
    control = [ControlToken(text, i) for i, text in enumerate(_SPECIAL)]
    special = SpecialIds(bos=2, eos=3, pad=0, stop=(3,))
    return Tokenizer(backend, control, special, shown={1: "\u2047"})
