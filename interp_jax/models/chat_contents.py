"""Where the texts of messages stand in a rendered chat."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence

from interp_jax.models import roles
from interp_jax.models.tokenizer import GUARD_END
from interp_jax.runtime.errors import UserError

Message = Mapping[str, str]

_KEYS = ("reasoning_content", "content")
_MARKS = 0xFFF
_MARK = re.compile(f"[{chr(GUARD_END)}-{chr(GUARD_END + _MARKS)}]")
_CLOSE, _OPEN = "</think>", "<think>"


@dataclasses.dataclass(frozen=True)
class Segment:
    """Characters [start, stop) of a rendered chat that share a role."""

    start: int
    stop: int
    role: int


@dataclasses.dataclass(frozen=True)
class Field:
    """One text of one message."""

    message: int
    key: str
    text: str
    role: int


@dataclasses.dataclass(frozen=True)
class Found:
    """Where (a part of) a field stands."""

    field: Field
    start: int
    stop: int
    role: int


def mark(i: int) -> str:
    """The private-use character that stands for field i."""
    return chr(GUARD_END + i)


def fields_of(messages: Sequence[Message]) -> list[Field]:
    """The texts of checked messages, in the order a template shows them.

    Raises:
        UserError: an unknown role or field, a content that is no text, or one with
            the characters used as marks.
    """
    fields = []
    for at, message in enumerate(messages):
        wrong = sorted(set(message) - {"role", *_KEYS}) or "content" not in message
        texts = {key: message[key] for key in _KEYS if key in message}
        role = roles.OF_MESSAGE.get(str(message.get("role")))
        if wrong or role is None or not all(isinstance(text, str) for text in texts.values()):
            raise UserError(
                found=f"message {at}, role {message.get('role')!r}, fields {sorted(message)}",
                expected=f"a role of {', '.join(roles.OF_MESSAGE)}, and a text as its content",
                do="change the message",
            )
        if any(_MARK.search(text) for text in texts.values()):
            raise UserError(
                found=f"a private-use character from U+{GUARD_END:X} in message {at}",
                expected="text without it",
                do="remove it",
            )
        for key, text in texts.items():
            own = roles.REASONING if key == "reasoning_content" else role
            fields.append(Field(at, key, text, own))
    if len(fields) > _MARKS:
        raise UserError(
            found=f"{len(fields)} message texts",
            expected=f"at most {_MARKS}",
            do="shorten the chat",
        )
    return fields


def aligned(text: str, marked: str, fields: Sequence[Field]) -> list[Found] | None:
    """Follow the marks of the second rendering; None where the two part.

    A template may trim a text, or show only what follows its reasoning.
    """
    marks = list(_MARK.finditer(marked))
    literals = _MARK.split(marked)
    if not text.startswith(literals[0]):
        return None
    at, found = len(literals[0]), []
    for match, literal in zip(marks, literals[1:], strict=True):
        field = fields[ord(match.group()) - GUARD_END]
        for shown in _forms(field.text):
            if text.startswith(shown + literal, at):
                break
        else:
            return None
        found.append(Found(field, at, at + len(shown), field.role))
        at += len(shown) + len(literal)
    return found if at == len(text) else None


def _forms(text: str) -> Iterator[str]:
    after = text.rsplit(_CLOSE, 1)[-1]
    for form in (text, after):
        yield from (form, form.rstrip(), form.lstrip(), form.lstrip("\n"), form.strip())


def searched(text: str, fields: Sequence[Field]) -> list[Found]:
    """Each text, or its reasoning and its answer, looked for in order.

    For where the two renderings part. A field counts as found only with all its parts.
    """
    at, found = 0, []
    for field in fields:
        parts, cursor = [], at
        pieces = [field.text.strip()]
        if field.role == roles.ANSWER and _CLOSE in field.text and pieces[0] not in text[at:]:
            before, after = field.text.rsplit(_CLOSE, 1)
            pieces = [before.replace(_OPEN, "", 1).strip(), after.strip()]
        for i, piece in enumerate(pieces):
            start = text.find(piece, cursor)
            if start < 0:
                parts = []
                break
            cursor = start + len(piece)
            role = roles.REASONING if len(pieces) == 2 and i == 0 else field.role
            parts.append(Found(field, start, cursor, role))
        if parts:
            found += [part for part in parts if part.start < part.stop]
            at = cursor
    return found


def without_think(text: str) -> str:
    """The text without the tags of reasoning, which templates move and write themselves."""
    return text.replace(_OPEN, "").replace(_CLOSE, "")


def segments(text: str, part: Found) -> list[Segment]:
    """The found part as segments; `<think>...</think>` in an answer is reasoning.

    The tags belong to the reasoning; an open `<think>` makes all after it reasoning.
    """
    inside = text[part.start : part.stop]
    cuts = [(part.start, part.stop, part.role)]
    if part.role == roles.ANSWER and _CLOSE in inside:
        middle = part.start + inside.rindex(_CLOSE) + len(_CLOSE)
        cuts = [(part.start, middle, roles.REASONING), (middle, part.stop, roles.ANSWER)]
    elif part.role == roles.ANSWER and inside.lstrip().startswith(_OPEN):
        cuts = [(part.start, part.stop, roles.REASONING)]
    return [Segment(*cut) for cut in cuts if cut[0] < cut[1]]
