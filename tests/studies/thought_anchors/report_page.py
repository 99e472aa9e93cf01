"""What a reader does with the report's page; see `tests.studies.browsing` for any page."""

from __future__ import annotations

from tests.studies.browsing import (
    HOSTILE,
    actions_of,
    both,
    click,
    find,
    go,
    hover,
    keys,
    open_page,
    settled_text,
    text_of,
)
from tests.studies.thought_anchors.synthetic_report import SENTENCES

__all__ = [
    "HOSTILE", "actions_of", "both", "cell", "click", "find", "go", "hover", "keys", "open_page",
    "settled_text", "text_of",
]


def cell(source, target, then_click=False):
    """Points at a cell of the heat map, whose left edge is kept for labels."""

    def act(browser):
        canvas = find(browser, "#matrix")
        browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", canvas)
        width = canvas.size["width"]
        size = (width - 32) / len(SENTENCES)
        x, y = 30 + (source + 0.5) * size - width / 2, (target + 0.5) * size - width / 2
        actions = actions_of(browser).move_to_element_with_offset(canvas, int(x), int(y))
        (actions.click() if then_click else actions).perform()

    return act
