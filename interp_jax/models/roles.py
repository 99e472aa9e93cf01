"""Whose token it is: the roles that `where` clauses and reports speak of.

A role is data carried per token (int8), not a phase of the run: the prefix of a
rollout stays reasoning when it is continued.
"""

from __future__ import annotations

SYSTEM, USER, TEMPLATE, REASONING, ANSWER, IMAGE = range(6)

NAMES: dict[str, int] = {
    "system": SYSTEM,
    "user": USER,
    "template": TEMPLATE,
    "reasoning": REASONING,
    "answer": ANSWER,
    "image": IMAGE,
}

#: `role` of a chat message -> role of the tokens of its content.
OF_MESSAGE: dict[str, int] = {
    "system": SYSTEM,
    "developer": SYSTEM,
    "user": USER,
    "tool": USER,
    "assistant": ANSWER,
}
