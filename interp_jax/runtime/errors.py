"""One kind of error for bad input: what was found, what was expected, what to do."""

from __future__ import annotations


class UserError(ValueError):
    """Bad input, told in one sentence. Scripts print it and leave with exit code 2.

    Args:
        found: what was met, with its value.
        expected: what would have been right.
        do: what the user can do about it.
    """

    def __init__(self, *, found: str, expected: str, do: str):
        self.found, self.expected, self.do = found, expected, do
        super().__init__(f"Found {found}; expected {expected}; {do}.")
