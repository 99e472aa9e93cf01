"""A judge that is a language model on this machine."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping

from interp_jax.generation.engine import Engine
from interp_jax.generation.language_model import LanguageModel
from interp_jax.generation.requests import Request
from interp_jax.generation.sampling_params import SamplingParams
from interp_jax.models import roles
from interp_jax.runtime.errors import UserError
from interp_jax.runtime.keys import fold, root_key
from interp_jax.text.judges.judge import Question, Reply
from interp_jax.text.judges.log import JudgeLog
from interp_jax.text.judges.logged import LoggedJudge


class LocalJudge(LoggedJudge):
    """Asks a language model of ours; questions with the same settings share batches, and each reply
    is in the log as soon as it is made.

    Temperature 0 is greedy. Nothing holds the model to JSON: where an object is asked for, the
    reply is searched for one, and a small model will often fail to write it, which is an error.

    Args:
        lm: a model; without a chat template the messages' contents are its plain prompt.
        name: of the model, None for its origin's. Name an edited network: the log tells models
            apart by name and by the weights they were loaded from.
        log: as for `LoggedJudge`.
        batch_size: replies made at once.
        seed: of sampled replies; one depends on it and on the question alone.

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
        lm, root = self._lm, root_key(self._seed)
        groups: dict[tuple[int, float], list[str]] = {}
        for key, question in questions.items():
            groups.setdefault((question.max_tokens, question.temperature), []).append(key)
        for (max_tokens, temperature), keys in groups.items():
            prompts = [self._prompt(questions[key]) for key in keys]
            # A sampled reply hangs on the seed and its question, not on what else is asked.
            requests = [
                Request(prompt.ids, fold(root, "reply", key), max_tokens, prompt.roles, item=item)
                for item, (key, prompt) in enumerate(zip(keys, prompts, strict=True))
            ]
            engine = Engine(
                lm.network, SamplingParams.make(temperature),
                stop_tokens=lm.tokenizer.special.stop, batch_size=self._batch_size,
                role=roles.ANSWER,
            )
            began = time.monotonic()
            for sample in engine.run(requests):
                made = lm.completion(sample)
                # Replies are made side by side: each is given the time since the last one.
                seconds, began = time.monotonic() - began, time.monotonic()
                yield keys[sample.item], Reply(
                    made.text, self.name, len(prompts[sample.item].ids), len(made.tokens), None,
                    seconds, False, made.finish,
                ), 0

    def _prompt(self, question: Question):
        if self._lm.chat_template is not None:
            return self._lm.prompt(list(question.messages))
        text = "\n\n".join(message["content"] for message in question.messages)
        return self._lm.prompt(text, chat=False)
