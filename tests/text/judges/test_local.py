"""The local judge: greedy, batched without a difference, logged, and honest about JSON."""

from __future__ import annotations

import dataclasses

import pytest

from interp_jax.generation.language_model import LanguageModel
from interp_jax.models.chat import ChatTemplate
from interp_jax.models.decoder import build_decoder
from interp_jax.models.gguf_header import open_gguf
from interp_jax.models.pretrained import Origin
from interp_jax.models.sources import DEFAULT_MODEL, locate
from interp_jax.models.tokenizer_files import tokenizer_from_gguf
from interp_jax.runtime.errors import UserError
from interp_jax.testing.tiny import random_parameters, tiny_config
from interp_jax.text.judges.judge import Question
from interp_jax.text.judges.local import LocalJudge
from interp_jax.text.judges.log import JudgeLog

ASKED = [{"role": "user", "content": text} for text in ("What is it?", "Is it so, or not?")]


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    """The default model's tokenizer and template over a tiny random network."""
    metadata = open_gguf(locate(DEFAULT_MODEL).path).metadata
    words = tokenizer_from_gguf(metadata)
    config = tiny_config("llama", n_layers=1, vocab_size=words.vocab_size, max_context=256)
    template = ChatTemplate(metadata["tokenizer.chat_template"], words.special_texts())
    network = build_decoder(config, random_parameters(config))
    return LanguageModel(network, words, template, Origin("tiny", "w0", "t0", "float32"))


def test_replies_are_the_models_own_and_are_logged(lm, tmp_path, caplog):
    caplog.set_level("INFO")
    log = tmp_path / "log.jsonl"
    questions = [Question((message,), max_tokens=6) for message in ASKED]
    (want,) = lm.generate([ASKED[1]], max_new_tokens=6)
    with LocalJudge(lm, log=log) as judge:
        replies = judge.ask_many(questions)
        assert replies[1].text == want.text and replies[0].text != want.text
        assert judge.ask([ASKED[1]], max_tokens=6) == dataclasses.replace(replies[1], cached=True)
        assert judge.totals.asked == 2 and judge.totals.cached == 1
    # What is read from the log is no wait, and shows nothing.
    (shown,) = (text for text in caplog.messages if text.startswith("judge "))
    assert shown.startswith("judge tiny: 2/2 replies")
    reply = replies[1]
    assert reply.model == "tiny" and reply.cost is None and reply.seconds > 0
    assert reply.prompt_tokens == len(lm.prompt([ASKED[1]]).ids)
    assert reply.completion_tokens == len(want.tokens) and reply.finish == want.finish
    with LocalJudge(lm, log=log) as again:
        assert all(reply.cached for reply in again.ask_many(questions))
    # Other weights are another judge, whatever their name.
    other = dataclasses.replace(lm, origin=dataclasses.replace(lm.origin, weights="w1"))
    with LocalJudge(other, log=log) as judge:
        assert not any(reply.cached for reply in judge.ask_many(questions))
    with LocalJudge(lm, log=log, name="tiny, edited") as judge:
        assert not any(reply.cached for reply in judge.ask_many(questions))


def test_a_killed_judge_goes_on_with_the_same_sampled_replies(lm, tmp_path):
    questions = [
        Question(({"role": "user", "content": text},), max_tokens=6, temperature=1.0)
        for text in ("What is it?", "What was it?", "What may it be?")
    ]
    whole = LocalJudge(lm, seed=3).ask_many(questions)
    assert len({reply.text for reply in whole}) == 3

    class Killed(JudgeLog):
        """Keeps one reply."""

        def put(self, *args, **options):
            super().put(*args, **options)
            raise KeyboardInterrupt

    # One at a time: what was made before the kill is kept.
    log = Killed(tmp_path / "log.jsonl")
    with pytest.raises(KeyboardInterrupt), LocalJudge(lm, seed=3, batch_size=1, log=log) as judge:
        judge.ask_many(questions)
    with LocalJudge(lm, seed=3, log=tmp_path / "log.jsonl") as judge:
        replies = judge.ask_many(questions)
        assert judge.totals.cached == 1 and judge.totals.asked == 2
    assert [reply.text for reply in replies] == [reply.text for reply in whole]
    assert [r.text for r in LocalJudge(lm, seed=4).ask_many(questions)] != [r.text for r in whole]


def test_no_json_is_told_after_one_try(lm):
    judge = LocalJudge(lm)
    with pytest.raises(UserError, match="reply of tiny without a whole JSON object .*1 tries"):
        judge.ask([ASKED[0]], json_object=True, max_tokens=6)
    assert judge.totals.unusable == judge.totals.asked == 1


def test_without_a_template_the_contents_are_the_prompt(lm):
    plain = dataclasses.replace(lm, chat_template=None)
    kind = "Be kind and brief. " * 6  # about as long as the template, for the same programs
    (want,) = plain.generate([f"{kind}\n\nWhat is it?"], max_new_tokens=6)
    system = {"role": "system", "content": kind}
    assert LocalJudge(plain).ask([system, ASKED[0]], max_tokens=6).text == want.text


def test_a_model_from_nowhere_needs_a_name(lm):
    nowhere = dataclasses.replace(lm, origin=None)
    with pytest.raises(UserError, match="give the judge a name"):
        LocalJudge(nowhere)
    assert LocalJudge(nowhere, name="mine").name == "mine"
