"""Runs a notebook from top to bottom, as its reader would, with its smallest sizes."""

from __future__ import annotations

import pathlib

COLAB = pathlib.Path(__file__).parent.parent / "colab"


def run_notebook(name: str, tmp_path: pathlib.Path, monkeypatch) -> str:
    """What the notebook printed."""
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("INTERP_JAX_QUICK", "1")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("XLA_FLAGS", "")  # a user's kernel has its real devices
    notebook = nbformat.read(COLAB / f"{name}.ipynb", as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells), "committed without outputs"
    NotebookClient(notebook, timeout=280, resources={"metadata": {"path": str(tmp_path)}}).execute()
    return "".join(
        output.get("text", "")
        for cell in notebook.cells for output in cell.get("outputs", [])
    )
