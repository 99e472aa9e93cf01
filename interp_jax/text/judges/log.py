"""Every reply of a judge, on disk, so that no question is paid for twice."""

from __future__ import annotations

import dataclasses
import os
import threading
from collections.abc import Iterator
from typing import Any

from interp_jax.runtime.errors import UserError
from interp_jax.runtime.journal import Journal
from interp_jax.text.judges.judge import Question, Reply

_REPLY = {field.name for field in dataclasses.fields(Reply)} - {"cached"}


class JudgeLog:
    """Replies with their questions, one JSON line each; in memory only without a path.

    A record's id is the question's key and the number of the attempt (`key.0`, `key.1`). Unusable
    replies are kept for the record and never handed out. Safe to use from several threads.

    Args:
        path: JSON lines file in a folder that exists; None keeps nothing after the process.

    Raises:
        UserError: the file is damaged, of another kind, or in use by another run.
    """

    def __init__(self, path: str | os.PathLike | None = None):
        self._lock = threading.Lock()
        self._replies: dict[str, Reply] = {}
        self._attempts: dict[str, int] = {}
        self._journal = None if path is None else Journal(path)
        if self._journal is not None:
            try:
                for line_id, record in self._journal.records():
                    self._remember(line_id, record)
            except BaseException:
                self.close()
                raise

    def get(self, key: str) -> Reply | None:
        """The usable reply to a question, marked `cached`, or None."""
        with self._lock:
            reply = self._replies.get(key)
        return None if reply is None else dataclasses.replace(reply, cached=True)

    def put(self, key: str, question: Question, reply: Reply, *, usable: bool = True) -> None:
        """Adds a reply; it is on the disk when this returns."""
        record = {
            "purpose": question.purpose,
            "prompt_version": question.prompt_version,
            "settings": {
                "json_object": question.json_object, "max_tokens": question.max_tokens,
                "temperature": question.temperature,
            },
            "messages": list(question.messages),
            "usable": usable,
            "reply": {name: getattr(reply, name) for name in sorted(_REPLY)},
        }
        with self._lock:
            line_id = f"{key}.{self._attempts.get(key, 0)}"
            if self._journal is not None:
                self._journal.append(line_id, record)
            self._remember(line_id, record)

    def records(self) -> Iterator[dict[str, Any]]:
        """What was asked and answered, oldest first, each with its `id`; empty without a path."""
        for line_id, record in () if self._journal is None else self._journal.records():
            yield {"id": line_id, **record}

    def close(self) -> None:
        """Gives the file back."""
        if self._journal is not None:
            self._journal.close()

    def __enter__(self) -> JudgeLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _remember(self, line_id: str, record: dict[str, Any]) -> None:
        key, dot, number = line_id.rpartition(".")
        try:
            if not dot:
                raise ValueError("no attempt in the id")
            self._attempts[key] = max(self._attempts.get(key, 0), int(number) + 1)
            if record["usable"]:
                fields = {name: record["reply"][name] for name in _REPLY}
                self._replies[key] = Reply(cached=False, **fields)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                found=f"a record {line_id!r} that is no judge's reply ({error!r})",
                expected="a log written by a judge",
                do="name another file for the judge's log",
            ) from error
