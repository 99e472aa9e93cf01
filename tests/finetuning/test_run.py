"""A fine-tuning from a config: a folder in, a folder out, and the same command again."""

from __future__ import annotations

import dataclasses
import json
import pathlib

import jax
import numpy as np
import pytest

from interp_jax.finetuning.run import FinetuneRun, run
from interp_jax.generation.language_model import load
from interp_jax.models.batch import Batch
from interp_jax.models.safetensors_write import save_hf
from interp_jax.runtime.errors import UserError
from interp_jax.testing.tiny import random_parameters, tiny_config
from interp_jax.text.stream_sources import open_source
from interp_jax.text.streams import TokenStream
from tests.text.stream_words import TEMPLATE, words_tokenizer, write_lines


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("tuning")
    config = tiny_config("llama")
    save_hf(folder / "base", config, random_parameters(config), words_tokenizer(), TEMPLATE.source)
    chat = [{"role": "user", "content": "w1 w2"}, {"role": "assistant", "content": "w3 w4 w5"}]
    write_lines(folder / "chats.jsonl", [{"messages": chat}] * 40)
    return folder


def options(place, name: str, **changes) -> FinetuneRun:
    return FinetuneRun(
        workdir=str(place / name), model=str(place / "base"), data=(str(place / "chats.jsonl"),),
        steps=4, warm_up=1, batch_size=2, accumulate=2, rank=2, lr=5e-2, context=16,
        held_out_rows=3, checkpoint_every=2, **changes,
    )  # fmt: skip


def text(config: FinetuneRun, lm):
    source = open_source(config.data[0], seed=config.seed)
    return TokenStream(source, lm.tokenizer, config.context, template=lm.chat_template, pack=False)


def test_learns_what_the_assistant_says_and_writes_a_model(place):
    made = run(options(place, "lora"), text)
    before, after = made.finetuned.held_out
    assert after < before - 0.1
    assert f"{before:.4f} nats a token before, {after:.4f} after" in made.facts[1]
    batch = Batch.make(np.asarray([[1, 4, 11, 12]], np.int32))
    merged = load(str(made.folder)).network
    logits = jax.jit(lambda network: network(batch)[0])
    expected, found = logits(made.finetuned.network), logits(merged)
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()
    assert json.loads((place / "lora" / "provenance.json").read_text())["config"]["rank"] == 2
    again = run(options(place, "lora"), text)
    assert again.finetuned.held_out == made.finetuned.held_out


def test_too_little_data_and_another_config_are_refused(place):
    with pytest.raises(UserError, match="ended within the held-out rows"):
        run(dataclasses.replace(options(place, "few"), held_out_rows=99), text)
    run(options(place, "used", method="full"), text)
    with pytest.raises(UserError, match="method"):
        run(options(place, "used"), text)
