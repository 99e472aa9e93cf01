"""Fifty thousand latents with little each: what a page of a real dictionary has to carry."""

from __future__ import annotations

from pathlib import Path

import jax.numpy as jnp
import numpy as np

from interp_jax.dictionaries import examples as ex
from interp_jax.dictionaries.config import DictionaryConfig, parameter_shapes
from interp_jax.dictionaries.dictionary import Dictionary
from interp_jax.studies.model_diffing.dashboard.site import build_dashboard
from tests.studies.model_diffing.synthetic_dashboard import KEY, VOCABULARY, make_tokenizer

LATENTS = 50_000


def build(out: Path, plan: ex.ExamplePlan | None = None, batches: int = 1) -> Path:
    """The dashboard of a crosscoder of 50,000 latents; by default with one example a band."""
    plan = plan or ex.ExamplePlan(top=2, per_band=1, before=6, after=3)
    draw = np.random.default_rng(0)
    config = DictionaryConfig(4, LATENTS, inputs=2, code_norm="crosscoder")
    arrays = {name: jnp.zeros(shape) for name, shape in parameter_shapes(config).items()}
    rows = draw.normal(size=arrays["decoder"].shape).astype(np.float32)
    dictionary = Dictionary(config, arrays | {"decoder": jnp.asarray(rows)})
    collection = ex.start(LATENTS, KEY, plan)
    for _ in range(batches):
        rows, length, k = 32, 64, 50
        # Different latents at a token: an arithmetic progression from a random one.
        first = np.floor(LATENTS * draw.random((rows, length, 1)) ** 3).astype(np.int64)
        indices = (first + 997 * np.arange(k)) % LATENTS
        values = np.exp(draw.normal(size=indices.shape)).astype(np.float32)
        tokens = draw.integers(0, VOCABULARY, (rows, length)).astype(np.int32)
        collection = ex.collect(collection, (indices, values), tokens)
    ratios = {name: draw.random(LATENTS) for name in ("nu_eps", "nu_r")}
    return build_dashboard(
        out, dictionary, ex.finish(collection), make_tokenizer(), title="Fifty thousand latents",
        outputs=("base", "chat"), ratios=ratios, neighbours=0,
    )
