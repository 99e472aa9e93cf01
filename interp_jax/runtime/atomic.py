"""Files that appear whole or not at all, and one sentence when the disk is full."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any

from interp_jax.runtime.errors import UserError

FULL = (errno.ENOSPC, errno.EDQUOT)


@contextlib.contextmanager
def disk_full_told(path: str | os.PathLike) -> Iterator[None]:
    """Turns "no space left" (or a used-up quota) into a `UserError` that names the file."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise UserError(
            found=f"no space left on the disk while writing {os.fspath(path)}",
            expected="room for it",
            do="make room and run the same command again; what was finished is kept",
        ) from error


def atomic_write_bytes(path: str | os.PathLike, data: bytes) -> None:
    """Writes a temporary file beside `path`, flushes it to the disk, and renames it.

    A reader, or a run after a kill, sees the old content or the new, never a part.

    Raises:
        UserError: the disk is full; `path` is as it was and no temporary file is left.
    """
    path = pathlib.Path(path)
    with disk_full_told(path):
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o666 & ~_umask())  # mkstemp makes private files
            os.replace(temporary, path)
        except BaseException:
            pathlib.Path(temporary).unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def atomic_write_text(path: str | os.PathLike, text: str) -> None:
    """As `atomic_write_bytes`, for text (UTF-8)."""
    atomic_write_bytes(path, text.encode())


def atomic_write_json(path: str | os.PathLike, obj: Any, *, indent: int | None = 2) -> None:
    """As `atomic_write_bytes`, for a JSON value.

    Raises:
        UserError: a number is not finite (JSON has none such; write None), or the disk is full.
    """
    try:
        data = json.dumps(obj, indent=indent, ensure_ascii=False, allow_nan=False).encode()
    except ValueError as error:
        raise UserError(
            found=f"a value that JSON cannot hold ({error}) for {os.fspath(path)}",
            expected="finite numbers and valid text",
            do="write None where there is no number",
        ) from error
    atomic_write_bytes(path, data + b"\n")


def sync_folder(folder: str | os.PathLike) -> None:
    """Makes a rename in `folder` outlast a power cut, where the system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _umask() -> int:
    # Read-and-restore is the only portable way to know it.
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
