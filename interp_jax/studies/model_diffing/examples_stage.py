"""Examples, template statistics, twins and silent texts: one pass over held-out tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from interp_jax.dictionaries.dictionary import Dictionary
from interp_jax.dictionaries.examples import (
    ExamplePlan,
    Examples,
    collect,
    document_ids,
    finish,
)
from interp_jax.dictionaries.examples import start as start_examples
from interp_jax.dictionaries.examples_file import load_examples, save_examples
from interp_jax.runtime import keys
from interp_jax.runtime.process import is_writer
from interp_jax.runtime.progress import Progress
from interp_jax.studies.model_diffing.latent_scaling import LatentScaling
from interp_jax.studies.model_diffing.moments import groups_of
from interp_jax.studies.model_diffing.scoring_texts import Text
from interp_jax.studies.model_diffing.silent_windows import WINDOW, SilentWindows, silent_texts
from interp_jax.studies.model_diffing.template_tokens import (
    TemplateCounts,
    TemplateStatistics,
    add_counts,
    no_counts,
    template_slots,
    template_statistics,
    token_categories,
)
from interp_jax.studies.model_diffing.twins import Twins, add_joint, twin_pairs
from interp_jax.studies.model_diffing.work import EXAMPLES, TEMPLATES, Work

PLAN = ExamplePlan()


@dataclass(frozen=True)
class Found:
    """What the pass found.

    Attributes:
        examples: of every latent. template: statistics of the template's tokens.
        maxima: float32 [F], by which bands of strength are cut: of latent scaling's pass.
        silent: texts with the latents active in them, see `silent_windows`.
        twins: chat-only and base-only latents that point the same way.
    """

    examples: Examples
    template: TemplateStatistics
    maxima: np.ndarray
    silent: Mapping[str, np.ndarray]
    twins: Twins

    def texts_of(self, latent: int) -> list[Text]:
        """The examples of a latent, over all bands of strength (0 the strongest)."""
        texts = []
        for shown, rank in ((self.examples.top, 1), (self.examples.bands, 2)):
            value, documents, tokens, active = (
                part[latent].reshape(-1, *part.shape[rank + 1 :])
                for part in (shown.value, shown.document, shown.tokens, shown.activations)
            )
            for place in np.flatnonzero(value > 0):
                own = tokens[place] >= 0
                share = value[place] / max(float(self.maxima[latent]), 1e-30)
                texts.append(Text(
                    tokens[place][own], active[place][own].astype(np.float64),
                    int(documents[place]), int(np.sum(share < np.asarray(PLAN.fractions))),
                ))
        return texts

    def silent_for(self, latent: int) -> list[Text]:
        """Texts in which it is not active."""
        return silent_texts(self.silent, latent)


def examples_stage(work: Work, scaling: LatentScaling, *, make: bool) -> Found | None:
    """Examples and statistics; None where they are not there and not to be made.

    A pass that was stopped begins again.
    """
    if not work.has(TEMPLATES):  # the file that is written last
        if not make:
            return None
        _make(work, scaling)
    arrays = work.load(TEMPLATES)
    counts = TemplateCounts(*(arrays.pop(f"template_{name}") for name in TemplateCounts._fields))
    twins = Twins(*(arrays.pop(f"twins_{name}") for name in Twins._fields))
    examples = load_examples(work.workdir / EXAMPLES)
    return Found(examples, template_statistics(counts), arrays.pop("maxima"), arrays, twins)


def _make(work: Work, scaling: LatentScaling) -> None:
    config, d = work.config, work.dictionary
    slots, latents = template_slots(work.chat), d.config.latents
    counts = no_counts(latents, config.groups, slots)
    # Bands and buckets are shares of the maxima of the pass before this one.
    maxima = np.asarray(scaling.largest, np.float32)
    collection = start_examples(latents, keys.fold(work.key, "examples"), PLAN, maxima)
    twins = twin_pairs(
        d, work.delta, scaling.alive, base=config.base_output, chat=config.chat_output,
        threshold=config.twin_cosine,
    )
    pool = SilentWindows(latents, seed=config.seed)
    bos = work.chat.tokenizer.special.bos
    with Progress(config.example_tokens, "examples", unit="tokens",
                  log_every=config.log_every) as bar:  # fmt: skip
        for rows in work.rows(held_out=True):
            x, keep = work.activations(rows)
            shape = rows.tokens.shape
            scaled = kept_code(d, x, jnp.asarray(keep))
            kinds = token_categories(rows.tokens, rows.valid, rows.roles, bos, slots)
            kinds = np.where(keep, kinds.reshape(-1), -1)
            group = np.repeat(groups_of(rows.documents, config.groups), shape[1])
            counts = add_counts(
                counts, scaled, jnp.asarray(kinds), jnp.asarray(group), jnp.asarray(maxima)
            )
            twins = add_joint(twins, scaled, jnp.asarray(keep), jnp.asarray(maxima))
            numbers = document_ids(rows.tokens, rows.valid)
            whole = scaled.reshape(*shape, latents)
            collection = collect(
                collection, whole, rows.tokens, numbers, keep.reshape(shape)
            )
            if not pool.full and shape[1] >= WINDOW:
                lengths = rows.valid.sum(1)
                starts = pool.starts(lengths, rows.documents)
                active = _active(whole, jnp.asarray(starts))
                pool.offer(rows.tokens, lengths, numbers[:, 0], starts, np.asarray(active))
            bar.update(int(keep.sum()))
            if collection.tokens >= config.example_tokens:
                break
    if is_writer():
        save_examples(work.workdir / EXAMPLES, finish(collection))
    arrays = {f"template_{name}": of for name, of in counts._asdict().items()}
    arrays |= {f"twins_{name}": of for name, of in twins._asdict().items()}
    work.save(TEMPLATES, {**arrays, "maxima": maxima, **pool.arrays()})


@jax.jit
@jax.default_matmul_precision("highest")
def kept_code(dictionary: Dictionary, x: jax.Array, keep: jax.Array) -> jax.Array:
    """float32 [N, F], the scaled code; zeros at tokens that do not count.

    Args:
        dictionary: a crosscoder of M models. x: float32 [N, M, D]. keep: bool [N].
    """
    x = jnp.where(keep[:, None, None], x, 0.0)
    return jnp.where(keep[:, None], dictionary.activations(x), 0.0)


@jax.jit
def _active(scaled: jax.Array, starts: jax.Array) -> jax.Array:
    """bool [B, F]: active at one of the window's tokens."""
    part = lambda row, start: jax.lax.dynamic_slice_in_dim(row, start, WINDOW)
    return jnp.any(jax.vmap(part)(scaled, starts) > 0, axis=1)
