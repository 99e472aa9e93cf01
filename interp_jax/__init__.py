"""Language-model interpretability in JAX: interventions that are pure functions.

Importing the package is light: every public name is brought by the module that defines it when
it is first asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from interp_jax.version import __version__

if TYPE_CHECKING:
    from interp_jax.generation.engine import Engine as Engine
    from interp_jax.generation.language_model import Completion as Completion
    from interp_jax.generation.language_model import Generation as Generation
    from interp_jax.generation.language_model import LanguageModel as LanguageModel
    from interp_jax.generation.language_model import load as load
    from interp_jax.generation.prompts import Prompt as Prompt
    from interp_jax.generation.requests import Request as Request
    from interp_jax.generation.requests import Sample as Sample
    from interp_jax.generation.sampling_params import SamplingParams as SamplingParams
    from interp_jax.interventions.dictionary import ablate_latent as ablate_latent
    from interp_jax.interventions.dictionary import clamp_latent as clamp_latent
    from interp_jax.interventions.dictionary import read_latents as read_latents
    from interp_jax.interventions.dictionary import splice as splice
    from interp_jax.interventions.dictionary import steer_latent as steer_latent
    from interp_jax.interventions.dictionary_effects import latent_effects as latent_effects
    from interp_jax.interventions.directions import Direction as Direction
    from interp_jax.interventions.directions import from_contrast_pairs as from_contrast_pairs
    from interp_jax.interventions.directions import load_direction as load_direction
    from interp_jax.interventions.logit_lens import logit_lens as logit_lens
    from interp_jax.interventions.lora import lora as lora
    from interp_jax.interventions.lora import merge_lora as merge_lora
    from interp_jax.interventions.lora import stack_loras as stack_loras
    from interp_jax.interventions.patching import attribution_patching as attribution_patching
    from interp_jax.interventions.patching import patching_sweep as patching_sweep
    from interp_jax.interventions.placing import compose as compose
    from interp_jax.interventions.placing import detach as detach
    from interp_jax.interventions.reads import AsIs as AsIs
    from interp_jax.interventions.reads import Last as Last
    from interp_jax.interventions.reads import Mean as Mean
    from interp_jax.interventions.reads import Norm as Norm
    from interp_jax.interventions.reads import Projection as Projection
    from interp_jax.interventions.reads import SpanMeans as SpanMeans
    from interp_jax.interventions.reads import TopK as TopK
    from interp_jax.interventions.run import run as run
    from interp_jax.interventions.verbs import ablate_heads as ablate_heads
    from interp_jax.interventions.verbs import add as add
    from interp_jax.interventions.verbs import project_out as project_out
    from interp_jax.interventions.verbs import read as read
    from interp_jax.interventions.verbs import replace as replace
    from interp_jax.interventions.verbs import scale as scale
    from interp_jax.interventions.verbs import set_component as set_component
    from interp_jax.interventions.verbs import suppress_attention as suppress_attention
    from interp_jax.interventions.where import Where as Where
    from interp_jax.models.batch import Batch as Batch
    from interp_jax.models.config import ModelConfig as ModelConfig
    from interp_jax.models.decoder import Decoder as Decoder
    from interp_jax.models.decoder import build_decoder as build_decoder
    from interp_jax.models.sites import SITES as SITES
    from interp_jax.models.sites import Site as Site
    from interp_jax.runtime.errors import UserError as UserError

# Public name -> the module that defines it. The reference page is made from this table.
PUBLIC: dict[str, str] = {
    "UserError": "interp_jax.runtime.errors",
    "load": "interp_jax.generation.language_model",
    "LanguageModel": "interp_jax.generation.language_model",
    "Completion": "interp_jax.generation.language_model",
    "Generation": "interp_jax.generation.language_model",
    "Prompt": "interp_jax.generation.prompts",
    "Engine": "interp_jax.generation.engine",
    "Request": "interp_jax.generation.requests",
    "Sample": "interp_jax.generation.requests",
    "SamplingParams": "interp_jax.generation.sampling_params",
    "Batch": "interp_jax.models.batch",
    "ModelConfig": "interp_jax.models.config",
    "Decoder": "interp_jax.models.decoder",
    "build_decoder": "interp_jax.models.decoder",
    "Site": "interp_jax.models.sites",
    "SITES": "interp_jax.models.sites",
    "Where": "interp_jax.interventions.where",
    "read": "interp_jax.interventions.verbs",
    "add": "interp_jax.interventions.verbs",
    "replace": "interp_jax.interventions.verbs",
    "project_out": "interp_jax.interventions.verbs",
    "set_component": "interp_jax.interventions.verbs",
    "scale": "interp_jax.interventions.verbs",
    "ablate_heads": "interp_jax.interventions.verbs",
    "suppress_attention": "interp_jax.interventions.verbs",
    "compose": "interp_jax.interventions.placing",
    "detach": "interp_jax.interventions.placing",
    "run": "interp_jax.interventions.run",
    "AsIs": "interp_jax.interventions.reads",
    "Last": "interp_jax.interventions.reads",
    "Mean": "interp_jax.interventions.reads",
    "SpanMeans": "interp_jax.interventions.reads",
    "Norm": "interp_jax.interventions.reads",
    "Projection": "interp_jax.interventions.reads",
    "TopK": "interp_jax.interventions.reads",
    "lora": "interp_jax.interventions.lora",
    "stack_loras": "interp_jax.interventions.lora",
    "merge_lora": "interp_jax.interventions.lora",
    "splice": "interp_jax.interventions.dictionary",
    "steer_latent": "interp_jax.interventions.dictionary",
    "clamp_latent": "interp_jax.interventions.dictionary",
    "ablate_latent": "interp_jax.interventions.dictionary",
    "read_latents": "interp_jax.interventions.dictionary",
    "latent_effects": "interp_jax.interventions.dictionary_effects",
    "Direction": "interp_jax.interventions.directions",
    "from_contrast_pairs": "interp_jax.interventions.directions",
    "load_direction": "interp_jax.interventions.directions",
    "patching_sweep": "interp_jax.interventions.patching",
    "attribution_patching": "interp_jax.interventions.patching",
    "logit_lens": "interp_jax.interventions.logit_lens",
}

__all__ = ["__version__", *PUBLIC]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name not in PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(PUBLIC[name]), name)
    globals()[name] = value  # asked once
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *PUBLIC})
