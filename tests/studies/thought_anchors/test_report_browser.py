"""The thought-anchors report in headless Chromium: every interaction, and hostile text as text."""

from __future__ import annotations

import json
from typing import Any

import pytest

from interp_jax.report.embed import plain
from interp_jax.studies.thought_anchors.report import write_report
from tests.studies.thought_anchors.report_page import (
    HOSTILE,
    both,
    cell,
    click,
    go,
    hover,
    keys,
    open_page,
    settled_text,
    text_of,
)
from tests.studies.thought_anchors.synthetic_report import (
    SENTENCES,
    make_report,
)

pytestmark = pytest.mark.browser

@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return write_report(tmp_path_factory.mktemp("report") / "report.html", make_report())


DATA = plain(make_report())
HEAD, METHOD, MATRIX = "#panel h2", "#method-help", "#matrix-help"
DIFFERENT = sum(a["similarity"] < 0.8 for a in DATA["resampling"][5]["alternatives"])
TOP = DATA["suppression"]["outgoing"].index(max(DATA["suppression"]["outgoing"][:-1]))


def _matrix(name, source, target):
    value = DATA["suppression"][name][target][source]
    number = f"{value:+.2f}".replace("-", "\u2212")
    return f"Sentence {source} on sentence {target}: {number}"


