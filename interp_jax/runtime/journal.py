"""An append-only list of finished records that outlives a kill at any moment.

One JSON object per line, `{"id": ..., "crc": ..., "record": ...}`, with the CRC-32 of the id and
the record. A line is written by one call and flushed to the disk before `append` returns. What a
kill can leave is a torn last line: it is cut off when the journal is opened again, and its record
is made anew.
"""

from __future__ import annotations

import json
import os
import pathlib
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

from interp_jax.runtime.atomic import disk_full_told, sync_folder
from interp_jax.runtime.errors import UserError
from interp_jax.runtime.process import is_writer


class Journal:
    """Finished records, each under an id that is its own.

    Only process 0 writes; in another process `append` does nothing but remember the ids.

    Args:
        path: the file; made when missing, in a folder that exists.

    Raises:
        UserError: a line other than the last is damaged, or another run holds the journal.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = pathlib.Path(path)
        self.cut_bytes = 0  # of a torn last line, found and cut when opened
        self._ids: dict[str, None] = {}
        self._handle: int | None = None
        writer = is_writer()
        if writer:
            new = not self.path.exists()
            with disk_full_told(self.path):
                self._handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
            if new:
                sync_folder(self.path.parent)
            self._lock()
        try:
            good = 0
            for line_end, line_id, _ in self._lines():
                good = line_end
                self._ids[line_id] = None
            size = self.path.stat().st_size if self.path.exists() else 0
            if writer and size > good:
                self.cut_bytes = size - good
                os.ftruncate(self._handle, good)
                os.fsync(self._handle)
        except BaseException:
            self.close()
            raise

    @property
    def done(self) -> frozenset[str]:
        """The ids of the finished records."""
        return frozenset(self._ids)

    def __contains__(self, record_id: str) -> bool:
        return record_id in self._ids

    def __len__(self) -> int:
        return len(self._ids)

    def records(self) -> Iterator[tuple[str, Any]]:
        """The finished records as `(id, record)`, in the order they were finished."""
        for _, line_id, record in self._lines():
            yield line_id, record

    def append(self, record_id: str, record: Any) -> None:
        """Adds one finished record (a JSON value); it is on the disk when this returns.

        Raises:
            UserError: the id is there already, a number is not finite, or the disk is full (the
                journal is then as it was).
        """
        self.append_many([(record_id, record)])

    def append_many(self, records: Iterable[tuple[str, Any]]) -> None:
        """As `append`, with one flush for all; a kill in between keeps those before it."""
        lines: dict[str, bytes] = {}
        for record_id, record in records:
            if record_id in self._ids or record_id in lines:
                raise UserError(
                    found=f"a second record with id {record_id!r} for {self.path}",
                    expected="each id once",
                    do="skip the ids in `done`",
                )
            lines[record_id] = _line(record_id, record, self.path)
        if is_writer() and lines:
            self._write(b"".join(lines.values()))
        self._ids.update(dict.fromkeys(lines))

    def close(self) -> None:
        """Gives the file back, and with it the lock."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write(self, data: bytes) -> None:
        if self._handle is None:
            raise ValueError(f"the journal {self.path} is closed")
        before = os.fstat(self._handle).st_size
        with disk_full_told(self.path):
            try:
                rest = memoryview(data)
                while rest:
                    rest = rest[os.write(self._handle, rest) :]
                os.fsync(self._handle)
            except BaseException:
                # Neither a part of a line nor a line that `done` does not know may stay.
                os.ftruncate(self._handle, before)
                raise

    def _lock(self) -> None:
        try:
            import fcntl
        except ImportError:  # no such thing on Windows
            return
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.close()
            raise UserError(
                found=f"{self.path} in use by another run",
                expected="one run per workdir",
                do="wait for that run to end, stop it, or choose another workdir",
            ) from error
        except OSError:
            pass  # a file system without locks: keeping to one run is up to the user

    def _lines(self) -> Iterator[tuple[int, str, Any]]:
        """`(end offset, id, record)` of each good line; a bad last line ends the walk."""
        if not self.path.exists():
            return
        with open(self.path, "rb") as file:
            end, number, bad = 0, 0, None
            for raw in file:
                number += 1
                if bad is not None:
                    raise UserError(
                        found=f"a damaged line {bad} in {self.path}",
                        expected="only the last line torn, if any",
                        do="restore the file from a copy, or delete it to make its records anew",
                    )
                parsed = _parse(raw)
                if parsed is None:
                    bad = number
                    continue
                end += len(raw)
                yield end, *parsed


def _body(record_id: str, record: Any) -> str:
    return json.dumps([record_id, record], allow_nan=False)


def _line(record_id: str, record: Any, path: pathlib.Path) -> bytes:
    try:
        body = _body(record_id, record)
    except ValueError as error:
        raise UserError(
            found=f"a value that JSON cannot hold ({error}) in record {record_id!r} of {path}",
            expected="finite numbers",
            do="write None where there is no number",
        ) from error
    crc = f"{zlib.crc32(body.encode()):08x}"
    return (json.dumps({"id": record_id, "crc": crc, "record": record}) + "\n").encode()


def _parse(raw: bytes) -> tuple[str, Any] | None:
    """The id and record of a line, or None when it is torn or damaged."""
    if not raw.endswith(b"\n"):
        return None
    try:
        line = json.loads(raw)
        body = _body(line["id"], line["record"])
        good = line["crc"] == f"{zlib.crc32(body.encode()):08x}"
    except (ValueError, KeyError, TypeError):
        return None
    return (line["id"], line["record"]) if good else None
