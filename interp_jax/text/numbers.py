"""Numbers in running text: finding the last one, and one spelling for equal values."""

from __future__ import annotations

import re
from fractions import Fraction

# A sign counts only where no value stands before it, so the 3 of "5-3" and of "5 - 3" is positive;
# apart from its digits it counts only after "=", ":" or an opening bracket.
_SIGN = r"(?:(?<![\w)\]}.])-(?=[\d.])|(?<=[=:(])-\s|(?<=[=:(]\s)-\s)?"
_NUMBER = re.compile(
    _SIGN + r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?(?:[eE][+-]?\d{1,3}(?!\w))?"
    r"(?:\s?/\s?\d+(?:\.\d+)?)?|" + _SIGN + r"\.\d+"
)
_FRACTION = re.compile(r"\\[dt]?frac\s*\{\s*(-?\d+)\s*\}\s*\{\s*(\d+)\s*\}")
_LONGEST = 200


def last_number(text: str) -> str:
    r"""The last number written in `text`, as written (`"1,234.50"`), or the empty string.

    Reads thousands commas, decimals, exponents, `a/b` and `\frac{a}{b}`; the typographic minus
    counts as a minus.
    """
    text = text.replace("\u2212", "-").replace("{,}", ",").replace(r"\,", "").replace("$", "")
    text = _FRACTION.sub(r"\1/\2", text)
    found = ""
    for match in _NUMBER.finditer(text):
        found = match.group()
    return found


def number_value(text: str) -> Fraction | None:
    """Exact value of a number as `last_number` writes it, or None if `text` is not one."""
    plain = text.strip().replace(",", "").replace(" ", "")
    if not plain or len(plain) > _LONGEST or _NUMBER.fullmatch(plain) is None:
        return None
    above, _, below = plain.partition("/")
    try:
        return Fraction(above) / (Fraction(below) if below else 1)
    except (ValueError, ZeroDivisionError):
        return None


def canonical_number(text: str) -> str:
    """One spelling per value: `"96.0"`, `"96"` and `"192/2"` give `"96"`.

    Values without a finite decimal form stay reduced fractions; text that is not a number comes
    back stripped.
    """
    value = number_value(text)
    if value is None:
        return text.strip()
    rest, twos, fives = value.denominator, 0, 0
    while rest % 2 == 0:
        rest, twos = rest // 2, twos + 1
    while rest % 5 == 0:
        rest, fives = rest // 5, fives + 1
    if rest != 1:
        return f"{value.numerator}/{value.denominator}"
    places = max(twos, fives)
    digits = str(abs(value.numerator) * 10**places // value.denominator).rjust(places + 1, "0")
    sign = "-" if value < 0 else ""
    return sign + (f"{digits[:-places]}.{digits[-places:]}" if places else digits)
