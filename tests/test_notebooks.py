"""Notebooks, executed from top to bottom."""

import pathlib

import pytest

ROOT = pathlib.Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "colab").glob("*.ipynb"))
# What each must print, and leave behind.
PRINTS = {
    "thought_anchors": ["strength 0.0: KL 0.00000", "queries touched"],
    "crosscoder": ["strength 0.0: KL 0.00000", "touched/steer_latent"],
}
LEAVES = {
    "thought_anchors": ["thought_anchors_quick/report.html"],
    "crosscoder": ["crosscoder_quick/diff/report.html", "crosscoder_quick/dashboard/index.html"],
}


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_runs(path, tmp_path, monkeypatch):
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("INTERP_JAX_QUICK", "1")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("XLA_FLAGS", "")  # a user's kernel has its real devices
    notebook = nbformat.read(path, as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells), "committed without outputs"
    NotebookClient(notebook, timeout=280, resources={"metadata": {"path": str(tmp_path)}}).execute()
    printed = "".join(
        output.get("text", "")
        for cell in notebook.cells for output in cell.get("outputs", [])
    )
    for text in PRINTS[path.stem]:
        assert text in printed
    for name in LEAVES[path.stem]:
        assert (tmp_path / name).exists()
