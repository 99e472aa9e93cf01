"""The released traces used as held-out cases."""

import os
from pathlib import Path

import pytest

from interp_jax.studies.thought_anchors import run as study
from interp_jax.text.embeddings import load_minilm

QWEN = "deepseek-r1-distill-qwen-14b/correct_base_solution/problem_4682"
LLAMA = "deepseek-r1-distill-llama-8b/incorrect_base_solution/problem_330"


@pytest.fixture(scope="session")
def released_folder():
    """`released_folder(name)` is the folder of one released trace; skips if the data is absent."""
    beside = Path(__file__).resolve().parents[3].parent / "shared"
    root = Path(os.environ.get("INTERP_JAX_SHARED", beside)) / "data" / "thought_anchors"

    def find(name):
        folder = root / {"qwen": QWEN, "llama": LLAMA}[name]
        if not folder.is_dir():
            pytest.skip(f"released data absent: shared/data/thought_anchors/{folder.name}")
        return folder

    return find


@pytest.fixture(scope="module")
def one_encoder():
    """MiniLM, loaded once for a file of runs."""
    loaded = load_minilm()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "load_minilm", lambda: loaded)
        yield
