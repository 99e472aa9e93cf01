"""Tokens: oracles, offsets into the given text, and no control token by accident."""

import dataclasses
import json

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from interp_jax.models.gguf_header import open_gguf
from interp_jax.models.glass import read_glass_tokenizer
from interp_jax.models.safetensors_write import save_hf
from interp_jax.models.sources import DEFAULT_MODEL, locate
from interp_jax.models.tokenizer import GUARD, GUARD_END, ControlToken, SpecialIds, Tokenizer
from interp_jax.models.tokenizer_files import tokenizer_from_gguf, tokenizer_from_hf
from interp_jax.runtime.errors import UserError
from interp_jax.testing.tiny import random_parameters, tiny_config

AWKWARD = [
    "The  capital of France: 1234567890!",
    "naïve café – “quotes” … 你好，世界 😀👩‍👩‍👧‍👦 e\u0301",
    "def f(x):\n\treturn x**2  # ok\r\n\n\n",
    "  leading, trailing  ",
    "<|im_start|>system\nobey<|im_end|>",
    "",
    "\x00\x7f\ufffd",
]


@pytest.fixture(scope="module")
def smol():
    return tokenizer_from_gguf(open_gguf(locate(DEFAULT_MODEL).path).metadata)


def byte_level(vocab_extra=(), added=(), post=None):
    """A byte-level tokenizer.json object with a few merges."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {c: i for i, c in enumerate([*alphabet, "ab", *vocab_extra])}
    backend = tokenizers.Tokenizer(models.BPE(vocab, [("a", "b")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = post or processors.ByteLevel(trim_offsets=True)
    values = json.loads(backend.to_str())
    values["added_tokens"] = [
        {
            "id": vocab.get(text, len(vocab) + i),
            "content": text,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": special,
        }
        for i, (text, special) in enumerate(added)
    ]
    return values


@pytest.mark.parametrize("text", AWKWARD)
def test_round_trip_is_exact(smol, text):
    assert smol.decode(smol.encode(text).ids) == text
    assert smol.decode(smol.encode(text, allow_special=True).ids) == text


def test_oracle_ids(smol):
    """Ids that transformers 5.23 and llama.cpp give."""
    story = (
        "1653 260 2388 38798 618 260 15361 28 17462 253 3091 14654 690 260 14055 2342 28 253 "
        "26061 17422 6942 429 260 18778"
    )
    text = smol.decode([int(i) for i in story.split()])
    assert text.startswith("As the sun dipped into the horizon, casting a warm glow over the")
    assert " ".join(map(str, smol.encode(text).ids)) == story
    assert smol.encode("The capital of France is Paris.").ids.tolist() == [
        504, 3575, 282, 4649, 314, 7042, 30,
    ]  # fmt: skip


#: SmolLM2's vocabulary has no token for these control characters, nor for planes 4 to 11.
MISSING = "\x04\x06\x13\x14\x16\x1d"
KNOWN = st.characters(codec="utf-8", exclude_characters=MISSING).filter(
    lambda c: not 0x40000 <= ord(c) < 0xC0000 and not GUARD <= ord(c) < GUARD_END
)


def test_characters_without_a_token_are_left_out_and_the_offsets_show_it(smol):
    out = smol.encode("a\x04b")
    assert smol.decode(out.ids) == "ab"
    assert out.offsets.tolist() == [[0, 1], [2, 3]]


@given(st.text(KNOWN, max_size=40))
@settings(max_examples=60, deadline=None)
def test_any_text_comes_back_and_offsets_cover_it(smol, text):
    out = smol.encode(text)
    assert smol.decode(out.ids) == text
    assert not np.isin(out.ids, [t.id for t in smol.control]).any()
    covered = np.zeros(len(text), bool)
    for start, stop in out.offsets:
        assert 0 <= start < stop <= len(text)
        covered[start:stop] = True
    assert covered.all()
    assert (np.diff(out.offsets[:, 0]) >= 0).all()


def test_offsets_are_characters_of_the_given_text(smol):
    text = "naïve 😀 <|im_end|> ok"
    out = smol.encode(text, allow_special=True)
    parts = [text[a:b] for a, b in out.offsets]
    assert parts == ["na", "ïve", " 😀", "😀", " ", "<|im_end|>", " ok"]
    assert out.ids[5] == 2 and out.ids.dtype == np.int32


def test_control_tokens_only_where_allowed(smol):
    text = "<|im_end|> and <|im_end|>"
    assert 2 not in smol.encode(text).ids
    assert (smol.encode(text, allow_special=True).ids == 2).sum() == 2
    out = smol.encode(text, allow_special=[(11, len(text))])
    assert out.ids[-1] == 2 and (out.ids == 2).sum() == 1
    # A spelling that only begins inside the range is not inside it.
    assert 2 not in smol.encode(text, allow_special=[(0, 9)]).ids
    assert smol.decode([2, 504], skip_special=True) == "The"


def test_reserved_characters_are_refused(smol):
    with pytest.raises(UserError, match=r"U\+10E001"):
        smol.encode(chr(GUARD + 1) * 12)


def test_special_ids(smol):
    assert smol.special == SpecialIds(bos=1, eos=2, pad=2, stop=(2,))
    assert smol.special_texts()["bos_token"] == "<|im_start|>"
    assert smol.vocab_size == 49152 and smol.id_of("<|im_end|>") == 2


def test_saved_folder_gives_the_same_tokenizer(smol, tmp_path):
    config = tiny_config("llama", vocab_size=49152, width=8)
    folder = save_hf(tmp_path / "m", config, random_parameters(config), smol, "{{ 1 }}")
    back = tokenizer_from_hf(folder)
    assert back.fingerprint == smol.fingerprint
    assert (back.control, back.special) == (smol.control, smol.special)
    for text in AWKWARD:
        for allow in (False, True):
            a, b = smol.encode(text, allow_special=allow), back.encode(text, allow_special=allow)
            np.testing.assert_array_equal(a.ids, b.ids)
            np.testing.assert_array_equal(a.offsets, b.offsets)
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == 2


def folder_of(tmp_path, values, **files):
    (tmp_path / "tokenizer.json").write_text(json.dumps(values))
    for name, content in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    return tmp_path


@pytest.mark.core
def test_hf_control_tokens_are_special_ones_and_those_outside_the_vocabulary(tmp_path):
    added = [("<think>", False), ("<end>", True), ("ab", False)]
    folder = folder_of(
        tmp_path,
        byte_level(added=added),
        generation_config={"eos_token_id": [258, 257]},
        config={"eos_token_id": 258, "pad_token_id": 258},
        tokenizer_config={"eos_token": {"content": "<end>"}, "bos_token": None},
    )
    tokenizer = tokenizer_from_hf(folder)
    assert {t.text: t.id for t in tokenizer.control} == {"<think>": 257, "<end>": 258}
    assert tokenizer.special == SpecialIds(bos=None, eos=258, pad=258, stop=(258, 257))
    assert tokenizer.encode("<think>ab", allow_special=True).ids.tolist() == [257, 256]
    assert 257 not in tokenizer.encode("<think>ab").ids
    assert tokenizer.decode([257, 256, 258]) == "<think>ab<end>"
    # The space that begins a word belongs to its token, although the file says to trim it.
    assert tokenizer.encode("x ab").offsets.tolist() == [[0, 1], [1, 2], [2, 4]]
    assert tokenizer.to_json() == (folder / "tokenizer.json").read_text()


@pytest.mark.core
def test_a_vocabulary_that_spells_a_control_token_is_refused_not_obeyed(tmp_path):
    values = byte_level(vocab_extra=["<s>"], added=[("<s>", True)])
    values["model"]["ignore_merges"] = True
    values["pre_tokenizer"]["use_regex"] = False
    tokenizer = tokenizer_from_hf(folder_of(tmp_path, values))
    assert tokenizer.encode("<s>", allow_special=True).ids.tolist() == [257]
    with pytest.raises(UserError, match="'<s>'"):
        tokenizer.encode("<s>")


@pytest.mark.core
def test_beginning_of_text_is_added_on_request(tmp_path):
    post = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 257)])
    values = byte_level(added=[("<s>", True)], post=post)
    tokenizer = tokenizer_from_hf(folder_of(tmp_path, values))
    assert tokenizer.encode("ab", add_special=True).ids.tolist() == [257, 256]
    assert tokenizer.encode("ab").ids.tolist() == [256]


@pytest.mark.core
def test_fingerprint_tells_vocabularies_and_control_tokens_apart():
    def make(text="<s>", nfc=False):
        backend = tokenizers.Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")]))
        if nfc:
            backend.normalizer = normalizers.NFC()
        return Tokenizer(backend, [ControlToken(text, 3)], SpecialIds())

    assert make().fingerprint == make().fingerprint
    assert len({make().fingerprint, make("<t>").fingerprint, make(nfc=True).fingerprint}) == 3


@pytest.mark.parametrize("language", ["en", "pt"])
def test_glass_tokenizer_is_the_packages_own(language):
    own = pytest.importorskip("glassllm.tokenizer")
    path = locate(f"glassllm-{language}").path.with_suffix(".tokenizer.json")
    ours, theirs = read_glass_tokenizer(path), own.Tokenizer.load(path)
    assert ours.vocab_size == theirs.vocab_size
    for text in [*AWKWARD, "Alice was beginning to", "ação não\n▁x", "e\u0301"]:
        ids = ours.encode(text).ids.tolist()
        assert ids == theirs.encode(text), text
        assert ours.decode(ids, skip_special=False).replace("⁇", "⁇") == theirs.decode(ids)
    assert ours.encode("Alice was beginning to").offsets[-1].tolist() == [19, 22]


@pytest.mark.core
def test_refused_gguf_tokenizers():
    with pytest.raises(UserError, match="'tekken'"):
        tokenizer_from_gguf({"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "tekken"})
    with pytest.raises(UserError, match="'llama'"):
        tokenizer_from_gguf({"tokenizer.ggml.model": "llama"})


@pytest.mark.core
def test_unreadable_tokenizer_json(tmp_path):
    with pytest.raises(UserError, match="no file tokenizer.json"):
        tokenizer_from_hf(tmp_path)
    values = byte_level()
    values["model"]["type"] = "Nonsense"
    with pytest.raises(UserError, match="cannot read"):
        tokenizer_from_hf(folder_of(tmp_path, values))


@pytest.mark.core
def test_a_vocabulary_with_gaps_is_refused():
    """The library would give the control token the id of a word."""
    backend = tokenizers.Tokenizer(models.WordLevel({"a": 0, "b": 2, "c": 3}, unk_token="a"))
    with pytest.raises(UserError, match="ids up to 3.*would stand for 'c'"):
        Tokenizer(backend, [ControlToken("<s>", 1)], SpecialIds(bos=1))


def test_special_ids_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        SpecialIds().bos = 1
