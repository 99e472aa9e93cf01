"""Answers: boxes, the published normaliser, equality, and the named rules."""

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interp_jax.runtime.errors import UserError
from interp_jax.text.answers import ANSWER_RULES, answer_rule, extract_boxes, normalise_latex
from interp_jax.text.cas import close_cas, unfinished
from interp_jax.text.numbers import canonical_number, last_number, number_value

NORMALISED = [
    (r"1,000", "1.000"),
    (r"1{,}000", "1000"),
    (r"\frac{1}{2}", r"\frac12"),
    (r"\dfrac12", r"\frac12"),
    (r"\text{ cm}", "cm"),
    (r"3 \times 4", "3*4"),
    (r"50\%", "50"),
    (r"(1, 2)", "(1.2)"),
    (r"10^{\circ}", r"10^\circ"),
    (r"5\mathrm{ cm}", r"5\mathrmcm"),
    (r"2\sqrt{3}", r"2\sqrt3"),
    (r"x^{10}", "x^10"),
]


@pytest.fixture(scope="module", autouse=True)
def end_worker():
    yield
    close_cas()


@pytest.mark.core
@pytest.mark.parametrize(("answer", "normalised"), NORMALISED)
def test_normaliser_golden_table(answer, normalised):
    assert normalise_latex(answer) == normalised


@pytest.mark.core
@pytest.mark.parametrize(
    ("text", "boxes"),
    [
        (r"a \boxed{1} b \boxed{\frac{1}{2}}", ["1", r"\frac{1}{2}"]),
        (r"\boxed{unclosed", ["unclosed"]),
        ("text without a box", [""]),
        ("", [""]),
        (r"\boxed{}", [""]),
    ],
)
def test_boxes(text, boxes):
    assert extract_boxes(text) == boxes


def test_first_box_is_the_answer():
    assert ANSWER_RULES["boxed"].extract(r"\boxed{4} or \boxed{5}") == "4"


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        (r"\dfrac{1}{2}", r"\frac12", True),  # one spelling
        ("0.50", "0.5", True),  # numbers
        (r"\frac{1}{2}", "0.5", True),  # computer algebra from here on
        (r"2\sqrt{3}", r"\sqrt{12}", True),
        ("(x+1)^2", "x^2+2x+1", True),
        ("x+1", "x+2", False),
        ("19", "20", False),
        ("", "", False),
        ("", "1", False),
        ("4 and", "4", False),  # the parser would read a beginning and drop the rest
        ("and 4", "4", False),
        ("4 or", "4", False),
        (r"4\text{ and }", "4", False),
        ("4 and 5 or", "5", False),
        ("4 +", "4", False),
        ("4)", "4", False),
        (r"4 \times", "4", False),
        ("4 =", "4", False),
        ("4 and", "4  and", True),  # one spelling
        ("= 4", "4", True),
        ("1 and 2", "1, 2", True),  # a whole list
        (r"x \text{ or } y", "y, x", True),
        ("(1, 2]", r"\left(1, 2\right]", True),
        (r"\{1, 2\}", r"\{2, 1\}", True),
        (r"5\text{ cm}", "5", True),
        ("ab", "ba", True),
        (r"\frac{1}{\text{band}}", r"\frac{1}{\text{band}}", True),
    ],
)
def test_equality_of_boxed_answers(first, second, same):
    assert ANSWER_RULES["boxed"].equal(first, second) is same


@pytest.mark.core
@pytest.mark.parametrize(
    ("answer", "broken"),
    [
        ("4 and", True), ("And 4", True), ("4, or", True), (r"4\mathrm{and}", True), ("2 -", True),
        (r"2 \cdot", True), ("x <", True), ("(4", True), ("4)", True), (")4(", True),
        (r"\frac{1}{2", True),
        ("4", False), ("-4", False), ("sand", False), ("operand 2", False),
        (r"x\text{ or }y", False),
        ("[0, 1)", False), (r"\{1\}", False), ("= 4", False), (r"10^{\circ}", False),
        (r"50\%", False), (r"\left(1, \infty\right)", False), ("orange", False), ("for", False),
    ],
)
def test_answers_that_break_off(answer, broken):
    assert unfinished(answer) is broken


def test_equality_is_limited_in_time_and_goes_on_afterwards():
    rule = ANSWER_RULES["boxed"]
    assert rule.equal(r"9^{9^{9^{9^9}}}", "x+1", time_limit_s=0.5) is False
    assert rule.equal(r"\frac{3}{4}", r"\frac{6}{8}") is True


def test_equality_without_cas():
    assert ANSWER_RULES["boxed"].equal(r"2\sqrt{3}", r"\sqrt{12}", cas=False) is False


@pytest.mark.core
@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("5 + 6 = 11\n#### 96", "96"),
        ("#### 5\nCheck: 2 + 3 = 5, not 7", "5"),
        ("So 5-3 = 2.", "2"),
        ("it is 5-3", "3"),
        ("it costs $1,234.50.", "1234.5"),
        ("the value is \u22127", "-7"),
        ("= -4", "-4"),
        ("- 3 apples", "3"),
        (r"\frac{3}{4}", "0.75"),
        ("a third, 1/3", "1/3"),
        ("1.5e3 metres", "1500"),
        (r"\boxed{19} bits in 2 ways", "19"),
        ("1, 2, 3", "3"),
        ("no number", ""),
        ("192/2", "96"),
    ],
)
def test_last_number(text, number):
    assert ANSWER_RULES["last_number"].read(text) == number


@given(st.fractions(min_value=-1000, max_value=1000, max_denominator=500))
@settings(max_examples=60, deadline=None)
def test_canonical_number_keeps_the_value(value):
    spelled = canonical_number(f"{value.numerator}/{value.denominator}")
    assert number_value(spelled) == value
    assert canonical_number(spelled) == spelled
    assert last_number(f"The result is {spelled}.") == spelled


def test_number_value_refuses_what_is_no_number():
    assert number_value("twelve") is None
    assert number_value("1/0") is None
    assert number_value("9" * 500) is None
    assert number_value("2.50") == Fraction(5, 2)


@pytest.mark.parametrize(
    ("rule", "text", "answer"),
    [
        ("stated", "Paris? The answer is Lyon. No, the answer is **Paris**. Good.", "paris"),
        ("stated", "Answer: Zoey is a knight\nmore", "zoey is a knight"),
        ("stated", "<answer> 3 </answer> so the answer is 4", "3"),
        ("stated", "nothing of the kind", ""),
        ("last_line", "work\n\n  **Yes.**\n\n", "yes"),
        ("exact_line", "work\n  Yes. \n", "Yes."),
        ("last_line", "", ""),
        ("choice", "(A) seems wrong, so the answer is (B).", "B"),
        ("choice", "I pick (C)", "C"),
        ("choice", "reasons\nD", "D"),
        ("choice", "the answer is a bit hard", ""),
        ("choice", r"\boxed{b}", "B"),
        ("yes_no", "No cats are dogs, so the answer is **Yes**.", "yes"),
        ("yes_no", "The answer is: No\nStep 9: Yes", "no"),
        ("yes_no", "It follows. Yes, it does.", "yes"),
        ("yes_no", "Step 4:\nNO.", "no"),
        ("yes_no", "No cats are dogs. The answer is not known.", ""),
    ],
)
def test_other_rules(rule, text, answer):
    assert answer_rule(rule).read(text) == answer


def test_unknown_rule_is_refused():
    with pytest.raises(UserError, match="answer rule 'guess'"):
        answer_rule("guess")
