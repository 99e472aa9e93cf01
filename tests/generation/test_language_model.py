"""`LanguageModel.generate`: from text to text, on a small trained model and on chat prompts."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from interp_jax.generation.engine import Engine
from interp_jax.generation.language_model import LanguageModel, load
from interp_jax.generation.requests import Request
from interp_jax.generation.sampling_params import SamplingParams
from interp_jax.interventions.placing import compose
from interp_jax.interventions.reads import Last
from interp_jax.interventions.verbs import add, read
from interp_jax.interventions.where import Where
from interp_jax.models import roles
from interp_jax.models.chat import ChatTemplate
from interp_jax.models.decoder import build_decoder
from interp_jax.models.gguf_header import open_gguf
from interp_jax.models.sources import DEFAULT_MODEL, locate
from interp_jax.models.tokenizer_files import tokenizer_from_gguf
from interp_jax.runtime.errors import UserError
from interp_jax.runtime.keys import fold, root_key
from interp_jax.testing.tiny import random_parameters, tiny_config

TEXT = "Alice was beginning to get very tired of"


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    """A small trained model without a chat template."""
    return load("glassllm-en")


@pytest.fixture(scope="module")
def chat() -> LanguageModel:
    """The default model's tokenizer and template over a tiny random network."""
    metadata = open_gguf(locate(DEFAULT_MODEL).path).metadata
    words = tokenizer_from_gguf(metadata)
    config = tiny_config("llama", n_layers=1, vocab_size=words.vocab_size, max_context=256)
    template = ChatTemplate(metadata["tokenizer.chat_template"], words.special_texts())
    network = build_decoder(config, random_parameters(config))
    return LanguageModel(network, words, template, None)


def test_greedy_text_is_the_argmax_of_the_forward(lm):
    (got,) = lm.generate(TEXT, max_new_tokens=24)
    ids = np.concatenate([lm.prompt(TEXT).ids, got.tokens])
    logits, _ = lm.logits([ids])
    n = len(got.tokens)
    want = np.asarray(logits)[0, len(ids) - n - 1 : len(ids) - 1].argmax(-1)
    np.testing.assert_array_equal(got.tokens, want)
    assert got.text == lm.tokenizer.decode(got.tokens) and got.finish == "length"


@pytest.mark.parametrize("start", [3, 9, 20])
def test_stop_strings_also_across_tokens(lm, start):
    """The string begins in the middle of one token and ends in the middle of another."""
    (whole,) = lm.generate(TEXT, max_new_tokens=24)
    string = whole.text[start : start + 5]
    ends = [len(lm.tokenizer.decode(whole.tokens[: i + 1])) for i in range(24)]
    at = whole.text.find(string)
    last = next(i for i, end in enumerate(ends) if end >= at + 5)
    (got,) = lm.generate(TEXT, max_new_tokens=24, stop=[string, "never written"])
    assert got.finish == "stop_string"
    assert got.text == whole.text[:at]
    np.testing.assert_array_equal(got.tokens, whole.tokens[: last + 1])
    assert len(got.log_probs) == last + 1
    first = next(i for i, end in enumerate(ends) if end > at)
    assert last > first or len(lm.tokenizer.decode(whole.tokens[last : last + 1])) >= 5


def test_stop_string_that_never_comes_changes_nothing(lm):
    texts = [TEXT, "The cat", "Down the"]
    plain = lm.generate(texts, max_new_tokens=24)
    watched = lm.generate(texts, max_new_tokens=24, stop=["never written"])
    assert [(c.text, c.finish) for c in plain] == [(c.text, c.finish) for c in watched]


def test_samples_share_the_prompt(lm):
    """Six samples of one prompt are the samples of six whole prompts, on one cache."""
    ids = lm.prompt(TEXT).ids
    shared = lm.generate(TEXT, max_new_tokens=12, temperature=1.0, n=6, seed=3)
    key = root_key(3)
    asked = [Request(ids, fold(key, "sample", 0, i), 12, item=i) for i in range(6)]
    engine = Engine(lm.network, SamplingParams.make(1.0), stop_tokens=lm.tokenizer.special.stop)
    whole = {s.item: s for s in engine.run(asked)}
    assert [c.sample for c in shared] == list(range(6))
    assert len({tuple(c.tokens) for c in shared}) > 1
    for item, sample in whole.items():
        np.testing.assert_array_equal(shared[item].tokens, sample.tokens)
        np.testing.assert_allclose(shared[item].log_probs, sample.log_probs, atol=5e-5)
    config = lm.network.config
    token = 2 * config.n_layers * config.n_kv_heads * config.head_dim * 4
    assert shared.stats.cache_bytes == (64 + 6 * 16) * token  # 1 + 12 fit in 16


