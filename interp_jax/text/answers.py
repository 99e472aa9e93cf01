r"""Answers: where a completion states its result, one spelling for it, and when two are equal.

Each source of problems names a rule from `ANSWER_RULES`. The rule `boxed` follows the published
thought-anchors pipeline (arXiv 2506.19143), side effects included: its normaliser turns `1,000`
into `1.000`, which is a label for counting outcomes and not a number.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from interp_jax.runtime.errors import UserError
from interp_jax.text.cas import TIME_LIMIT_S, cas_equal
from interp_jax.text.numbers import canonical_number, last_number, number_value

_LATEX_STEPS: tuple[tuple[str, str], ...] = (
    (r"[dt]frac", "frac"),
    (r"\s+", ""),
    (r"\\%", ""),
    (r"\{,\}", ""),
    (r"\\times|\\cdot", "*"),
    (r"(\d+)[.,](\d+)", r"\1.\2"),
    (r"\{([^{}]+)\}", r"\1"),
    (r"\\pi", "pi"),
    (r"\\(?:text|mathrm)\{([^{}]+)\}", r"\1"),
    (r"([a-z]+)\\+(\d+)", r"\1\2"),
    (r"\\text", ""),
)
_LATEX_PATTERNS = tuple((re.compile(pattern), to) for pattern, to in _LATEX_STEPS)
_STATED = re.compile(r"\banswer(?:\s+is|\s*[:=])\s*[:=]?\s*", re.IGNORECASE)
_TAGGED = re.compile(r"<answer>(.*?)</answer>", re.IGNORECASE | re.DOTALL)
_MARKED = re.compile(r"####[ \t]*([^\n]+)")
_OPTION_STATED = re.compile(
    r"\b(?i:answer|choice|option)(?:\s+is)?\s*[:=]?\s*[*(\s]*([A-J])\b(?!['\w])"
)
_OPTION_SHOWN = re.compile(r"\(([A-J])\)|(?m:^[\s*]*([A-J])[).:](?:\s|$))")
_YES_STATED = re.compile(
    r"\b(?:answer|conclusion)(?:\s+is)?\s*[:=]?\s*[\"'*(\s]*(yes|no)\b", re.IGNORECASE
)
# At the beginning of a sentence, and not as a word about the next one ("No cats are dogs").
_YES_SAID = re.compile(
    r"(?:^|[.!?:]\s|\n)[\s\"'*(]*(yes|no)\b(?=\W*(?:$|\n)|[,.;!])", re.IGNORECASE
)
_OPTION_ALONE = re.compile(r"[\s*(]*([A-J])[\s*).]*", re.IGNORECASE)


def extract_boxes(text: str) -> list[str]:
    r"""Contents of every `\boxed{}`, in order (thought-anchors pipeline).

    Reads to the matching brace; an unclosed box gives the rest of the text; text without a box
    gives one empty string.
    """
    opening = r"\boxed{"
    contents, start = [], text.find(opening)
    while start >= 0:
        first = start + len(opening)
        depth, place = 1, first
        while place < len(text) and depth:
            depth += {"{": 1, "}": -1}.get(text[place], 0)
            place += 1
        contents.append(text[first : place - 1] if depth == 0 else text[first:])
        start = text.find(opening, first)
    return contents or [""]


def normalise_latex(answer: str) -> str:
    r"""The published normaliser: lower case, no spaces, one level of simple braces removed.

    Gives labels under which answers are counted. `\dfrac12` and `\frac{1}{2}` agree;
    `(1, 2)` becomes `(1.2)`.
    """
    answer = answer.strip().lower()
    for pattern, to in _LATEX_PATTERNS:
        answer = pattern.sub(to, answer)
    return answer


def normalise_words(answer: str) -> str:
    """Case, outer punctuation, markdown emphasis and runs of space removed."""
    return " ".join(answer.replace("**", "").split()).strip(" .,;:!\"'`*").casefold()


@dataclass(frozen=True)
class AnswerRule:
    """How answers of one kind are read.

    Attributes:
        name: key in `ANSWER_RULES`.
        extract: completion to answer as written; the empty string means no answer.
        normalise: answer to the label under which it is counted.
        latex: answers are LaTeX, so a CAS may find different spellings equal.
    """

    name: str
    extract: Callable[[str], str]
    normalise: Callable[[str], str]
    latex: bool = False

    def read(self, text: str) -> str:
        """Normalised answer of a completion, or the empty string."""
        return self.normalise(self.extract(text))

    def equal(
        self, first: str, second: str, *, cas: bool = True, time_limit_s: float = TIME_LIMIT_S
    ) -> bool:
        """Whether two answers (as written) are the same; an empty answer equals nothing.

        Args:
            first, second: answers as `extract` gives them.
            cas: for LaTeX rules, ask a CAS when the normalised forms differ.
            time_limit_s: for that question; undecided counts as different.

        Raises:
            UserError: a CAS is needed and the extra `demo` is not installed.
        """
        if not first.strip() or not second.strip():
            return False
        if self.normalise(first) == self.normalise(second):
            return True
        values = number_value(first), number_value(second)
        if not self.latex or None not in values:
            return None not in values and values[0] == values[1]
        return cas and cas_equal(first.strip(), second.strip(), time_limit_s)


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def _number(text: str) -> str:
    marked = [last_number(content) for content in _MARKED.findall(text)]
    boxed = [last_number(content) for content in extract_boxes(text)]
    for candidates in (marked, boxed):
        if any(candidates):
            return [found for found in candidates if found][-1]
    return last_number(text)


def _stated(text: str) -> str:
    for found in (_TAGGED.findall(text), extract_boxes(text), _MARKED.findall(text)):
        if found and found[-1].strip():
            return found[-1].strip()
    places = [match.end() for match in _STATED.finditer(text)]
    if not places:
        return ""
    rest = text[places[-1] :].lstrip("\n").split("\n", 1)[0]
    return re.split(r"[.!?](?:\s|$)", rest, maxsplit=1)[0].strip().strip("*`\"'").strip()


def _yes_no(text: str) -> str:
    for pattern in (_YES_STATED, _YES_SAID):
        if found := pattern.findall(text):
            return found[-1]
    return ""


def _choice(text: str) -> str:
    boxed = _OPTION_ALONE.fullmatch(extract_boxes(text)[-1])
    if boxed:
        return boxed.group(1).upper()
    for pattern in (_OPTION_STATED, _OPTION_SHOWN):
        found = ["".join(match.groups(default="")) for match in pattern.finditer(text)]
        if found:
            return found[-1].upper()
    alone = _OPTION_ALONE.fullmatch(_last_line(text))
    return alone.group(1).upper() if alone else ""


ANSWER_RULES: dict[str, AnswerRule] = {
    rule.name: rule
    for rule in (
        # The first \boxed{}, as in the paper.
        AnswerRule("boxed", lambda text: extract_boxes(text)[0], normalise_latex, latex=True),
        # After the last "####", else in the last box that holds one, else the last number.
        AnswerRule("last_number", _number, canonical_number),
        # <answer> tags, the last box, "#### ...", or what follows the last "answer is" / "answer:".
        AnswerRule("stated", _stated, normalise_words),
        # The last non-blank line, up to case, spaces and outer punctuation.
        AnswerRule("last_line", _last_line, normalise_words),
        # The last non-blank line, letter by letter.
        AnswerRule("exact_line", _last_line, str.strip),
        # Yes or no: after the last "answer is", else the last one that begins a sentence.
        AnswerRule("yes_no", _yes_no, str.casefold),
        # A letter A to J: in a box, stated, shown as "(B)", or alone on the last line.
        AnswerRule("choice", _choice, str.upper),
    )
}
"""Named rules for reading answers, one per kind of source."""


def answer_rule(name: str) -> AnswerRule:
    """The rule called `name`.

    Raises:
        UserError: there is none.
    """
    if name not in ANSWER_RULES:
        raise UserError(
            found=f"answer rule {name!r}",
            expected="one of " + ", ".join(ANSWER_RULES),
            do="name one of these rules",
        )
    return ANSWER_RULES[name]
