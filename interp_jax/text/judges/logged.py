"""What all judges share: the log, equal questions asked once, the check for JSON, totals."""

from __future__ import annotations

import abc
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from interp_jax.runtime.errors import UserError
from interp_jax.runtime.progress import Progress
from interp_jax.text.judges.json_reply import find_json_object
from interp_jax.text.judges.judge import Message, Question, Reply, Totals, question_key
from interp_jax.text.judges.log import JudgeLog


class LoggedJudge(abc.ABC):
    """A judge that logs each reply and asks nothing whose reply it has.

    Args:
        name: the model.
        identity: what else decides a reply (where it is asked, fixed settings); JSON values.
        log: the log itself, a path for one, or None for one in memory.
        json_tries: how often a question is asked whose reply should hold a JSON object and does
            not; then it is an error.
    """

    def __init__(
        self, name: str, identity: Mapping[str, Any], *,
        log: JudgeLog | str | os.PathLike | None = None, json_tries: int = 1,
    ):
        self.name = name
        self.totals = Totals()
        self.log = log if isinstance(log, JudgeLog) else JudgeLog(log)
        self._identity = {"model": name, **identity}
        self._json_tries = json_tries

    def ask(
        self, messages: Sequence[Message], *, json_object: bool = False, max_tokens: int = 1024,
        temperature: float = 0.0, purpose: str = "", prompt_version: str = "",
    ) -> Reply:
        """Asks one question; see `Question` for the arguments and `ask_many` for errors."""
        question = Question(
            tuple(messages), json_object, max_tokens, temperature, purpose, prompt_version
        )
        return self.ask_many([question])[0]

    def ask_many(self, questions: Sequence[Question]) -> list[Reply]:
        """Asks several questions, equal ones once; replies come in the questions' order.

        Raises:
            UserError: the judge cannot be reached or refuses, or a reply that should hold a JSON
                object does not. What was answered until then is in the log.
        """
        keys = [question_key(self._identity, question) for question in questions]
        found = {key: self.log.get(key) for key in keys}
        fresh = {
            key: question
            for key, question in zip(keys, questions, strict=True) if found[key] is None
        }
        self.totals.cached += sum(found[key] is not None for key in keys)
        if fresh:
            with Progress(len(fresh), f"judge {self.name}", unit="replies") as bar:
                found |= self._fetch(fresh, bar)
        return [found[key] for key in keys]

    def _fetch(self, fresh: Mapping[str, Question], bar: Progress) -> dict[str, Reply]:
        """Replies to questions that the log has none of."""
        found, left = {}, dict(fresh)
        for _ in range(self._json_tries):
            if not left:
                break
            for key, reply, retries in self._answers(dict(left)):
                usable = not left[key].json_object or find_json_object(reply.text) is not None
                self._count(reply, retries, usable)
                self.log.put(key, left[key], reply, usable=usable)
                found[key] = reply
                if usable:
                    del left[key]
                    bar.update()
        if left:
            raise _no_json(self.name, found[next(iter(left))], len(left), self._json_tries)
        return found

    def close(self) -> None:
        """Gives the log's file back."""
        self.log.close()

    def __enter__(self) -> LoggedJudge:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abc.abstractmethod
    def _answers(self, questions: Mapping[str, Question]) -> Iterator[tuple[str, Reply, int]]:
        """Each question's key, reply, and how often it was sent again, as they come."""

    def _count(self, reply: Reply, retries: int, usable: bool) -> None:
        totals = self.totals
        totals.asked += 1
        totals.unusable += not usable
        totals.retries += retries
        totals.prompt_tokens += reply.prompt_tokens or 0
        totals.completion_tokens += reply.completion_tokens or 0
        if reply.cost is not None:
            totals.cost = (totals.cost or 0.0) + reply.cost


def _no_json(name: str, reply: Reply, count: int, tries: int) -> UserError:
    cut = reply.finish == "length"
    return UserError(
        found=f"a reply of {name} without a whole JSON object ({count} of them after {tries} "
        f"tries, finish {reply.finish!r}): {reply.text!r:.120}",
        expected="one JSON object",
        do="allow it more tokens" if cut else "ask a model that keeps to JSON, or ask again",
    )
