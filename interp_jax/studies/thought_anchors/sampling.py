"""Continuations of one trace, sampled into a journal: one cache, one queue, any number of rounds.

Prompt and trace are run once. A continuation keeps a beginning of them, which is a slice of that
one cache, and may have tokens of its own before what is sampled. Each is in the journal as soon
as its batch hands it over, so a run that was stopped makes again only what was under way.

A step costs as much for idle rows as for busy ones, so a round that asks for few continuations
gets a small batch (`rows_for`). Its size follows from how many the round asks for in all, not from
how many are still to be made: a run that goes on in the middle of a round then has the batches,
and so the bits, of an unbroken one.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import jax
import numpy as np

from interp_jax.generation.engine import Engine
from interp_jax.generation.language_model import LanguageModel
from interp_jax.generation.prefixes import SharedPrefix, at_cut
from interp_jax.generation.prompts import Prompt
from interp_jax.generation.requests import Request, Stats, bucket
from interp_jax.models import roles
from interp_jax.runtime.errors import UserError
from interp_jax.runtime.journal import Journal
from interp_jax.runtime.metrics import MetricWriter
from interp_jax.runtime.progress import Progress
from interp_jax.studies.thought_anchors.asking import Trace
from interp_jax.studies.thought_anchors.base_trace import sampler
from interp_jax.studies.thought_anchors.config import ThoughtAnchorsConfig

SESSION = "session/"


@dataclass(frozen=True)
class Continuation:
    """What one sample continues.

    Attributes:
        cut: how many tokens of prompt and trace are kept.
        key: typed key of this sample.
        budget: new tokens at most; less where the context ends before.
        own: int32 [N], tokens between the kept ones and what is sampled; may be empty.
    """

    cut: int
    key: jax.Array
    budget: int
    own: np.ndarray | None = None


def rows_for(asked: int, batch_size: int) -> int:
    """Rows of a batch for so many samples: the next bucket (1, 2, 3, 4, 6, 8, 12, ...), or all."""
    return min(batch_size, bucket(max(asked, 1), 1))


class TraceSampler:
    """Samples continuations of a trace into one journal.

    Attributes:
        tokens, seconds: sampled by this object, and how long that took.
        remade: at most so many had been begun by an interrupted run and were made again.
        stats: what the engines of this object did.
    """

    def __init__(
        self, lm: LanguageModel, trace: Trace, config: ThoughtAnchorsConfig, journal: Journal,
        writer: MetricWriter, *, what: str = "rollouts",
    ):
        self.lm, self.trace, self.config = lm, trace, config
        self.journal, self.writer, self.what = journal, writer, what
        self.stats = Stats()
        self._engines: dict[int, Engine] = {}
        self.tokens, self.seconds, self.remade = 0, 0.0, 0
        self._prefix: SharedPrefix | None = None
        self._unfinished = self._made = 0

    def sample(
        self, wanted: Mapping[str, Continuation], total: int, *, extra: Mapping | None = None
    ) -> None:
        """Makes what the journal lacks of `wanted`, by id.

        Args:
            wanted: everything that the round asks for, what is there already too: their number
                decides how many rows a batch has.
            total: how many there will be in the end, for the eye.
            extra: by id, what is written into the record beside `tokens` and `finish`.

        Raises:
            UserError: prompt, trace and a new token are longer than the network's context.
        """
        todo = [name for name in wanted if name not in self.journal]
        if not todo:
            return
        began = time.monotonic()
        there = sum(not name.startswith(SESSION) for name in self.journal.done)
        if self._prefix is None:
            self._begin(there, total, len(todo))
        engine = self._engine(rows_for(len(wanted), self.config.batch_size))
        requests = [
            self._request(item, wanted[name]) for item, name in enumerate(todo)
        ]
        with Progress(total, self.what, unit=self.what, start=there,
                      log_every=self.config.log_every) as bar:
            for count, sample in enumerate(engine.run(requests, self._prefix), start=1):
                name = todo[sample.item]
                record = {"tokens": sample.tokens.tolist(), "finish": sample.finish}
                self.journal.append(name, record | dict((extra or {}).get(name, {})))
                self.tokens += len(sample.tokens)
                self._made += 1
                self._unfinished += sample.finish != "stop"
                bar.update(1, unfinished=f"{self._unfinished / self._made:.0%}")
                if count % self.config.batch_size == 0 or count == len(todo):
                    self._tell(there + count)
        self.seconds += time.monotonic() - began

    def _begin(self, there: int, total: int, todo: int) -> None:
        """The cache of prompt and trace, and a record that says what an interruption may cost."""
        whole, context = Prompt(self.trace.ids, self.trace.roles), self._context
        if len(whole.ids) >= context:
            raise UserError(
                found=f"a prompt and trace of {len(whole.ids)} tokens",
                expected=f"fewer than {context}, the context of the network",
                do="take a shorter problem or trace",
            )
        sessions = [record for name, record in self.journal.records() if name.startswith(SESSION)]
        batch = self.config.batch_size
        self.remade = min(sessions[-1]["batch"], todo) if sessions else 0
        if self.remade:
            print(
                f"Going on after {there} of {total} {self.what}; at most {self.remade} that were "
                f"under way are made again (a batch is {batch})."
            )
        self.journal.append(f"{SESSION}{len(sessions)}", {"batch": batch, "done": there})
        self._prefix = self.lm.prefix(whole)

    def _engine(self, rows: int) -> Engine:
        if rows not in self._engines:
            self._engines[rows] = sampler(self.lm, self.config, rows)
            self._engines[rows].stats = self.stats
        return self._engines[rows]

    @property
    def _context(self) -> int:
        return self.lm.network.config.max_context

    def _request(self, item: int, one: Continuation) -> Request:
        own = np.zeros(0, np.int32) if one.own is None else np.asarray(one.own, np.int32)
        room = self._context - one.cut - len(own)
        if room < 1:
            raise UserError(
                found=f"{one.cut} tokens of prompt and trace and {len(own)} more",
                expected=f"fewer than {self._context}, the context of the network",
                do="take a shorter problem or trace",
            )
        budget = min(one.budget, room)
        if not len(own):
            tokens, own_roles, cut = at_cut(self._prefix, one.cut)
            return Request(tokens, one.key, budget, own_roles, cut, item)
        own_roles = np.full(len(own), roles.REASONING, np.int8)
        return Request(own, one.key, budget, own_roles, one.cut, item)

    def _tell(self, step: int) -> None:
        values = {
            f"{self.what}/tokens": self.tokens,
            f"{self.what}/unfinished_share": self._unfinished / self._made,
        }
        busy = self.stats.busy_while_waiting
        if busy is not None:
            values[f"{self.what}/busy_rows_while_waiting"] = busy
        self.writer.scalars(step, values)


def samples_in(journal: Journal) -> dict[str, dict]:
    """The sampled records of a journal by id."""
    return {name: record for name, record in journal.records() if not name.startswith(SESSION)}
