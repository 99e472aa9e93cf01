"""Conversations to tokens: rendered by the model's template, each token with its role.

Contents and template are told apart by rendering twice: once as it is, and once
with every content replaced by a private-use character. Where the second rendering
shows those characters, contents stand; the rest is the template's, and only there
may control tokens come out. Templates that trim a content or split off its
reasoning are followed; a content that cannot be found again counts as template
text, and messages that spell control tokens are refused with such a template.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import numpy as np

from interp_jax.models import roles
from interp_jax.models.chat_contents import (
    Message,
    Segment,
    aligned,
    fields_of,
    mark,
    searched,
    segments,
    without_think,
)
from interp_jax.models.chat_sandbox import compile_template
from interp_jax.models.tokenizer import Tokenizer
from interp_jax.runtime.errors import UserError


@dataclasses.dataclass(frozen=True)
class Rendered:
    """A rendered chat.

    Attributes:
        text: all of it.
        contents: where the messages' texts stand, in order; the rest is the template's.
        exact: everything outside `contents` is known to be the template's. False where
            the template does more to a text than trim it: contents were then looked for.
    """

    text: str
    contents: tuple[Segment, ...]
    exact: bool

    def template_ranges(self) -> list[tuple[int, int]]:
        """Character ranges that the template wrote."""
        edges = [0]
        for part in self.contents:
            edges += [part.start, part.stop]
        edges.append(len(self.text))
        return [(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True) if a < b]


@dataclasses.dataclass(frozen=True)
class ChatTokens:
    """A chat as tokens.

    Attributes:
        ids: [T] int32.
        roles: [T] int8, of `roles`; a token has the role of its first character.
        text: the rendered chat.
        offsets: [T, 2] int32, characters of `text`.
    """

    ids: np.ndarray
    roles: np.ndarray
    text: str
    offsets: np.ndarray


@dataclasses.dataclass(frozen=True)
class ChatTemplate:
    """A chat template with the special tokens it may name (`bos_token` and so on)."""

    source: str
    special_texts: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def render(
        self,
        messages: Sequence[Message],
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        **variables: Any,
    ) -> Rendered:
        """The text of a conversation and where its contents stand.

        Args:
            messages: each with `role` (system, developer, user, tool, assistant),
                `content`, and perhaps `reasoning_content`.
            add_generation_prompt: ends with the header of an assistant turn.
            continue_final_message: ends with the last message's content, open.
            variables: further variables of the template (`enable_thinking`).

        Raises:
            UserError: malformed messages, a template that refuses them, or a content
                with a control token's spelling that the template has changed.
        """
        if not messages or (add_generation_prompt and continue_final_message):
            raise UserError(
                found="both a generation prompt and a continuation" if messages else "no messages",
                expected="messages, and at most one of the two",
                do="change the call",
            )
        fields = fields_of(messages)
        text = self._run(messages, add_generation_prompt, variables)
        marked = [dict(message) for message in messages]
        for i, field in enumerate(fields):
            marked[field.message][field.key] = mark(i)
        found = aligned(text, self._try(marked, add_generation_prompt, variables), fields)
        exact = found is not None
        if found is None:
            found = searched(text, fields)
        if continue_final_message:
            last = [part for part in found if part.field.message == len(messages) - 1]
            if not last:
                raise UserError(
                    found="a final message that the chat template does not show as it is",
                    expected="its content at the end of the chat, to continue it",
                    do="append the text after a generation prompt instead",
                )
            text = text[: last[-1].stop]
        return Rendered(text, tuple(s for part in found for s in segments(text, part)), exact)

    def encode(
        self,
        tokenizer: Tokenizer,
        messages: Sequence[Message],
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        assistant_control: bool = False,
        **variables: Any,
    ) -> ChatTokens:
        """The conversation as tokens with roles; other arguments and errors as `render`.

        Control tokens come from the template only, whatever the contents say.

        Args:
            assistant_control: assistant messages are a model's own output, in which
                `<think>` means the token.
        """
        chat = self.render(messages, add_generation_prompt, continue_final_message, **variables)
        texts = [] if chat.exact else [text_of for m in messages for text_of in m.values()]
        if spelled := [t for t in texts if tokenizer.spells_control(without_think(t))]:
            raise UserError(
                found=f"a control token in messages that the chat template changes: {spelled[0]!r}",
                expected="messages without it, or a template that shows them as they are",
                do="remove the control token from the message",
            )
        allowed = chat.template_ranges()
        if assistant_control:
            own = (roles.REASONING, roles.ANSWER)
            allowed += [(part.start, part.stop) for part in chat.contents if part.role in own]
        out = tokenizer.encode(chat.text, allow_special=sorted(allowed))
        by_character = np.full(len(chat.text) + 1, roles.TEMPLATE, np.int8)
        for part in chat.contents:
            by_character[part.start : part.stop] = part.role
        return ChatTokens(out.ids, by_character[out.offsets[:, 0]], chat.text, out.offsets)

    def _run(self, messages: Sequence[Message], prompt: bool, variables: Mapping[str, Any]) -> str:
        try:
            return compile_template(self.source).render(
                messages=[dict(message) for message in messages],
                add_generation_prompt=prompt,
                tools=None,
                documents=None,
                **self.special_texts,
                **variables,
            )
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            raise UserError(
                found=f"messages that the chat template refuses ({error})",
                expected="roles and an order that this model's template allows",
                do="change the messages",
            ) from None

    def _try(self, messages: Sequence[Message], prompt: bool, variables: Mapping[str, Any]) -> str:
        """As `_run`; empty where the template refuses marks for contents."""
        try:
            return self._run(messages, prompt, variables)
        except UserError:
            return ""
