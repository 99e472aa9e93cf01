"""The eight functions of a sentence in a reasoning (arXiv 2506.19143), and `unknown`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Tag:
    """One function of a sentence.

    Attributes:
        name: as the released files write it.
        short: its short code.
        meaning: what such a sentence does.
        colour: of its nodes in the public visualiser, `#rrggbb`.
    """

    name: str
    short: str
    meaning: str
    colour: str


TAGS: tuple[Tag, ...] = (
    Tag(
        "problem_setup", "PS", "Reads, restates or parses the task: what is given, what is asked.",
        "#4285F4",
    ),
    Tag(
        "plan_generation", "PG",
        "Says what to do next or why: proposes, chooses or compares ways to go on.", "#EA4335",
    ),
    Tag(
        "fact_retrieval", "FR",
        "Brings in a fact, definition, formula or detail of the task, without working anything "
        "out.",
        "#FBBC05",
    ),
    Tag(
        "active_computation", "AC",
        "Works something out: arithmetic, algebra, counting, or another step towards the answer.",
        "#34A853",
    ),
    Tag(
        "uncertainty_management", "UM",
        "Doubts, hesitates, notices a conflict, reconsiders or goes back.", "#9C27B0",
    ),
    Tag(
        "result_consolidation", "RC",
        "Draws results so far together: states an intermediate result or sums up.", "#00BCD4",
    ),
    Tag(
        "self_checking", "SC", "Tests an earlier step or result, or reports such a test.",
        "#FF9800",
    ),
    Tag("final_answer_emission", "FAE", "States the final answer.", "#795548"),
)
"""In the order of the paper's table."""

UNKNOWN = Tag("unknown", "-", "None of the others fits.", "#9E9E9E")

BY_NAME: dict[str, Tag] = {tag.name: tag for tag in (*TAGS, UNKNOWN)}

_SPELLINGS = {tag.name.replace("_", ""): tag.name for tag in BY_NAME.values()} | {
    tag.short.lower(): tag.name for tag in TAGS
}


def find_tag(text: str) -> str | None:
    """The name of the tag that a text names, by name or short code in any spelling, or None."""
    kept = "".join(letter for letter in text.lower() if letter not in " _-\t\n")
    return _SPELLINGS.get(kept)
