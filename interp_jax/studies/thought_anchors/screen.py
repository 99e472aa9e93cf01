"""Looking for a problem that the model solves sometimes, which is where a sentence can matter.

The paper takes problems solved in 25 to 75 % of the traces. Many generated problems get a few
traces each, in one run of the engine; the most promising get more. A problem will do if its
accuracy lies in the window and some of its traces end by themselves with enough sentences. If
none does, the one with the largest answer entropy is taken, and the result says so.
"""

from __future__ import annotations

import collections
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

from interp_jax.generation.language_model import LanguageModel
from interp_jax.generation.requests import Request
from interp_jax.runtime.errors import UserError
from interp_jax.runtime.journal import Journal
from interp_jax.runtime.keys import fold, root_key
from interp_jax.runtime.progress import Progress
from interp_jax.studies.thought_anchors.asking import ask
from interp_jax.studies.thought_anchors.base_trace import sampler, trace_tokens
from interp_jax.studies.thought_anchors.config import ThoughtAnchorsConfig
from interp_jax.studies.thought_anchors.intervals import wilson_interval
from interp_jax.studies.thought_anchors.problems import Problem, reasoning_gym_problem
from interp_jax.text.sentences import split_sentences

WINDOW = (0.25, 0.75)
BY_ACCURACY = "accuracy in 25 to 75 %"
BY_ENTROPY = "answer entropy (no problem had an accuracy in 25 to 75 %)"


@dataclass(frozen=True)
class Screened:
    """How the model did on one problem.

    Attributes:
        spec: the problem.
        samples, correct: traces, and how many gave the right answer.
        accuracy, low, high: their share, and its 95 % Wilson interval.
        finished: share that ended by themselves; fit: share that did so with enough sentences
            and an answer.
        sentences: mean number.
        entropy: of the answers, in nats; having none is an answer like another.
    """

    spec: str
    samples: int
    correct: int
    accuracy: float
    low: float
    high: float
    finished: float
    fit: float
    sentences: float
    entropy: float

    @property
    def in_window(self) -> bool:
        """Whether the accuracy is neither near 0 nor near 1."""
        return WINDOW[0] <= self.accuracy <= WINDOW[1]


@dataclass(frozen=True)
class ScreenResult:
    """All problems screened, the best first, and the one chosen (None: no trace was fit)."""

    table: tuple[Screened, ...]
    chosen: Screened | None
    chosen_by: str

    def to_json(self) -> dict:
        """As JSON values."""
        return {
            "chosen": None if self.chosen is None else asdict(self.chosen),
            "chosen_by": self.chosen_by,
            "candidates": len(self.table),
            "table": [asdict(row) for row in self.table],
        }

    def text(self, rows: int = 20) -> str:
        """The first rows as a table for the eye, and the choice in words."""
        lines = [f"{'problem':44} {'right':>7} {'95 % interval':>14} {'fit':>5} {'entropy':>8}"]
        for row in self.table[:rows]:
            right, interval = f"{row.correct}/{row.samples}", f"{row.low:.2f} to {row.high:.2f}"
            lines.append(
                f"{row.spec:44} {right:>7} {interval:>14} {row.fit:5.0%} {row.entropy:8.2f}"
            )
        if self.chosen is None:
            lines.append("No problem had a trace that ended by itself with enough sentences.")
        else:
            lines.append(f"Chosen by {self.chosen_by}: --problem={self.chosen.spec}")
        return "\n".join(lines)


def candidates(config: ThoughtAnchorsConfig) -> list[Problem]:
    """Generated problems, the data sets in turn, without those that have no answer.

    Raises:
        UserError: an unknown data set.
    """
    problems, index, names = [], 0, config.screen_datasets
    while len(problems) < config.screen:
        for name in names[: config.screen - len(problems)]:
            problems.append(reasoning_gym_problem(name, config.seed, index, rule=config.rule))
        index += 1
    return problems


def screen(
    lm: LanguageModel, config: ThoughtAnchorsConfig, journal: Journal
) -> ScreenResult:
    """Screens what the journal lacks, then chooses.

    Raises:
        UserError: an unknown data set, or a question longer than the context.
    """
    problems = {problem.source: problem for problem in candidates(config)}
    if not problems:
        raise UserError(found="no candidates", expected="at least one", do="raise --screen")
    first = [(spec, n) for spec in problems for n in range(config.screen_samples)]
    _sample(lm, problems, first, "screening", config, journal)
    # By the first traces alone, so that a run that goes on refines the same problems.
    table = _table(problems, journal, config, below=config.screen_samples)
    again = [row.spec for row in table[: config.screen_refine]]
    more = range(config.screen_samples, config.screen_refined_samples)
    _sample(lm, problems, [(s, n) for s in again for n in more], "trying again", config, journal)
    table = _table(problems, journal, config)
    return choose(table)


