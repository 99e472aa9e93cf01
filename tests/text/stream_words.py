"""A tokenizer of words and a chat template, for tests of streams."""

from __future__ import annotations

import json
import pathlib

import tokenizers
from tokenizers import models, pre_tokenizers, processors

from interp_jax.models.chat import ChatTemplate
from interp_jax.models.tokenizer import ControlToken, SpecialIds, Tokenizer

BOS, EOS, END = 1, 2, 3
WORDS = {f"w{i}": i + 10 for i in range(80)}
TEMPLATE = ChatTemplate(
    "{% for m in messages %}{{ m['role'] }} {{ m['content'] }}<end> {% endfor %}"
)


def words_tokenizer(eos: bool = True) -> Tokenizer:
    # No id is left out: the library numbers tokens that are added after the vocabulary's size.
    spare = {f"spare{i}": i for i in (EOS, END, 6, 7, 8, 9)}
    vocab = {"<unk>": 0, "<s>": BOS, "user": 4, "assistant": 5, **spare, **WORDS}
    backend = tokenizers.Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", BOS)]
    )
    control = [ControlToken("</s>", EOS), ControlToken("<end>", END)]
    return Tokenizer(backend, control, SpecialIds(BOS, EOS if eos else None))


def write_lines(path: pathlib.Path, records) -> pathlib.Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path
