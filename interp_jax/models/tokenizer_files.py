"""Tokenizers from where they are kept: `tokenizer.json` folders and GGUF metadata."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from interp_jax.models.safetensors_io import read_json
from interp_jax.models.tokenizer import ControlToken, SpecialIds, Tokenizer
from interp_jax.runtime.errors import UserError

#: How llama.cpp's named pre-tokenizers split text before byte-level BPE.
_QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LLAMA3 = _QWEN2.replace(r"\p{N}|", r"\p{N}{1,3}|", 1)
_GGUF_CONTROL = 3


def _by_regex(pattern: str) -> pre_tokenizers.PreTokenizer:
    split = pre_tokenizers.Split(tokenizers.Regex(pattern), behavior="isolated", invert=False)
    bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([split, bytes_only])


def _smollm() -> pre_tokenizers.PreTokenizer:
    digits = pre_tokenizers.Digits(individual_digits=True)
    return pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])


#: name in `tokenizer.ggml.pre` -> (pre-tokenizer, NFC first, whole words skip the merges)
_PRE = {
    "smollm": (_smollm, False, False),
    "gpt-2": (lambda: pre_tokenizers.ByteLevel(add_prefix_space=False), False, False),
    "qwen2": (lambda: _by_regex(_QWEN2), True, False),
    "llama-bpe": (lambda: _by_regex(_LLAMA3), False, True),
}


def tokenizer_from_hf(directory: str | Path) -> Tokenizer:
    """The tokenizer of a Hugging Face folder: tokenizer.json and the ids its configs name.

    Control tokens are the added tokens marked special, and those that the model's own
    vocabulary lacks (`<think>` in Qwen 3, which is not marked special). Stop ids are
    every id that generation_config.json, config.json or tokenizer_config.json call eos.

    Raises:
        UserError: tokenizer.json is missing or cannot be read.
    """
    directory = Path(directory)
    path = directory / "tokenizer.json"
    values = read_json(path)
    text = path.read_text(encoding="utf-8")
    vocab = values["model"].get("vocab", {})
    inside = set(vocab) if isinstance(vocab, dict) else {entry[0] for entry in vocab}
    added = values.get("added_tokens") or []
    is_control = [t["special"] or t["content"] not in inside for t in added]
    control = [
        ControlToken(t["content"], t["id"], t["lstrip"], t["rstrip"], t["single_word"])
        for t, yes in zip(added, is_control, strict=True)
        if yes
    ]
    values["added_tokens"] = [t for t, yes in zip(added, is_control, strict=True) if not yes]
    values["truncation"] = values["padding"] = None
    values["post_processor"] = _untrimmed(values.get("post_processor"))
    try:
        backend = tokenizers.Tokenizer.from_str(json.dumps(values))
    except Exception as error:  # the library raises bare exceptions
        raise UserError(
            found=f"{path} which the tokenizers library cannot read ({error})",
            expected="a tokenizer.json",
            do="fetch it again",
        ) from None
    ids = {token.text: token.id for token in control}
    special = _special_ids(directory, lambda t: ids.get(t, backend.token_to_id(t)))
    return Tokenizer(backend, control, special, source_json=text)


def _untrimmed(post: Any) -> Any:
    """The post-processor, byte-level offsets kept whole (with the space that begins a word)."""
    if isinstance(post, dict):
        if post.get("type") == "ByteLevel":
            return post | {"trim_offsets": False}
        if post.get("type") == "Sequence":
            return post | {"processors": [_untrimmed(part) for part in post["processors"]]}
    return post


def _optional(path: Path) -> dict[str, Any]:
    return read_json(path) if path.exists() else {}


def _special_ids(directory: Path, id_of: Any) -> SpecialIds:
    named = _optional(directory / "tokenizer_config.json")
    sources = [
        _optional(directory / "generation_config.json"),
        _optional(directory / "config.json"),
    ]

    def of_text(key: str) -> int | None:
        value = named.get(f"{key}_token")
        value = value.get("content") if isinstance(value, dict) else value
        return None if value is None else id_of(value)

    def one(key: str) -> int | None:
        found = [of_text(key), *(_first(source.get(f"{key}_token_id")) for source in sources)]
        return next((value for value in found if value is not None), None)

    stop: list[int] = []
    for value in (*(source.get("eos_token_id") for source in sources), of_text("eos")):
        stop += value if isinstance(value, list) else [] if value is None else [value]
    return SpecialIds(one("bos"), one("eos"), one("pad"), tuple(dict.fromkeys(stop)))


def _first(value: Any) -> int | None:
    return value[0] if isinstance(value, list) and value else None if value == [] else value


def tokenizer_from_gguf(metadata: dict[str, Any]) -> Tokenizer:
    """The tokenizer inside GGUF metadata: byte-level BPE with a known pre-tokenizer.

    Raises:
        UserError: another kind of tokenizer, or a pre-tokenizer not known here.
    """
    kind, pre = metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre")
    if kind != "gpt2" or pre not in _PRE:
        raise UserError(
            found=f"a GGUF tokenizer of kind {kind!r} with pre-tokenizer {pre!r}",
            expected="gpt2 with one of " + ", ".join(_PRE),
            do="name a folder with this model's tokenizer.json as the tokenizer",
        )
    make, nfc, skip_merges = _PRE[pre]
    tokens, types = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"]
    merges = [tuple(merge.split(" ", 1)) for merge in metadata["tokenizer.ggml.merges"]]
    vocab = {token: i for i, token in enumerate(tokens)}
    backend = tokenizers.Tokenizer(models.BPE(vocab, merges, ignore_merges=skip_merges))
    if nfc:
        backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = make()
    backend.decoder = decoders.ByteLevel()
    control = [
        ControlToken(token, i)
        for i, (token, kind) in enumerate(zip(tokens, types, strict=True))
        if kind == _GGUF_CONTROL
    ]
    ids = {
        name: metadata.get(f"tokenizer.ggml.{key}_token_id")
        for name, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"))
    }
    stop = [ids["eos"], *(metadata.get(f"tokenizer.ggml.{k}_token_id") for k in ("eot", "eom"))]
    stop = tuple(dict.fromkeys(i for i in stop if i is not None))
    if metadata.get("tokenizer.ggml.add_bos_token", pre == "llama-bpe") and ids["bos"] is not None:
        bos = tokens[ids["bos"]]
        backend.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, ids["bos"])]
        )
    return Tokenizer(backend, control, SpecialIds(**ids, stop=stop))


def chat_template_from_hf(directory: str | Path) -> str | None:
    """The chat template of a folder: chat_template.jinja, else tokenizer_config.json's default."""
    directory = Path(directory)
    file = directory / "chat_template.jinja"
    if file.exists():
        return file.read_text(encoding="utf-8")
    template = _optional(directory / "tokenizer_config.json").get("chat_template")
    if isinstance(template, list):
        named = {entry["name"]: entry["template"] for entry in template}
        return named.get("default")
    return template
