"""From what a user writes to the tokens and roles that a network takes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from interp_jax.models import roles
from interp_jax.models.chat import ChatTemplate
from interp_jax.models.tokenizer import Tokenizer
from interp_jax.runtime.errors import UserError

Messages = Sequence[Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class Prompt:
    """Tokens with the role of each.

    Attributes:
        ids: int32 [T]. roles: int8 [T], see `models.roles`.
        text: what they spell, or None where only ids were given.
        offsets: int32 [T, 2], characters of `text`, or None.
    """

    ids: np.ndarray
    roles: np.ndarray
    text: str | None = None
    offsets: np.ndarray | None = None


def make_prompt(
    what: str | Messages | Prompt | np.ndarray | Sequence[int],
    tokenizer: Tokenizer,
    template: ChatTemplate | None,
    *,
    chat: bool = True,
    continue_final: bool = False,
) -> Prompt:
    """A prompt in any of the forms `generate` takes.

    Args:
        what: a string (a user's turn when there is a chat template and `chat`,
            else plain text), messages, token ids, or a `Prompt`.
        chat: whether a string is a user's turn.
        continue_final: messages end with an assistant turn that is continued.

    Raises:
        UserError: messages for a model without a chat template, or no tokens.
    """
    if isinstance(what, Prompt):
        prompt = what
    elif isinstance(what, str) and (template is None or not chat):
        out = tokenizer.encode(what, add_special=True)
        prompt = Prompt(out.ids, np.full(len(out.ids), roles.USER, np.int8), what, out.offsets)
    elif isinstance(what, str) or (len(what) and isinstance(what[0], Mapping)):
        if template is None:
            raise UserError(
                found="messages for a model without a chat template",
                expected="text or token ids", do="give the prompt as a string",
            )
        messages = [{"role": "user", "content": what}] if isinstance(what, str) else what
        chat_tokens = template.encode(
            tokenizer, messages, add_generation_prompt=not continue_final,
            continue_final_message=continue_final, assistant_control=continue_final,
        )
        prompt = Prompt(
            chat_tokens.ids, chat_tokens.roles, chat_tokens.text, chat_tokens.offsets
        )
    else:
        ids = np.asarray(what, np.int32)
        prompt = Prompt(ids, np.full(ids.shape, roles.USER, np.int8))
    if prompt.ids.ndim != 1 or not len(prompt.ids):
        raise UserError(
            found=f"a prompt of shape {prompt.ids.shape}", expected="at least one token in a row",
            do="give some text",
        )
    return prompt
