"""A study that runs in seconds: the small trained model, ending its texts where it likes to."""

from __future__ import annotations

import dataclasses

from interp_jax.generation.language_model import LanguageModel, load
from interp_jax.models.tokenizer import SpecialIds
from interp_jax.studies.thought_anchors.config import ThoughtAnchorsConfig

MODEL = "glassllm-en"
STOPS = ("x said", "x was", "”")


def small_model() -> LanguageModel:
    """glassllm-en, for which some common words end a text (its own end is too rare to wait for)."""
    lm = load(MODEL)
    stops = [int(lm.tokenizer.encode(text).ids[-1]) for text in STOPS]
    lm.tokenizer.special = SpecialIds(bos=2, eos=3, pad=0, stop=(3, *stops))
    return lm


def small_config(workdir, **over) -> ThoughtAnchorsConfig:
    """Traces of two to six sentences in at most 60 tokens, whose answer is their last line."""
    base = ThoughtAnchorsConfig(
        workdir=str(workdir), model=MODEL, prompt="Alice said to the Queen,",
        instruction="{question}", opening="“", rule="last_line", temperature=1.0,
        min_sentences=2, max_sentences=6, base_tries=32, rollouts=3, max_new_tokens=60,
        batch_size=4, seed=1,
    )
    return dataclasses.replace(base, **over)
