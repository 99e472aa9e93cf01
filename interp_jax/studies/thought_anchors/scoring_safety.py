"""Finds scoring functions that would run a model's text as code, so that they can be refused.

Some reasoning-gym generators judge an answer with `eval` or with sympy's `parse_expr`, which
evaluates Python. A sampled answer is data and must never reach them.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable

_EVALUATORS = frozenset({"eval", "exec", "compile", "parse_expr", "sympify", "parse_latex"})
_TRUSTED_NAMES = frozenset({"entry", "metadata"})


def evaluates_text(function: Callable) -> str | None:
    """Name of the evaluator that a function calls on something else than its own entry, or None.

    Looks at the function's own source. A helper of the same name that is neither built in nor
    sympy's (a parser of the generator's own) is allowed; source that cannot be read is not.
    """
    try:
        source = textwrap.dedent(inspect.getsource(function))
    except (OSError, TypeError):
        return "unreadable source"
    module = inspect.getmodule(function)
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        called = node.func
        name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", None)
        if name not in _EVALUATORS:
            continue
        own = isinstance(called, ast.Name) and getattr(module, name, None)
        if own and not getattr(own, "__module__", "").startswith("sympy"):
            continue
        used = {part.id for given in node.args for part in ast.walk(given) if _is_name(part)}
        if used - _TRUSTED_NAMES:
            return name
    return None


def _is_name(node: ast.AST) -> bool:
    return isinstance(node, ast.Name)
