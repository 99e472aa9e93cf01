"""Finding the JSON object in a reply, and never a part of one."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interp_jax.runtime.errors import UserError
from interp_jax.text.judges.json_reply import find_json_object
from interp_jax.text.judges.judge import Question, Totals
from interp_jax.text.judges.log import JudgeLog

pytestmark = pytest.mark.core

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.text(max_size=4), VALUES), st.data())
def test_an_object_is_found_whole_or_not_at_all(wanted, data):
    written = json.dumps(wanted)
    assert find_json_object(written) == wanted
    assert find_json_object(f"Sure:\n```json\n{written}\n```\nDone {{1, 2}}.") == wanted
    assert find_json_object(f'<think>{{"no": 1}} {written[:3]}</think>\n{written}') == wanted
    cut = data.draw(st.integers(0, len(written) - 1))
    assert find_json_object(written[:cut]) is None


@pytest.mark.parametrize("text", [
    "", "no", "[1]", '"a"', "{1, 2}", '{"a": [1, {"b": 2}, ', "{'a': 1}", '{"a": ' + "[" * 100_000,
])
def test_what_is_no_object(text):
    assert find_json_object(text) is None


def test_a_set_in_the_words_before_is_no_object():
    assert find_json_object('With {1, 2} and {x}: {"a": 1}') == {"a": 1}


def test_questions_are_checked():
    with pytest.raises(UserError, match="at least one"):
        Question(())
    with pytest.raises(UserError, match="role"):
        Question(({"content": "no role"},))
    message = {"role": "user", "content": "x"}
    for wrong in ({"max_tokens": 0}, {"temperature": -1.0}, {"temperature": float("nan")}):
        with pytest.raises(UserError, match="at least one token"):
            Question((message,), **wrong)


def test_a_file_that_is_no_judges_log_is_refused(tmp_path):
    from interp_jax.runtime.journal import Journal

    path = tmp_path / "other.jsonl"
    with Journal(path) as journal:
        journal.append("rollout-1", {"text": "x"})
    with pytest.raises(UserError, match="no judge's reply"):
        JudgeLog(path)
    Journal(path).close()  # the refusal has let go of the file


def test_totals_in_one_line():
    assert Totals().line() == "0 asked, 0 from the log, 0 + 0 tokens"
    full = Totals(3, 1, 1, 2, 10, 5, 0.25)
    assert full.line() == (
        "3 asked, 1 from the log, 10 + 5 tokens, 1 unusable, 2 retries, cost 0.2500"
    )
