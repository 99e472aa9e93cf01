"""Acting on the visualiser's page in a browser, and the numbers as the page writes them."""

from __future__ import annotations

import time

import numpy as np

from tests.studies.thought_anchors.report_page import actions_of, find
from tests.studies.thought_anchors.visualiser.synthetic_traces import make_matrices

RESAMPLING, SUPPRESSION = make_matrices()
HEAD, TREE, CELL = "#detail h2", "#tree-title", "#matrix-readout"


def wait(browser, state="true"):
    for _ in range(500):
        if browser.execute_script("return document.documentElement.dataset.ready") == state:
            return
        time.sleep(0.01)
    raise AssertionError(browser.execute_script("return document.body.innerText")[:300])


def open_at(browser, page, hash_=""):
    browser.get("about:blank")
    browser.get(page.as_uri() + (f"#{hash_}" if hash_ else ""))
    wait(browser)


def get(browser, script, *arguments):
    return browser.execute_script(f"return {script}", *arguments)


def each(selector, what):
    return f"[...document.querySelectorAll('{selector}')].map((n) => {what})"


def node(index):
    return f"#nodes [data-index='{index}']"


def row(index):
    return f"#text [data-index='{index}']"


def point(selector, press=False):
    """Moves the mouse to the middle of an element, and presses; a neighbour may lie on top."""

    def act(browser):
        actions = actions_of(browser).move_to_element(find(browser, selector))
        (actions.click() if press else actions).perform()

    return act


def pick(selector, value):
    def act(browser):
        from selenium.webdriver.support.ui import Select

        Select(find(browser, selector)).select_by_value(value)
        wait(browser)

    return act


def write(value):
    """A number as the page writes it (`report.signed`), for sizes below ten."""
    size = abs(value)
    text = f"{size:.2f}" if size >= 0.095 else f"{float(f'{size:.2g}'):g}"
    return ("+" if value > 0 else "\u2212") + text


def strongest(index, way, matrix=RESAMPLING, both_signs=True, count=3):
    effects = matrix[index] if way == "out" else matrix[:, index]
    order = [
        int(i)
        for i in np.argsort(-np.abs(effects), kind="stable")
        if np.isfinite(effects[i]) and effects[i] != 0 and (both_signs or effects[i] > 0)
    ][:count]
    return ", ".join(f"{i} ({write(effects[i])})" for i in order) or "none"
