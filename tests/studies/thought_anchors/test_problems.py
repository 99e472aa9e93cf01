"""Problem sources: seeded generators, JSONL files, prompts; and what is refused."""

import importlib.util
import json

import pytest

from interp_jax.runtime.errors import UserError
from interp_jax.studies.thought_anchors.problems import (
    load_problem,
    prompt_problem,
    read_problems,
)
from interp_jax.studies.thought_anchors.scoring_safety import evaluates_text

GENERATORS = pytest.mark.skipif(
    importlib.util.find_spec("reasoning_gym") is None, reason="reasoning-gym is not installed"
)


@GENERATORS
@pytest.mark.parametrize(
    ("dataset", "rule"),
    [
        ("gsm_symbolic", "last_number"),
        ("chain_sum", "last_number"),
        ("leg_counting", "last_number"),
        ("syllogism", "yes_no"),
        ("family_relationships", "stated"),
    ],
)
def test_generated_problems_check_answers(dataset, rule):
    spec = f"reasoning_gym:{dataset}:7:3"
    problem = load_problem(spec)
    again = load_problem(spec)
    assert problem == again and problem.source == spec
    assert load_problem(f"reasoning_gym:{dataset}:8:3").question != problem.question
    assert problem.rule == rule
    assert problem.check(f"First 1 thing, then another. The answer is {problem.answer}.")
    assert not problem.check("I do not know.")
    wrong = "No" if problem.answer == "Yes" else "Yes" if problem.answer == "No" else "-123456"
    assert not problem.check(f"The answer is {wrong}.")


@GENERATORS
def test_partial_credit_is_not_right():
    """The generator gives part of the credit for text that holds the answer."""
    problem = load_problem("reasoning_gym:family_relationships:0:0")
    assert not problem.score(f"not {problem.answer}")
    assert problem.score(problem.answer)


@GENERATORS
def test_number_spellings():
    problem = load_problem("reasoning_gym:gsm_symbolic:3:4")
    assert problem.answer == "5485"
    assert problem.check("so there are 5,485.00 muffins")
    assert problem.read("#### 5,485") == "5485"
    assert not problem.check("5485 muffins, or 5486")


@GENERATORS
@pytest.mark.parametrize("dataset", ["countdown", "n_queens", "polynomial_multiplication"])
def test_generators_that_run_answers_are_refused(dataset):
    with pytest.raises(UserError, match="judges answers by running them"):
        load_problem(f"reasoning_gym:{dataset}:0:0")


def runs_it(answer, entry):
    return eval(answer) == entry


def runs_its_own(answer, entry):
    return eval(entry["answer"]) == answer


def parse_expr(text):
    return text


def has_its_own_parser(answer, entry):
    return parse_expr(answer) == entry


def test_scoring_that_evaluates_text_is_found():
    assert evaluates_text(runs_it) == "eval"
    assert evaluates_text(runs_its_own) is None
    assert evaluates_text(has_its_own_parser) is None
    assert evaluates_text(len) == "unreadable source"


@GENERATORS
@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("gsm_symbolic", "expected reasoning_gym:<dataset>:<seed>:<index>"),
        ("reasoning_gym:gsm_symbolic:0", "expected reasoning_gym:<dataset>:<seed>:<index>"),
        ("reasoning_gym:gsm_symbolic:0:-1", "expected reasoning_gym:<dataset>:<seed>:<index>"),
        ("reasoning_gym:gsm_symbolik:0:1", "perhaps gsm_symbolic"),
    ],
)
def test_bad_specs(spec, message):
    with pytest.raises(UserError, match=message):
        load_problem(spec)


@pytest.mark.core
def test_jsonl(tmp_path):
    path = tmp_path / "problems.jsonl"
    lines = [
        {"question": "1+1?", "answer": 2, "rule": "last_number"},
        {"question": "half?", "answer": "1/2", "id": "half", "extra": []},
        {"question": "why?", "answer": None},
    ]
    path.write_text("\n".join(map(json.dumps, lines)) + "\n", encoding="utf-8")
    first, second, third = read_problems(path)
    assert (first.id, first.answer, first.source) == ("line_1", "2", "problems.jsonl:1")
    assert first.check("It is 2.0") and not first.check("It is 3") and not first.check("")
    assert (second.id, second.rule) == ("half", "boxed")
    assert second.check(r"\boxed{1/2}") and not second.check("1/2")
    with pytest.raises(UserError, match="problem line_3 without an answer"):
        third.check("because")


@pytest.mark.core
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            '{"question": "a", "answer": "b"}\n\n{"question": "a", "answer": "b"}\n',
            "nothing on lin",
        ),
        ('{"question": "a", "answer": "b"}\n{"question": "a"}\n', "'answer' on line 2"),
        ('{"answer": "a"}\n', "no field 'question' on line 1"),
        ('{"question": "a", "answer": ["b"]}', "neither text nor number on line 1"),
        ('{"question": " ", "answer": "b"}', "not text on line 1"),
        ('{"question": "a", "answer": "b", "rule": "guess"}', "rule 'guess' on line 1"),
        ('{"question": "a", ', "invalid JSON"),
        ("[1]\n", "a list on line 1"),
        (
            '{"question": "a", "answer": "b", "id": 1}\n{"question": "a", "answer": "b", "id": 1}',
            "the id '1' again on line 2",
        ),
        ("", "no problem in"),
    ],
)
def test_bad_jsonl(tmp_path, content, message):
    path = tmp_path / "problems.jsonl"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        read_problems(path)


def test_missing_file(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        read_problems(tmp_path / "none.jsonl")


def test_prompt():
    problem = prompt_problem("Is it so?", "Yes")
    assert problem.check("Well. The answer is yes.")
    with pytest.raises(UserError, match="blank prompt"):
        prompt_problem("  ")
