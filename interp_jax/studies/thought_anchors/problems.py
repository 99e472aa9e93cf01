"""Where problems come from: seeded generators, a JSONL file, a prompt on the command line.

A problem knows how its answer is read (a named rule of `text.answers`) and, where it has a known
answer, checks completions.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from interp_jax.runtime.errors import UserError
from interp_jax.studies.thought_anchors.scoring_safety import evaluates_text
from interp_jax.text.answers import answer_rule
from interp_jax.text.numbers import canonical_number, number_value

GENERATOR = "reasoning_gym"


@dataclass(frozen=True)
class Problem:
    """One problem.

    Attributes:
        id: unique within its source, safe as a folder name.
        question: text shown to the model.
        answer: known answer, or None. Some generators name none and still judge one.
        rule: key of `ANSWER_RULES`.
        source: where it came from, enough to get it again.
        score: the source's own judgement of an answer, as a function; None uses the rule.
    """

    id: str
    question: str
    answer: str | None
    rule: str
    source: str
    score: Callable[[str], bool] | None = field(default=None, repr=False, compare=False)

    def extract(self, completion: str) -> str:
        """Answer of a completion as written; the empty string if there is none."""
        return answer_rule(self.rule).extract(completion)

    def read(self, completion: str) -> str:
        """Answer of a completion under one spelling, for counting; empty if there is none."""
        return answer_rule(self.rule).read(completion)

    def check(self, completion: str) -> bool:
        """Whether a completion gives the right answer; False without one.

        Raises:
            UserError: the problem has no known answer.
        """
        if self.answer is None and self.score is None:
            raise UserError(
                found=f"problem {self.id} without an answer",
                expected="a problem whose answer is known",
                do="give the answer, or use only measures that do not need correctness",
            )
        given = self.extract(completion)
        if not given:
            return False
        if self.score is not None:
            return self.score(given)
        return answer_rule(self.rule).equal(given, self.answer)


def load_problem(spec: str, *, rule: str | None = None) -> Problem:
    """A generated problem from `reasoning_gym:<dataset>:<seed>:<index>`.

    Args:
        spec: the four parts; the same spec always gives the same problem.
        rule: how answers are read; by default the last number where the known answer is a
            number, yes or no where it is one of these, else what is stated as the answer.

    Raises:
        UserError: the spec is malformed, the data set unknown or the package absent.
    """
    parts = spec.split(":")
    if len(parts) != 4 or parts[0] != GENERATOR or not all(p.isdecimal() for p in parts[2:]):
        raise UserError(
            found=f"problem {spec!r}",
            expected=f"{GENERATOR}:<dataset>:<seed>:<index>",
            do=f"write for example {GENERATOR}:gsm_symbolic:0:3",
        )
    return reasoning_gym_problem(parts[1], int(parts[2]), int(parts[3]), rule=rule)


def reasoning_gym_problem(
    dataset: str, seed: int, index: int, *, rule: str | None = None
) -> Problem:
    """Problem `index` of a seeded reasoning-gym generator, judged by that generator.

    An answer is right only if it equals the known answer under the rule or the generator's own
    score of it is 1 (partial credit is not right); numbers are tried as written and in their
    plain spelling (`1,234.0` as `1234`).

    Raises:
        UserError: the data set is unknown, judges answers by running them as code, or the package
            is absent (extra `demo`).
    """
    try:
        from reasoning_gym import create_dataset
        from reasoning_gym.factory import DATASETS
    except ImportError as error:
        raise UserError(
            found="no reasoning-gym package",
            expected="the extra 'demo' for generated problems",
            do="install interp_jax[demo]",
        ) from error
    if dataset not in DATASETS:
        near = difflib.get_close_matches(dataset, DATASETS, n=3, cutoff=0.4)
        raise UserError(
            found=f"reasoning-gym data set {dataset!r}",
            expected="one of its data sets" + (f", perhaps {', '.join(near)}" if near else ""),
            do="choose a name from reasoning_gym.factory.DATASETS",
        )
    # Always the same size for an index: some generators draw all items at once.
    generator = create_dataset(dataset, seed=seed, size=index + 1)
    evaluator = evaluates_text(type(generator).score_answer)
    if evaluator is not None:
        raise UserError(
            found=f"data set {dataset!r}, which judges answers by running them ({evaluator})",
            expected="a data set that treats answers as text",
            do="choose another data set, for example gsm_symbolic",
        )
    entry = generator[index]
    answer = None if entry["answer"] is None else str(entry["answer"])
    numeric = answer is not None and number_value(answer) is not None
    words = "yes_no" if (answer or "").casefold() in ("yes", "no") else "stated"
    reading = answer_rule(rule or ("last_number" if numeric else words))

    def score(given: str) -> bool:
        if answer is not None and reading.equal(given, answer):
            return True
        spellings = {given, canonical_number(given)}
        return any(generator.score_answer(spelling, entry) == 1.0 for spelling in spellings)

    return Problem(
        id=f"{dataset}_{seed}_{index}",
        question=entry["question"],
        answer=answer,
        rule=reading.name,
        source=f"{GENERATOR}:{dataset}:{seed}:{index}",
        score=score,
    )


def read_problems(path: str | Path, *, rule: str = "boxed") -> list[Problem]:
    """Problems of a JSONL file: one object per line.

    Fields: `question` (text), `answer` (text, number or null), and optionally `id` and `rule`.

    Args:
        path: the file.
        rule: for lines that name none.

    Raises:
        UserError: no such file, no problems in it, or a bad line, named by number.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            found=f"{path}, which cannot be read ({error})",
            expected="a UTF-8 file with one JSON object per line",
            do="check the path",
        ) from error
    problems = list(_parse(text.split("\n"), path, rule))
    if not problems:
        raise UserError(
            found=f"no problem in {path}",
            expected="one JSON object per line",
            do='write lines such as {"question": "...", "answer": "..."}',
        )
    return problems


