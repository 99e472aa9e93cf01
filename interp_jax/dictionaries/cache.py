"""Activations on disk in the layout of the crosscoder paper's code (section 4.3), read.

    <store>/<model>/<dataset>/<split>/      one folder for one model on one text
        layer_13_out/                       one for each layer (or site) that was stored
            config.json                     batch_size, context_len, shard_size, d_model, ...
            shard_0.memmap, shard_0.meta    rows [n, d], row-major; JSON with shape and dtype
        tokens.safetensors                  ids of all stored tokens, int32 [total]
        sequence_ranges.safetensors         first row of each sequence, then the total, int64

bfloat16 is stored as its bit patterns in int16. Where that code writes pickles (`tokens.pt`,
`mean.pt`), we write safetensors of the same numbers and read no pickle: training needs none of
them. Whether two models read the same tokens is checked, and two pickles of equal bytes are proof.
Tokens are the text's own also for a base model that read others in their place; its `config.json`
says which (`replace_tokens`, a field of ours).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import ml_dtypes
import numpy as np

from interp_jax.dictionaries.formats.files import read_json, read_tensors
from interp_jax.dictionaries.replaced_tokens import Replacements
from interp_jax.runtime.errors import UserError
from interp_jax.runtime.provenance import hash_file

_STORED = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
TOKENS = "tokens"
RANGES = "sequence_ranges"


class ActivationCache:
    """The rows of one model at one place.

    Args:
        folder: with `config.json` and shards in it, such as `.../train/layer_13_out`.

    Attributes:
        width: d.
        dtype: of the rows: float32, float16 or bfloat16.

    Raises:
        UserError: a folder that was not written to its end, or shards that do not fit it.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        if not (self.folder / "config.json").is_file():
            raise UserError(
                found=f"no config.json in {self.folder}",
                expected="a finished cache: a folder like layer_13_out with its shards",
                do="give the folder of the layer, or finish writing it",
            )
        self.config = read_json(self.folder / "config.json")
        missing = {"shard_count", "total_size", "d_model"} - set(self.config)
        if missing:
            raise UserError(
                found=f"{self.folder / 'config.json'} without {', '.join(sorted(missing))}",
                expected="shard_count, total_size and d_model",
                do="write the cache again",
            )
        self.width = int(self.config["d_model"])
        if self.config.get("shuffle_shards"):
            raise UserError(
                found=f"{self.folder} with shuffle_shards: each model in an order of its own",
                expected="rows in the order of the tokens",
                do="write the cache without shuffling; training shuffles by itself",
            )
        self._shards = [self._shard(i) for i in range(int(self.config["shard_count"]))]
        kinds = {shard.dtype for shard in self._shards}
        sizes = [len(shard) for shard in self._shards]
        if len(kinds) != 1 or sum(sizes) != self.config["total_size"]:
            raise UserError(
                found=f"{sum(sizes)} rows of {sorted(map(str, kinds))} in {self.folder}",
                expected=f"total_size {self.config['total_size']} rows of one type",
                do="write the cache again",
            )
        (self.dtype,) = kinds
        self._starts = np.cumsum([0, *sizes])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows [stop - start, d], in the dtype they are stored in."""
        parts = []
        for shard, begin in zip(self._shards, self._starts, strict=False):
            first, last = max(start - begin, 0), min(stop - begin, len(shard))
            if first < last:
                parts.append(np.array(shard[first:last]))
        return np.concatenate(parts) if parts else np.zeros((0, self.width), self.dtype)

    @property
    def replace_tokens(self) -> Replacements:
        """(old id, new id) pairs: where `tokens` has an old one, the model read the new one."""
        return tuple((int(old), int(new)) for old, new in self.config.get("replace_tokens", ()))

    @functools.cached_property
    def tokens(self) -> np.ndarray | None:
        """int32 [total], or None where they were not stored, or as a pickle."""
        path = self.folder.parent / f"{TOKENS}.safetensors"
        return read_tensors(path)["tokens"] if path.is_file() else None

    @property
    def tokens_pickle(self) -> Path | None:
        """The pickle that holds the tokens, which is never opened; None where there is none."""
        path = self.folder.parent / f"{TOKENS}.pt"
        return path if path.is_file() else None

    def _shard(self, index: int) -> np.ndarray:
        path = self.folder / f"shard_{index}.memmap"
        meta = read_json(path.with_suffix(".meta"))
        shape = tuple(meta.get("shape", ()))
        name = str(meta.get("dtype", "float32")).removeprefix("torch.")
        if len(shape) != 2 or shape[1] != self.width or name not in _STORED:
            raise UserError(
                found=f"{path.name} of shape {shape} and dtype {name}",
                expected=f"[rows, {self.width}] of {', '.join(_STORED)}",
                do="write the cache again",
            )
        dtype = _STORED[name]
        size = path.stat().st_size if path.is_file() else 0
        if size != shape[0] * shape[1] * dtype.itemsize:
            raise UserError(
                found=f"{path.name} of {size} bytes",
                expected=f"{shape[0]} x {shape[1]} values of {dtype.itemsize} bytes",
                do="write the cache again, or fetch the file again",
            )
        # numpy cannot map bfloat16 by name; its bits are those of int16.
        stored = np.int16 if name == "bfloat16" else dtype
        return np.memmap(path, dtype=stored, mode="r", shape=shape).view(dtype)


def common_rows(caches: Sequence[ActivationCache]) -> int:
    """How many rows all of them have: the shortest one's number.

    Raises:
        UserError: they do not hold the same tokens, or that cannot be told.
    """
    rows, first = min(len(cache) for cache in caches), caches[0]
    for other in caches[1:]:
        if other.folder.parent.resolve() == first.folder.parent.resolve():
            continue  # layers of one run
        a, b = first.tokens, other.tokens
        if a is not None and b is not None:
            if not np.array_equal(a[:rows], b[:rows]):
                at = int(np.flatnonzero(a[:rows] != b[:rows])[0])
                raise UserError(
                    found=f"token {b[at]} at row {at} of {other.folder}, {a[at]} in {first.folder}",
                    expected="the same tokens for every input",
                    do="write both caches from the same text and tokenizer",
                )
            continue
        one, two = first.tokens_pickle, other.tokens_pickle
        if one and two and hash_file(one) == hash_file(two):
            continue
        if one or two or (a is None) != (b is None):
            raise UserError(
                found=f"tokens of {other.folder} that cannot be compared with {first.folder}'s",
                expected="equal tokens.pt, or tokens.safetensors beside both",
                do="where you trust them: safetensors.torch.save_file({'tokens': torch.load("
                "'tokens.pt', weights_only=True).int()}, 'tokens.safetensors')",
            )
        if len(first) != len(other):
            raise UserError(
                found=f"{len(other)} rows in {other.folder}, {len(first)} in {first.folder}, and "
                "no tokens stored",
                expected="the same number of rows, or tokens to compare",
                do="write the caches with their tokens",
            )
    return rows
