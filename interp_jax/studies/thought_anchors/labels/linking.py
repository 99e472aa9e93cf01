"""Dependencies by rules: the sentence before, or where a sentence's rare numbers come from.

`previous` is the default because it is the better one where it was measured: against the released
links of problem 4682 its F1 is .80, and .65 for `rare_tokens`, whose links further back are right
one time in six. `both` adds those to the sentence before: it finds more of the links further back
and gives more that nobody else sees. See `tests/studies/thought_anchors/labels`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from interp_jax.runtime.errors import UserError

Links = tuple[tuple[int, ...], ...]

_MOST_LINKS = 2
_RARE_SHARE = 0.1
_RARE_LEAST = 3
# Numbers of two digits or more (small ones are everywhere), decimals, and symbols with an index
# or a power: x_1, 2^{16}, 66666_{16}.
_TOKEN = re.compile(r"\d{1,3}(?:,\d{3})+|\d+\.\d+|\w+[_^]\{?\w+\}?|\d{2,}")


def link_sentences(sentences: Sequence[str], rule: str = "previous") -> Links:
    """For each of S sentences the earlier ones it builds on, ascending; of the first none.

    Args:
        sentences: [S] texts.
        rule: key of `LINK_RULES`.

    Raises:
        UserError: another rule.
    """
    if rule not in LINK_RULES:
        raise UserError(
            found=f"the link rule {rule!r}", expected="one of " + ", ".join(LINK_RULES),
            do="name one of these rules",
        )
    return LINK_RULES[rule](sentences)


def _previous(sentences: Sequence[str]) -> Links:
    return tuple((index - 1,) if index else () for index in range(len(sentences)))


def _rare_tokens(sentences: Sequence[str]) -> Links:
    """A token is rare when it stands in at most a tenth of the sentences (or in three).

    For its two rarest tokens a sentence is linked to the nearest earlier sentence that has them;
    without such tokens it is linked to the sentence before it.
    """
    own = [_tokens(text) for text in sentences]
    uses: dict[str, int] = {}
    for tokens in own:
        for token in tokens:
            uses[token] = uses.get(token, 0) + 1
    most = max(_RARE_LEAST, _RARE_SHARE * len(sentences))
    latest: dict[str, int] = {}
    links = []
    for index, tokens in enumerate(own):
        seen = [token for token in tokens if token in latest and uses[token] <= most]
        # Among equally rare tokens the one that was used most lately comes first.
        seen.sort(key=lambda token: (uses[token], -latest[token], token))
        found = {latest[token] for token in seen[:_MOST_LINKS]}
        if not found and index:
            found = {index - 1}
        links.append(tuple(sorted(found)))
        latest.update(dict.fromkeys(tokens, index))
    return tuple(links)


def _both(sentences: Sequence[str]) -> Links:
    pairs = zip(_previous(sentences), _rare_tokens(sentences), strict=True)
    return tuple(tuple(sorted({*near, *far})) for near, far in pairs)


LINK_RULES: dict[str, Callable[[Sequence[str]], Links]] = {
    "previous": _previous, "rare_tokens": _rare_tokens, "both": _both,
}
"""How sentences can be linked, by name."""


def _tokens(text: str) -> set[str]:
    return {
        token.replace(",", "").replace("{", "").replace("}", "")
        for token in _TOKEN.findall(text.lower())
    }
