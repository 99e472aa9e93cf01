"""The README's recipes, run as doctests, each by itself."""

import doctest
import pathlib
import re

import jax
import pytest

README = pathlib.Path(__file__).parent.parent / "README.md"
RECIPES = [
    block
    for block in re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.S)
    if ">>>" in block
]


def test_there_are_five():
    assert len(RECIPES) == 5


@pytest.mark.parametrize("number", range(len(RECIPES)))
def test_recipe(number):
    # A user's session has jax's own defaults, not this suite's strict ones.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        test = doctest.DocTestParser().get_doctest(
            RECIPES[number], {}, f"README recipe {number + 1}", str(README), 0
        )
        result = doctest.DocTestRunner(optionflags=doctest.IGNORE_EXCEPTION_DETAIL).run(test)
    assert result.attempted and not result.failed
