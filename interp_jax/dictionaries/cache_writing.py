"""Activations to disk in the layout of `cache`, and on from where a run was cut off.

A shard is closed as soon as it has more rows than `shard_size`, at a chunk's end. What was closed
is whole; after a kill the source goes back to the end of the last closed shard. `config.json`
comes last: a folder that has one is finished.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from interp_jax.dictionaries.cache import RANGES, TOKENS
from interp_jax.dictionaries.formats.files import read_json, read_tensors, write_tensors
from interp_jax.dictionaries.moments import Moments
from interp_jax.dictionaries.row_source import HarvestSource
from interp_jax.runtime.atomic import (
    atomic_write_bytes,
    atomic_write_json,
    atomic_write_text,
    disk_full_told,
)
from interp_jax.runtime.errors import UserError

STATE = "writing.json"
SHARD_ROWS = 10**6


class CacheWriter:
    """Writes the rows of one model on one text.

    Args:
        folder: `<store>/<model>/<dataset>/<split>`; made when missing.
        names: of the places, e.g. `("layer_13_out",)`, each a folder there.
        width: d.
        dtype: that rows are stored in.
        shard_size: rows after which a shard is closed.
        facts: further fields of `config.json`; the layout knows batch_size, context_len and io.

    Attributes:
        cursor: of the source, where writing goes on; None at the start.
        rows: rows in closed shards.

    Raises:
        UserError: the folder is finished already, or was begun for something else.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        names: Sequence[str],
        width: int,
        *,
        dtype: str = "float32",
        shard_size: int = SHARD_ROWS,
        facts: dict[str, Any] | None = None,
    ):
        self.folder, self._names, self._width = Path(folder), tuple(names), width
        self._dtype = np.dtype({"bfloat16": ml_dtypes.bfloat16}.get(dtype, dtype))
        self._limit, self._facts = shard_size, dict(facts or {})
        self.cursor: Any = None
        self._latest: Any = None
        self.rows, self._shards, self._pending = 0, 0, 0
        self._waiting: list[list[np.ndarray]] = [[] for _ in names]
        self._tokens: list[np.ndarray] = []
        self._lengths: list[int] = []
        self._new_lengths: list[int] = []
        self._moments = [Moments.empty((width,)) for _ in names]
        for name in self._names:
            if (self.folder / name / "config.json").exists():
                raise UserError(
                    found=f"a finished cache in {self.folder / name}", expected="none yet",
                    do="use it, or choose another folder",
                )  # fmt: skip
            with disk_full_told(self.folder):
                (self.folder / name).mkdir(parents=True, exist_ok=True)
        self._go_on()

    def add(
        self, rows: np.ndarray, tokens: np.ndarray, lengths: Sequence[int], cursor: Any
    ) -> None:
        """Takes a chunk in.

        Args:
            rows: [n, places, d].
            tokens: int [n], their ids.
            lengths: how many of them belong to each sequence, in order.
            cursor: of the source after this chunk, as JSON values.

        Raises:
            UserError: shapes that do not agree.
        """
        want = (len(tokens), len(self._names), self._width)
        if rows.shape != want or sum(lengths) != len(tokens):
            raise UserError(
                found=f"rows of shape {rows.shape}, sequences of {sum(lengths)} tokens",
                expected=f"{want}", do="give a row for each token and place",
            )  # fmt: skip
        stored = np.asarray(rows).astype(self._dtype)
        for place in range(len(self._names)):
            self._waiting[place].append(stored[:, place])
            self._moments[place].add(stored[:, place])
        self._tokens.append(np.asarray(tokens, np.int32))
        self._new_lengths += [int(n) for n in lengths if n]
        self._pending += len(tokens)
        self._latest = cursor
        if self._pending > self._limit:
            self._close_shard(cursor)

    def close(self) -> None:
        """Writes what waits, tokens and statistics, and the `config.json` that finishes it."""
        if self._pending:
            self._close_shard(self._latest)
        tokens = np.fromfile(self.folder / ".tokens.partial", np.int32) if self.rows else (
            np.zeros(0, np.int32))  # fmt: skip
        ranges = np.cumsum([0, *self._lengths], dtype=np.int64)
        write_tensors(self.folder / f"{TOKENS}.safetensors", {"tokens": tokens}, {})
        write_tensors(self.folder / f"{RANGES}.safetensors", {"sequence_ranges": ranges}, {})
        for name, moments in zip(self._names, self._moments, strict=True):
            statistics = {"mean": moments.mean, "std": moments.std(), "M2": moments.squares}
            statistics["count"] = np.asarray(moments.count, np.int64)
            write_tensors(self.folder / name / "statistics.safetensors", statistics, {})
            config = {
                "batch_size": None, "context_len": None, "io": "out", **self._facts,
                "shard_size": self._limit, "d_model": self._width, "shuffle_shards": False,
                "total_size": self.rows, "shard_count": self._shards, "store_tokens": True,
                "store_sequence_ranges": True,
            }  # fmt: skip
            atomic_write_json(self.folder / name / "config.json", config)
        for name in (STATE, ".tokens.partial", f".moments.{self._shards}.safetensors"):
            (self.folder / name).unlink(missing_ok=True)

    @property
    def total(self) -> int:
        """Rows in closed shards and rows that wait for one."""
        return self.rows + self._pending

    def _close_shard(self, cursor: Any) -> None:
        for name, parts in zip(self._names, self._waiting, strict=True):
            rows = np.concatenate(parts)
            path = self.folder / name / f"shard_{self._shards}.memmap"
            atomic_write_bytes(path, rows.tobytes())
            meta = {"shape": list(rows.shape), "dtype": self._dtype.name}
            atomic_write_text(path.with_suffix(".meta"), json.dumps(meta))
            parts.clear()
        with disk_full_told(self.folder), open(self.folder / ".tokens.partial", "ab") as file:
            file.truncate(4 * self.rows)  # a kill may have left more
            file.write(np.concatenate(self._tokens).tobytes())
            file.flush()
            os.fsync(file.fileno())
        self.rows += self._pending
        self._shards += 1
        self._pending, self.cursor = 0, cursor
        self._lengths += self._new_lengths
        self._tokens, self._new_lengths = [], []
        moments = {f"{i}_{n}": getattr(m, n) for i, m in enumerate(self._moments)
                   for n in ("mean", "squares")}  # fmt: skip
        moments |= {f"{i}_count": np.asarray(m.count) for i, m in enumerate(self._moments)}
        # The state names the statistics that belong to it: both are of this shard or both are not.
        write_tensors(self.folder / f".moments.{self._shards}.safetensors", moments, {})
        atomic_write_json(self.folder / STATE, {**self._about(), "cursor": cursor,
                          "rows": self.rows, "shards": self._shards,
                          "lengths": self._lengths}, indent=None)  # fmt: skip
        (self.folder / f".moments.{self._shards - 1}.safetensors").unlink(missing_ok=True)

    def _about(self) -> dict[str, Any]:
        return {
            "names": list(self._names), "width": self._width, "dtype": self._dtype.name,
            "shard_size": self._limit, "facts": self._facts,
        }  # fmt: skip

    def _go_on(self) -> None:
        if not (self.folder / STATE).exists():
            return
        state = read_json(self.folder / STATE)
        about = {name: state.get(name) for name in self._about()}
        if about != self._about():
            raise UserError(
                found=f"a cache begun in {self.folder} with {about}",
                expected=f"{self._about()}", do="choose another folder, or give the same values",
            )  # fmt: skip
        self.cursor, self.rows = state["cursor"], state["rows"]
        self._shards, self._lengths = state["shards"], state["lengths"]
        held = read_tensors(self.folder / f".moments.{self._shards}.safetensors")
        self._moments = [
            Moments(int(held[f"{i}_count"]), held[f"{i}_mean"], held[f"{i}_squares"])
            for i in range(len(self._names))
        ]


