"""Where a run's numbers go: JSON lines always, TensorBoard if wished."""

from __future__ import annotations

import contextlib
import json
import math
import os
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np

from interp_jax.runtime.atomic import disk_full_told
from interp_jax.runtime.process import is_writer


class MetricWriter(Protocol):
    """Four calls; `step` is the number of finished steps (or rollouts, or whatever is counted)."""

    def scalars(self, step: int, values: Mapping[str, Any]) -> None:
        """Numbers, or arrays of shape `[]`."""

    def texts(self, step: int, values: Mapping[str, str]) -> None:
        """Texts, shown as they are."""

    def histograms(self, step: int, values: Mapping[str, Any], bins: int = 30) -> None:
        """Arrays of any shape, reduced to counts."""

    def flush(self) -> None:
        """What was written is on its way to the disk."""


class JsonlWriter:
    """One JSON object per line: `{"step", "time", "kind", NAME: value, ...}` under `values`.

    Numbers that are not finite are written as the strings "NaN", "Infinity" and "-Infinity". A
    run that is resumed appends; where a step occurs twice, the later line holds.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = pathlib.Path(path)
        with disk_full_told(self.path):
            _cut_torn_line(self.path)
            self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115

    def scalars(self, step: int, values: Mapping[str, Any]) -> None:
        """Appends one line."""
        numbers = {name: float(_host(value).reshape(())) for name, value in values.items()}
        self._write(step, "scalars", {name: _number(x) for name, x in numbers.items()})

    def texts(self, step: int, values: Mapping[str, str]) -> None:
        """Appends one line."""
        self._write(step, "texts", dict(values))

    def histograms(self, step: int, values: Mapping[str, Any], bins: int = 30) -> None:
        """Appends one line: counts `[bins]`, edges `[bins + 1]`, and how many were not finite."""
        result = {}
        for name, value in values.items():
            numbers = _host(value).astype(np.float64).ravel()
            finite = numbers[np.isfinite(numbers)]
            counts, edges = np.histogram(finite, bins=bins)
            result[name] = {
                "counts": counts.tolist(),
                "edges": edges.tolist(),
                "not_finite": int(numbers.size - finite.size),
            }
        self._write(step, "histograms", result)

    def flush(self) -> None:
        """Hands the lines to the system."""
        with disk_full_told(self.path):
            self._file.flush()

    def close(self) -> None:
        """Flushes and gives the file back."""
        with disk_full_told(self.path):
            self._file.close()

    def _write(self, step: int, kind: str, values: Mapping[str, Any]) -> None:
        line = {"step": int(step), "time": round(time.time(), 3), "kind": kind, "values": values}
        with disk_full_told(self.path):
            self._file.write(json.dumps(line, allow_nan=False) + "\n")
            self._file.flush()


class TensorBoardWriter:
    """The same calls into a TensorBoard folder (through tensorboardX, loaded here)."""

    def __init__(self, folder: str | os.PathLike):
        import tensorboardX

        self._writer = tensorboardX.SummaryWriter(os.fspath(folder))

    def scalars(self, step: int, values: Mapping[str, Any]) -> None:
        """One curve per name."""
        for name, value in values.items():
            self._writer.add_scalar(name, float(_host(value).reshape(())), step)

    def texts(self, step: int, values: Mapping[str, str]) -> None:
        """One text panel per name."""
        for name, value in values.items():
            self._writer.add_text(name, value, step)

    def histograms(self, step: int, values: Mapping[str, Any], bins: int = 30) -> None:
        """One histogram per name, of the finite values."""
        for name, value in values.items():
            numbers = _host(value).astype(np.float64).ravel()
            self._writer.add_histogram(name, numbers[np.isfinite(numbers)], step, bins=bins)

    def flush(self) -> None:
        """Writes what is waiting."""
        self._writer.flush()

    def close(self) -> None:
        """Flushes and closes the files."""
        self._writer.close()


class ManyWriters:
    """Hands each call on to several writers (none: the calls do nothing)."""

    def __init__(self, writers: Sequence[Any] = ()):
        self._writers = tuple(writers)

    def scalars(self, step: int, values: Mapping[str, Any]) -> None:
        """As `MetricWriter.scalars`, for all."""
        for writer in self._writers:
            writer.scalars(step, values)

    def texts(self, step: int, values: Mapping[str, str]) -> None:
        """As `MetricWriter.texts`, for all."""
        for writer in self._writers:
            writer.texts(step, values)

    def histograms(self, step: int, values: Mapping[str, Any], bins: int = 30) -> None:
        """As `MetricWriter.histograms`, for all."""
        for writer in self._writers:
            writer.histograms(step, values, bins)

    def flush(self) -> None:
        """As `MetricWriter.flush`, for all."""
        for writer in self._writers:
            writer.flush()

    def close(self) -> None:
        """Closes all, also when one of them fails."""
        with contextlib.ExitStack() as stack:
            for writer in self._writers:
                stack.callback(writer.close)

    def __enter__(self) -> ManyWriters:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_writers(folder: str | os.PathLike, *, tensorboard: bool = False) -> ManyWriters:
    """The writers of a run: `metrics.jsonl` in `folder`, and TensorBoard files if wished.

    In every process but the first the calls do nothing.
    """
    if not is_writer():
        return ManyWriters()
    folder = pathlib.Path(folder)
    writers: list[Any] = [JsonlWriter(folder / "metrics.jsonl")]
    if tensorboard:
        writers.append(TensorBoardWriter(folder / "tensorboard"))
    return ManyWriters(writers)


def _host(value: Any) -> np.ndarray:
    # Said explicitly, so that it passes under a transfer guard.
    return np.asarray(jax.device_get(value))


def _number(value: float) -> float | str:
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")


def _cut_torn_line(path: pathlib.Path) -> None:
    """A kill may have left half a line; what follows must not be glued to it."""
    if not path.exists():
        return
    with open(path, "r+b") as file:
        content = file.read()
        if content and not content.endswith(b"\n"):
            file.truncate(content.rfind(b"\n") + 1)
