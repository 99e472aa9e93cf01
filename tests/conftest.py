"""What holds in every test: eight fake devices, strict numbers, no skip that hides in CI."""

from __future__ import annotations

import contextlib
import gc
import importlib.metadata
import itertools
import os
import pathlib

# Before JAX wakes. `INTERP_JAX_TEST_PLATFORM=cuda` runs the tests on an accelerator instead; those
# that need eight devices fail there.
PLATFORM = os.environ.get("INTERP_JAX_TEST_PLATFORM", "cpu")
os.environ["JAX_PLATFORMS"] = PLATFORM if PLATFORM == "cpu" else f"{PLATFORM},cpu"
# Most of the suite's time is XLA compiling programs that run once, so they are compiled in the
# cheapest way: without LLVM's optimisations, and by the older of two emitters, which later releases
# no longer have. `INTERP_JAX_TEST_XLA=plain` compiles as a user's process does; the core tests on
# the newest jax always do.
FLAGS = ["--xla_force_host_platform_device_count=8"]
if (
    PLATFORM == "cpu"
    and importlib.metadata.version("jaxlib").startswith("0.10.")
    and os.environ.get("INTERP_JAX_TEST_XLA") != "plain"
):
    FLAGS += [
        "--xla_backend_optimization_level=0",
        "--xla_cpu_use_fusion_emitters=false",
        "--xla_cpu_parallel_codegen_split_count=1",
    ]
os.environ["XLA_FLAGS"] = " ".join([*filter(None, [os.environ.get("XLA_FLAGS")]), *FLAGS])
ROOT = pathlib.Path(__file__).parent.parent
# Scripts started by tests find this checkout, installed or not.
os.environ["PYTHONPATH"] = os.pathsep.join(
    [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
)
# Nothing in the tests may reach for a network.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import jax  # noqa: E402
import pytest  # noqa: E402

from interp_jax.runtime import compilation, keys  # noqa: E402

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
if PLATFORM != "cpu":
    # Else float32 is cut before it is multiplied, and the tolerances are those of float32.
    jax.config.update("jax_default_matmul_precision", "highest")
# A folder for compiled programs makes a second run quicker; programs fetched from there count as
# compiled (see `CompileCounter`). Off unless asked for: reading an entry has aborted a run.
if os.environ.get("INTERP_JAX_TEST_CACHE"):
    compilation.enable_compilation_cache(os.environ["INTERP_JAX_TEST_CACHE"], min_seconds=0.3)

STRICT_MARKS = ("parity", "browser")


@pytest.fixture(autouse=True, scope="module")
def drop_programs():
    """Compiled programs are dropped after each file of tests.

    XLA on a CPU maps memory for every program, and a process that has 65,530 maps aborts.
    """
    yield
    jax.clear_caches()
    gc.collect()


@pytest.fixture
def fresh_key(request):
    """A function that returns another typed key at each call, derived from the test's name."""
    numbers = itertools.count()
    return lambda: keys.fold(keys.root_key(0), request.node.nodeid, next(numbers))


@pytest.fixture
def compile_counter():
    """`with compile_counter() as counter:` counts the programs built inside the block."""
    return compilation.CompileCounter


@pytest.fixture
def no_implicit_transfers():
    """`with no_implicit_transfers():` around a warm compiled step: it may move no data by itself.

    It is no setting for all tests, since an index or a Python scalar in eager code is such a
    transfer.
    """

    @contextlib.contextmanager
    def forbid():
        with (
            jax.transfer_guard_host_to_device("disallow"),
            jax.transfer_guard_device_to_device("disallow"),
            jax.transfer_guard_device_to_host("disallow"),
        ):
            yield

    return forbid


def pytest_ignore_collect(collection_path, config):
    """`-m core` reads core files only: the others may import what that environment lacks."""
    if (
        config.getoption("markexpr") == "core"
        and collection_path.suffix == ".py"
        and collection_path.name.startswith("test_")
        and "mark.core" not in collection_path.read_text(encoding="utf-8")
    ):
        return True
    return None


def _in_ci() -> bool:
    return os.environ.get("CI", "").lower() in ("1", "true", "yes")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """In CI a skipped parity or browser test has failed."""
    report = yield
    marks = [name for name in STRICT_MARKS if item.get_closest_marker(name)]
    if report.skipped and marks and _in_ci() and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"a {marks[0]} test was skipped in CI: {_reason(report.longrepr)}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    """The same for a file that skips itself while it is read, when it speaks of such marks."""
    report = yield
    if report.skipped and _in_ci() and isinstance(collector, pytest.Module):
        text = collector.path.read_text(encoding="utf-8")
        if any(f"mark.{name}" in text for name in STRICT_MARKS):
            report.outcome = "failed"
            report.longrepr = f"{collector.nodeid} was skipped in CI: {_reason(report.longrepr)}"
    return report


def _reason(longrepr) -> str:
    return longrepr[-1] if isinstance(longrepr, tuple) else str(longrepr)