# What a reader can do: name, address, action, where text changes, what it then says.
INTERACTIONS = [
    ("select sentence 0 in the trace", "", click("[data-index='0'].sentence"), HEAD, "Sentence 0"),
    ("its text", "", click("[data-index='4'].sentence"), "#quote", SENTENCES[4]),
    ("Enter on a sentence", "", keys("ENTER", on="[data-index='3'].sentence"), HEAD, "Sentence 3"),
    ("space on a sentence", "", keys("SPACE", on="[data-index='2'].sentence"), HEAD, "Sentence 2"),
    ("point at a sentence", "", hover("[data-index='5'].sentence"), "#links", "Sentence 5 leads"),
    ("focus a sentence", "", keys(on="[data-index='6'].sentence"), "#links", "Sentence 6 leads"),
    ("select a row of bars", "", click(".bar-row[data-index='3']"), HEAD, "Sentence 3"),
    (
        "point at a row of bars",
        "",
        hover(".bar-row[data-index='5']"),
        "#bars-readout",
        "Sentence 5: resampling, KL 0.62 (0.31 to 0.98; chance reaches 0.14)",
    ),
    ("select a row of answers", "", click(".answer-row[data-index='7']"), HEAD, "Sentence 7"),
    (
        "point at a row of answers",
        "",
        hover(".answer-row[data-index='5']"),
        "#answers-readout",
        f"24 \u00d7\u2009{DATA['resampling'][5]['answers']['24']}",
    ),
    ("point at a cell", "", cell(2, 6), "#matrix-readout", _matrix("matrix", 2, 6)),
    ("select a cell's source", "", cell(2, 6, then_click=True), HEAD, "Sentence 2"),
    (
        "move the cell by keys",
        "",
        keys("ARROW_DOWN", "ARROW_DOWN", "ARROW_RIGHT", on="#matrix"),
        "#matrix-readout",
        _matrix("matrix", 1, 2),
    ),
    (
        "select the cell's source by key",
        "",
        keys("ARROW_DOWN", "ARROW_DOWN", "ARROW_RIGHT", "ENTER", on="#matrix"),
        HEAD,
        "Sentence 1",
    ),
    ("matrix: raw", "", click("#matrix-raw"), MATRIX, "The same before normalising"),
    ("matrix: resampling", "", click("#matrix-resampling"), MATRIX, "How much more often"),
    (
        "matrix: suppression",
        "#matrix=raw",
        click("#matrix-suppression"),
        MATRIX,
        "Hiding the column's sentence",
    ),
    (
        "the matrix also feeds the links",
        "#s=5",
        click("#matrix-raw"),
        "#links",
        "By suppression, raw",
    ),
    ("method: KL", "#by=receiver", click("#method-resampling_kl"), METHOD, "How far the answers"),
    ("method: accuracy", "", click("#method-resampling_accuracy"), METHOD, "Accuracy with this"),
    ("method: counterfactual KL", "", click("#method-counterfactual_kl"), METHOD, "The same shift"),
    (
        "method: counterfactual accuracy",
        "",
        click("#method-counterfactual_accuracy"),
        METHOD,
        "NEGATIVE: the sentence helps",
    ),
    ("method: receiver heads", "", click("#method-receiver"), METHOD, "attend to this one"),
    ("method: suppression", "", click("#method-suppression"), METHOD, "hiding this sentence"),
    ("the method's legend", "", keys("2"), "#legend", "hurts \u22120.48"),
    ("the method's ranking", "", keys("6"), "#panel h3", "Strongest by suppression"),
    ("the bars' measure", "", keys("4"), ".bar-head[class]", "accuracy"),
    ("key 1", "#by=receiver", keys("1"), METHOD, "How far the answers"),
    ("key 3", "", keys("3"), METHOD, "The same shift"),
    ("key 5", "", keys("5"), METHOD, "attend to this one"),
    (
        "column head",
        "",
        click(".bar-head button[data-method='suppression']"),
        METHOD,
        "hiding this sentence",
    ),
    ("arrow right from nothing", "", keys("ARROW_RIGHT"), HEAD, "Sentence 0"),
    ("arrow left from nothing", "", keys("ARROW_LEFT"), HEAD, "Sentence 11"),
    ("arrow right", "#s=4", keys("ARROW_RIGHT"), HEAD, "Sentence 5"),
    ("arrow left to 0", "#s=1", keys("ARROW_LEFT"), HEAD, "Sentence 0"),
    ("arrow down", "#s=4", keys("ARROW_DOWN", "ARROW_DOWN"), HEAD, "Sentence 6"),
    ("arrow up", "#s=4", keys("ARROW_UP"), HEAD, "Sentence 3"),
    ("escape", "#s=4", keys("ESCAPE"), HEAD, "Select a sentence"),
    ("escape from 0", "#s=0", keys("ESCAPE"), HEAD, "Select a sentence"),
    ("close", "#s=4", click("#close"), HEAD, "Select a sentence"),
    ("previous", "#s=4", click("[data-step='-1']"), HEAD, "Sentence 3"),
    (
        "next, twice by key",
        "#s=4",
        keys("ENTER", "ENTER", on="[data-step='1']"),
        HEAD,
        "Sentence 6",
    ),
    ("finding", "", click("#findings [data-method='suppression'] button"), HEAD, f"Sentence {TOP}"),
    (
        "point at a finding",
        "",
        hover("#findings [data-method='suppression'] button"),
        "#bars-readout",
        f"Sentence {TOP}: ",
    ),
    ("ranking", "", click(".ranking button[data-sentence='5']"), HEAD, "Sentence 5"),
    ("link", "#s=11", click(".links .incoming button"), HEAD, "Sentence"),
    ("all alternatives", "#s=5", click("#more"), "#alternatives", "number 31: "),
    (
        "different only",
        "#s=5",
        both(click("#more"), click("#filter-different")),
        "#alternatives",
        f"number {DIFFERENT - 1}: ",
    ),
    (
        "all again",
        "#s=5&show=different",
        both(click("#filter-all"), click("#more")),
        "#alternatives",
        "number 31: ",
    ),
    ("table of numbers", "", click("#bars-table summary"), "#bars-table", "0.62 (0.31 to 0.98"),
    ("table of answers", "", click("#answers-table summary"), "#answers-table", "22 \u00d7"),
    (
        "table of the matrix",
        "",
        click("#matrix-table summary"),
        "#matrix-table",
        _matrix("matrix", 2, 6).split(": ")[1],
    ),
    ("table of distances", "", click("#distance summary"), "#distance", "Mean effect"),
    ("table of heads", "", click("#receiver summary"), "#receiver", "Kurtosis\n1"),
    ("configuration", "", click("#facts summary"), "#facts", "made up"),
    ("open another address", "#s=3", go("s=0&by=suppression"), HEAD, "Sentence 0"),
    ("its method", "#s=3", go("s=0&by=suppression"), METHOD, "hiding this sentence"),
    ("an address out of range", "#s=3", go("s=12"), HEAD, "Select a sentence"),
]
# Where each interactive element of the page is used above.
COVERED = (
    ".sentence",
    "#matrix",
    "[name=method]",
    "[name=matrix]",
    "[name=filter]",
    ".bar-head button",
    ".sentence-link",
    "#close",
    "[data-step]",
    "#more",
    "summary",
    ".skip",
    "#trace-title",
    ".table-scroll",
)


@pytest.mark.parametrize(
    ("address", "act", "where", "says"),
    [row[1:] for row in INTERACTIONS],
    ids=[row[0] for row in INTERACTIONS],
)
def test_interaction_changes_its_text(browser, page, address, act, where, says):
    open_page(browser, page, address)
    before = text_of(browser, where)
    act(browser)
    after = settled_text(browser, where, before)
    assert after != before
    assert says in after
    assert browser.get_log("browser") == []


@pytest.mark.parametrize("address", ["", "#s=5"])
def test_the_table_covers_every_control(browser, page, address):
    open_page(browser, page, address)
    left = browser.execute_script(
        "return [...document.querySelectorAll('a, button, input, select, summary, canvas,"
        " [tabindex], [role=button]')].filter((n) => !n.matches(arguments[0]))"
        ".map((n) => n.outerHTML)",
        ", ".join(COVERED),
    )
    assert left == []


def test_skip_link_reaches_the_trace_and_keeps_the_selection(browser, page):
    open_page(browser, page, "#s=4")
    keys("ENTER", on=".skip")(browser)
    assert browser.execute_script("return document.activeElement.id") == "trace-title"
    assert text_of(browser, HEAD).startswith("Sentence 4")