def choose(table: Sequence[Screened]) -> ScreenResult:
    """The best problem of a table; those with more traces are known better and go first."""
    most = max((row.samples for row in table), default=0)
    fit = [row for row in table if row.fit > 0]
    known = [row for row in fit if row.samples == most] or fit
    inside = [row for row in known if row.in_window] or [row for row in fit if row.in_window]
    if inside:
        return ScreenResult(tuple(table), max(inside, key=promise), BY_ACCURACY)
    chosen = max(known, key=lambda row: row.entropy, default=None)
    return ScreenResult(tuple(table), chosen, BY_ENTROPY)


def promise(row: Screened) -> float:
    """Room for the answer to move, times the share of traces that can be a base trace.

    Both as if two more traces had been seen, one of each kind: two of two is not yet always.
    """
    likely = (row.correct + 1) / (row.samples + 2)
    fit = (row.fit * row.samples + 1) / (row.samples + 2)
    return (1 - abs(2 * likely - 1)) * fit


def _sample(
    lm: LanguageModel, problems: Mapping[str, Problem], wanted: Iterable[tuple[str, int]],
    what: str, config: ThoughtAnchorsConfig, journal: Journal,
) -> None:
    wanted = list(wanted)
    todo = [pair for pair in wanted if _id(*pair) not in journal]
    prompts = {
        spec: ask(lm, problems[spec].question, config.instruction, config.opening)
        for spec in dict.fromkeys(spec for spec, _ in todo)
    }
    key = root_key(config.seed)
    requests = [
        Request(prompts[spec].ids, fold(key, "screen", spec, number), config.max_new_tokens,
                prompts[spec].roles, item=item)
        for item, (spec, number) in enumerate(todo)
    ]
    engine = sampler(lm, config)
    with Progress(len(wanted), what, unit="traces", start=len(wanted) - len(todo),
                  log_every=config.log_every) as bar:
        for sample in engine.run(requests):
            spec, number = todo[sample.item]
            text = lm.tokenizer.decode(trace_tokens(sample.tokens, sample.finish))
            finished = sample.finish == "stop"
            answer = problems[spec].read(text) if finished else ""
            record = {
                "text": text, "finished": finished, "tokens": len(sample.tokens),
                "sentences": len(split_sentences(text)), "answer": answer,
                "correct": bool(answer) and problems[spec].check(text),
            }
            journal.append(_id(spec, number), record)
            bar.update(1)


def _table(
    problems: Mapping[str, Problem], journal: Journal, config: ThoughtAnchorsConfig,
    below: int | None = None,
) -> list[Screened]:
    """Rows of the problems, the most promising first; of their first `below` traces."""
    by_problem: dict[str, list[dict]] = collections.defaultdict(list)
    for name, record in journal.records():
        spec, number = name.rsplit("/", 1)
        if below is None or int(number) < below:
            by_problem[spec].append(record)
    rows = [summarise(spec, by_problem[spec], config) for spec in problems if by_problem[spec]]
    return sorted(rows, key=lambda row: (-promise(row), -row.entropy, row.spec))


def summarise(
    spec: str, records: Sequence[Mapping], config: ThoughtAnchorsConfig
) -> Screened:
    """One row of the table from a problem's traces."""
    count = len(records)
    correct = sum(record["correct"] for record in records)
    low, high = wilson_interval(correct, count)
    fit = sum(
        record["finished"] and bool(record["answer"])
        and config.min_sentences <= record["sentences"] <= config.max_sentences
        for record in records
    )
    shares = [
        times / count for times in collections.Counter(r["answer"] for r in records).values()
    ]
    return Screened(
        spec=spec, samples=count, correct=correct, accuracy=correct / count, low=float(low),
        high=float(high), finished=sum(r["finished"] for r in records) / count, fit=fit / count,
        sentences=sum(r["sentences"] for r in records) / count,
        entropy=-sum(share * math.log(share) for share in shares) + 0.0,
    )


def _id(spec: str, number: int) -> str:
    return f"{spec}/{number}"
