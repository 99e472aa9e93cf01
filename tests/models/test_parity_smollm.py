"""The real SmolLM2, through our reader of GGUF, against transformers on the same weights.

The weights go to transformers through `save_hf`; that they are what the `gguf` package decodes
is tested beside the reader, so the numbers noted from transformers' own reading of the file hold
here too.
"""

import dataclasses
import time
from typing import Any

import jax
import numpy as np
import pytest

from interp_jax.generation.language_model import LanguageModel, load, pad_prompts
from interp_jax.interventions.run import run
from interp_jax.models.safetensors_write import save_hf

pytestmark = [pytest.mark.parity, pytest.mark.slow]

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
torch.set_num_threads(1)  # as quick here as two, and it does not spin where cores are shared

NEW = 32
# Noted from transformers 5.23 reading the GGUF file itself: five largest next-token logits, and
# how the greedy answer begins.
NOTED = {
    "Name three primary colours.": (
        {504: 29.418, 2122: 28.599, 33: 28.001, 788: 27.337, 16705: 27.239},
        "504 3003 14797 359 42 198 198 12869 314 260 768 4959 7302 284 314 1129",
    ),
    "What is the capital of France?": (
        {504: 25.325, 60: 25.243, 15319: 24.942, 2219: 24.402, 7026: 24.315},
        "504 3575 282 4649 314 7042 30 2",
    ),
    "Write a short story about a dragon.": (
        {1653: 23.947, 504: 23.944},
        "1653 260 2388 38798 618 260 15361 28 17462 253 3091 14654 690 260 14055 2342 28 253 "
        "26061 17422 6942 429 260 18778",
    ),
}
COLOURS = (
    "1 9690 198 2683 359 253 5356 5646 11173 3365 3511 308 34519 28 7018 411 407 19712 8182 2 198 "
    "1 4093 198 5820 1296 3003 14797 30 2 198 1 520 9531 198"
)


@dataclasses.dataclass(frozen=True)
class Both:
    """Our model and theirs, with 32 greedy tokens of each for every prompt."""

    lm: LanguageModel
    theirs: Any
    prompts: list[np.ndarray]
    our_greedy: list[list[int]]
    their_greedy: list[list[int]]


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    start = time.perf_counter()
    lm = load()
    print(f"\nloaded SmolLM2 in {time.perf_counter() - start:.1f} s", end=" ")
    folder = save_hf(tmp_path_factory.mktemp("smollm") / "m", lm.network.config,
                     lm.network.parameters())
    start = time.perf_counter()
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    print(f"(transformers, from safetensors: {time.perf_counter() - start:.1f} s)")
    prompts = [lm.prompt(text).ids for text in NOTED]
    start = time.perf_counter()
    ours = [out.tokens.tolist() for out in lm.generate(list(NOTED), max_new_tokens=NEW)]
    print(f"32 greedy tokens on three prompts in {time.perf_counter() - start:.1f} s")
    yield Both(lm, theirs, prompts, ours, their_greedy(theirs, prompts))
    jax.clear_caches()


def their_greedy(model, prompts) -> list[list[int]]:
    """32 tokens, or up to the end token, for prompts padded on the left."""
    width = max(len(ids) for ids in prompts)
    ids = np.stack([np.pad(ids, (width - len(ids), 0), constant_values=2) for ids in prompts])
    own = np.stack([np.arange(width) >= width - len(ids) for ids in prompts])
    with torch.inference_mode():
        out = model.generate(
            torch.from_numpy(ids.astype(np.int64)),
            attention_mask=torch.from_numpy(own.astype(np.int64)),
            max_new_tokens=NEW, do_sample=False, eos_token_id=2, pad_token_id=2,
        )[:, width:]  # fmt: skip
    return [row[: row.index(2) + 1] if 2 in row else row for row in out.tolist()]


def test_greedy_tokens_are_theirs(both):
    assert both.prompts[0].tolist() == [int(i) for i in COLOURS.split()]
    assert both.our_greedy == both.their_greedy
    for ours, (_, noted) in zip(both.our_greedy, NOTED.values(), strict=True):
        noted = [int(i) for i in noted.split()]
        assert ours[: len(noted)] == noted
    assert [len(ids) for ids in both.our_greedy] == [NEW, 8, NEW]


def test_logits_over_whole_sequences(both, record_property):
    """Prompts with their answers, as one ragged batch, scanned; each alone in transformers."""
    rows = [np.concatenate([p, a]) for p, a in zip(both.prompts, both.our_greedy, strict=True)]
    batch = pad_prompts([both.lm.prompt(row) for row in rows])
    logits, _ = run(both.lm.network.with_layout("scanned"), batch)
    logits, worst = np.asarray(logits), 0.0
    for i, row in enumerate(rows):
        with torch.no_grad():
            theirs = both.theirs(torch.from_numpy(row[None].astype(np.int64))).logits[0].numpy()
        ours = logits[i, : len(row)]
        worst = max(worst, float(np.abs(ours - theirs).max()))
        assert (ours.argmax(-1) == theirs.argmax(-1)).all()
        at = ours[len(both.prompts[i]) - 1]
        noted = NOTED[list(NOTED)[i]][0]
        assert np.argsort(-at)[: len(noted)].tolist() == list(noted)
        np.testing.assert_allclose(at[list(noted)], list(noted.values()), rtol=0, atol=1e-3)
    record_property("SmolLM2-135M-Instruct (real)/logits", worst)
    assert worst <= 5e-4