def test_touched_counts_with_a_shared_prompt(lm):
    width = lm.network.config.width
    edit = add("resid_post[0]", jnp.zeros(width), where=Where(positions=[-1, 0]), name="steer")
    (one,) = lm.generate(TEXT, max_new_tokens=12, interventions=edit)
    many = lm.generate(TEXT, max_new_tokens=12, interventions=edit, n=3)
    assert [int(c.tape["touched/steer"]) for c in (one, *many)] == [2] * 4


def test_order_is_prompt_then_sample_and_batches_do_not_matter(lm):
    texts = ["The", "Alice was beginning", "The Queen of"]
    options = dict(max_new_tokens=8, temperature=0.9, n=2, seed=1)
    wide, narrow = lm.generate(texts, **options), lm.generate(texts, batch_size=2, **options)
    assert [(c.prompt, c.sample) for c in wide] == [(p, s) for p in range(3) for s in range(2)]
    assert [c.text for c in wide] == [c.text for c in narrow]
    again = lm.generate(texts, **{**options, "seed": 2})
    assert [c.text for c in wide] != [c.text for c in again]


def test_untouched_interventions_are_refused(lm):
    width = lm.network.config.width
    nowhere = add("resid_post[0]", jnp.ones(width), where=Where(positions=[120]))
    with pytest.raises(UserError, match="no token touched by add:resid_post"):
        lm.generate(TEXT, max_new_tokens=4, interventions=nowhere)
    (plain,) = lm.generate(TEXT, max_new_tokens=4)
    (got,) = lm.generate(TEXT, max_new_tokens=4, interventions=nowhere, allow_untouched=True)
    assert got.text == plain.text


def test_reads_and_model_log_probs_come_back_cut(lm):
    """A row that a stop string ended keeps no read of a token that was cut away."""
    width = lm.network.config.width
    edit = compose(
        add("resid_post[0]", jnp.zeros(width)),
        read("resid_post[1]", reduce=Last(), name="stream"),
    )
    (whole,) = lm.generate(TEXT, max_new_tokens=24)
    (got,) = lm.generate(
        TEXT, max_new_tokens=24, stop=[whole.text[9:14]], interventions=edit, keep="per_token",
        model_log_probs=True,
    )
    assert len(got.tokens) < 24
    assert got.tape["stream"].shape == (len(got.tokens), 1, width)
    assert len(got.model_log_probs) == len(got.tokens) and (got.model_log_probs < 0).all()


def test_an_assistant_turn_is_continued(chat):
    messages = [
        {"role": "user", "content": "What is two and two?"},
        {"role": "assistant", "content": "The answer is"},
    ]
    prompt = chat.prompt(messages, continue_final=True)
    assert prompt.text.endswith("The answer is")
    assert prompt.roles[-1] == roles.ANSWER and roles.USER in prompt.roles
    (got,) = chat.generate([messages], continue_final=True, max_new_tokens=6)
    (by_ids,) = chat.generate([prompt.ids], max_new_tokens=6)
    np.testing.assert_array_equal(got.tokens, by_ids.tokens)
    new_turn = chat.prompt(messages[:1])
    assert new_turn.text.endswith("assistant\n") and len(new_turn.ids) < len(prompt.ids)
    # Going on with the ids of a sample is going on with the sample.
    (half,) = chat.generate([prompt.ids], max_new_tokens=3)
    (rest,) = chat.generate([np.concatenate([prompt.ids, half.tokens])], max_new_tokens=3)
    np.testing.assert_array_equal(np.concatenate([half.tokens, rest.tokens]), got.tokens)


def test_one_prompt_in_any_form(chat):
    ids = chat.prompt("Hello").ids
    messages = [{"role": "user", "content": "Hello"}]
    forms = ("Hello", messages, ids, ids.tolist(), chat.prompt("Hello"), ["Hello"], [messages])
    tokens = [tuple(chat.generate(form, max_new_tokens=3)[0].tokens) for form in forms]
    assert len(set(tokens)) == 1


def test_bad_prompts_are_refused(lm, chat):
    with pytest.raises(UserError, match="context"):
        lm.generate([np.full(120, 5)], max_new_tokens=9)
    with pytest.raises(UserError, match="chat template"):
        lm.generate([[{"role": "user", "content": "Hello"}]])
    with pytest.raises(UserError, match="at least one token"):
        lm.generate([np.zeros(0, np.int32)])
    assert list(lm.generate([])) == []
