"""Every interaction of the visualiser, in headless Chromium: what is done, and what it changes."""

from __future__ import annotations

import pytest

from interp_jax.studies.thought_anchors.normalise import distance_residual
from interp_jax.studies.thought_anchors.visualiser.site import build_site
from tests.studies.thought_anchors.report_page import (
    both,
    click,
    go,
    hover,
    keys,
    settled_text,
    text_of,
)
from tests.studies.thought_anchors.visualiser.site_page import (
    CELL,
    HEAD,
    RESAMPLING,
    SUPPRESSION,
    TREE,
    get,
    node,
    open_at,
    pick,
    point,
    row,
    strongest,
    wait,
    write,
)
from tests.studies.thought_anchors.visualiser.synthetic_traces import (
    PIVOT,
    SENTENCES,
    write_traces,
)

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    return build_site([write_traces(folder / "traces")], folder / "site")


RESIDUAL = distance_residual(SUPPRESSION)
HELP = click("#help summary")
LINKS_0 = f"Sentence 0 (problem set-up) leads to {strongest(0, 'out')}; draws on none."
LINKS_5 = (
    f"Sentence 5 (plan generation) leads to {strongest(5, 'out')}; draws on {strongest(5, 'in')}."
)

# What a reader can do: name, address, action, where text changes, what it then says.
INTERACTIONS = [
    ("pin node 0 in the circle", "", point(node(0), True), HEAD, "Sentence 0"),
    ("pin another node", "", point(node(4), True), "#quote", SENTENCES[4]),
    ("point at node 0", "", point(node(0)), "#readout", LINKS_0),
    ("point at another node", "", point(node(5)), "#readout", LINKS_5),
    ("pointing shows details", "", point(node(3)), HEAD, "Sentence 3"),
    ("pointing beside a pinned one", "s=0", point(node(5)), "#readout", LINKS_5),
    ("pin a row of text", "", click(row(7)), HEAD, "Sentence 7"),
    ("point at a row of text", "", hover(row(5)), "#readout", LINKS_5),
    ("Enter on a row", "", keys("ENTER", on=row(3)), HEAD, "Sentence 3"),
    ("space on a row", "", keys("SPACE", on=row(2)), HEAD, "Sentence 2"),
    ("walk right from nothing", "", keys("ARROW_RIGHT"), HEAD, "Sentence 0"),
    ("walk left from nothing", "", keys("ARROW_LEFT"), HEAD, "Sentence 11"),
    ("walk right", "s=4", keys("ARROW_RIGHT"), HEAD, "Sentence 5"),
    ("walk left to 0", "s=1", keys("ARROW_LEFT"), HEAD, "Sentence 0"),
    ("walk down", "s=4", keys("ARROW_DOWN", "ARROW_DOWN"), HEAD, "Sentence 6"),
    ("walk up", "s=4", keys("ARROW_UP"), HEAD, "Sentence 3"),
    ("Home", "s=4", keys("HOME"), HEAD, "Sentence 0"),
    ("End", "s=4", keys("END"), HEAD, "Sentence 11"),
    ("walk over what is filtered", "s=7&find=spider", keys("ARROW_UP"), HEAD, "Sentence 5"),
    ("escape", "s=4", keys("ESCAPE"), HEAD, "Choose a sentence"),
    ("escape from 0", "s=0", keys("ESCAPE"), HEAD, "Choose a sentence"),
    ("escape from a walk", "", keys("END", "ESCAPE"), "#tags", None),
    ("close", "s=4", click("#close"), HEAD, "Choose a sentence"),
    ("previous", "s=4", click("[data-step='-1']"), HEAD, "Sentence 3"),
    ("next, twice", "s=4", keys("ENTER", "ENTER", on="[data-step='1']"), HEAD, "Sentence 6"),
    ("ranking", "", click(".ranking [data-sentence='5']"), HEAD, "Sentence 5"),
    ("point at the ranking", "", hover(".ranking [data-sentence='5']"), "#readout", LINKS_5),
    ("a link", "s=0", click(".outgoing [data-sentence='3']"), HEAD, "Sentence 3"),
    ("a dependency", "s=4", click("#depends-on button"), HEAD, "Sentence 3"),
    ("a dependent", "s=4", click("#needed-by button"), HEAD, "Sentence 5"),
    ("all alternatives", "s=5", click("#more"), "#alternatives", "Other way 9 to say it."),
    ("grouped alternatives", "s=4", keys("ARROW_RIGHT"), "#alternative-count",
     "40 times, 10 different texts"),
    ("filter", "", keys("s", "p", "i", "d", "e", "r", on="#filter"), "#filter-count",
     "3 of 12 sentences"),
    ("filter by key", "", keys("/", "w", "a", "i", "t"), "#filter-count", "1 of 12 sentences"),
    ("no match", "", keys("/", "x", "q", "x"), ".reading", "No sentence has these words"),
    ("escape from the filter", "find=spider", keys("ESCAPE", on="#filter"), "#filter-count",
     "12 sentences"),
    ("hide a kind", "", click("[data-tag='AC']"), "#filter-count", "7 of 12 sentences"),
    ("show it again", "off=AC", click("[data-tag='AC']"), "#filter-count", "12 sentences"),
    ("measure", "", both(HELP, pick("#metric", "resampling_importance_accuracy")), "#help",
     "POSITIVE: the sentence helps"),
    ("measure of the other sign", "",
     both(HELP, pick("#metric", "counterfactual_importance_accuracy")), "#help",
     "NEGATIVE: the sentence helps"),
    ("measure: suppression", "", both(HELP, pick("#metric", "outgoing_suppression")), "#help",
     "hiding this sentence from attention"),
    ("its ranking", "", pick("#metric", "outgoing_suppression"), "#detail h3",
     "Strongest attention suppression"),
    ("its rings", "", pick("#metric", "resampling_importance_accuracy"), "#signs",
     "Ring: it harms"),
    ("links by suppression", "s=5", pick("#links-by", "suppression"), "#readout",
     f"leads to {strongest(5, 'out', SUPPRESSION, False)}; "
     f"draws on {strongest(5, 'in', SUPPRESSION, False)}"),
    ("links beyond distance", "s=5", pick("#links-by", "beyond"), "#readout",
     f"leads to {strongest(5, 'out', RESIDUAL, False)}; "
     f"draws on {strongest(5, 'in', RESIDUAL, False)}"),
    ("links' help", "", both(HELP, pick("#links-by", "beyond")), "#help", "at the same distance"),
    ("what the numbers mean", "", HELP, "#help", "Counterfactual, KL."),
    ("links per sentence", "", keys("ARROW_RIGHT", on="#k"), "#k-out", "3"),
    ("strongest sentences", "", keys("ARROW_LEFT", on="#top"), "#top-out", "80"),
    ("tab: tree", "", click("#tab-tree"), TREE, f"What sentence {PIVOT} leads to."),
    ("tab: matrix", "", click("#tab-matrix"), ".stage-head", "A column acts"),
    ("tab: circle", "view=tree", click("#tab-circle"), ".stage-head", "Links per sentence"),
    ("tab by arrow", "", keys("ARROW_RIGHT", on="#tab-circle"), TREE, "What sentence 5"),
    ("tab by arrow, round", "", keys("ARROW_LEFT", on="#tab-circle"), ".stage-head",
     "A column acts"),
    ("tab by End", "", keys("END", on="#tab-circle"), ".stage-head", "A column acts"),
    ("view by number", "", keys("2"), TREE, "What sentence 5 leads to."),
    ("tree from 0", "view=tree", keys("HOME", "ENTER"), TREE, "What sentence 0 leads to."),
    ("tree node", "view=tree&s=0", click("#tree [data-index='3']"), TREE, "What sentence 3"),
    ("point at a tree node", "view=tree&s=0", hover("#tree [data-index='3']"), "#readout",
     "Sentence 3 (active computation)"),
    ("tree the other way", "view=tree&s=9", click("#way-incoming"), TREE, "What led to sentence 9"),
    ("tree back", "view=tree&s=9&way=incoming", click("#way-outgoing"), TREE, "What sentence 9"),
    ("fewer links each", "view=tree&s=0&depth=1", keys("ARROW_LEFT", on="#branch"), TREE,
     "3 sentences."),
    ("more depth", "view=tree&s=0&depth=1", keys("ARROW_RIGHT", on="#depth"), "#depth-out", "2"),
    ("cell by keys", "view=matrix", keys("ARROW_DOWN", "ARROW_DOWN", "ARROW_RIGHT", on="#matrix"),
     CELL, f"Sentence 1 on sentence 2: {write(RESAMPLING[1, 2])}"),
    ("pin a cell's source", "view=matrix", keys("ARROW_DOWN", "ENTER", on="#matrix"), HEAD,
     "Sentence 0"),
    ("matrix as a table", "view=matrix", click("#matrix-table summary"), "#matrix-table",
     write(RESAMPLING[0, 3])),
    ("model", "", pick("#model", "beta"), "#problem", "8, Legs in the barn"),
    ("outcome", "", both(click("#outcome-incorrect"), wait), "#verdict", "wrong"),
    ("problem of a run", "", pick("#model", "gamma-1b"), "#reading-title", "Problem mine"),
    ("another address", "s=3", both(go("s=0&view=tree"), wait), TREE, "What sentence 0 leads"),
    ("a trace by address", "", both(go("t=beta--incorrect--8&s=2"), wait), "#verdict", "22"),
    ("back in the browser", "s=3", both(click(row(5)), click(row(7)), lambda b: b.back(), wait),
     HEAD, "Sentence 5"),
]  # fmt: skip
# Where each interactive element of the page is used above.
COVERED = (
    "#circle", "#matrix", ".row", ".tree-node", ".sentence-link", "#close", "[data-step]", "#more",
    "[role=tab]", "[type=range]", "#filter", "[name=way]", "[name=outcome]", "select", "summary",
    ".tag-key", ".skip", "#reading-title", ".table-scroll",
)  # fmt: skip


@pytest.mark.parametrize(
    ("address", "act", "where", "says"),
    [case[1:] for case in INTERACTIONS],
    ids=[case[0] for case in INTERACTIONS],
)
def test_interaction_changes_its_text(browser, page, address, act, where, says):
    open_at(browser, page, address)
    before = text_of(browser, where)
    act(browser)
    if says is None:  # all is as before
        assert text_of(browser, where) == before and text_of(browser, HEAD) == "Choose a sentence"
    else:
        after = settled_text(browser, where, before)
        assert after != before
        assert says in after
    assert browser.get_log("browser") == []


@pytest.mark.parametrize("address", ["", "s=5", "view=tree&s=0", "view=matrix"])
def test_the_table_covers_every_control(browser, page, address):
    open_at(browser, page, address)
    left = get(
        browser,
        "[...document.querySelectorAll('a, button, input, select, summary, canvas, [tabindex],"
        " [role=button]')].filter((n) => n.checkVisibility() && !n.matches(arguments[0]))"
        ".map((n) => n.outerHTML)",
        ", ".join(COVERED),
    )
    assert left == []
