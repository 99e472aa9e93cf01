"""In CI a parity or browser test that is skipped fails; elsewhere, and for others, it may."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent

WITHIN = """
import pytest

@pytest.mark.parity
def test_parity():
    pytest.importorskip("no_such_package")

@pytest.mark.browser
@pytest.mark.skipif(True, reason="no browser")
def test_browser():
    pass

def test_other():
    pytest.skip("as one may")

@pytest.mark.parity
@pytest.mark.xfail(strict=True)
def test_expected_to_fail():
    assert False
"""
WHOLE = """
import pytest
pytest.importorskip("no_such_package")
pytestmark = pytest.mark.parity
"""


@pytest.fixture
def outcome(tmp_path):
    tests = tmp_path / "tests"
    tests.mkdir()
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    (tests / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text())
    (tests / "test_within.py").write_text(WITHIN)
    (tests / "test_whole.py").write_text(WHOLE)

    def run(ci: str, *arguments: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "--durations=0", *arguments],
            cwd=tmp_path,
            env={**os.environ, "CI": ci},
            capture_output=True,
            text=True,
        )
        return done.returncode, done.stdout

    return run


def test_elsewhere_a_skip_is_a_skip(outcome):
    code, text = outcome("")
    assert code == 0 and "4 skipped, 1 xfailed" in text, text


def test_in_ci_it_has_failed(outcome):
    code, text = outcome("true", "--continue-on-collection-errors")
    # pytest calls a failure before the body (skipif, a whole file) an error.
    assert code == 1 and "1 failed, 1 skipped, 1 xfailed, 2 errors" in text, text
    assert "a parity test was skipped in CI: Skipped: could not import 'no_such_package'" in text
    assert "a browser test was skipped in CI" in text and "no browser" in text
    assert "test_whole.py was skipped in CI" in text


def test_the_core_run_reads_core_files_only(outcome):
    code, text = outcome("true", "-m", "core")
    assert code == 5 and "no tests ran" in text, text
