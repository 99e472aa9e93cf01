"""Training dictionaries from a source of rows: one loop, one state, any number of dictionaries.

Networks run, a ring shuffles, and the dictionary trains, in one program on one mesh and without a
disk in between. The state is one tree: parameters, optimiser, step, thresholds and dead counters
(for every dictionary of a sweep), the root key, the ring, and where the source stands. So 2N steps
are N steps, a stop, and N more.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from interp_jax.dictionaries.config import DictionaryConfig
from interp_jax.dictionaries.dictionary import Dictionary
from interp_jax.dictionaries.feed import Feed
from interp_jax.dictionaries.fit_config import FitConfig
from interp_jax.dictionaries.fit_measures import HeldOut, measures
from interp_jax.dictionaries.fit_start import first_state, shape_of_state
from interp_jax.dictionaries.fit_step import Fitting, StepFunction
from interp_jax.dictionaries.placement import row_sharding
from interp_jax.dictionaries.ring import Ring
from interp_jax.dictionaries.row_source import RowSource
from interp_jax.dictionaries.variants import Variant
from interp_jax.runtime import keys
from interp_jax.runtime.checkpoints import Checkpoints
from interp_jax.runtime.errors import UserError
from interp_jax.runtime.metrics import ManyWriters, open_writers
from interp_jax.runtime.progress import Progress
from interp_jax.runtime.stopping import stop_asked
from interp_jax.runtime.workdir import Workdir


@dataclasses.dataclass(frozen=True)
class Fitted:
    """What a run gives.

    Attributes:
        dictionaries: one for each variant.
        variants: what they differ in.
        measures: for each, its measures by name on the held-out rows; empty without such rows.
        steps: finished steps.
    """

    dictionaries: tuple[Dictionary, ...]
    variants: tuple[Variant, ...]
    measures: tuple[dict[str, Any], ...]
    steps: int


class Fit:
    """A run, from what it trains to its last step. `fit` does the usual thing with one.

    Args:
        config: every choice.
        source: rows, standing at the start of the data.
        mesh: devices; None: the default device.
    """

    def __init__(self, config: FitConfig, source: RowSource, mesh: Mesh | None = None):
        self.config, self.source, self.mesh = config.resolved(), source, mesh
        c, shapes = self.config, source.shapes
        inputs, width = shapes["x"].shape
        outputs = shapes["target"].shape if "target" in shapes else (None, None)
        self._check_inputs(inputs)
        self.dictionary: DictionaryConfig = c.dictionary(inputs, width, *outputs)
        self.variants = c.variants()
        if (most := max(v.k for v in self.variants)) > self.dictionary.latents:
            raise UserError(
                found=f"k = {most}", expected=f"at most {self.dictionary.latents}, the latents",
                do="lower k, or take more latents",
            )  # fmt: skip
        self.key = keys.root_key(c.seed)
        # Held-out rows come first, so that the data that is trained on begins after them.
        self.held_out = HeldOut(source, c.eval_rows, c.batch_size)
        whole = (c.ring_rows, *shapes["x"].shape)
        self.ring = Ring(
            c.ring_rows, shapes, self.key, place=c.ring,
            sharding=None if mesh is None else row_sharding(whole, mesh),
        )  # fmt: skip
        self.feed = Feed(source, self.ring, c.batch_size, refill=c.refill, epochs=c.epochs)
        self.step = StepFunction(c, self.dictionary, self.variants, mesh)

    def _check_inputs(self, inputs: int) -> None:
        c = self.config
        if c.kind == "sae" and inputs != 1 or c.kind == "crosscoder" and inputs < 2:
            raise UserError(
                found=f"{inputs} activations for each token with kind {c.kind}",
                expected="one" if c.kind == "sae" else "two or more",
                do="change --layers, --other_model, --cache or --kind",
            )

    def first_state(self) -> Fitting:
        """The state before the first step: fills the ring for the statistics and the bias."""
        batch = self.feed.peek()
        rows = self.config.statistics_rows if self.config.normaliser != "none" else 0
        rms = 1.0 if self.config.normaliser == "rms" else None
        return first_state(batch, self.feed.first_rows(rows), self.step, rms)

    def abstract_state(self) -> Fitting:
        """Shapes of the state, and where each leaf lies."""
        return shape_of_state(self.source.shapes, self.step)

    def tree(self, state: Fitting) -> dict[str, Any]:
        """The whole state as one tree of arrays and keys."""
        feed = self.feed.tree(rows=self.config.save_ring)
        return {"fitting": state, "key": self.key, "feed": feed}

    def restore(self, checkpoints: Checkpoints) -> tuple[int, Fitting]:
        """The last checkpoint: its step and state; the feed goes back to where it was."""
        step, tree, extra = checkpoints.restore(self.tree(self.abstract_state()))
        self.feed.load(tree["feed"], extra)
        return step, tree["fitting"]

    def measure(self, state: Fitting) -> tuple[dict[str, Any], ...]:
        """Measures on the held-out rows, for each dictionary; the state stays as it is."""
        if not self.config.eval_rows:
            return tuple({} for _ in self.variants)
        return measures(state.train, self.held_out, self.config.dead_after, self.mesh)

    def dictionaries(self, state: Fitting) -> tuple[Dictionary, ...]:
        """The dictionaries as they stand."""
        one = lambda i: jax.tree.map(lambda leaf: leaf[i], state.train).dictionary()
        return tuple(one(i) for i in range(len(self.variants)))


def fit(
    config: FitConfig,
    source: RowSource,
    *,
    workdir: Workdir | None = None,
    mesh: Mesh | None = None,
    on_step: Callable[[int, dict[str, jax.Array]], None] | None = None,
) -> Fitted:
    """Trains, from the start or from the last checkpoint in the workdir.

    Args:
        config: every choice.
        source: rows, standing at the start of the data.
        workdir: for checkpoints and `metrics.jsonl`; None: nothing is written.
        mesh: devices; None: the default device.
        on_step: called after each step with its number and its metrics, each float32 [S]. They
            are still being computed: looking at them waits.

    Raises:
        UserError: what does not fit together, or data that ends too soon.
        KeyboardInterrupt: SIGTERM came; a checkpoint was written first.
    """
    run = Fit(config, source, mesh)
    c = run.config
    with contextlib.ExitStack() as stack:
        checkpoints = None
        writers: Any = ManyWriters()
        if workdir is not None:
            writers = stack.enter_context(open_writers(workdir.path, tensorboard=c.tensorboard))
            if c.checkpoint_every:
                checkpoints = stack.enter_context(Checkpoints(workdir / "checkpoints", keep=2))
        begin = 0
        if checkpoints is not None and checkpoints.latest_step() is not None:
            begin, state = run.restore(checkpoints)
        else:
            state = run.first_state()
        stopping = stack.enter_context(stop_asked())
        bar = stack.enter_context(Progress(c.steps, "training", unit="steps", start=begin))
        saved = begin
        for step in range(begin, c.steps):
            state, metrics = run.step(state, run.feed.draw())
            done = step + 1
            if on_step is not None:
                on_step(done, metrics)
            bar.update()
            if done % c.log_steps == 0 or done == c.steps:
                _log(writers, done, run.variants, metrics)
            asked = stopping()
            due = c.checkpoint_every and (done % c.checkpoint_every == 0 or done == c.steps)
            if checkpoints is not None and (asked or due):
                checkpoints.save(done, run.tree(state), run.feed.extra())
                saved = done
            if asked:
                if checkpoints is not None:
                    checkpoints.wait()
                writers.flush()
                raise KeyboardInterrupt(f"stopped after {saved} steps")
            if c.eval_every and done % c.eval_every == 0 and done != c.steps:
                _log_measures(writers, done, run.variants, run.measure(state))
        found = run.measure(state)
        _log_measures(writers, c.steps, run.variants, found)
    return Fitted(run.dictionaries(state), run.variants, found, c.steps)


def _log(writers: Any, step: int, variants: Sequence[Variant], metrics: dict) -> None:
    host = jax.device_get(metrics)
    writers.scalars(
        step,
        {
            f"{variant.name}/{name}" if variant.name else name: values[i]
            for i, variant in enumerate(variants)
            for name, values in host.items()
        },
    )
    writers.flush()


def _log_measures(writers: Any, step: int, variants: Sequence[Variant], found) -> None:
    scalars = {}
    for variant, one in zip(variants, found, strict=True):
        before = f"{variant.name}/eval/" if variant.name else "eval/"
        for name, value in one.items():
            if np.ndim(value) == 0:
                scalars[before + name] = value
            elif name.startswith("fve_per_output"):
                scalars |= {f"{before}{name}_{i}": part for i, part in enumerate(value)}
    if scalars:
        writers.scalars(step, scalars)
        writers.flush()
