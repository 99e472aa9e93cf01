"""`python scripts/train_dictionary.py`: killed and gone on with, planned, stored, and refused."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tokenizers
from tokenizers import models, pre_tokenizers

from interp_jax.dictionaries.cache import ActivationCache, common_rows
from interp_jax.dictionaries.fit_config import FitConfig
from interp_jax.dictionaries.formats.native import read_native
from interp_jax.models.safetensors_write import save_hf
from interp_jax.models.tokenizer import ControlToken, SpecialIds, Tokenizer
from interp_jax.testing.tiny import random_parameters, tiny_config

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "train_dictionary.py"
WORDS = [f"w{i}" for i in range(90)]


def tokenizer(words=WORDS) -> Tokenizer:
    vocab = {word: i for i, word in enumerate(["<unk>", "spare1", "spare2", *words])}
    backend = tokenizers.Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    control = [ControlToken("<s>", 1), ControlToken("</s>", 2)]
    return Tokenizer(backend, control, SpecialIds(bos=1, eos=2))


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> pathlib.Path:
    """Two tiny models, one with another tokenizer, and a file of texts."""
    folder = tmp_path_factory.mktemp("models")
    config = tiny_config("llama")
    for seed, name in enumerate(("base", "chat")):
        save_hf(folder / name, config, random_parameters(config, seed), tokenizer())
    save_hf(folder / "other", config, random_parameters(config), tokenizer(WORDS[::-1]))
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, rng.integers(3, 60))) for _ in range(400)]
    (folder / "texts.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    return folder


def arguments(place, *flags) -> list[str]:
    return [
        sys.executable, str(SCRIPT), "--kind=crosscoder", f"--model={place}/base",
        f"--other_model={place}/chat", f"--data={place}/texts.jsonl", "--layers=1", "--latents=64",
        "--k=4", "--context=16", "--rows_at_once=4", "--ring_rows=256", "--batch_size=32",
        "--steps=120", "--lr=1e-3", "--warm_up=5", "--threshold_start=20", "--eval_rows=64",
        "--checkpoint_every=10", "--dictionaries=k=3,5", *flags,
    ]  # fmt: skip


def environment() -> dict[str, str]:
    """One device; programs that one process compiled serve the next."""
    own = {**os.environ, "XLA_FLAGS": "", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1"}
    return own | {"JAX_COMPILATION_CACHE_DIR": str(ROOT / ".pytest_cache" / "compiled_command")}


def command(place, *flags):
    return subprocess.run(
        arguments(place, *flags), capture_output=True, text=True, timeout=240, env=environment()
    )


def struck(place, workdir, after: int, how: signal.Signals) -> subprocess.CompletedProcess:
    """The command, sent a signal once there is a checkpoint of step `after`."""
    process = subprocess.Popen(
        arguments(place, f"--workdir={workdir}"), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, env=environment(),
    )  # fmt: skip
    until = time.monotonic() + 200
    while not (workdir / "checkpoints" / str(after)).exists():
        assert process.poll() is None and time.monotonic() < until, process.stderr.read()
        time.sleep(0.005)
    process.send_signal(how)
    out, err = process.communicate(timeout=100)
    return subprocess.CompletedProcess((), process.returncode, out, err)


@pytest.mark.slow
def test_killed_stopped_and_gone_on_with_is_unbroken(place, tmp_path):
    """kill -9, then SIGTERM, then to the end: the bytes of a run that nobody disturbed."""
    broken, whole = tmp_path / "broken", tmp_path / "whole"
    assert struck(place, broken, 20, signal.SIGKILL).returncode == -signal.SIGKILL
    assert not (broken / "result.json").exists()
    stopped = struck(place, broken, 50, signal.SIGTERM)
    assert stopped.returncode == 1 and "run the same command again" in stopped.stderr
    done, plain = command(place, f"--workdir={broken}"), command(place, f"--workdir={whole}")
    for one in (done, plain):
        assert one.returncode == 0, one.stderr[-2000:]
        assert "second only" in one.stdout and "k3: FVE" in one.stdout
    names = ["result.json", *(f"dictionary/{v}/dictionary.safetensors" for v in ("k3", "k5"))]
    for name in names:
        assert (broken / name).read_bytes() == (whole / name).read_bytes(), name
    told = read_native(whole / "dictionary" / "k3")
    assert told.dictionary.config.inputs == 2 and int(told.dictionary.array("k")) == 3
    provenance = told.json["dictionary.json"]["provenance"]
    assert provenance["site"] == "resid_post[1]" and " + " in provenance["weights"]
    other = command(place, f"--workdir={whole}", "--seed=4")
    assert other.returncode == 2 and "seed: 0 there, 4 now" in other.stderr.splitlines()[-1]


@pytest.mark.slow
def test_planned_stored_and_trained_from_what_was_stored(place, tmp_path):
    planned = command(place, f"--workdir={tmp_path}/p", "--plan_only")
    assert planned.returncode == 0, planned.stderr[-2000:]
    for said in ("harvest: arguments", "step: arguments", "flops", "ring: 256 rows in device",
                 "rows: 3840 in 120 steps", "versions"):  # fmt: skip
        assert said in planned.stdout
    assert not (tmp_path / "p").exists()
    store = command(place, f"--workdir={tmp_path}/p", f"--write_cache={tmp_path}/store",
                    "--cache_rows=4000")  # fmt: skip
    assert store.returncode == 0, store.stderr[-2000:]
    folders = [line.removeprefix("Stored ") for line in store.stdout.splitlines()
               if line.startswith("Stored ")]  # fmt: skip
    assert [f.split("/store/")[1] for f in folders] == [
        "base/texts/train/layer_1_out", "chat/texts/train/layer_1_out",
    ]  # fmt: skip
    assert common_rows([ActivationCache(folder) for folder in folders]) == 4032
    flags = [f"--workdir={tmp_path}/c", f"--cache={','.join(folders)}", "--other_model=none",
             "--steps=40"]  # fmt: skip
    trained = command(place, *flags)
    assert trained.returncode == 0, trained.stderr[-2000:]
    result = json.loads((tmp_path / "c" / "result.json").read_text())
    assert [one["k"] for one in result["dictionaries"]] == [3, 5]
    assert all(np.isfinite(one["measures"]["fve"]) for one in result["dictionaries"])


def test_bad_input_is_told_in_one_sentence(place, tmp_path):
    done = command(place, f"--workdir={tmp_path}/x", f"--other_model={place}/other")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "token 3 is 'w0' in" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "x").exists()


def test_every_choice_is_a_flag():
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--help"], capture_output=True, text=True, timeout=100
    )
    assert "Examples:" in done.stdout
    for name in FitConfig.__dataclass_fields__:
        assert f"--{name}:" in done.stdout or f"--[no]{name}:" in done.stdout
