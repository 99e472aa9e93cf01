"""Asking a model: from a problem to the prompt, and from tokens to a trace with sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from interp_jax.generation.language_model import LanguageModel
from interp_jax.generation.prompts import Prompt
from interp_jax.models import roles
from interp_jax.models.tokenizer import Tokenizer
from interp_jax.runtime.errors import UserError
from interp_jax.studies.thought_anchors.config import QUESTION, ThoughtAnchorsConfig
from interp_jax.studies.thought_anchors.problems import (
    Problem,
    load_problem,
    prompt_problem,
    read_problems,
)
from interp_jax.text.sentences import Sentence, split_sentences, token_ranges


@dataclass(frozen=True)
class Trace:
    """A prompt and a reasoning that follows it, cut into sentences.

    Attributes:
        prompt: tokens and roles of what stands before.
        tokens: int32 [T], the trace's own ids, without a stop token.
        text: what they spell.
        sentences: of the text, with character ranges in it.
        ranges: int32 [S, 2], half-open ranges in `tokens`.
        cuts: how many characters of `text` stand before each sentence's first token.
        finish: `stop` if it ended by itself; `given` if it came from a file.
        tries: how many traces were looked at until this one.
    """

    prompt: Prompt
    tokens: np.ndarray
    text: str
    sentences: tuple[Sentence, ...]
    ranges: np.ndarray
    cuts: tuple[int, ...] = ()
    finish: str = "given"
    tries: int = 1

    @property
    def ids(self) -> np.ndarray:
        """int32 [P + T]; prompt and trace."""
        return np.concatenate([self.prompt.ids, self.tokens]).astype(np.int32)

    @property
    def roles(self) -> np.ndarray:
        """int8 [P + T]; the trace's tokens are reasoning."""
        own = np.full(len(self.tokens), roles.REASONING, np.int8)
        return np.concatenate([self.prompt.roles, own])

    @property
    def spans(self) -> np.ndarray:
        """int32 [S, 2]; the sentences' ranges in `ids`."""
        return (self.ranges + len(self.prompt.ids)).astype(np.int32)


def chosen_problem(config: ThoughtAnchorsConfig) -> Problem:
    """The problem that a config names.

    Raises:
        UserError: as the source of the problem does, or an index beyond the file.
    """
    if config.prompt is not None:
        return prompt_problem(config.prompt, config.answer, rule=config.rule or "stated")
    if config.problems is not None:
        problems = read_problems(config.problems, rule=config.rule or "boxed")
        if config.index >= len(problems):
            raise UserError(
                found=f"--index={config.index}",
                expected=f"below {len(problems)}, the problems in {config.problems}",
                do="name one of them, from 0",
            )
        return problems[config.index]
    return load_problem(config.resolved().problem, rule=config.rule)


def ask(lm: LanguageModel, question: str, instruction: str, opening: str) -> Prompt:
    """The prompt of a question.

    With a chat template the instruction is the user's turn and the opening starts the model's;
    without one both are plain text, a blank line between them.

    Args:
        instruction: holds `{question}` where the question goes.
        opening: may be empty.
    """
    asked = instruction.replace(QUESTION, question)
    if lm.chat_template is None:
        return lm.prompt(f"{asked}\n\n{opening}", chat=False)
    turns = [{"role": "user", "content": asked}]
    if not opening:
        return lm.prompt(turns)
    turns.append({"role": "assistant", "content": opening})
    return lm.prompt(turns, continue_final=True)


def make_trace(
    prompt: Prompt, tokens: Sequence[int], tokenizer: Tokenizer, finish: str, tries: int = 1
) -> Trace:
    """A trace from sampled tokens: its sentences lie on the tokens that were really sampled."""
    tokens = np.asarray(tokens, np.int32)
    text, offsets = own_offsets(tokens, tokenizer)
    sentences = tuple(split_sentences(text))
    ranges = token_ranges(sentences, text, offsets)
    starts = [start for start, _ in offsets] + [len(text)]
    cuts = tuple(starts[first] for first in ranges[:, 0].tolist())
    return Trace(prompt, tokens, text, sentences, ranges, cuts, finish, tries)


def own_offsets(
    tokens: np.ndarray, tokenizer: Tokenizer
) -> tuple[str, list[tuple[int, int]]]:
    """What tokens spell, and the characters `[start, end)` of each, without tokenising again.

    Decoding is not piece by piece (a piece may lose its space or hold half a character), so the
    offsets come from decoding longer and longer beginnings: where one stops agreeing with the
    whole, the next token begins. Tokens that share a character share it here too.
    """
    text = tokenizer.decode(tokens)
    offsets, left = [], 0
    for count in range(1, len(tokens) + 1):
        start = tokenizer.decode(tokens[:count]) if count < len(tokens) else text
        right = max(left, _agree(start, text))
        # A beginning that goes on otherwise holds a part of the next character.
        held = right + (len(start) > right)
        offsets.append((left, min(held, len(text))))
        left = right
    return text, offsets


def _agree(start: str, text: str) -> int:
    """Length of the common beginning."""
    if text.startswith(start):
        return len(start)
    low, high = 0, min(len(start), len(text))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if start[:middle] == text[:middle] else (low, middle - 1)
    return low


def given_trace(lm: LanguageModel, config: ThoughtAnchorsConfig) -> Trace:
    """The trace in the file that a config names.

    With a prompt it follows that as the model's turn would. Without, the whole file is the text,
    and what stands before its first sentence (a `<think>` tag, say) is the prompt.

    Raises:
        UserError: the file cannot be read, or holds no sentence.
    """
    path = Path(config.trace)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise UserError(
            found=f"the trace {path}, which cannot be read ({reason})",
            expected="a UTF-8 text file",
            do="check the path",
        ) from error
    if not text.strip():
        raise UserError(
            found=f"no text in {path}", expected="a trace of sentences", do="write one there"
        )
    if config.prompt is None:
        prompt = Prompt(np.zeros(0, np.int32), np.zeros(0, np.int8))
    else:
        prompt = ask(lm, config.prompt, config.instruction, config.opening)
    out = lm.tokenizer.encode(text, add_special=config.prompt is None)
    sentences = tuple(split_sentences(text))
    ranges = token_ranges(sentences, text, [tuple(pair) for pair in out.offsets.tolist()])
    return Trace(prompt, out.ids, text, sentences, ranges)
