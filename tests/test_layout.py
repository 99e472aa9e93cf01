"""The shape of the house: who may import whom, how long a file may be, what is never imported."""

from __future__ import annotations

import ast
import pathlib

import pytest

pytestmark = pytest.mark.core

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = ROOT / "interp_jax"
ORDER = (
    "runtime models interventions generation dictionaries finetuning text report studies".split()
)
# Extras, and what is too heavy for `import interp_jax`: imported where used.
INSIDE_FUNCTIONS = {
    "transformers",
    "datasets",
    "tensorflow_datasets",
    "openai",
    "matplotlib",
    "reasoning_gym",
    "math_verify",
    "sympy",
    "selenium",
    "tensorboardX",
    "orbax",
}
NEVER = {"torch", "pickle", "dill", "tensorflow"}

MODULES = sorted(PACKAGE.rglob("*.py"))
FILES = MODULES + [
    path
    for folder in ("scripts", "benchmarks", "tests")
    for path in sorted((ROOT / folder).rglob("*.py"))
]


def parse(path: pathlib.Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path: pathlib.Path, nodes) -> list[str]:
    """Absolute dotted names imported by these nodes; `from a import b` gives a.b."""
    package = list(path.relative_to(ROOT).parent.parts)
    found = []
    for node in nodes:
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*base, *([node.module] if node.module else [])])
            found += [f"{base}.{alias.name}" for alias in node.names]
    return found


def at_import(tree: ast.Module):
    """Nodes that run when the module is imported: not those in functions or TYPE_CHECKING."""
    waiting = list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting += node.orelse
            continue
        yield node
        waiting += ast.iter_child_nodes(node)


def named(path: pathlib.Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_imports_go_to_earlier_entries_only(path):
    parts = path.relative_to(PACKAGE).parts
    here = parts[0] if len(parts) > 1 else None
    for name in imports(path, ast.walk(parse(path))):
        top, *rest = name.split(".")
        assert top not in NEVER, f"{named(path)} imports {name}"
        if top == "penzai":
            assert here in ("models", "interventions"), f"{named(path)} imports {name}"
        if top != "interp_jax" or not rest or here is None:
            continue
        there = rest[0]
        if there in ORDER or there == "testing":
            if here == "testing":
                continue
            assert there != "testing", f"{named(path)} imports {name}: testing is for users"
            assert ORDER.index(there) <= ORDER.index(here), f"{named(path)} imports {name}"
        if (
            here == there == "studies"
            and len(rest) > 1
            and (PACKAGE / "studies" / rest[1]).is_dir()
        ):
            assert rest[1] == parts[1], f"{named(path)} imports the study {rest[1]}"


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_optional_packages_are_imported_where_used(path):
    tops = {name.split(".")[0] for name in imports(path, at_import(parse(path)))}
    assert not tops & INSIDE_FUNCTIONS


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_no_code_from_data(path):
    called = {
        node.func.id
        for node in ast.walk(parse(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not called & {"eval", "exec", "compile"}


def test_every_folder_of_the_package_has_its_place():
    folders = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert folders <= {*ORDER, "testing"}


@pytest.mark.parametrize("path", FILES, ids=named)
def test_a_file_is_short_and_says_what_it_is_for(path):
    assert ast.get_docstring(parse(path)), "no module docstring"
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 500
    assert path.name != "utils.py"


def test_the_checks_see_what_they_forbid(tmp_path):
    tree = ast.parse(
        "import torch\nfrom . import b\nif TYPE_CHECKING:\n    import openai\n"
        "def f():\n    from ..studies.other import run\nclass C:\n    import sympy\n"
    )
    path = PACKAGE / "studies" / "one" / "a.py"
    assert set(imports(path, ast.walk(tree))) == {
        "torch",
        "interp_jax.studies.one.b",
        "openai",
        "interp_jax.studies.studies.other.run",
        "sympy",
    }
    assert set(imports(path, at_import(tree))) == {"torch", "interp_jax.studies.one.b", "sympy"}
