"""The report in headless Chromium: what a reader does, and hostile text as text."""

from __future__ import annotations

import json
from typing import Any

import pytest

from interp_jax.studies.model_diffing.report import write_report
from tests.studies.browsing import HOSTILE, click, hover, keys, open_page, settled_text, text_of
from tests.studies.model_diffing.synthetic_findings import make_findings, make_parts

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def parts():
    return make_parts()


@pytest.fixture(scope="module")
def page(tmp_path_factory, parts):
    return write_report(tmp_path_factory.mktemp("report") / "report.html", parts)


INTERACTIONS = [
    ("point at a bar of Delta", hover("#delta [data-bin='24']"), "#delta-readout", "latents"),
    ("all latents", click("#latents-all"), "#delta .key", "base only 10"),
    ("table of Delta", click("#delta-table summary"), "#delta-table", "0.98 to 1"),
    ("arrow keys in the scatter", keys("ARROW_RIGHT", "ARROW_RIGHT", on="#scatter svg"),
     "#scatter-readout", "\u03bd\u03b5"),
    ("point in the scatter", hover("#scatter circle[data-latent='3']"), "#scatter-readout",
     "Latent"),
    ("quantiles", click("#scaling-table summary"), "#scaling-table", "shared, random"),
    ("the first nine", click("#set-first_nine"), "#causality", "best half by Delta"),
    ("table of causality", click("#causality-table summary"), "#causality-table", "worst half"),
    ("tokens of the template", click("#template-table summary"), "#template-table", "chat only"),
    ("point at a share", hover("#template-shares [data-class='shared'] [data-bin='2']"),
     "#template-readout", "shared, 10\u2009% to 15\u2009%"),
    ("table of shares", click("#template-counts summary"), "#template-counts", "chat only"),
    ("table of twins", click("#twins-table summary"), "#twins-table", "0.970"),
    ("twins by strength", click("#twins-joint summary"), "#twins-joint", "70\u2009% or more"),
    ("the run", click("#run summary"), "#run", "resid_post[13]"),
]  # fmt: skip


@pytest.mark.parametrize(("act", "where", "says"), [row[1:] for row in INTERACTIONS],
                         ids=[row[0] for row in INTERACTIONS])  # fmt: skip
def test_interaction_changes_its_text(browser, page, act, where, says):
    open_page(browser, page)
    before = text_of(browser, where)
    act(browser)
    after = settled_text(browser, where, before)
    assert says in after
    assert after != before
    assert browser.get_log("browser") == []


def test_the_page_shows_the_numbers(browser, page, parts):
    open_page(browser, page)
    assert "88.1\u2009%" in text_of(browser, "#quality")
    assert text_of(browser, "[data-row='none'] .told").startswith("0.4")
    shown = browser.execute_script("return document.querySelectorAll('#scatter circle').length")
    points = parts["scaling"]["points"].values()
    assert shown == sum(
        a is not None and b is not None
        for one in points for a, b in zip(one["nu_eps"], one["nu_r"], strict=True)
    )
    bars = browser.execute_script(
        "return [...document.querySelectorAll('#delta .bar')].map((n) => +n.dataset.count)"
    )
    assert bars == parts["delta"]["alive"]
    assert "divergence above 0.50\t1\t50\u2009%" in text_of(browser, "#twins")
    assert "words about 0 & <b>more</b>" in text_of(browser, "#explained .quote")
    own = text_of(browser, "#explained [data-latent='0'] .told")
    assert "detection 85" in own and "fuzzing 75" in own and "6 of 10 right marks" in own
    told = text_of(browser, "#explained .aside")
    assert "left out of fuzzing: 1" in told and "drawn from all texts" in told
    assert text_of(browser, "#findings").count("\n") >= 5


@pytest.mark.parametrize("width", [1280, 420, 340])
def test_nothing_is_wider_than_the_window(browser, page, width):
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        open_page(browser, page)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_every_control_has_a_name(browser, page):
    open_page(browser, page)
    unnamed = browser.execute_script(
        "return [...document.querySelectorAll('input, svg.figure, [role=region]')].filter((n) =>"
        " !(n.getAttribute('aria-label') || (n.closest('label') && n.closest('label').innerText)))"
        ".map((n) => n.outerHTML)"
    )
    assert unnamed == []
    ids = browser.execute_script("return [...document.querySelectorAll('[id]')].map((n) => n.id)")
    assert len(set(ids)) == len(ids)


def test_without_other_stages_the_page_says_so(browser, tmp_path):
    found = make_findings()
    bare = make_parts(type(found)(found.delta, found.scaling))
    open_page(browser, write_report(tmp_path / "report.html", bare))
    for where, says in (("#causality", "--stage=causality"), ("#template", "not collected"),
                        ("#twins", "not collected"),
                        ("#explained", "--judge")):  # fmt: skip
        assert says in text_of(browser, where)
    assert browser.get_log("browser") == []


def _hostile(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _hostile(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_hostile(item) for item in value]
    return HOSTILE + value if isinstance(value, str) else value


def test_hostile_text_is_shown_as_text(browser, tmp_path, parts):
    data = dict(parts)
    data["facts"] = _hostile(data["facts"])
    data["explained"] = _hostile(data["explained"])
    page = write_report(tmp_path / "report.html", data)
    assert json.dumps(HOSTILE)[1:20] not in page.read_text(encoding="utf-8")
    open_page(browser, page)
    browser.execute_script("for (const d of document.querySelectorAll('details')) d.open = true")
    state = browser.execute_script(
        "return [window.pwned || 0, document.querySelectorAll('img, b.pwned').length,"
        " performance.getEntriesByType('resource').length,"
        " document.documentElement.scrollWidth <= innerWidth]"
    )
    assert state == [0, 0, 0, True]
    seen = browser.execute_script("return document.body.textContent")
    assert HOSTILE + "words about 0" in seen and HOSTILE + "resid_post[13]" in seen
    assert browser.get_log("browser") == []
