"""A judge that is a language model on this machine."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping

from interp_jax.generation.language_model import LanguageModel
from interp_jax.runtime.errors import UserError
from interp_jax.text.judges.judge import Question, Reply
from interp_jax.text.judges.log import JudgeLog
from interp_jax.text.judges.logged import LoggedJudge


class LocalJudge(LoggedJudge):
    """Asks a language model of ours; questions with the same settings run as one batch.

    Temperature 0 is greedy. Nothing holds the model to JSON: where an object is asked for, the
    reply is searched for one, and a small model will often fail to write it, which is an error.

    Args:
        lm: a model; without a chat template the messages' contents are its plain prompt.
        name: of the model, None for its origin's. Name an edited network: the log tells models
            apart by name and by the weights they were loaded from.
        log: as for `LoggedJudge`.
        batch_size: replies made at once.
        seed: of sampled replies.

    Raises:
        UserError: a model without an origin, and no name.
    """

    def __init__(
        self, lm: LanguageModel, *, name: str | None = None,
        log: JudgeLog | str | os.PathLike | None = None, batch_size: int = 8, seed: int = 0,
    ):
        origin = lm.origin
        if name is None and origin is None:
            raise UserError(
                found="a model that was not loaded from anywhere",
                expected="a name for it, by which the log knows it again",
                do="give the judge a name",
            )
        name = name or origin.model_id
        # A model is its weights: another folder with the same ones gives the same replies.
        weights = None if origin is None else [origin.weights, origin.tokenizer, origin.dtype]
        super().__init__(name, {"weights": weights, "seed": seed}, log=log)
        self._lm, self._batch_size, self._seed = lm, batch_size, seed

    def _answers(self, questions: Mapping[str, Question]) -> Iterator[tuple[str, Reply, int]]:
        groups: dict[tuple[int, float], list[str]] = {}
        for key, question in questions.items():
            groups.setdefault((question.max_tokens, question.temperature), []).append(key)
        for (max_tokens, temperature), keys in groups.items():
            prompts = [self._prompt(questions[key]) for key in keys]
            began = time.monotonic()
            made = self._lm.generate(
                prompts, max_new_tokens=max_tokens, temperature=temperature, seed=self._seed,
                batch_size=self._batch_size,
            )
            # Replies of a batch are made together, so each took its share of the time.
            seconds = (time.monotonic() - began) / len(keys)
            for key, prompt, completion in zip(keys, prompts, made, strict=True):
                yield key, Reply(
                    completion.text, self.name, len(prompt.ids), len(completion.tokens), None,
                    seconds, False, completion.finish,
                ), 0

    def _prompt(self, question: Question):
        if self._lm.chat_template is not None:
            return self._lm.prompt(list(question.messages))
        text = "\n\n".join(message["content"] for message in question.messages)
        return self._lm.prompt(text, chat=False)
