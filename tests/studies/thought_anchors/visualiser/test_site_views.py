"""What the visualiser's views show, held against the files; hostile text; narrow windows."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from interp_jax.studies.thought_anchors.released import write_trace
from interp_jax.studies.thought_anchors.visualiser.site import build_site
from tests.studies.thought_anchors.report_page import (
    HOSTILE,
    click,
    find,
    keys,
    text_of,
)
from tests.studies.thought_anchors.visualiser.site_page import (
    HEAD,
    RESAMPLING,
    TREE,
    each,
    get,
    node,
    open_at,
    pick,
    point,
    row,
    wait,
)
from tests.studies.thought_anchors.visualiser.synthetic_traces import (
    COUNT,
    PIVOT,
    SENTENCES,
    make_matrices,
    make_rollouts,
    make_trace,
    write_traces,
)

pytestmark = pytest.mark.browser

FIRST = "alpha--correct--7"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    return build_site([write_traces(folder / "traces")], folder / "site")


def test_every_choice_survives_a_reload(browser, page):
    open_at(browser, page)
    for act in (
        pick("#metric", "resampling_importance_accuracy"), pick("#links-by", "beyond"),
        keys("ARROW_RIGHT", on="#k"), keys("ARROW_LEFT", on="#top"), click("[data-tag='AC']"),
        keys("a", on="#filter"), click("#tab-tree"), click("#way-incoming"),
        keys("ARROW_RIGHT", on="#branch"), keys("ARROW_RIGHT", on="#depth"), click(row(0)),
    ):  # fmt: skip
        act(browser)
    assert browser.current_url.endswith(
        f"#t={FIRST}&s=0&by=resampling_importance_accuracy&links=beyond&view=tree&way=incoming"
        "&k=3&top=80&branch=4&depth=3&off=AC&find=a"
    )
    state = get(browser, "report.state")
    browser.refresh()
    wait(browser)
    assert get(browser, "report.state") == state
    assert state["sentence"] == 0 and text_of(browser, HEAD).startswith("Sentence 0")


def test_a_wrong_address_is_as_a_first_visit(browser, page):
    open_at(browser, page)
    usual = get(browser, "report.state")
    open_at(browser, page, "t=none&s=12&by=x&links=y&view=z&way=up&k=11&top=5&branch=0&off=Q")
    assert get(browser, "report.state") == usual
    assert browser.get_log("browser") == []


def test_circle_shows_size_kind_and_sign(browser, page):
    open_at(browser, page, "by=resampling_importance_accuracy")
    look = "[n.getAttribute('class'), +n.getAttribute('r'), s(n).strokeDasharray, s(n).stroke]"
    look = each("#nodes circle", look.replace("s(n)", "getComputedStyle(n)"))
    shown = get(browser, look)
    values = [r["resampling_importance_accuracy"] for r in make_trace().labeled]
    largest = max(map(abs, values))
    radii = [radius for _, radius, _, _ in shown]
    for value, (name, radius, dash, _) in zip(values, shown, strict=True):
        assert radius == pytest.approx(2.6 + 14.4 * (abs(value) / largest) ** 0.5, abs=0.01)
        assert ("helps" if value > 0 else "hurts") in name.split()
        assert (dash == "none") == (value > 0)  # told apart without colour
    assert "tag-PS" in shown[0][0] and "tag-FAE" in shown[-1][0]
    assert radii[PIVOT] == max(radii)
    assert len({stroke for *_, stroke in shown}) == 2
    # The measure with the opposite sign says the same.
    open_at(browser, page, "by=counterfactual_importance_accuracy")
    sides = each("#nodes circle", "n.classList.contains('helps')")
    assert get(browser, sides) == [value > 0 for value in values]


@pytest.mark.parametrize("k", [0, 1, 3, 10])
def test_circle_draws_the_strongest_links_with_their_sign(browser, page, k):
    open_at(browser, page, f"k={k}")
    link = "[+n.dataset.from, +n.dataset.to, n.classList.contains('helps')]"
    expected = set()
    for source in range(COUNT - 1):
        order = np.argsort(-np.nan_to_num(np.abs(RESAMPLING[source])), kind="stable")[:k]
        for target in order:
            if target > source and RESAMPLING[source, target] != 0:
                value = RESAMPLING[source, target]
                expected.add((source, int(target), bool(value > 0)))
    assert {tuple(each) for each in get(browser, each("#links .link", link))} == expected
    # Pointing shows at least three each way, the others pale.
    point(node(0))(browser)
    own = {tuple(each) for each in get(browser, each("#focus-links .link", link))}
    assert {(0, 3, True), (0, 7, False)} <= own and len(own) == max(3, k)
    assert all(source == 0 for source, _, _ in own)
    labels = get(browser, each("#labels text", "n.textContent"))
    assert labels == ["0", *(f"to {target}" for _, target, _ in sorted(own))]
    dash = "[n.classList.contains('helps'), getComputedStyle(n).strokeDasharray]"
    dashes = get(browser, each("#focus-links .link", dash))
    assert all((dash == "none") == helps for helps, dash in dashes)


@pytest.mark.parametrize(("top", "many"), [(20, 3), (60, 8), (100, 12)])
def test_circle_keeps_the_strongest_sentences(browser, page, top, many):
    open_at(browser, page, f"top={top}&by=resampling_importance_accuracy&k=10")
    values = [abs(r["resampling_importance_accuracy"]) for r in make_trace().labeled]
    kept = set(sorted(range(COUNT), key=lambda i: -values[i])[:many])
    assert set(get(browser, each("#nodes circle:not(.away)", "+n.dataset.index"))) == kept
    links = get(browser, each("#links .link", "[+n.dataset.from, +n.dataset.to]"))
    assert {end for link in links for end in link} <= kept


def test_tree_levels_and_its_limit(browser, tmp_path):
    trace = make_trace(texts=[f"Sentence number {i} of many." for i in range(120)])
    write_trace(tmp_path / "m/correct_base_solution/problem_1", trace)
    page = build_site([tmp_path / "m"], tmp_path / "site")
    open_at(browser, page, "view=tree&s=0&branch=2&depth=2")
    levels = each("#tree button", "[+n.dataset.index, +n.dataset.level]")
    matrix = make_matrices(0, 120)[0]
    best = lambda i: np.argsort(-np.nan_to_num(np.abs(matrix[i])), kind="stable")[:2].tolist()
    first = best(0)
    second = [i for parent in first for i in best(parent)]
    expected = [[0, 0], *([i, 1] for i in first), *([i, 2] for i in dict.fromkeys(second))]
    assert sorted(get(browser, levels)) == sorted(expected)
    open_at(browser, page, "view=tree&s=0&branch=10&depth=20")
    shown = get(browser, levels)
    assert len(shown) == 50 and len({index for index, _ in shown}) == 50
    assert "a tree holds 50" in text_of(browser, TREE)
    open_at(browser, page, "view=tree&s=119&way=outgoing")
    assert "No link." in text_of(browser, TREE)


def test_text_follows_the_choice(browser, tmp_path):
    trace = make_trace(texts=[f"Sentence number {i} of many." for i in range(120)])
    write_trace(tmp_path / "m/correct_base_solution/problem_1", trace)
    page = build_site([tmp_path / "m"], tmp_path / "site")
    open_at(browser, page)
    inside = (
        "(() => { const r = document.querySelector(arguments[0]).getBoundingClientRect(),"
        " f = document.getElementById('reading').getBoundingClientRect();"
        " return r.top >= f.top && r.bottom <= f.bottom; })()"
    )
    for act, index in ((keys("END"), 119), (keys("HOME"), 0), (point(node(60), True), 60)):
        assert not get(browser, inside, row(index)) or index == 0
        act(browser)
        assert get(browser, inside, row(index))
        assert get(browser, "scrollY") == 0
        assert "focused" in find(browser, row(index)).get_attribute("class")


def test_keyboard_alone_is_seen(browser, page):
    open_at(browser, page)
    keys("ARROW_RIGHT")(browser)
    assert find(browser, "#focus-ring").get_attribute("class") == "walked"
    assert "walked" in find(browser, row(0)).get_attribute("class")
    assert "s=0" not in browser.current_url  # walking is not pinning
    keys("ENTER")(browser)
    assert "s=0" in browser.current_url
    for selector in ("#circle", "#tab-circle", "#model", "#filter", row(0), "[data-step='1']"):
        keys("TAB")(browser)  # so that the browser takes it for a keyboard's focus
        get(browser, "document.querySelector(arguments[0]).focus()", selector)
        style = get(browser, "getComputedStyle(document.activeElement).outlineStyle")
        assert style == "solid", selector


def test_skip_link_reaches_the_text_and_keeps_the_choice(browser, page):
    open_at(browser, page, "s=4")
    keys("ENTER", on=".skip")(browser)
    assert get(browser, "document.activeElement.id") == "reading-title"
    assert text_of(browser, HEAD).startswith("Sentence 4")


def test_data_loads_when_asked_for_and_a_missing_file_is_told(browser, tmp_path):
    page = build_site([write_traces(tmp_path / "traces")], tmp_path / "site")
    (gone,) = (page.parent / "data").glob("beta*.js")
    gone.unlink()
    open_at(browser, page, "s=0")
    assert browser.get_log("browser") == []  # the file that is not there was not asked for
    from selenium.webdriver.support.ui import Select

    Select(find(browser, "#model")).select_by_value("beta")
    wait(browser, "failed")
    assert f"data/{gone.name} could not be read" in text_of(browser, "#status")
    browser.get_log("browser")  # the browser's own line about the file


def test_a_trace_of_one_sentence_and_one_without_measures(browser, tmp_path):
    texts = ("The only sentence there is.",)
    write_trace(tmp_path / "t/a/correct_base_solution/problem_1", make_trace(texts=texts))
    bare = make_trace(
        labeled=None, step_importance=None, step_suppression=None, resampled=None,
        chunks={"source_text": "", "solution_text": "", "chunks": list(SENTENCES)},
    )  # fmt: skip
    write_trace(tmp_path / "t/b/correct_base_solution/problem_1", bare)
    page = build_site([tmp_path / "t"], tmp_path / "site")
    for view in ("circle", "tree", "matrix"):
        open_at(browser, page, f"t=a--correct--1&view={view}&s=0")
        assert text_of(browser, HEAD) == "Sentence 0 of 0\u20130"
        open_at(browser, page, f"t=b--correct--1&view={view}&s=5")
        assert "Links were not measured" in text_of(browser, "#readout")
        assert "Nothing was measured." in get(browser, "report.byId('metric-help').textContent")
        pick("#model", "a")(browser)
        assert browser.get_log("browser") == []
    assert "no effects between sentences" in text_of(browser, "#view-matrix")


@pytest.mark.parametrize("width", [1600, 1280, 900, 420, 340])
def test_nothing_is_wider_than_the_window(browser, page, width):
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        for view in ("circle", "tree", "matrix"):
            open_at(browser, page, f"s=0&view={view}")
            assert get(browser, "document.documentElement.scrollWidth") <= width
        assert browser.get_log("browser") == []
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_hostile_text_is_text(browser, tmp_path):
    trace = make_trace(texts=(HOSTILE, *SENTENCES[1:]))
    for record in trace.labeled:
        record["summary"] = HOSTILE
        record["function_tags"] = [HOSTILE]
    problem = {**trace.problem, **dict.fromkeys(("problem", "gt_answer", "nickname"), HOSTILE)}
    base = {**trace.base_solution, "answer": HOSTILE}
    rollouts = make_rollouts(trace)
    for rollout in rollouts[0]:
        rollout["answer"] = rollout["chunk_resampled"] = HOSTILE
    trace = dataclasses.replace(trace, problem=problem, base_solution=base, rollouts=rollouts)
    folder = tmp_path / "<img src=x onerror=window.pwned=1>" / "correct_base_solution" / "problem_1"
    write_trace(folder, trace)
    page = build_site([tmp_path], tmp_path / "site")
    for view in ("circle", "tree", "matrix"):
        open_at(browser, page, f"s=0&view={view}&find=%3Cimg")
        state = get(
            browser,
            "[window.pwned || 0, document.querySelectorAll('img, b.pwned').length,"
            " document.documentElement.scrollWidth <= innerWidth]",
        )
        assert state == [0, 0, True]
        assert browser.get_log("browser") == []
    for selector in ("#question", "#verdict", "#quote", ".summary", ".kind", "#alternatives",
                     "#alternatives .answers", "#reading-title", row(0)):  # fmt: skip
        shown = get(browser, "document.querySelector(arguments[0]).textContent", selector)
        assert HOSTILE in shown, selector


def test_released_traces(browser, released_folder, tmp_path):
    page = build_site([released_folder("qwen"), released_folder("llama")], tmp_path / "site")
    name = "deepseek-r1-distill-qwen-14b--correct--4682"
    open_at(browser, page, f"t={name}&s=13")
    assert "Plan generation" in text_of(browser, ".kinds")
    measures = text_of(browser, ".measures")
    assert "+0.42\nhelps" in measures and "\u22120.42\nhelps" in measures and "0.50" in measures
    assert text_of(browser, "#depends-on").split() == ["Depends", "on", "12"]
    assert text_of(browser, "#alternative-count").startswith("97 times, 34 different")
    pick("#model", "deepseek-r1-distill-llama-8b")(browser)
    assert text_of(browser, "#filter-count") == "26 sentences"
    assert browser.get_log("browser") == []
