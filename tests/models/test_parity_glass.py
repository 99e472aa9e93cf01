"""glassllm, English and Portuguese: trained weights against the package's own NumPy forward."""

import importlib

import jax
import numpy as np
import pytest

from interp_jax.generation.language_model import load
from interp_jax.interventions.placing import compose
from interp_jax.interventions.verbs import read
from interp_jax.models.batch import Batch
from interp_jax.models.sites import SITES
from interp_jax.models.sources import locate

pytestmark = pytest.mark.parity

#: Our site -> the package's name for the same value.
STEPS = {
    "embed": "embed", "attn_in": "norm.attn", "attn_v": "attn.v", "attn_weights": "attn.softmax",
    "attn_out": "attn.out", "resid_mid": "resid.attn", "mlp_in": "norm.ffn",
    "mlp_out": "ffn.down", "resid_post": "resid.ffn", "final_norm": "norm.final",
    "logits": "logits",
}  # fmt: skip
TEXTS = {
    "en": "Alice was beginning to get very tired of sitting by her sister on the bank",
    "pt": "Não houve meio de a fazer sair dali, e a noite caiu sobre a cidade",
}


@pytest.mark.parametrize("language", ["en", "pt"])
def test_every_step_is_theirs(language, record_property):
    lm = load(f"glassllm-{language}", layout="scanned")
    theirs = importlib.import_module("glassllm.model").GlassLM.load(
        locate(f"glassllm-{language}").path
    )
    tracer = importlib.import_module("glassllm.trace").Tracer()
    text = lm.tokenizer.encode(TEXTS[language]).ids
    noise = np.random.default_rng(0).integers(4, 1024, 128 - len(text))
    ids = np.concatenate([text, noise])  # the whole context of 128
    logits = theirs.forward(ids, trace=tracer).data[0]
    network = compose(*map(read, STEPS))(lm.network)
    ours, tape = jax.jit(lambda network, batch: network(batch))(network, Batch.make(ids[None]))
    assert logits.std() > 1
    apart = {"output": np.abs(np.asarray(ours[0]) - logits).max()}
    for site, step in STEPS.items():
        value = np.asarray(tape[site])
        layered = SITES[site].layered
        for layer, one in enumerate(value if layered else value[None]):
            want = tracer.get(step, layer if layered else None).value
            one = one[0].swapaxes(0, 1) if site == "attn_v" else one[0]
            assert one.shape == want.shape, site
            apart[f"{site} {layer}"] = np.abs(one - want).max()
    record_property(f"glassllm {language}/rungs", float(max(apart.values())))
    record_property(f"glassllm {language}/logits", float(apart["output"]))
    assert max(apart.values()) <= 1e-4, apart


def test_greedy_ids_and_text_are_theirs():
    lm = load("glassllm-en")
    theirs = importlib.import_module("glassllm.model").GlassLM.load(locate("glassllm-en").path)
    prompt = "Alice was beginning to"
    ids = lm.prompt(prompt).ids.tolist()
    assert ids == [494, 160, 729, 633, 111]
    (out,) = lm.generate(prompt, max_new_tokens=24)
    assert out.tokens.tolist() == [step.token for step in theirs.generate(ids, 24, greedy=True)]
    assert out.text.startswith(" the\nQueen to the Queen, and she found it was saying to herself")
