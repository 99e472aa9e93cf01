"""Text to token ids and back, with character offsets and no special token by accident.

Control tokens (`<|im_end|>`, `<think>`) steer a model, so text that happens to
contain their spelling must not become them. The wrapped tokenizer therefore never
knows their spelling: each is registered under a string of private-use characters
of the same length, and only the places where a control token is allowed are
rewritten to it before encoding. Everything else about encoding stays as the
`tokenizers` library does it, and lengths, hence offsets, are unchanged.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import tokenizers

from interp_jax.runtime.errors import UserError

#: Private-use characters: control token i is chr(GUARD + i) repeated.
GUARD = 0x10E000
#: Characters from here on are free for others (`chat` marks contents with them).
GUARD_END = 0x10F000


@dataclasses.dataclass(frozen=True)
class ControlToken:
    """A token that is never made from ordinary text.

    `lstrip`, `rstrip` and `single_word` are those of the `tokenizers` library.
    """

    text: str
    id: int
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False


@dataclasses.dataclass(frozen=True)
class SpecialIds:
    """Ids with a job; None where the model has none. `stop` ends a turn or a text."""

    bos: int | None = None
    eos: int | None = None
    pad: int | None = None
    stop: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Encoded:
    """Tokens of a text.

    Attributes:
        ids: [T] int32.
        offsets: [T, 2] int32, start and end in characters of the text as it was given.
            Tokens that share a character (bytes of an emoji) share its offsets.
    """

    ids: np.ndarray
    offsets: np.ndarray


class Tokenizer:
    """A tokenizer of the `tokenizers` library, guarded as the module says.

    Args:
        backend: everything but the control tokens; it is taken over and changed.
        control: the control tokens.
        special: ids with a job.
        source_json: the tokenizer.json it came from, if any; `to_json` gives it back.
        shown: id -> what `decode` writes for it instead of its own spelling.

    Attributes:
        control, special: as given.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        control: Sequence[ControlToken],
        special: SpecialIds,
        source_json: str | None = None,
        shown: dict[int, str] | None = None,
    ):
        if len(control) > GUARD_END - GUARD:
            raise UserError(
                found=f"{len(control)} control tokens",
                expected=f"at most {GUARD_END - GUARD}",
                do="use another tokenizer",
            )
        self.control, self.special = tuple(control), special
        self._source_json, self._shown = source_json, shown or {}
        self._backend = backend
        backend.no_padding()
        backend.no_truncation()
        guards = [chr(GUARD + i) * len(token.text) for i, token in enumerate(control)]
        backend.add_special_tokens(
            [
                tokenizers.AddedToken(
                    guard,
                    lstrip=token.lstrip,
                    rstrip=token.rstrip,
                    single_word=token.single_word,
                    normalized=False,
                    special=True,
                )
                for token, guard in zip(control, guards, strict=True)
            ]
        )
        self._guard_of = {t.text: guard for t, guard in zip(control, guards, strict=True)}
        longest = sorted((token.text for token in control), key=len, reverse=True)
        self._spelling = re.compile("|".join(map(re.escape, longest)) or "(?!)")
        inner = {t.id: backend.token_to_id(g) for t, g in zip(control, guards, strict=True)}
        _require_apart(backend, inner)
        self._outward = {guard: real for real, guard in inner.items() if real != guard}
        self._guard_by_id = {t.id: guard for t, guard in zip(control, guards, strict=True)}
        self._control_ids, self._inner_ids = frozenset(inner), frozenset(inner.values())

    # -- encoding ---------------------------------------------------------------------------

    def encode(
        self,
        text: str,
        add_special: bool = False,
        allow_special: bool | Iterable[tuple[int, int]] = False,
    ) -> Encoded:
        """Tokens of `text`.

        A character for which the vocabulary has neither token nor unknown-token sign is
        left out, as in the reference; the offsets then have a gap there.

        Args:
            add_special: also what the tokenizer itself puts around a text (a bos).
            allow_special: whether spellings of control tokens become control
                tokens: nowhere, everywhere, or inside these character ranges.

        Raises:
            UserError: the text holds a character reserved here (U+10E000 and
                after), or ordinary text would come out as a control token.
        """
        if reserved := [c for c in set(text) if GUARD <= ord(c) < GUARD + len(self.control)]:
            raise UserError(
                found=f"the private-use character U+{ord(reserved[0]):X} in a text",
                expected="characters below U+10E000 of the last private-use plane",
                do="remove it",
            )
        out = self._backend.encode(
            self._guarded(text, allow_special), add_special_tokens=add_special
        )
        ids = np.asarray([self._outward.get(i, i) for i in out.ids], np.int32)
        offsets = np.asarray(out.offsets, np.int32).reshape(-1, 2)
        for at in np.flatnonzero(np.isin(ids, list(self._control_ids))):
            # The vocabulary can hold a control token's spelling; an unknown-token sign may pass.
            part = text[offsets[at, 0] : offsets[at, 1]]
            if out.ids[at] not in self._inner_ids and part.strip() in self._guard_of:
                raise UserError(
                    found=f"{part!r}, which this tokenizer makes a control token even as "
                    "ordinary text",
                    expected="text without the spelling of control tokens",
                    do="remove it, or allow special tokens there",
                )
        return Encoded(ids, offsets)

    def _guarded(self, text: str, allow: bool | Iterable[tuple[int, int]]) -> str:
        """The text with allowed control tokens under their guards."""
        if allow is False:
            return text
        ranges = [(0, len(text))] if allow is True else list(allow)
        pieces, at = [], 0
        for start, stop in ranges:
            for match in self._spelling.finditer(text, start, stop):
                pieces += [text[at : match.start()], self._guard_of[match.group()]]
                at = match.end()
        return "".join(pieces) + text[at:]

    def spells_control(self, text: str) -> bool:
        """Whether the text contains the spelling of a control token."""
        return self._spelling.search(text) is not None

    # -- decoding ---------------------------------------------------------------------------

    def decode(self, ids: Iterable[int], skip_special: bool = False) -> str:
        """Text of token ids; control tokens under their own spelling, or left out.

        Broken UTF-8 at the ends comes out as U+FFFD.
        """
        text = self._backend.decode([self._inward(int(i)) for i in ids], skip_special_tokens=False)
        if not self.control:
            return text
        pattern = "|".join(f"{chr(GUARD + i)}{{{len(t.text)}}}" for i, t in enumerate(self.control))
        real = {
            chr(GUARD + i): "" if skip_special else self._shown.get(t.id, t.text)
            for i, t in enumerate(self.control)
        }
        return re.sub(pattern, lambda match: real[match.group()[0]], text)

    def _inward(self, real: int) -> int:
        guard = self._guard_by_id.get(real)
        return real if guard is None else self._backend.token_to_id(guard)

    def token_text(self, id: int) -> str:
        """What one token writes by itself."""
        return self.decode([id])

    def id_of(self, text: str) -> int | None:
        """The id of the control token spelled `text`, else of the vocabulary entry, else None."""
        for token in self.control:
            if token.text == text:
                return token.id
        return self._backend.token_to_id(text)

    # -- what it is -------------------------------------------------------------------------

    @functools.cached_property
    def vocab_size(self) -> int:
        """One more than the largest id."""
        bare = self._backend.get_vocab(with_added_tokens=True)
        largest = max(i for text, i in bare.items() if not self._is_guard(text))
        return 1 + max([largest, *self._control_ids])

    def _is_guard(self, text: str) -> bool:
        return bool(text) and GUARD <= ord(text[0]) < GUARD_END

    @functools.cached_property
    def _description(self) -> dict[str, Any]:
        """As a tokenizer.json object, control tokens back under their own names."""
        out = json.loads(self._backend.to_str())
        out["added_tokens"] = [t for t in out["added_tokens"] if not self._is_guard(t["content"])]
        out["added_tokens"] += [
            {
                "id": token.id,
                "content": token.text,
                "single_word": token.single_word,
                "lstrip": token.lstrip,
                "rstrip": token.rstrip,
                "normalized": False,
                "special": True,
            }
            for token in self.control
        ]
        out["added_tokens"].sort(key=lambda token: token["id"])
        return out

    def to_json(self) -> str:
        """The text of a tokenizer.json for this tokenizer."""
        return self._source_json or json.dumps(self._description, ensure_ascii=False)

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 of what decides ids: vocabulary, merges, pre-tokenizer, control tokens.

        The same model read from a GGUF file and from a tokenizer.json has the same one
        when both say the same.
        """
        # The library writes the model last and always alike; parsing its megabytes would take
        # ten times longer than all the rest.
        raw = self._backend.to_str()
        cut = raw.index('"model":{')
        head = json.loads(raw[:cut] + '"model":null}')
        parts = {
            "normalizer": head["normalizer"],
            "pre_tokenizer": head["pre_tokenizer"],
            "control": sorted((token.id, token.text) for token in self.control),
        }
        digest = hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False).encode())
        digest.update(raw[cut:].encode())
        return digest.hexdigest()

    def special_ids(self) -> dict[str, Any]:
        """The ids as config.json and generation_config.json write them."""
        stop = list(self.special.stop)
        values = {
            "bos_token_id": self.special.bos,
            "eos_token_id": stop[0] if len(stop) == 1 else stop or self.special.eos,
            "pad_token_id": self.special.pad,
        }
        return {key: value for key, value in values.items() if value is not None}

    def special_texts(self) -> dict[str, str]:
        """`bos_token`, `eos_token` and `pad_token` as chat templates call them."""
        named = (("bos", self.special.bos), ("eos", self.special.eos), ("pad", self.special.pad))
        texts = {token.id: token.text for token in self.control}
        return {
            f"{name}_token": texts.get(id) or self._backend.id_to_token(id)
            for name, id in named
            if id is not None
        }

    def settings(self) -> dict[str, Any]:
        """A tokenizer_config.json object with which transformers loads `to_json`."""
        return {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            **self.special_texts(),
        }


def _require_apart(backend: tokenizers.Tokenizer, inner: dict[int, int]) -> None:
    """Refuses a vocabulary with gaps in its ids: the library numbers what is added from the
    vocabulary's size on, so over words that are there."""
    words = {id_: word for word, id_ in backend.get_vocab(with_added_tokens=False).items()}
    taken = sorted(id_ for id_ in inner.values() if id_ in words)
    if taken:
        raise UserError(
            found=f"a vocabulary of {len(words)} tokens with ids up to {max(words)}, where a "
            f"control token would stand for {words[taken[0]]!r}",
            expected="ids without gaps", do="fill the gaps with unused tokens",
        )
