"""Dependencies by rules: rare numbers and symbols that a sentence takes from earlier ones."""

from __future__ import annotations

import re
from collections.abc import Sequence

_MOST_LINKS = 2
_RARE_SHARE = 0.1
_RARE_LEAST = 3
# Numbers of two digits or more (small ones are everywhere), decimals, and symbols with an index
# or a power: x_1, 2^{16}, 66666_{16}.
_TOKEN = re.compile(r"\d{1,3}(?:,\d{3})+|\d+\.\d+|\w+[_^]\{?\w+\}?|\d{2,}")


def link_sentences(sentences: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    """For each of S sentences the earlier ones it builds on, ascending.

    A token is rare when it stands in at most a tenth of the sentences (or in three). For its two
    rarest tokens a sentence is linked to the nearest earlier sentence that has them; without such
    tokens it is linked to the sentence before it. The first sentence has no link.
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


def _tokens(text: str) -> set[str]:
    return {
        token.replace(",", "").replace("{", "").replace("}", "")
        for token in _TOKEN.findall(text.lower())
    }