def test_a_reload_keeps_the_choices(browser, page):
    open_page(browser, page)
    for act in (keys("6"), click("#matrix-resampling"), click("[data-index='0'].sentence"),
                click("#filter-different")):  # fmt: skip
        act(browser)
    assert browser.current_url.endswith("#s=0&by=suppression&matrix=resampling&show=different")
    seen = [text_of(browser, where) for where in (HEAD, METHOD, MATRIX, "#alternatives")]
    browser.refresh()
    assert [text_of(browser, where) for where in (HEAD, METHOD, MATRIX, "#alternatives")] == seen


def test_tint_follows_size_and_sign(browser, page):
    open_page(browser, page, "#by=counterfactual_accuracy")
    sizes, classes = browser.execute_script(
        "const s = [...document.querySelectorAll('.sentence')];"
        "return [s.map((n) => +n.style.getPropertyValue('--size')), s.map((n) => n.className)]"
    )
    values = [entry["counterfactual_accuracy"] for entry in DATA["resampling"]]
    largest = max(abs(value) for value in values if value is not None)
    for value, size, name in zip(values, sizes, classes, strict=True):
        assert size == pytest.approx(0 if value is None else abs(value) / largest, abs=1e-3)
        if value is not None:  # negative: the sentence helps
            assert ("helps" if value < 0 else "hurts") in name


@pytest.mark.parametrize("width", [1280, 900, 420, 340])
@pytest.mark.parametrize("count", [1, 12, 60])
def test_nothing_is_wider_than_the_window(browser, tmp_path, width, count):
    page = write_report(tmp_path / "report.html", make_report(count=count, rollouts=12))
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        open_page(browser, page, "#s=0")
        wide = browser.execute_script("return document.documentElement.scrollWidth")
        assert wide <= width
        assert browser.get_log("browser") == []
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_without_any_method_the_page_says_why(browser, tmp_path):
    data = make_report()
    for name in ("resampling", "receiver", "suppression"):
        data[name] = {"not_shown": f"No {name} because of a reason."}
    data["sentence_matrix"] = None
    open_page(browser, write_report(tmp_path / "report.html", data))
    click("[data-index='0'].sentence")(browser)
    assert text_of(browser, HEAD).startswith("Sentence 0")
    for where, name in (("#bars-missing", "resampling"), ("#answers", "resampling"),
                        ("#receiver", "receiver"), (MATRIX, "suppression")):  # fmt: skip
        assert f"No {name} because of a reason." in text_of(browser, where)
    assert browser.get_log("browser") == []


def _hostile(value: Any, place: str) -> Any:
    """Puts hostile text, marked by its place, into every string and every free name."""
    if isinstance(value, dict):
        free = place.endswith((".answers", ".versions", ".config"))
        return {
            (f"{HOSTILE}{place}.{key}" if free else key): _hostile(item, f"{place}.{key}")
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_hostile(item, f"{place}[{index}]") for index, item in enumerate(value)]
    return f"{HOSTILE}{place};" if isinstance(value, str) else value


def test_hostile_text_everywhere_is_shown_as_text(browser, tmp_path):
    data = _hostile(plain(make_report(count=3, rollouts=4)), "")
    start = 0
    for sentence in data["trace"]["sentences"]:
        sentence["start"], sentence["end"] = start, start + len(sentence["text"])
        start = sentence["end"] + 1
    data["trace"]["text"] = " ".join(sentence["text"] for sentence in data["trace"]["sentences"])
    page = write_report(tmp_path / "report.html", data)
    assert json.dumps(HOSTILE)[1:20] not in page.read_text(encoding="utf-8")
    seen = ""
    for index in range(3):
        open_page(browser, page, f"#s={index}")
        browser.execute_script(
            "for (const d of document.querySelectorAll('details')) d.open = true"
        )
        browser.execute_async_script("setTimeout(arguments[0], 50)")  # toggle events are queued
        seen += browser.execute_script(
            "return document.title + [...document.body.children]"
            ".filter((n) => n.tagName !== 'SCRIPT').map((n) => n.textContent).join('')"
        )
        state = browser.execute_script(
            "return [window.pwned || 0, document.querySelectorAll('img, b.pwned').length,"
            " performance.getEntriesByType('resource').length,"
            " document.documentElement.scrollWidth <= innerWidth]"
        )
        assert state == [0, 0, 0, True]
        assert browser.get_log("browser") == []
    assert [text for text in _texts(data) if text not in seen] == []


def _texts(value: Any) -> list[str]:
    """Lists every hostile text in the data, names included; the page shows them all."""
    if isinstance(value, dict):
        names = [name for name in value if HOSTILE in name]
        return names + [text for item in value.values() for text in _texts(item)]
    if isinstance(value, list):
        return [text for item in value for text in _texts(item)]
    return [value] if isinstance(value, str) else []
