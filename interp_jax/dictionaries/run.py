"""Training dictionaries from a config: models loaded, rows harvested, results written.

`run(config, stream)` is what `scripts/train_dictionary.py` does, for a notebook.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from interp_jax.dictionaries.cache import ActivationCache
from interp_jax.dictionaries.cache_source import CacheSource
from interp_jax.dictionaries.cache_writing import write_cache
from interp_jax.dictionaries.fit import Fitted, fit
from interp_jax.dictionaries.fit_config import FitConfig
from interp_jax.dictionaries.fit_start import shape_of_state
from interp_jax.dictionaries.fit_step import StepFunction, dictionary_step
from interp_jax.dictionaries.formats.files import Loaded
from interp_jax.dictionaries.formats.native import CONFIG, write_native
from interp_jax.dictionaries.replaced_tokens import Replacements
from interp_jax.dictionaries.row_source import HarvestSource, RowSource, harvest_rows
from interp_jax.generation.language_model import LanguageModel, load
from interp_jax.models.token_rows import Stream
from interp_jax.runtime.compilation import Plan, enable_compilation_cache, plan
from interp_jax.runtime.errors import UserError
from interp_jax.runtime.mesh import make_mesh
from interp_jax.runtime.process import is_writer
from interp_jax.runtime.progress import Progress
from interp_jax.runtime.provenance import Provenance
from interp_jax.runtime.workdir import Workdir, to_json

#: (config, the model whose tokenizer and template are used) -> rows of `config.context` tokens.
StreamMaker = Callable[[FitConfig, LanguageModel], Stream]


@dataclasses.dataclass(frozen=True)
class Trained:
    """What `run` gives.

    Attributes:
        fitted: dictionaries and their measures.
        folders: where each dictionary was written, in the native layout.
        facts: lines that say how it went.
    """

    fitted: Fitted
    folders: tuple[Path, ...]
    facts: tuple[str, ...]


def run(config: FitConfig, stream: StreamMaker | None = None) -> Trained:
    """Trains what the config says, and writes it; the same call again goes on, or reads.

    Args:
        config: every choice.
        stream: makes rows of text; None only where they come from a cache.

    Raises:
        UserError: whatever is wrong with the config, the models or the data.
    """
    c = config.resolved()
    with _precision(c):
        mesh = chosen_mesh(c)
        opened = open_source(c, mesh, stream)
        workdir = Workdir(c.workdir, c)
        fitted = fit(c, opened.source, workdir=workdir, mesh=mesh)
    folders = []
    for variant, dictionary in zip(fitted.variants, fitted.dictionaries, strict=True):
        folder = workdir / "dictionary" / variant.name
        made = {**opened.provenance.to_json(), "variant": dataclasses.asdict(variant),
                "replace_tokens": opened.replaced}  # fmt: skip
        told = {CONFIG: {"provenance": made}}
        if is_writer():
            write_native(folder, Loaded(dictionary, told))
        folders.append(folder)
    workdir.write_json("result.json", _result(fitted))
    return Trained(fitted, tuple(folders), tuple(_facts(fitted)))


@dataclasses.dataclass(frozen=True)
class Opened:
    """A source of rows, where they come from, and the tokens that the base read otherwise."""

    source: RowSource
    provenance: Provenance
    replaced: Replacements = ()


def chosen_mesh(config: FitConfig) -> Mesh | None:
    """The mesh of a run; None on one device."""
    if config.mesh is None and len(jax.devices()) == 1:
        return None
    return make_mesh(config.mesh or "data:-1")


def open_source(
    config: FitConfig, mesh: Mesh | None = None, stream: StreamMaker | None = None
) -> Opened:
    """Loads the models, or opens the caches.

    Raises:
        UserError: models that do not go together, or whatever is wrong with files.
    """
    c = config.resolved()
    if c.compilation_cache_dir is not None:
        enable_compilation_cache(c.compilation_cache_dir)
    told = {"dtype": c.dtype, "seed": c.seed, "config": to_json(c)}
    if c.cache:
        caches = [ActivationCache(folder) for folder in c.cache]
        replaced, targets = _replaced_in(caches), []
        if c.kind == "transcoder":
            half = len(caches) // 2
            if 2 * half != len(caches):
                raise UserError(
                    found=f"{len(caches)} caches for a transcoder",
                    expected="inputs, then as many targets", do="give both with --cache",
                )  # fmt: skip
            caches, targets = caches[:half], [caches[half:]]
        size = c.rows_at_once * c.context
        source = CacheSource([caches], size, targets=targets, dtype=c.ring_dtype)
        names = " + ".join("/".join(Path(folder).parts[-4:]) for folder in c.cache)
        about = Provenance(model=f"cache {names}", weights="", tokenizer="", data=names, **told)
        return Opened(source, about, replaced)
    models = [load(c.model, dtype=c.dtype, revision=c.revision, mesh=mesh)]
    if c.other_model is not None:
        models.append(load(c.other_model, dtype=c.dtype, revision=c.other_revision, mesh=mesh))
        check_pair(*models)
    if stream is None:
        raise UserError(
            found="no stream of text", expected="one, or activations in --cache",
            do="give run(config, stream) what makes one",
        )  # fmt: skip
    chat = models[-1]  # it knows the template's tokens
    rows = stream(c, chat)
    depth = min(model.network.config.n_layers for model in models)
    what = c.harvest(depth, chat.tokenizer.special.bos)
    networks = [model.network for model in models]
    source = HarvestSource(networks, rows, what, c.rows_at_once, c.context, mesh)
    about = Provenance(
        model=" + ".join(model.origin.model_id for model in models),
        weights=" + ".join(model.origin.weights for model in models),
        tokenizer=chat.origin.tokenizer,
        site=", ".join(map(str, (*what.sites, *what.targets))),
        data=", ".join(c.data),
        **told,
    )
    return Opened(source, about, what.replace_tokens)


def _replaced_in(caches: Sequence[ActivationCache]) -> Replacements:
    """The pairs that the caches of one base model were written with."""
    some = {frozenset(cache.replace_tokens): cache for cache in caches if cache.replace_tokens}
    if len(some) > 1:
        raise UserError(
            found=f"other replaced tokens in {' and '.join(str(c.folder) for c in some.values())}",
            expected="the same ones in all caches of a base model",
            do="write them with one --replace_tokens",
        )
    return next(iter(some.values())).replace_tokens if some else ()


def store(config: FitConfig, stream: StreamMaker | None = None) -> list[Path]:
    """Writes activations to `config.write_cache` instead of training on them.

    Returns:
        the folders, one for each model and layer.

    Raises:
        UserError: as `run`, or a cache that is finished already.
    """
    c = config.resolved()
    if c.write_cache is None:
        raise UserError(found="no --write_cache", expected="a folder", do="say where to store")
    source = open_source(c, chosen_mesh(c), stream).source
    data = "+".join(Path(name).stem for name in c.data)
    models = [Path(name).name for name in filter(None, (c.model, c.other_model))]
    if len(set(models)) < len(models):
        models = [f"{place}-{name}" for place, name in enumerate(models)]
    folders = [Path(c.write_cache) / name / data / "train" for name in models]
    facts = {"batch_size": c.rows_at_once, "context_len": c.context}
    with _precision(c), Progress(c.cache_rows, "storing", unit="rows") as bar:
        told = lambda rows: bar.update(rows - bar.done)
        return write_cache(source, folders, c.cache_rows, facts=facts, on_chunk=told)


def check_pair(one: LanguageModel, other: LanguageModel) -> None:
    """Refuses two models that do not read the same tokens.

    Raises:
        UserError: an id that is no control token in either stands for different texts.
    """
    a, b = one.tokenizer, other.tokenizer
    if a.fingerprint == b.fingerprint:
        return
    control = {token.id for tokenizer in (a, b) for token in tokenizer.control}
    for number in range(min(a.vocab_size, b.vocab_size)):
        if number not in control and a.token_text(number) != b.token_text(number):
            raise UserError(
                found=f"token {number} is {a.token_text(number)!r} in {one.origin.model_id} and "
                f"{b.token_text(number)!r} in {other.origin.model_id}",
                expected="two models that read the same tokens",
                do="choose a model and one that was trained from it",
            )


def plan_run(config: FitConfig, stream: StreamMaker | None = None) -> dict[str, Plan | str]:
    """What a run will need: its programs compiled, not run, and its sizes.

    Returns:
        name to plan: `harvest` (a batch of text; none with caches) and `step` (a training step of
        all dictionaries); and to text: `ring`, `checkpoint`, `rows`.
    """
    c = config.resolved()
    mesh = chosen_mesh(c)
    with _precision(c):
        source = open_source(c, mesh, stream).source
        inputs, width = source.shapes["x"].shape
        outputs = source.shapes["target"].shape if "target" in source.shapes else (None, None)
        step = StepFunction(c, c.dictionary(inputs, width, *outputs), c.variants(), mesh)
        state = shape_of_state(source.shapes, step)
        rows = {
            name: jax.ShapeDtypeStruct((c.batch_size, *one.shape), one.dtype)
            for name, one in source.shapes.items()
        }
        plans: dict[str, Plan | str] = {}
        if isinstance(source, HarvestSource):
            plans["harvest"] = plan(harvest_rows, *source.example())
        plans["step"] = plan(dictionary_step, state, rows, step.operands, step.structure)
    ring = c.ring_rows * sum(_bytes(one) for one in source.shapes.values())
    saved = sum(_bytes(leaf) for leaf in jax.tree.leaves(state)) + (ring if c.save_ring else 0)
    total, chunks = c.steps * c.batch_size, math.ceil(c.steps * c.batch_size / source.size)
    plans["ring"] = f"{c.ring_rows} rows in {c.ring} memory, {ring / 2**20:.1f} MiB"
    plans["checkpoint"] = f"{saved / 2**20:.1f} MiB and the ring's order"
    plans["rows"] = f"{total} in {c.steps} steps, from {chunks} chunks of {source.size} or more"
    return plans


def _bytes(one: Any) -> int:
    if jax.numpy.issubdtype(one.dtype, jax.dtypes.prng_key):
        return 0
    return math.prod(one.shape) * one.dtype.itemsize


def _precision(config: FitConfig):
    if config.matmul_precision == "default":
        return contextlib.nullcontext()
    return jax.default_matmul_precision(config.matmul_precision)


def _result(fitted: Fitted) -> dict[str, Any]:
    """As JSON values; what is not finite is null, and what has an entry per latent is left out."""
    said = []
    for variant, found in zip(fitted.variants, fitted.measures, strict=True):
        numbers = {n: _json(v) for n, v in found.items() if n != "density"}
        said.append({**dataclasses.asdict(variant), "measures": numbers})
    return {"steps": fitted.steps, "dictionaries": said}


def _json(value: Any) -> Any:
    array = np.asarray(value)
    if array.ndim:
        return [_json(one) for one in array]
    number = array.item()
    return number if math.isfinite(number) else None


def _facts(fitted: Fitted) -> list[str]:
    lines = []
    for variant, found in zip(fitted.variants, fitted.measures, strict=True):
        name = variant.name or "dictionary"
        if found:
            line = f"{name}: FVE {found['fve']:.4f}, L0 {found['l0']:.2f}"
            line += f", {100 * found['dead_share']:.1f} % of latents silent on the held-out rows"
            if "chat_only" in found:
                line += (
                    f"; of the others {found['base_only_alive']} first only, "
                    f"{found['shared_alive']} shared, {found['chat_only_alive']} second only"
                )
            lines.append(line)
        else:
            lines.append(f"{name}: trained, not measured (--eval_rows=0)")
    return lines
