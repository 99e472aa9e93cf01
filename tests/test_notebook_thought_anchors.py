"""The notebook `colab/thought_anchors.ipynb`, in a file of its own so that two
notebooks can run side by side."""

import pytest

from tests.notebooks import run_notebook


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_notebook_runs(tmp_path, monkeypatch):
    printed = run_notebook("thought_anchors", tmp_path, monkeypatch)
    assert "strength 0.0: KL 0.00000" in printed
    assert "queries touched" in printed
    assert (tmp_path / "thought_anchors_quick" / "report.html").exists()
