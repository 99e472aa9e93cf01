"""Models for the accelerator benchmark: random weights at real shapes, the same for both sides.

Weights are drawn on the device and handed to torch without a copy (DLPack); random weights serve
for timing, and for seeing that both sides compute the same.
"""

from __future__ import annotations

import time

import jax
import jax.numpy as jnp
import numpy as np

from interp_jax.generation.prompts import Prompt
from interp_jax.models.config import LayerKind, ModelConfig, Rope, parameter_shapes
from interp_jax.models.families import config_to_hf
from interp_jax.models.weight_names import hf_names, is_transposed
from interp_jax.studies.thought_anchors.asking import Trace
from interp_jax.text.sentences import Sentence

# The shapes of Llama 3.2 1B and Llama 3.1 8B, with plain rotary embeddings.
SHAPES: dict[str, dict] = {
    "tiny": dict(width=64, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=16, mlp_width=128,
                 vocab_size=1024, tied_head=True),
    "1B": dict(width=2048, n_layers=16, n_heads=32, n_kv_heads=8, head_dim=64, mlp_width=8192,
               vocab_size=128_256, tied_head=True),
    "8B": dict(width=4096, n_layers=32, n_heads=32, n_kv_heads=8, head_dim=128,
               mlp_width=14_336, vocab_size=128_256, tied_head=False),
}


def make_config(shape: str) -> ModelConfig:
    """A Llama of that shape."""
    own = SHAPES[shape]
    return ModelConfig(
        family="llama", pattern=(LayerKind(None, Rope(500_000.0)),), max_context=8192,
        query_scale=own["head_dim"] ** -0.5, **own,
    )


def random_weights(config: ModelConfig, seed: int = 0) -> dict[str, jax.Array]:
    """bfloat16 matrices of standard deviation 1/sqrt(in), float32 gains of 1."""
    key = jax.random.key(seed)
    draw = jax.jit(
        lambda key, std, shape: (jax.random.normal(key, shape, jnp.float32) * std).astype(
            jnp.bfloat16
        ),
        static_argnames="shape",
    )
    params = {}
    for n, (name, shape) in enumerate(parameter_shapes(config).items()):
        if name.endswith(".gain"):
            params[name] = jnp.ones(shape, jnp.float32)
        else:
            std = 0.02 if name == "embed.table" else shape[0] ** -0.5
            params[name] = draw(jax.random.fold_in(key, n), jnp.float32(std), shape)
    return params


def torch_model(config: ModelConfig, params: dict[str, jax.Array], attention: str = "sdpa"):
    """transformers' model around the same memory."""
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    described = transformers.LlamaConfig(
        **{name: value for name, value in config_to_hf(config).items()
           if name not in ("architectures", "model_type")},
        attn_implementation=attention,
    )
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(described, dtype=torch.bfloat16)
    device = "cuda" if jax.default_backend() == "gpu" else "cpu"
    names = {theirs: ours for ours, theirs in hf_names(config).items()}
    state = {}
    for theirs, ours in names.items():
        array = torch.from_dlpack(params[ours])
        state[theirs] = array.T if is_transposed(ours) else array.to(torch.bfloat16)
    if config.tied_head:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model.load_state_dict(state, assign=True, strict=True)
    model.model.rotary_emb = type(model.model.rotary_emb)(described).to(device)
    return model.eval()


def make_trace(config: ModelConfig, tokens: int, sentences: int) -> Trace:
    """Random tokens in sentences of nearly one length, behind a prompt of 16."""
    rng = np.random.default_rng(0)
    prompt = Prompt(rng.integers(8, config.vocab_size, 16).astype(np.int32), np.zeros(16, np.int8))
    ids = rng.integers(8, config.vocab_size, tokens - 16).astype(np.int32)
    edges = np.linspace(0, len(ids), sentences + 1).astype(np.int32)
    parts = tuple(Sentence("s", n, n + 1, n + 1) for n in range(sentences))
    return Trace(prompt, ids, "s" * sentences, parts, np.stack([edges[:-1], edges[1:]], axis=1))


def median_seconds(run, repeats: int, calls: int = 1) -> float:
    """Median wall time of a call, after one that does not count.

    Args:
        run: gives an array, or what is finished when it returns.
        calls: in flight together; above 1, starting them is not in the time.
    """
    jax.block_until_ready(run())
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready([run() for _ in range(calls)])
        times.append((time.perf_counter() - start) / calls)
    return float(np.median(times))
