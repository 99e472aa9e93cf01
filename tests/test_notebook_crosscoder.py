"""The notebook `colab/crosscoder.ipynb`, in a file of its own so that two
notebooks can run side by side."""

import pytest

from tests.notebooks import run_notebook


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_notebook_runs(tmp_path, monkeypatch):
    printed = run_notebook("crosscoder", tmp_path, monkeypatch)
    assert "strength 0.0: KL 0.00000" in printed
    assert "touched/steer_latent" in printed
    for name in ("diff/report.html", "dashboard/index.html"):
        assert (tmp_path / "crosscoder_quick" / name).exists()
