"""The thought-anchors report without a browser: data checks, findings, and what is in the file."""

from __future__ import annotations

import copy
import json
import re
from importlib import resources

import pytest

from interp_jax.report.embed import plain
from interp_jax.runtime.errors import UserError
from interp_jax.studies.thought_anchors.report import build_report, write_report
from interp_jax.studies.thought_anchors.report_data import check
from interp_jax.studies.thought_anchors.report_findings import findings, headline
from tests.studies.thought_anchors.synthetic_report import make_full_report, make_report


def _change(path, value):
    """Returns report data with the entry at `path` set to `value`, or deleted."""
    data = plain(make_full_report())
    place = data
    for step in path[:-1]:
        place = place[step]
    if value is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return data


BROKEN = [
    (("title",), ..., "data.title"),
    (("model",), ..., "model = None"),
    (("model", "layers"), "six", "model.layers = 'six'"),
    (("trace", "text"), None, "trace.text"),
    (("trace", "sentences"), [], "without sentences"),
    (("trace", "sentences", 3, "index"), 4, r"sentences\[3\].index = 4"),
    (("trace", "sentences", 3, "start"), 0, r"sentences\[3\] at characters 0"),
    (("trace", "sentences", 11, "end"), 10**6, r"sentences\[11\]"),
    (
        ("trace", "sentences", 2, "text"),
        "something else",
        r"sentences\[2\].text = 'something else'",
    ),
    (("rollouts", "unfinished_share"), 1.5, "unfinished_share = 1.5"),
    (("resampling",), [], "resampling with 0 entries"),
    (("resampling", 4, "n"), None, r"resampling\[4\].n"),
    (("resampling", 4, "answers"), {"24": 99}, "99 answers from n = 32"),
    (("resampling", 4, "interval"), [0.9, 0.1], "low at most high"),
    (("resampling", 4, "interval"), [0.9], r"\[low, high\]"),
    (("resampling", 4, "resampling_kl"), -0.1, "resampling_kl = -0.1"),
    (("resampling", 4, "accuracy"), "high", "accuracy = 'high'"),
    (("resampling", 4, "alternatives", 0, "similarity"), 3, "similarity = 3"),
    (("resampling", 4, "alternatives", 0, "text"), None, r"alternatives\[0\].text"),
    (("sentence_matrix", 0), [0.0], r"sentence_matrix\[0\] with 1 entries"),
    (("receiver", "scores"), [1.0], "receiver.scores with 1 entries"),
    (("receiver", "heads", 0, "layer"), None, r"receiver.heads\[0\].layer"),
    (("receiver", "sink"), "no", "receiver.sink = 'no'"),
    (("receiver",), {"not_shown": 3}, "not_shown = 3"),
    (("suppression", "matrix"), None, "suppression.matrix = None"),
    (("suppression", "outgoing", 2), "x", r"outgoing\[2\] = 'x'"),
    (("resampling", 4, "forced_kl"), -1, "forced_kl = -1"),
    (("resampling", 4, "content", "accuracy"), 2, r"content.accuracy = 2"),
    (("trace", "sentences", 4, "depends_on"), [4], r"sentences\[4\].depends_on with 4"),
    (("trace", "tags", 0, "colour"), "red;x:y", r"tags\[0\].colour"),
    (("trace", "tags", 0, "words"), None, r"tags\[0\].words"),
    (("masking", "edges", 0, "target"), 0, r"masking.edges\[0\] from 0 to 0"),
    (("masking", "matrix"), None, "masking.matrix = None"),
    (("ablation", "kl", "p_value"), 2, "ablation.kl.p_value = 2"),
    (("ablation", "heads", 0, "head"), None, r"ablation.heads\[0\].head"),
    (("ablation", "answers", "changes", 0, "interval"), [1.0, 0.0], "low at most high"),
    (("ablation", "answers", "problems"), 0, "ablation.answers.problems = 0"),
    (("resampling", 4, "content", "kl_null"), "x", "content.kl_null"),
    (("notes",), [1], r"notes\[0\] = 1"),
]


@pytest.mark.parametrize(("path", "value", "message"), BROKEN)
def test_broken_data_is_refused_by_place_and_nothing_is_written(path, value, message, tmp_path):
    with pytest.raises(UserError, match=message):
        write_report(tmp_path / "report.html", _change(path, value))
    assert not list(tmp_path.iterdir())