def _parse(lines: list[str], path: Path, rule: str) -> Iterable[Problem]:
    if lines and lines[-1] == "":
        lines = lines[:-1]  # the file ends with a newline, as it should
    seen: set[str] = set()
    for number, line in enumerate(lines, start=1):

        def bad(found: str, expected: str, at: int = number) -> UserError:
            return UserError(
                found=f"{found} on line {at} of {path}", expected=expected, do="correct that line"
            )

        if not line.strip():
            raise bad("nothing", "a JSON object")
        try:
            record = json.loads(line)
        except ValueError as error:
            raise bad(f"invalid JSON ({error})", "a JSON object") from error
        if not isinstance(record, dict):
            raise bad(f"a {type(record).__name__}", "a JSON object")
        for name in ("question", "answer"):
            if name not in record:
                raise bad(f"no field {name!r}", "the fields question and answer")
        question, answer = record["question"], record["answer"]
        if not isinstance(question, str) or not question.strip():
            raise bad("a question that is not text", "a question")
        if isinstance(answer, bool) or not isinstance(answer, str | int | float | None):
            raise bad("an answer that is neither text nor number", "text, a number or null")
        identifier = str(record.get("id", f"line_{number}"))
        if identifier in seen:
            raise bad(f"the id {identifier!r} again", "a different id on every line")
        seen.add(identifier)
        try:
            named = answer_rule(str(record.get("rule", rule))).name
        except UserError as error:
            raise bad(error.found, error.expected) from error
        yield Problem(
            id=identifier,
            question=question,
            answer=None if answer is None else str(answer),
            rule=named,
            source=f"{path.name}:{number}",
        )


def prompt_problem(question: str, answer: str | None = None, *, rule: str = "stated") -> Problem:
    """A problem typed by the user.

    Raises:
        UserError: the question is blank.
    """
    if not question.strip():
        raise UserError(found="a blank prompt", expected="a question", do="write one")
    return Problem("prompt", question, answer, answer_rule(rule).name, "command line")
