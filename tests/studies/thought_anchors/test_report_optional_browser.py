"""The optional parts of the report in Chromium: labels, forced answers, content taken out."""

from __future__ import annotations

import pytest

from interp_jax.studies.thought_anchors.report import write_report
from tests.studies.thought_anchors.report_page import (
    HOSTILE,
    click,
    keys,
    open_page,
    settled_text,
    text_of,
)
from tests.studies.thought_anchors.synthetic_report import TAGS, make_full_report

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def full_page(tmp_path_factory):
    return write_report(tmp_path_factory.mktemp("full") / "report.html", make_full_report())


FULL = [
    ("a sentence shows its tag", "", click("[data-index='0'].sentence"), "#panel .tag",
     "plan generation"),
    ("a sentence shows what it builds on", "", click("[data-index='5'].sentence"),
     ".label-builds-on", "2, 4"),
    ("a dependency is a way to go", "#s=5",
     click(".label-builds-on [data-sentence='2']"), "#panel h2",
     "Sentence 2"),
    ("a use is a way to go", "#s=5", click(".label-used-by [data-sentence='10']"), "#panel h2",
     "Sentence 10"),
    ("a sentence shows what happens without its content", "", click("[data-index='5'].sentence"),
     "#panel [data-content=absent_fraction]", "25"),
    ("and how long it comes back", "", click("[data-index='5'].sentence"),
     "#panel [data-content=resilience]", "2.5"),
    ("forced answers are a way to colour", "", click("#method-forced_accuracy"), "#method-help",
     "before it. Positive: the sentence helps"),
    ("with a key of its own", "", keys("5"), "#method-help", "answer given at once"),
    ("and a column", "", click(".bar-head [data-method=forced_kl]"), "#method-help",
     "answer given at once"),
]


@pytest.mark.parametrize(
    ("address", "act", "where", "says"), [row[1:] for row in FULL], ids=[row[0] for row in FULL]
)
def test_what_is_optional_changes_its_text(browser, full_page, address, act, where, says):
    open_page(browser, full_page, address)
    before = text_of(browser, where)
    act(browser)
    after = settled_text(browser, where, before)
    assert after != before and says in " ".join(after.split())
    assert browser.get_log("browser") == []


def test_tags_have_their_colours_in_the_trace_and_in_its_legend(browser, full_page):
    open_page(browser, full_page)
    seen = browser.execute_script(
        "return [...document.querySelectorAll('.sentence')].map((n) =>"
        " [n.dataset.tag, n.style.getPropertyValue('--tag'),"
        " getComputedStyle(n, '::before').borderBottomWidth])"
    )
    assert seen == [[*list(TAGS.values())[min(i * 3 // 12, 2)], "2px"] for i in range(12)]
    assert text_of(browser, "#tags").split("\n") != [""]
    for words in ("plan generation 4", "active computation 4", "final answer emission 4"):
        assert words in text_of(browser, "#tags")


@pytest.mark.parametrize("width", [1280, 340])
def test_with_everything_nothing_is_wider_than_the_window(browser, full_page, width):
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        open_page(browser, full_page, "#s=5")
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_hostile_tags_are_text(browser, tmp_path):
    data = make_full_report(count=3, rollouts=4)
    for tag in data["trace"]["tags"]:
        for name in ("name", "words", "short", "meaning"):
            tag[name] = HOSTILE + tag[name]
    for sentence in data["trace"]["sentences"]:
        sentence["label"] = HOSTILE + sentence["label"]
    open_page(browser, write_report(tmp_path / "report.html", data), "#s=1")
    state = browser.execute_script(
        "return [window.pwned || 0, document.querySelectorAll('img, b.pwned').length,"
        " document.querySelector('#panel .tag').textContent]"
    )
    assert state[:2] == [0, 0] and HOSTILE in state[2]
    assert browser.get_log("browser") == []