def test_optional_parts_may_be_missing_or_say_why_not(tmp_path):
    data = make_report()
    for name in ("problem", "rollouts", "resampling", "sentence_matrix", "receiver", "notes"):
        del data[name]
    data["suppression"] = {"not_shown": "Too short."}
    page = write_report(tmp_path / "report.html", data).read_text(encoding="utf-8")
    report = _embedded(page)
    assert [finding["status"] for finding in report["findings"]] == ["not shown"] * 4
    assert report["findings"][3]["text"] == "Too short."


def _embedded(page):
    return json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL).group(1))


def test_pieces_are_cut_by_characters_and_join_to_the_text():
    data = make_report(count=3)
    shift = len("\N{GRINNING FACE}\N{GRINNING FACE} ")
    data["trace"]["text"] = "\N{GRINNING FACE}\N{GRINNING FACE} " + data["trace"]["text"] + " tail"
    for sentence in data["trace"]["sentences"]:
        sentence["start"] += shift
        sentence["end"] += shift
    pieces = _embedded(build_report(data))["trace"]["pieces"]
    assert "".join(text for text, _ in pieces) == data["trace"]["text"]
    found = {index: text for text, index in pieces if index is not None}
    assert [found[i] for i in range(3)] == [s["text"] for s in data["trace"]["sentences"]]


def _found(data):
    report = check(data)
    found = findings(report)
    return {finding.method: finding for finding in found}, headline(found)


def test_findings_name_the_largest_sentence_of_each_method():
    data = make_report()
    found, line = _found(data)
    assert found["resampling"].sentence == 5 and found["resampling"].status == "clear"
    assert "Above their own chance level: 1 of 11 sentences" in found["resampling"].caveat
    assert "so it helps" in found["resampling"].text
    assert "so the one kept helps" in found["counterfactual"].text
    outgoing = data["suppression"]["outgoing"][:-1]
    assert found["suppression"].sentence == max(range(11), key=outgoing.__getitem__)
    assert line.startswith("Sentence 5 moves the answer most, and more than chance would.")


@pytest.mark.parametrize(("low", "status"), [(0.141, "clear"), (0.139, "within chance")])
def test_a_sentence_is_clear_only_if_its_interval_lies_above_the_null(low, status):
    data = make_report()
    data["resampling"][5]["resampling_kl_interval"] = [low, 1.0]
    found, line = _found(data)
    assert found["resampling"].status == status
    assert ("No sentence moves the answer clearly" in line) == (status == "within chance")
    assert ("may be noise" in found["resampling"].caveat) == (status == "within chance")


def test_an_accuracy_interval_over_zero_is_not_called_help():
    data = make_report()
    data["resampling"][5]["resampling_accuracy_interval"] = [-0.1, 0.9]
    text = _found(data)[0]["resampling"].text
    assert "not clear of zero" in text and "helps" not in text


def test_without_a_null_nothing_is_called_clear():
    data = make_report()
    for entry in data["resampling"]:
        del entry["resampling_kl_null"]
    data["suppression"]["control"] = None
    found, _ = _found(data)
    assert found["resampling"].status == found["suppression"].status == "untested"
    assert "No chance level" in found["resampling"].caveat


def test_suppression_below_its_distance_control_is_within_chance():
    data = make_report()
    data["suppression"]["control"]["outgoing"] = [99.0] * 12
    found = _found(data)[0]["suppression"]
    assert found.status == "within chance" and "distance" in found.caveat


