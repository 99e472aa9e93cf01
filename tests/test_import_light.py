"""`import interp_jax` is light, and its names come when they are asked for."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

import interp_jax

pytestmark = pytest.mark.core

HEAVY = (
    "torch transformers flax orbax tensorboardX datasets openai matplotlib penzai jax "
    "reasoning_gym sympy absl.app tqdm"
).split()


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout


def test_importing_the_package_pulls_nothing_heavy():
    loaded = ast.literal_eval(run("import interp_jax, sys; print(sorted(sys.modules))"))
    assert "interp_jax" in loaded
    assert not set(HEAVY) & set(loaded)


def test_the_runtime_defines_no_flags_and_pulls_no_optional_package():
    code = """
import importlib, pkgutil, sys
import interp_jax.runtime as runtime
from absl import flags
before = set(flags.FLAGS)
for module in pkgutil.iter_modules(runtime.__path__):
    if module.name not in ("flags", "main"):
        importlib.import_module("interp_jax.runtime." + module.name)
defined = sorted(set(flags.FLAGS) - before)
import interp_jax.runtime.flags
ours = [
    name for module, names in flags.FLAGS.flags_by_module_dict().items()
    if "interp_jax" in module or module == sys.argv[0] for name in names
]
print((defined, ours, sorted(sys.modules)))
"""
    defined, ours, loaded = ast.literal_eval(run(code))
    assert not ours
    assert not [flag for flag in defined if flag not in ABSL_OWN]
    optional = set(HEAVY) - {"jax", "absl.app", "tqdm"}
    assert not optional & set(loaded)


# What `absl.logging` defines for itself; JAX or a dependency of it may import that.
ABSL_OWN = (
    "logtostderr alsologtostderr log_dir v verbosity logger_levels stderrthreshold "
    "showprefixforinfo"
).split()


def test_public_names_are_found_and_listed():
    assert set(interp_jax.__all__) <= set(dir(interp_jax))
    for name in interp_jax.__all__:
        assert getattr(interp_jax, name) is not None
    for name, module in interp_jax.PUBLIC.items():
        found = getattr(interp_jax, name)
        assert getattr(found, "__module__", module) == module, f"{name} is defined elsewhere"
        assert found.__doc__, f"{name} has no docstring"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = interp_jax.nothing
