"""Token ids that a base model reads in place of the chat template's own.

A base model never saw the special tokens of the chat template: its activations there come from
embeddings that were not trained. So it reads other ids in their place, while the chat model reads
the real ones (section 4.1 of the crosscoder paper's code). Rows keep their length and positions,
and only the network that is given the batch made here sees the other ids: roles, targets, tokens
that are left out and tokens that are shown or stored are the real ones.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from interp_jax.models.batch import Batch
from interp_jax.runtime.errors import UserError

#: (old id, new id) each; static, so that no pairs are no operation.
Replacements = tuple[tuple[int, int], ...]

NAMED: dict[str, Replacements] = {
    # <|start_header_id|>, <|eot_id|> and <|end_header_id|>
    "llama3": ((128006, 1432), (128009, 827), (128007, 827)),
}
HELP = (
    "OLD:NEW token ids: where the text has OLD, --model (the base) reads NEW, and --other_model "
    "(the chat model) OLD. Everything else that looks at tokens has OLD. llama3 stands for "
    + ",".join(f"{old}:{new}" for old, new in NAMED["llama3"])
    + ". Default: none."
)


def parse_replacements(texts: Sequence[str]) -> Replacements:
    """Pairs from what a config says: `OLD:NEW`, or a name of `NAMED`.

    Raises:
        UserError: neither, or an old id twice.
    """
    pairs: list[tuple[int, int]] = []
    for text in texts:
        if text in NAMED:
            pairs += NAMED[text]
            continue
        old, _, new = text.partition(":")
        if not (old.isdecimal() and new.isdecimal()):
            raise UserError(
                found=f"--replace_tokens {text!r}",
                expected=f"OLD:NEW, two token ids, or {', '.join(NAMED)}",
                do="write for example 128006:1432",
            )  # fmt: skip
        pairs.append((int(old), int(new)))
    _require_once(pairs)
    return tuple(pairs)


def require_replaceable(pairs: Replacements, vocabulary: int) -> None:
    """Raises UserError for an old id that stands there twice, or an id beyond the vocabulary.

    Args:
        pairs: old and new ids.
        vocabulary: V, ids that every network has.
    """
    _require_once(pairs)
    for old, new in pairs:
        if not (0 <= old < vocabulary and 0 <= new < vocabulary):
            raise UserError(
                found=f"token {old} replaced by {new}",
                expected=f"ids from 0 to {vocabulary - 1}, as every network has",
                do="give ids of the models' tokenizer with --replace_tokens",
            )


def replaced(batch: Batch, pairs: Replacements) -> Batch:
    """The batch as the base model reads it. Pure; the same batch where there are no pairs.

    All pairs look at the real ids, so a new id that is another pair's old one stays.
    """
    tokens = batch.tokens
    for old, new in pairs:
        tokens = jnp.where(batch.tokens == old, jnp.int32(new), tokens)
    return batch if not pairs else dataclasses.replace(batch, tokens=tokens)


def trained_otherwise(provenance: Mapping[str, Any], pairs: Replacements) -> str | None:
    """A sentence where a dictionary was trained with other pairs than these; else None.

    Args:
        provenance: of the dictionary; one that does not speak of replaced tokens says nothing.
        pairs: of the run that reads the dictionary.
    """
    told = provenance.get("replace_tokens")
    if told is None or {tuple(pair) for pair in told} == set(pairs):
        return None
    text = lambda of: ", ".join(f"{old}:{new}" for old, new in of) or "none"
    return (
        f"The dictionary was trained with replaced tokens {text(told)}, and this run replaces "
        f"{text(pairs)}; --replace_tokens makes them equal."
    )


def _require_once(pairs: Sequence[tuple[int, int]]) -> None:
    olds = [old for old, _ in pairs]
    if twice := sorted({old for old in olds if olds.count(old) > 1}):
        raise UserError(
            found=f"token {twice[0]} replaced twice", expected="each old id once",
            do="leave one of the pairs out of --replace_tokens",
        )
