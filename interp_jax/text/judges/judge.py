"""What a judge is: it is asked something, it answers, and what that took is told."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from interp_jax.runtime.errors import UserError

Message = Mapping[str, str]


@dataclass(frozen=True)
class Question:
    """One request to a judge.

    Attributes:
        messages: turns with `role` and `content`, oldest first.
        json_object: the reply must hold one JSON object.
        max_tokens: most tokens of the reply.
        temperature: 0 asks for the most probable reply.
        purpose: what the reply is for, in a word; goes into the log.
        prompt_version: of the wording; goes into the log.

    Raises:
        UserError: no messages, a message without role or content, or numbers out of range.
    """

    messages: tuple[Message, ...]
    json_object: bool = False
    max_tokens: int = 1024
    temperature: float = 0.0
    purpose: str = ""
    prompt_version: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "messages", tuple(dict(each) for each in self.messages))
        whole = self.messages and all(
            isinstance(each.get("role"), str) and isinstance(each.get("content"), str)
            for each in self.messages
        )
        if not whole:
            raise UserError(
                found=f"messages {list(self.messages)!r:.200}",
                expected="at least one, each with the texts `role` and `content`",
                do="write the question as such messages",
            )
        if self.max_tokens < 1 or not 0 <= self.temperature < float("inf"):
            raise UserError(
                found=f"max_tokens={self.max_tokens} and temperature={self.temperature}",
                expected="at least one token and a temperature of 0 or more",
                do="correct them",
            )


@dataclass(frozen=True)
class Reply:
    """What a judge answered.

    Attributes:
        text: as written by the model.
        model: as the judge names it; a service may name a dated one.
        prompt_tokens, completion_tokens: as counted by the service or the tokenizer; None where a
            service does not tell.
        cost: in the currency of the judge's prices, when it was asked; None without prices.
        seconds: from asking to answer, retries included.
        cached: taken from the log, so nothing was asked now.
        finish: `stop`, or `length` when the reply was cut at `max_tokens`, or a service's word.
    """

    text: str
    model: str
    prompt_tokens: int | None
    completion_tokens: int | None
    cost: float | None
    seconds: float
    cached: bool
    finish: str = "stop"


@dataclass
class Totals:
    """What a judge has used since it was made; replies from the log cost nothing and are counted
    apart.

    Attributes:
        asked: replies that were really made, unusable ones included.
        cached: replies taken from the log.
        unusable: replies that should have held a JSON object and did not.
        retries: requests sent again after a busy or failing service.
        prompt_tokens, completion_tokens: of the replies asked, where told.
        cost: of the replies asked; None without prices.
    """

    asked: int = 0
    cached: int = 0
    unusable: int = 0
    retries: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float | None = None

    def line(self) -> str:
        """The totals in one line, for a log or a report."""
        parts = [
            f"{self.asked} asked", f"{self.cached} from the log",
            f"{self.prompt_tokens} + {self.completion_tokens} tokens",
        ]
        if self.unusable:
            parts.append(f"{self.unusable} unusable")
        if self.retries:
            parts.append(f"{self.retries} retries")
        if self.cost is not None:
            parts.append(f"cost {self.cost:.4f}")
        return ", ".join(parts)


class Judge(Protocol):
    """Anything that answers questions about text: `EndpointJudge`, `LocalJudge`, or your own."""

    name: str
    totals: Totals

    def ask(
        self, messages: Sequence[Message], *, json_object: bool = False, max_tokens: int = 1024,
        temperature: float = 0.0, purpose: str = "", prompt_version: str = "",
    ) -> Reply:
        """Asks one question; see `Question` for the arguments."""

    def ask_many(self, questions: Sequence[Question]) -> list[Reply]:
        """Asks several, some at once; replies come in the questions' order."""


def question_key(judge: Mapping[str, Any], question: Question) -> str:
    """What a reply depends on, as a hash: who is asked, the messages and the settings.

    Purpose and prompt version are no part of it: the same words asked for another reason get the
    same reply.
    """
    body = {
        "judge": dict(judge),
        "messages": list(question.messages),
        "json_object": question.json_object,
        "max_tokens": question.max_tokens,
        "temperature": float(question.temperature),
    }
    text = json.dumps(body, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]