def test_forced_answers_and_content_have_findings_where_they_were_measured():
    assert set(_found(make_report())[0]) == {
        "resampling", "counterfactual", "receiver", "suppression",
    }
    data = make_full_report()
    data["resampling"][4] |= {
        "forced_kl": 0.9, "forced_kl_interval": [0.6, 1.2], "forced_kl_null": 0.1,
        "forced_accuracy": -0.3, "forced_accuracy_interval": [-0.5, -0.1],
    }
    data["resampling"][7]["content"] |= {
        "kl": 0.8, "kl_interval": [0.5, 1.0], "kl_null": 0.6, "accuracy": 0.3,
        "accuracy_interval": [0.1, 0.5], "absent": 9, "resilience": 3.25, "stayed_out": 0.5,
    }
    found, _ = _found(data)
    forced, content = found["forced"], found["content"]
    assert (forced.sentence, forced.status) == (4, "clear")
    assert "KL 0.90 nats" in forced.text and "chance reaches 0.10" in forced.text
    assert "adding it changes accuracy by \N{MINUS SIGN}0.30, so it hurts" in forced.text
    assert (content.sentence, content.status) == (7, "within chance")
    assert "its content changes accuracy by +0.30, so it helps" in content.text
    assert "9 rollouts went without it" in content.caveat
    assert "removed 3.2 times" in content.caveat and "50% of the chains" in content.caveat
    # Without a null there is no such claim.
    del data["resampling"][7]["content"]["kl_null"]
    assert _found(data)[0]["content"].status == "untested"


@pytest.mark.parametrize(
    ("answers", "p_value", "status", "says"),
    [
        ((0.2, [-0.4, -0.05]), 0.5, "clear", "clear of zero"),
        ((0.5, [-0.2, 0.1]), 0.01, "within chance", "not clear of zero"),
        (None, 0.048, "clear", "nats a token"),
        (None, 0.3, "within chance", "nats a token"),
    ],
)
def test_head_ablation_is_judged_by_accuracy_or_else_by_the_kl(answers, p_value, status, says):
    data = make_full_report()
    data["ablation"]["kl"]["p_value"] = p_value
    if answers is None:
        data["ablation"]["answers"] = {"not_shown": "No problem was given."}
    else:
        share, interval = answers
        data["ablation"]["answers"]["conditions"][1]["value"] = share
        data["ablation"]["answers"]["changes"][0] |= {"value": share - 0.5, "interval": interval}
    found = _found(data)[0]["ablation"]
    assert found.status == status and says in f"{found.text} {found.caveat}"
    if answers is None:
        assert "No problem was given." in found.caveat
    else:
        assert f"{answers[0]:.0%}" in found.text


def test_a_first_sentence_without_anything_before_it_is_told_to_be_a_sink():
    data = make_report()
    assert "first token of all" not in _found(data)[0]["receiver"].caveat
    data["receiver"]["sink"] = True
    assert "rest on the first token of all" in _found(data)[0]["receiver"].caveat


def test_masking_is_told_beside_its_distance_control():
    found = _found(make_full_report())[0]["masking"]
    assert "Deleting it and moving up" in found.text and "distance alone predicts" in found.text


def test_methods_that_agree_are_told_so():
    data = make_report()
    data["receiver"]["scores"] = [1.0 if i == 5 else 0.1 for i in range(12)]
    data["suppression"]["outgoing"] = [1.0 if i == 5 else 0.1 for i in range(12)]
    line = _found(data)[1]
    assert line.endswith("Receiver heads and attention suppression point at the same one.")


def test_scripts_never_make_markup_or_code_from_text_and_load_nothing():
    sources = [
        (file.name, file.read_text(encoding="utf-8"))
        for package in ("interp_jax.report.assets", "interp_jax.studies.thought_anchors.page")
        for file in resources.files(package).iterdir()
        if file.name.endswith((".js", ".css", ".html"))
    ]
    assert len(sources) >= 13
    for name, text in sources:
        for word in (
            "innerHTML",
            "outerHTML",
            "insertAdjacent",
            "document.write",
            "eval(",
            "Function(",
            "DOMParser",
            "fetch(",
            "XMLHttpRequest",
            "import(",
            "url(",
        ):
            assert word not in text, (name, word)
        links = set(re.findall(r"https?://[^\s\"']*", text))
        assert links <= {"http://www.w3.org/2000/svg"}, name  # a name, never fetched
        assert text.count("\n") <= 500, name


def test_every_script_and_style_carried_is_in_the_page():
    page = build_report(make_report())
    for package in ("interp_jax.report.assets", "interp_jax.studies.thought_anchors.page"):
        for file in resources.files(package).iterdir():
            if file.name.endswith((".js", ".css", ".html")):
                assert file.read_text(encoding="utf-8") in page, file.name


def test_the_data_given_is_left_as_it_was():
    data = plain(make_report())
    before = copy.deepcopy(data)
    build_report(data)
    assert data == before
