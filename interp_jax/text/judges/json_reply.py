"""The JSON object in a model's reply, whatever stands around it."""

from __future__ import annotations

import json
import re
from typing import Any

_OPENING = re.compile(r'\{\s*["}]')
_DECODER = json.JSONDecoder()


def find_json_object(text: str) -> dict[str, Any] | None:
    """The object that a reply holds, or None.

    A reasoning before it (up to the last `</think>`), a code fence and words around it do not
    matter. Only the outermost object counts: of one that was cut off, no inner part is taken for
    the whole.
    """
    text = text.rpartition("</think>")[2]
    opened = _OPENING.search(text)
    if opened is None:
        return None
    try:
        found, _ = _DECODER.raw_decode(text, opened.start())
    except (ValueError, RecursionError):
        return None
    return found
