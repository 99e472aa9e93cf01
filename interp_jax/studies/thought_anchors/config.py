"""What a thought-anchors run is told: one frozen dataclass, from which the flags are derived.

Every optional part (forced answers, adaptive numbers, resilience, the masking graph, head ablation)
is off by default; `stage` runs one part alone on what is there.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from interp_jax.models.sources import DEFAULT_MODEL
from interp_jax.runtime.config_fields import how as _speed
from interp_jax.runtime.config_fields import option as _field
from interp_jax.runtime.errors import UserError
from interp_jax.studies.thought_anchors.answer_divergence import SMOOTHINGS
from interp_jax.studies.thought_anchors.demo_problem import DEMO
from interp_jax.studies.thought_anchors.labels.linking import LINK_RULES
from interp_jax.studies.thought_anchors.rollout_pools import SIMILARITY_THRESHOLD
from interp_jax.studies.thought_anchors.vertical import PROXIMITY, TOP_HEADS
from interp_jax.text.answers import ANSWER_RULES

QUESTION = "{question}"
INSTRUCTION = (
    "{question}\n\nThink step by step. Write every step as a short sentence. "
    "Then write: The answer is"
)
OPENING = "Let's think step by step.\n\nStep 1:"
SCREENED = (
    "syllogism",
    "coin_flip",
    "chain_sum",
    "basic_arithmetic",
    "gsm_symbolic",
    "simple_equations",
    "leg_counting",
    "family_relationships",
)
TRACE_SOURCES = ("prompt", "problems", "problem")
CONTENT_THRESHOLD = 0.7
"""Cosine from which a later sentence says the same again (Thought Branches, arXiv 2510.27484)."""

Stage = Literal[
    "all", "base", "rollouts", "forced", "score", "labels", "white_box", "ablation", "report"
]


def _of_labels(default: Any, help: str, **metadata: Any) -> Any:
    """A field of the labels, which can be made again by others: their file says who made them."""
    return _field(default, help, affects_results=False, **metadata)


def _part(default: Any, help: str, **metadata: Any) -> Any:
    """A field of a part that can be added to a run: no other result depends on it, and what the
    part leaves in the workdir says itself what it was made with."""
    return _field(default, help, affects_results=False, **metadata)


@dataclass(frozen=True)
class ThoughtAnchorsConfig:
    """Every choice of a run; the help of each field is its documentation.

    Raises:
        UserError: values that do not go together.
    """

    workdir: str = _speed(
        "runs/thought_anchors",
        "Folder that everything is written to. Run the same command again to go on there.",
    )
    stage: Stage = _speed(
        "all",
        "Which part is run, on the files that the parts before it left in the workdir: base trace, "
        "rollouts, forced answers, scores, labels, the methods that look inside the model, head "
        "ablation, or the report.",
    )
    released: str | None = _field(
        None,
        "Folder of one trace in the released layout. --stage=score, labels, white_box and report "
        "read it (and what earlier stages left in the workdir) in place of a run's own files.",
    )
    model: str = _field(
        DEFAULT_MODEL, "Model to study: a packaged model, a folder, a .gguf file, or a hub id."
    )
    revision: str | None = _field(None, "Revision of a hub id.")
    dtype: Literal["float32", "bfloat16"] = _field(
        "float32", "Type of the weights. On most CPUs float32 is the faster one."
    )
    seed: int = _field(0, "Root of all random draws.", minimum=0, maximum=2**32 - 1)

    problem: str | None = _field(
        None, f"A generated problem, reasoning_gym:DATASET:SEED:INDEX. Default: {DEMO.spec}"
    )
    problems: str | None = _field(
        None, "JSONL file of problems: one object with `question` and `answer` on each line."
    )
    index: int = _field(0, "Which line of --problems, from 0.", minimum=0)
    prompt: str | None = _field(None, "A question of your own.")
    answer: str | None = _field(None, "The right answer to --prompt, if known.")
    rule: str | None = _field(
        None, "How answers are read. Default: by the problem.", choices=tuple(ANSWER_RULES)
    )
    trace: str | None = _field(
        None,
        "Text file with a trace that is there already. Only the methods that look inside the model "
        "are run on it (after --prompt, if that is given).",
    )

    instruction: str = _field(
        INSTRUCTION, f"What the model is asked; {QUESTION} stands for the question."
    )
    opening: str = _field(
        OPENING, "What the model's turn is opened with; counts as part of the prompt."
    )
    base: Literal["correct", "incorrect", "any"] = _field(
        "any", "Which answer the base trace must give. `any` needs no known answer."
    )
    base_tries: int = _field(128, "Most base traces that are tried.", minimum=1)
    min_sentences: int = _field(8, "Fewest sentences of a base trace.", minimum=1)
    max_sentences: int = _field(40, "Most sentences of a base trace.", minimum=1)

    rollouts: int = _field(32, "Rollouts for each sentence.", minimum=2)
    adaptive_width: float | None = _field(
        None,
        "Stop the rollouts of a sentence as soon as the 95 % Wilson interval of its accuracy is "
        "narrower than this. --rollouts is then the most that are made.",
        minimum=0.0,
        maximum=1.0,
    )
    adaptive_minimum: int = _field(
        16, "Fewest rollouts of a sentence before it may stop early.", minimum=2
    )
    adaptive_round: int = _field(8, "Rollouts of a sentence between two looks.", minimum=1)
    forced_rollouts: int = _field(
        0,
        "Forced answers at each boundary between sentences: the thinking is closed there and the "
        "answer opened.",
        minimum=0,
    )
    forced_lead_in: str | None = _field(
        None,
        "What a forced answer is opened with. Default: by the rule that reads answers. `reference` "
        "is the published one, for boxed answers; any other text is taken as it is.",
    )
    forced_max_new_tokens: int = _field(24, "Most tokens of a forced answer.", minimum=1)
    reference_compat: bool = _field(
        False,
        "Read as the published code does: the first box of trace and continuation is a forced "
        "answer, also an unclosed one, and an answer `None` is an outcome of the KL.",
    )
    rollout_prefix: Literal["trace", "joined", "reference"] = _field(
        "trace",
        "What a rollout continues: the trace's own tokens before the sentence; the sentences "
        "before it joined by single spaces; or, as the published code does, these and the "
        "sentence joined and then every occurrence of its text deleted, earlier ones too.",
    )
    temperature: float = _field(0.6, "Sampling temperature.", minimum=0.01)
    top_p: float = _field(
        0.95, "Share of probability that sampling is kept to.", minimum=0.01, maximum=1.0
    )
    max_new_tokens: int = _field(192, "Most tokens of a base trace and of a rollout.", minimum=1)
    # Rows decide the compiled program, whose last bits a sampled token can hang on.
    batch_size: int = _field(64, "Rollouts that are made at once.", minimum=1)
    similarity_threshold: float = _field(
        SIMILARITY_THRESHOLD,
        "Cosine below which another sentence counts as a different one.",
        minimum=-1.0,
        maximum=1.0,
    )
    smoothing: str = _field(
        "jeffreys", "How counts of answers become the distributions of a KL.",
        choices=tuple(SMOOTHINGS),
    )
    content_threshold: float = _field(
        CONTENT_THRESHOLD,
        "Cosine from which a later sentence of a rollout says the removed one's content again.",
        minimum=-1.0,
        maximum=1.0,
    )
    resilience_rounds: int = _field(
        0,
        "Most times that a sentence is removed again where its content comes back; 0 leaves "
        "resilience out.",
        minimum=0,
    )
    resilience_chains: int = _field(
        8, "Rollouts of each sentence that resilience is measured on.", minimum=1
    )
    labels: Literal["none", "rules", "endpoint", "local"] = _of_labels(
        "rules",
        "Who labels sentences: nobody, fixed rules, a model behind an OpenAI-compatible endpoint, "
        "or a model loaded here.",
    )
    label_links: str = _of_labels(
        "previous",
        "How fixed rules link a sentence to earlier ones: to the one before it, to the ones that "
        "last used its rarest numbers and symbols, or to both.",
        choices=tuple(LINK_RULES),
    )
    judge_model: str | None = _of_labels(
        None, "The labelling model: as its endpoint names it, or as --model does for a local one."
    )
    judge_url: str = _of_labels("https://api.openai.com/v1", "Address of the endpoint.")
    judge_key_variable: str | None = _of_labels(
        "OPENAI_API_KEY", "Environment variable that holds the endpoint's key; none if it has none."
    )
    proximity: int = _field(
        PROXIMITY, "Sentences nearer than this are left out of the receiver heads' score.",
        minimum=0,
    )
    receiver_heads: int = _field(TOP_HEADS, "How many receiver heads are taken.", minimum=1)
    masking_graph: bool = _part(
        False,
        "Also delete each sentence and score what follows again (the stage white_box): one suffix "
        "of the trace for each sentence, as attention suppression.",
    )
    ablate_heads: int = _part(
        0,
        "Ablate so many of the strongest receiver heads, beside as many random heads of the same "
        "layers and beside none: accuracy of answers, and KL on the trace. 0 leaves it out.",
        minimum=0,
    )
    ablation_problems: str | None = _part(
        None,
        "Problems on which accuracy under ablation is measured, those without an answer left out: "
        "a JSONL file, or the first of generated ones, reasoning_gym:DATASET:SEED:INDEX. Default: "
        "the run's own problem and those that follow it in its file or generator.",
    )
    ablation_count: int = _part(32, "How many of those problems at most.", minimum=1)
    ablation_samples: int = _part(
        4, "Answers for each of those problems with receiver, random and no heads ablated.",
        minimum=1,
    )

    screen: int = _field(
        0,
        "Look for a problem instead: try this many generated ones, and list those that the model "
        "solves sometimes.",
        minimum=0,
    )
    screen_datasets: tuple[str, ...] = _field(
        SCREENED, "Generators that --screen draws from, in turn."
    )
    screen_samples: int = _field(4, "Traces of each screened problem.", minimum=2)
    screen_refine: int = _field(
        12, "How many of the most promising problems get more traces.", minimum=0
    )
    screen_refined_samples: int = _field(
        32, "Traces of each of those, the first ones included.", minimum=2
    )

    smoke: bool = _field(
        False, "Run everything in about a minute, with sizes too small to mean anything."
    )
    plan_only: bool = _speed(
        False, "Compile, print what the big programs need, and stop before any of them runs."
    )
    log_every: float = _speed(
        30.0, "Seconds between log lines where there is no terminal.", minimum=0.0
    )
    tensorboard: bool = _speed(False, "Write TensorBoard files beside the JSON lines.")
    compilation_cache_dir: str | None = _speed(
        None,
        "Folder that compiled programs are kept in between runs. Whoever can write there can run "
        "code as you.",
    )

    def __post_init__(self) -> None:
        given = [name for name in TRACE_SOURCES if getattr(self, name) is not None]
        if len(given) > 1:
            raise _wrong(f"both --{given[0]} and --{given[1]}", "one source of problems")
        if self.trace is not None and given not in ([], ["prompt"]):
            raise _wrong(f"--trace with --{given[0]}", "--trace alone or with --prompt")
        if self.trace is not None and self.screen:
            raise _wrong("--trace with --screen", "one of the two")
        if self.answer is not None and self.prompt is None:
            raise _wrong("--answer without --prompt", "--answer to a --prompt")
        if self.index and self.problems is None:
            raise _wrong(f"--index={self.index} without --problems", "--index into --problems")
        if QUESTION not in self.instruction:
            raise _wrong(f"the instruction {self.instruction!r}", f"{QUESTION} somewhere in it")
        if self.min_sentences > self.max_sentences:
            raise _wrong(
                f"--min_sentences={self.min_sentences} and --max_sentences={self.max_sentences}",
                "the least to be at most the most",
            )
        if self.screen and not self.screen_datasets:
            raise _wrong("--screen without --screen_datasets", "at least one generator")
        if self.released is not None and (given or self.trace is not None or self.screen):
            other = given[0] if given else "trace" if self.trace is not None else "screen"
            raise _wrong(f"--released with --{other}", "one of the two")
        if self.released is not None and self.stage in ("base", "rollouts", "forced"):
            raise _wrong(
                f"--stage={self.stage} with --released",
                "--stage=score, labels, white_box, ablation or report: a released trace is not "
                "continued",
            )
        if self.released is not None and self.plan_only:
            raise _wrong("--plan_only with --released", "one of the two")
        if self.trace is not None and self.stage in ("base", "rollouts", "forced", "score"):
            raise _wrong(
                f"--stage={self.stage} with --trace",
                "--stage=labels, white_box, ablation or report: a given trace is not continued",
            )
        if self.stage == "forced" and not self.forced_rollouts:
            raise _wrong("--stage=forced with --forced_rollouts=0", "at least one of them")
        if self.stage == "ablation" and not self.ablate_heads:
            raise _wrong("--stage=ablation with --ablate_heads=0", "at least one of them")
        if self.stage == "labels" and self.labels == "none":
            raise _wrong("--stage=labels with --labels=none", "somebody to label")
        if self.labels in ("endpoint", "local") and self.judge_model is None:
            raise _wrong(f"--labels={self.labels} without --judge_model", "the labelling model")
        if self.smoothing not in SMOOTHINGS:
            raise _wrong(f"--smoothing={self.smoothing}", "one of " + ", ".join(SMOOTHINGS))
        if self.forced_lead_in is not None and not self.forced_lead_in.strip():
            raise _wrong("a blank --forced_lead_in", "some words, or none for the default")
        if self.rule is not None and self.rule not in ANSWER_RULES:
            raise _wrong(f"--rule={self.rule}", "one of " + ", ".join(ANSWER_RULES))

    @property
    def must_end(self) -> bool:
        """Whether a base trace must end by itself; a smoke test takes what it gets."""
        return not self.smoke

    def resolved(self) -> ThoughtAnchorsConfig:
        """The config that is run and written down: the demo's problem named, smoke sizes in."""
        config = self
        given = (*TRACE_SOURCES, "trace", "released")
        if all(getattr(config, name) is None for name in given):
            config = dataclasses.replace(config, problem=DEMO.spec)
        if config.smoke:
            config = dataclasses.replace(
                config,
                base="any",
                base_tries=min(config.base_tries, 4),
                min_sentences=min(config.min_sentences, 2),
                rollouts=min(config.rollouts, 2),
                forced_rollouts=min(config.forced_rollouts, 2),
                resilience_rounds=min(config.resilience_rounds, 2),
                resilience_chains=min(config.resilience_chains, 2),
                ablation_count=min(config.ablation_count, 2),
                ablation_samples=min(config.ablation_samples, 2),
                max_new_tokens=min(config.max_new_tokens, 48),
                batch_size=min(config.batch_size, 4),
                screen=min(config.screen, 4),
                screen_samples=min(config.screen_samples, 2),
                screen_refine=min(config.screen_refine, 1),
                screen_refined_samples=min(config.screen_refined_samples, 3),
            )
        return config


def _wrong(found: str, expected: str) -> UserError:
    return UserError(found=found, expected=expected, do="correct the flags")
