"""What rollouts continue: the trace's tokens, joined sentences, or the published deletion."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from interp_jax.generation.prompts import Prompt
from interp_jax.runtime.journal import Journal
from interp_jax.studies.thought_anchors import run as study
from interp_jax.studies.thought_anchors.asking import make_trace
from interp_jax.studies.thought_anchors.presenting import report_parts
from interp_jax.studies.thought_anchors.released import read_trace
from interp_jax.studies.thought_anchors.rollout_prefix import (
    joined_prefix,
    kept_prefix,
    reference_prefix,
)
from tests.studies.thought_anchors.small_study import small_config, small_model

pytestmark = pytest.mark.usefixtures("one_encoder")


@pytest.fixture(scope="module")
def lm():
    return small_model()


# Sentences, index, the reference's prefix (worked by hand from: join to the index with single
# spaces, delete every occurrence of the sentence's text, strip), and the joined one.
GOLDEN = [
    (["One is here.", "Two is here."], 0, "", ""),
    (["One is here.", "Two is here."], 1, "One is here.", "One is here."),
    # A sentence that was said before takes the earlier one with it; the two spaces stay.
    (["So it is.", "Wait here.", "So it is.", "End it."], 2, "Wait here.",
     "So it is. Wait here."),
    (["Now wait.", "So it is.", "Wait here.", "So it is."], 3, "Now wait.  Wait here.",
     "Now wait. So it is. Wait here."),
    # It need not be a whole sentence: what contains it is torn.
    (["I say 2 + 2 = 4. Good.", "2 + 2 = 4."], 1, "I say  Good.", "I say 2 + 2 = 4. Good."),
]


@pytest.mark.parametrize(("sentences", "index", "reference", "joined"), GOLDEN)
def test_golden_prefixes(sentences, index, reference, joined):
    assert reference_prefix(sentences, index) == reference
    assert joined_prefix(sentences, index) == joined


def test_a_prefix_of_the_trace_is_its_own_tokens_and_others_are_tokenised_anew(lm):
    text = " “Oh dear!” she said.\n\nThe Queen was there. “Oh dear!” she said."
    prompt = Prompt(np.asarray([5, 6], np.int32), np.ones(2, np.int8))
    trace = make_trace(prompt, lm.tokenizer.encode(text).ids, lm.tokenizer, "stop")
    assert len(trace.sentences) >= 3
    last = len(trace.sentences) - 1
    own = kept_prefix(trace, lm.tokenizer, last)
    assert own.cut == trace.spans[last, 0] and not len(own.own)
    assert trace.text.startswith(own.text) and "\n\n" in own.text
    joined = kept_prefix(trace, lm.tokenizer, last, "joined")
    assert joined.cut == trace.spans[0, 0] and "\n" not in joined.text
    assert lm.tokenizer.decode(joined.own).strip() == joined.text.strip()
    again = kept_prefix(trace, lm.tokenizer, last, "reference")
    said = trace.sentences[last].text
    assert said not in again.text
    first = kept_prefix(trace, lm.tokenizer, 0, "reference")
    assert first.cut == trace.spans[0, 0] and not len(first.own)


def test_a_run_with_the_published_prefix(lm, tmp_path):
    """Rollouts lie in the nucleus of the plain model on prompt and prefix, and records say it."""
    config = small_config(tmp_path, rollout_prefix="reference", rollouts=2)
    for stage in ("base", "rollouts", "score"):
        result = study.run(dataclasses.replace(config, stage=stage), lm)
    trace, texts = result.trace, [s.text for s in result.trace.sentences]
    records = read_trace(tmp_path / "trace").rollouts
    for index, own in records.items():
        for record in own:
            expected = reference_prefix(texts, index)
            assert record["prefix_without_chunk"].strip() == expected
            assert record["full_cot"].endswith(record["prefix_without_chunk"] + record["rollout"])
    note = [line for line in report_parts(result.found, config)["notes"] if "deleted" in line]
    assert len(note) == 1
    index = len(texts) - 1
    kept = kept_prefix(trace, lm.tokenizer, index, "reference")
    with Journal(tmp_path / "rollouts.jsonl") as journal:
        sampled = np.asarray(dict(journal.records())[f"{index}/1"]["tokens"], np.int32)
    before = np.concatenate([trace.ids[: kept.cut], kept.own])
    ids = np.concatenate([before, sampled]).astype(np.int32)
    logits = np.asarray(lm.logits([ids])[0], np.float64)[0, len(before) - 1 : len(ids) - 1]
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    for step, token in enumerate(sampled):
        assert p[step][p[step] > p[step][token] * (1 + 1e-4)].sum() < 0.95
    # The same command again makes nothing, and reads the same.
    again = study.run(dataclasses.replace(config, stage="rollouts"), lm)
    assert again.found.rollouts.tokens == 0
    assert again.found.rollouts.by_sentence == result.found.rollouts.by_sentence
