"""The page of aggregates in headless Chromium: its switches, and hostile text as text."""

from __future__ import annotations

import pytest

from interp_jax.studies.thought_anchors.aggregates.config import AggregateConfig
from interp_jax.studies.thought_anchors.aggregates.run import run
from interp_jax.studies.thought_anchors.released import write_trace
from tests.studies.thought_anchors.aggregates.synthetic_traces import make_trace, write_release

pytestmark = pytest.mark.browser

HOSTILE = "</script><img src=x onerror=\"document.title='broken'\"><b>\u2028😀 =cmd()"


@pytest.fixture(scope="module")
def shown(browser, tmp_path_factory):
    root = write_release(tmp_path_factory.mktemp("release"), 3)
    write_release(root, 2, kind="incorrect", suppression=False)
    hostile = make_trace(9, text=HOSTILE)
    for record in hostile.labeled[::2]:
        record["function_tags"] = [HOSTILE]
    write_trace(root / "<i>odd" / "correct_base_solution" / "problem_<b>x", hostile)
    workdir = tmp_path_factory.mktemp("out")
    result = run(AggregateConfig(traces=(str(root),), workdir=str(workdir), draws=40))
    browser.get(result.page.as_uri())
    assert browser.execute_script("return document.documentElement.dataset.ready") == "true"
    return result


def text(browser, part):
    return browser.execute_script("return document.getElementById(arguments[0]).textContent", part)


def choose(browser, name, value):
    browser.execute_script(
        "const all = [...document.querySelectorAll(`input[name=${arguments[0]}]`)];"
        "all.find((input) => input.value === arguments[1]).click();", name, value
    )  # fmt: skip


def test_each_section_shows_the_numbers_of_the_data(browser, shown):
    group = shown.data["groups"]["all traces"]
    assert text(browser, "title") == "Over 6 traces"
    assert f"6 traces, {group['sentences']} sentences" in text(browser, "headline")
    for note in shown.notes:
        assert note in text(browser, "notes")
    assert "plan generation (PG)" in text(browser, "categories")
    assert "PG above AC" in text(browser, "categories-readout")
    assert "Suppression beyond distance" in text(browser, "agreement")
    assert "distance explains" in text(browser, "profiles")
    assert "within 5 sentences, distance taken out" in text(browser, "matrices")
    assert "tag beyond headroom and position" in text(browser, "explained")
    assert "settled at sentence 24 of 30" in text(browser, "accuracy")
    assert "active computation (AC)" in text(browser, "shares")
    assert len(browser.find_elements("css selector", ".anchor-trace")) == 6
    for part in ("categories", "agreement", "explained", "anchors"):
        assert "object" not in text(browser, part) and "undefined" not in text(browser, part)


def test_switches_change_what_they_say(browser, shown):
    before = text(browser, "categories")
    choose(browser, "measure", "overdeterminedness")
    assert text(browser, "categories") != before
    table = shown.data["groups"]["all traces"]["categories"]["overdeterminedness"]
    tested = [pair["p_t_holm"] for pair in table["pairs"] if pair["p_t_holm"] is not None]
    clear = sum(p < 0.05 for p in tested)
    said = text(browser, "categories-readout")
    assert f"{len(tested)} pairs tested" in said
    assert (f"{clear} differ" if clear else "none differs") in said
    before = text(browser, "agreement")
    choose(browser, "control", "position and headroom")
    assert text(browser, "agreement") != before
    choose(browser, "group", "some-model, incorrect")
    assert "2 traces" in text(browser, "headline")
    assert "No trace has both matrices" in text(browser, "matrices")
    assert len(browser.find_elements("css selector", ".anchor-trace")) == 2
    # The chosen measure outlasts the change of group.
    chosen = "return document.querySelector('input[name=measure]:checked').value"
    assert browser.execute_script(chosen) == "overdeterminedness"
    summaries = browser.find_elements("css selector", "details.numbers summary")
    for summary in summaries:
        summary.click()
        browser.execute_async_script("requestAnimationFrame(() => arguments[0]())")
    tables = browser.find_elements("css selector", "details.numbers table tbody tr")
    assert len(tables) > 10
    choose(browser, "group", "all traces")


def test_hostile_text_is_text_and_nothing_complains(browser, shown):
    assert HOSTILE in text(browser, "anchors")
    assert "<i>odd" in text(browser, "anchors") and "problem_<b>x" in text(browser, "accuracy")
    assert HOSTILE in text(browser, "categories")
    assert browser.title == "Thought anchors over traces"
    assert browser.execute_script("return document.querySelectorAll('img').length") == 0
    assert browser.get_log("browser") == []


@pytest.mark.parametrize("width", [400, 1280])
def test_nothing_is_wider_than_the_window(browser, shown, width):
    browser.set_window_size(max(width, 500), 900)
    assert browser.execute_script(
        "return document.documentElement.scrollWidth <= document.documentElement.clientWidth"
    )
