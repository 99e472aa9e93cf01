"""Labels and summaries by a judge: what is asked, and that nothing wrong in an answer gets in."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interp_jax.runtime.errors import UserError
from interp_jax.studies.thought_anchors.labels.judged import (
    label_with_judge,
    parse_labels,
    summaries,
)
from interp_jax.studies.thought_anchors.labels.labels import (
    Dropped,
    Labels,
    apply_labels,
    labels_of_records,
)
from interp_jax.studies.thought_anchors.labels.taxonomy import BY_NAME, TAGS
from interp_jax.text.judges.judge import Reply
from interp_jax.text.judges.logged import LoggedJudge

pytestmark = pytest.mark.core

SENTENCES = ["We are asked for {x}.", "2 + 2 = 4.", r"So \boxed{4}."]


class Scripted(LoggedJudge):
    """Answers what a function of the prompt says; keeps the questions."""

    def __init__(self, says):
        super().__init__("scripted", {})
        self.says, self.asked = says, []

    def _answers(self, questions):
        for key, question in questions.items():
            self.asked.append(question)
            text = self.says(question.messages[-1]["content"])
            yield key, Reply(text, "scripted-1", 1, 1, None, 0.1, False), 0


def parse(answer, count=4):
    return parse_labels(answer, count, by="j", version="v")


def entry(tags, links=()):
    return {"function_tags": tags, "depends_on": list(links)}


def test_one_request_for_the_whole_trace():
    answer = {
        "0": entry(["problem_setup"]), "1": entry(["active_computation"], ["0"]),
        "2": entry(["final_answer_emission", "result_consolidation"], ["1", "0"]),
    }
    judge = Scripted(lambda _: "```json\n" + json.dumps(answer) + "\n```")
    labels = label_with_judge(judge, "What is {2}+2?", SENTENCES)
    assert labels.main == ("problem_setup", "active_computation", "final_answer_emission")
    assert labels.tags[2] == ("final_answer_emission", "result_consolidation")
    assert labels.depends_on == ((), (0,), (0, 1)) and not labels.dropped
    assert labels.by == "scripted-1" and labels.version == "labels-1"
    (asked,) = judge.asked
    text = asked.messages[0]["content"]
    assert asked.json_object and asked.temperature == 0.0 and asked.max_tokens == 256 + 64 * 3
    assert asked.prompt_version == "labels-1" and asked.purpose == "labels"
    assert all(name in text for name in BY_NAME) and all(tag.meaning in text for tag in TAGS)
    assert "What is {2}+2?" in text and 'to "2"' in text
    assert all(f"Sentence {i}:\n{each}" in text for i, each in enumerate(SENTENCES))
    # Asked again it is the log's answer.
    assert label_with_judge(judge, "What is {2}+2?", SENTENCES) == labels and len(judge.asked) == 1


def test_answers_about_nothing_are_refused():
    with pytest.raises(UserError, match="without an entry for any sentence"):
        label_with_judge(Scripted(lambda _: '{"error": "no"}'), "", SENTENCES)
    with pytest.raises(UserError, match="whole JSON object"):
        label_with_judge(Scripted(lambda _: "no"), "", SENTENCES)
    with pytest.raises(UserError, match="no sentences"):
        label_with_judge(Scripted(lambda _: "{}"), "", [])


def test_whatever_is_wrong_is_dropped_and_counted():
    labels = parse({
        "0": entry(["PS", "poetry", 7], ["0", "1", "9", "-1", "x", True, 2.0]),
        "Sentence 1": {"function_tags": "Plan Generation", "depends_on": 0},
        "chunk_2": entry(["nonsense"], ["Sentence 1", "chunk_0", 1, "1"]),
        "7": entry(["PS"]), "summary": "fine", "2": entry(["FAE"]),
    })
    assert labels.tags == (
        ("problem_setup",), ("plan_generation",), ("unknown",), ("unknown",),
    )
    assert labels.depends_on == ((), (0,), (0, 1), ())
    # "-1" is outside as a number; as text it is no index.
    assert labels.dropped == Dropped(
        missing=1, extra=3, unknown_tags=3, self_links=1, forward_links=1, outside_links=1,
        bad_links=4,
    )


def test_entries_one_level_lower_are_read():
    inner = {str(i): entry(["AC"], [str(i - 1)] if i else []) for i in range(4)}
    assert parse({"annotations": inner}) == parse(inner)
    assert parse({"0": entry(["AC"])}, 1).main == ("active_computation",)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 9) | st.floats() | st.text(max_size=5)
    | st.sampled_from(["0", "3", "AC", "unknown", "Sentence 1", "9" * 30]),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.sampled_from(["function_tags", "depends_on", "x"]), inner),
    max_leaves=10,
)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.integers(-1, 7).map(str) | st.text(max_size=3), JSON, max_size=8),
       st.integers(1, 6))
def test_any_object_gives_a_labelling_that_is_a_dag(answer, count):
    labels = parse(answer, count)  # `Labels` itself refuses what is not
    assert len(labels) == count
    written = {
        str(i): entry(list(labels.tags[i]), map(str, labels.depends_on[i])) for i in range(count)
    }
    again = parse(written, count)
    assert (again.tags, again.depends_on) == (labels.tags, labels.depends_on)
    assert not again.dropped


@pytest.mark.parametrize("tags, links", [
    ((("problem_setup",),), ()), (((),), ((),)), ((("poetry",),), ((),)),
    ((("unknown",),), ((0,),)), ((("unknown",),) * 2, ((1,), ())), ((("unknown",),), ((-1,),)),
])
def test_labels_that_cannot_be_are_refused(tags, links):
    with pytest.raises(UserError, match="label the trace again"):
        Labels(tags, links, "j", "v")


def test_labels_go_into_records_and_come_back():
    records = [{"chunk": f"s{i}", "chunk_idx": i, "function_tags": ["unknown"], "depends_on": [],
                "accuracy": 0.5} for i in (0, 1, 3)]
    labels = Labels((("problem_setup",), ("self_checking",), ("unknown",),
                     ("active_computation", "self_checking")), ((), (0,), (), (0, 1)), "j", "v")
    done = apply_labels(records, labels)
    assert [each["function_tags"] for each in done] == [
        ["problem_setup"], ["self_checking"], ["active_computation", "self_checking"],
    ]
    assert [each["depends_on"] for each in done] == [[], ["0"], ["0", "1"]]
    assert all(each["accuracy"] == 0.5 for each in done)
    assert records[1]["function_tags"] == ["unknown"]  # the given ones stay as they were
    assert [list(each) for each in done] == [list(each) for each in records]
    back = labels_of_records(done)
    assert (back.tags, back.depends_on) == (labels.tags, labels.depends_on)
    assert back.dropped == Dropped(missing=1)  # there is no record of sentence 2
    with pytest.raises(UserError, match="a record of sentence 4"):
        apply_labels([records[0] | {"chunk_idx": 4}], labels)


def test_summaries_are_short_and_asked_once_for_equal_sentences():
    judge = Scripted(
        lambda text: '"one two three, four five six seven."' if "s1" in text else " Short. "
    )
    assert summaries(judge, ["s1", "s2", "s1"]) == [
        "one two three, four five", "Short", "one two three, four five",
    ]
    assert len(judge.asked) == 2
    assert all(q.max_tokens == 20 and q.prompt_version == "summary-1" for q in judge.asked)
    assert not any(q.json_object for q in judge.asked)
