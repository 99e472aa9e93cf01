"""Token ids as text that can stand alone."""

from __future__ import annotations

from collections.abc import Iterable

from interp_jax.models.tokenizer import Tokenizer


def token_texts(tokenizer: Tokenizer, ids: Iterable[int]) -> list[str]:
    """What each token adds to a text.

    Some tokenizers leave out a space at the beginning of a text, so each token is decoded behind
    another one, and that one's text is taken away again.
    """
    anchor = [int(i) for i in tokenizer.encode("a").ids[-1:]]
    before = tokenizer.decode(anchor)
    texts = []
    for token in ids:
        both = tokenizer.decode([*anchor, int(token)])
        fits = both.startswith(before)
        texts.append(both[len(before) :] if fits else tokenizer.token_text(int(token)))
    return texts