def write_cache(
    source: HarvestSource,
    folders: Sequence[str | os.PathLike],
    rows: int,
    *,
    shard_size: int = SHARD_ROWS,
    facts: dict[str, Any] | None = None,
    on_chunk: Callable[[int], None] | None = None,
) -> list[Path]:
    """Runs networks on a stream and stores what they hold, one folder for each network.

    Called again after a kill it goes on at the end of the last shard. Stored tokens are the
    text's own; the `config.json` of a network that read others in their place says which.

    Args:
        source: standing at the start of the data, without targets.
        folders: `<store>/<model>/<dataset>/<split>` of each network, in order.
        rows: stop once so many are stored; the last chunk is stored whole.
        shard_size: rows after which a shard is closed.
        facts: further fields of each `config.json`.
        on_chunk: called with the number of rows so far.

    Returns:
        the finished folders, network by network, place by place.

    Raises:
        UserError: not a folder for each network, or what `CacheWriter` refuses.
    """
    if len(folders) != len(source.networks) or source.what.targets:
        raise UserError(
            found=f"{len(folders)} folders for {len(source.networks)} networks"
            + (" and targets" if source.what.targets else ""),
            expected="one for each, and no targets", do="store the targets as inputs of their own",
        )  # fmt: skip
    names, (_, width) = place_names(source), source.shapes["x"].shape
    options = {"dtype": source.what.dtype, "shard_size": shard_size}
    own: list[dict[str, Any]] = [dict(facts or {}) for _ in folders]
    if source.what.replace_tokens:
        pairs = [list(pair) for pair in source.what.replace_tokens]
        own[source.what.replaced_network]["replace_tokens"] = pairs
    writers = [
        CacheWriter(folder, names, width, facts=of, **options)
        for folder, of in zip(folders, own, strict=True)
    ]
    behind = min(writers, key=lambda writer: writer.rows)
    done = behind.rows
    if done:
        source.seek(behind.cursor)
    while done < rows:
        try:
            chunk, read = source.next_with_tokens()
        except StopIteration:
            break
        keep = chunk.keep.reshape(read.tokens.shape)
        x = np.asarray(chunk.rows["x"])[chunk.keep].reshape(-1, len(folders), len(names), width)
        for place, writer in enumerate(writers):
            # One that was a shard ahead when the run was cut off waits for the others.
            if writer.total == done:
                lengths = keep.sum(axis=1).tolist()
                writer.add(x[:, place], read.tokens[keep], lengths, source.cursor())
        done += len(x)
        if on_chunk is not None:
            on_chunk(done)
    for writer in writers:
        writer.close()
    return [Path(folder) / name for folder in folders for name in names]


def place_names(source: HarvestSource) -> list[str]:
    """Folder names of what is read in each network: `layer_13_out` is the stream after block 13."""
    every = range(source.networks[0].config.n_layers)
    names = []
    for site in source.what.sites:
        if not site.layered:
            names.append(site.name)
            continue
        end = "out" if site.name == "resid_post" else site.name
        names += [f"layer_{l}_{end}" for l in (every if site.layers is None else site.layers)]
    return names
