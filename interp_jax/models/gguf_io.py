"""GGUF files in: quantised blocks decoded straight into our arrays.

Three habits of the format are undone here: matrices are [out, in]; arch `llama`
stores the rows of q and k with rotary pairs side by side; and Gemma's norm
weights already include the one that `norm_offset` adds.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import ml_dtypes
import numpy as np

from interp_jax.models.config import ModelConfig
from interp_jax.models.gguf_config import ROPE_FACTORS, config_from_gguf
from interp_jax.models.gguf_header import GGUFFile, GGUFTensor, open_gguf
from interp_jax.models.placing import (
    CHUNK,
    Index,
    ShardingFor,
    check_sources,
    place_parameters,
    spans,
)
from interp_jax.models.weight_names import gguf_names, is_transposed
from interp_jax.runtime.errors import UserError

QUANTISED = ("Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q4_K", "Q5_K", "Q6_K")
READABLE = ("F32", "F16", "BF16", *QUANTISED)

Decode = Callable[[np.ndarray], np.ndarray]


def split_half_rows(rows: int, heads: int) -> np.ndarray:
    """Where each stored row of an interleaved q or k belongs. [rows] int.

    Stored row 2i+j of a head (pair i, part j) is row j*head_dim/2 + i of the same
    head when the two parts of a rotary pair are half a head apart.
    """
    return np.arange(rows).reshape(heads, 2, rows // heads // 2).swapaxes(1, 2).reshape(rows)


def decoder_of(kind: str) -> Decode:
    """Raw bytes [n] -> values [n elements] float32, of one element type."""
    if kind == "F32":
        return lambda raw: raw.view(np.float32)
    if kind == "F16":
        return lambda raw: raw.view(np.float16)
    if kind == "BF16":
        return lambda raw: raw.view(ml_dtypes.bfloat16)
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import dequantize

    # One long row: the package would otherwise loop in Python over groups of 16.
    return lambda raw: dequantize(raw.reshape(1, -1), GGMLQuantizationType[kind])[0]


@dataclasses.dataclass
class _Source:
    """A tensor of a GGUF file.

    Attributes:
        heads: number of heads whose rows are interleaved; 0 for none.
        shift: added to every value.
        pool: decodes chunks of rows side by side; numpy lets go of the interpreter lock.
    """

    file: GGUFFile
    tensor: GGUFTensor
    shape: tuple[int, ...]
    label: str
    transposed: bool
    heads: int
    shift: float
    pool: ThreadPoolExecutor

    def read(self, index: Index, dtype: np.dtype) -> np.ndarray:
        bounds = spans(index, self.shape)
        out = np.empty([stop - start for start, stop in bounds], dtype)
        if not out.size:
            return out
        if len(bounds) == 1:
            # A vector is a matrix of one column.
            rows, columns, target, length = bounds[0], (0, 1), out[:, None], 1
        elif self.transposed:
            (columns, rows), target, length = bounds, out.T, self.shape[0]
        else:
            (rows, columns), target, length = bounds, out, self.shape[1]
        n_rows = self.tensor.shape[0]
        row_bytes = self.tensor.n_bytes // n_rows
        decode = decoder_of(self.tensor.kind)
        row_to = split_half_rows(n_rows, self.heads) if self.heads else None

        def fill(start: int, stop: int) -> None:
            at = self.tensor.offset
            raw = self.file.data[at + start * row_bytes : at + stop * row_bytes]
            values = decode(np.array(raw)).reshape(stop - start, length)[:, slice(*columns)]
            if self.shift:
                values = values.astype(np.float32) + np.float32(self.shift)
            if row_to is None:
                target[start - rows[0] : stop - rows[0]] = values.astype(dtype, copy=False)
            else:
                to = row_to[start:stop]
                keep = (to >= rows[0]) & (to < rows[1])
                target[to[keep] - rows[0]] = values[keep].astype(dtype, copy=False)

        # Rows move only within their head, so whole heads cover what is asked for.
        whole = n_rows // self.heads if self.heads else 1
        first, last = rows[0] // whole * whole, -(-rows[1] // whole) * whole
        step = max(1, CHUNK // length)
        starts = range(first, last, step)
        list(self.pool.map(fill, starts, [min(start + step, last) for start in starts]))
        return out


def read_gguf(
    path: str | Path | GGUFFile,
    dtype: str = "float32",
    sharding_for: ShardingFor | None = None,
) -> tuple[ModelConfig, dict[str, jax.Array]]:
    """The config and the canonical parameters of a GGUF file, decoded.

    Args:
        path: the file, or its opened header.
        dtype: `float32` or `bfloat16`; norm gains are float32 in both.
        sharding_for: where each parameter shall live (see `place_parameters`).

    Raises:
        UserError: an unknown architecture, metadata key or element type, a
            truncated file, or tensors that do not fit the metadata.
    """
    file = path if isinstance(path, GGUFFile) else open_gguf(path)
    config = config_from_gguf(file)
    names = gguf_names(config)
    canonical = {theirs: ours for ours, theirs in names.items()}
    heads = {}
    if file.metadata["general.architecture"] == "llama":
        heads = {"q": config.n_heads, "k": config.n_kv_heads}
    sources, unexpected, odd = {}, [], []
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for name, tensor in file.tensors.items():
            if name not in canonical:
                if name != ROPE_FACTORS:
                    unexpected.append(name)
                continue
            if tensor.kind not in (READABLE if len(tensor.shape) == 2 else READABLE[:3]):
                odd.append(f"{name} {tensor.kind}")
            ours = canonical[name]
            flip = is_transposed(ours)
            sources[ours] = _Source(
                file=file,
                tensor=tensor,
                shape=tensor.shape[::-1] if flip else tensor.shape,
                label=f"{file.path.name}:{name}",
                transposed=flip,
                heads=heads.get(ours.split(".")[-2], 0),
                shift=-config.norm_offset if ours.endswith(".gain") else 0.0,
                pool=pool,
            )
        if odd:
            raise UserError(
                found=f"in {file.path} tensors of another type: {', '.join(odd[:8])}",
                expected="one of " + ", ".join(READABLE),
                do="use another quantisation of this model",
            )
        check_sources(str(file.path), config, sources, unexpected, names)
        return config, place_parameters(sources, config, dtype, sharding_for)
