"""The optional parts of the report in Chromium: labels, forced answers, content taken out."""

from __future__ import annotations

import pytest

from interp_jax.studies.thought_anchors.report import write_report
from tests.studies.thought_anchors.report_page import (
    HOSTILE,
    cell,
    click,
    hover,
    keys,
    open_page,
    settled_text,
    text_of,
)
from tests.studies.thought_anchors.synthetic_report import TAGS, make_full_report, make_report

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
    ("the masking graph is a matrix", "", click("#matrix-masking"), "#matrix-help",
     "Deleting the column's sentence"),
    ("its edges are a table", "", click("#edges summary"), "#edges table", "Deleted"),
    ("sets of heads are a table", "", click("#ablation .ablation > div:last-child summary"),
     "#ablation table", "random 20"),
    ("differences under ablation are a table", "", click("#ablation details summary"),
     "#ablation table", "Without receiver heads minus without random heads"),
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


def test_ablated_heads_are_shown_with_their_intervals(browser, full_page):
    open_page(browser, full_page)
    shown = " ".join(text_of(browser, "#ablation").split())
    for said in ("4 heads, as layer.head: 1.0, 1.1, 2.2, 2.3", "In layers 2 more than half",
                 "25\u2009% (17\u2009% to 33\u2009%)", "32 problems, 4 answers", "p 0.05"):
        assert " ".join(said.split()) in shown
    dots = browser.execute_script(
        "return [...document.querySelectorAll('[data-measure=kl] .dot')].map((n) =>"
        " [n.className, parseFloat(n.style.left)])"
    )
    assert len(dots) == 21 and dots[-1] == ["dot chosen", 100]
    assert "unlike random heads" in text_of(browser, "#findings [data-method=ablation]")
    plain = write_report(full_page.parent / "plain.html", make_report())
    open_page(browser, plain)
    assert browser.execute_script(
        "return [document.querySelector('#ablation-section').checkVisibility(),"
        " document.querySelector('#edges').childElementCount]"
    ) == [False, 0]


def test_pointing_draws_no_cell_again(browser, full_page):
    """The cells are drawn once for a matrix; a change of matrix or of width draws them anew."""
    open_page(browser, full_page)
    browser.execute_script(
        "const own = CanvasRenderingContext2D.prototype.fillRect; window.rects = 0;"
        "CanvasRenderingContext2D.prototype.fillRect = function (...a) {"
        " window.rects += 1; return own.apply(this, a); }"
    )
    pixels = lambda: browser.execute_script(
        "const c = document.querySelector('#matrix');"
        "return [window.rects, c.toDataURL()]"
    )
    _, before = pixels()
    for source, target in ((2, 6), (3, 7), (1, 9)):
        cell(source, target)(browser)
    hover("[data-index='4'].sentence")(browser)
    rects, marked = pixels()
    assert rects == 0 and marked != before
    hover("#title")(browser)
    assert pixels() == [0, before]
    click("#matrix-masking")(browser)
    rects, other = pixels()
    assert rects == 12 * 11 // 2 and other != before
    click("#matrix-suppression")(browser)
    assert pixels()[0] == 2 * rects


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
