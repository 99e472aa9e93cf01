"""A language model: a network with its tokenizer, chat template and provenance.

    lm = load("smollm2-135m-instruct")
    out = lm.generate(["What is the capital of France?"], max_new_tokens=20)
    print(out[0].text)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import jax
import numpy as np

from interp_jax.generation.collecting import Keep
from interp_jax.generation.engine import Engine, PerRow
from interp_jax.generation.prefixes import SharedPrefix, make_prefix
from interp_jax.generation.prompts import Messages, Prompt, make_prompt
from interp_jax.generation.requests import Finish, Request, Sample, Stats, bucket
from interp_jax.generation.sampling_params import SamplingParams
from interp_jax.generation.stops import StopStrings
from interp_jax.interventions.run import require_touched, run
from interp_jax.models import roles
from interp_jax.models.batch import Batch
from interp_jax.models.chat import ChatTemplate
from interp_jax.models.decoder import Decoder, Layout, Tape, build_decoder
from interp_jax.models.pretrained import Origin, load_parameters
from interp_jax.models.sharding import parameter_sharding
from interp_jax.models.sources import DEFAULT_MODEL
from interp_jax.models.tokenizer import Tokenizer
from interp_jax.runtime.errors import UserError
from interp_jax.runtime.keys import fold, root_key

AnyPrompt = str | Messages | Prompt | np.ndarray | Sequence[int]


@dataclasses.dataclass(frozen=True)
class Completion:
    """One sample as text.

    Attributes:
        prompt: index of its prompt. sample: which of the prompt's n samples.
        text: without the stop token or stop string.
        tokens: int32 [n], what was sampled, the stop token included.
        log_probs: float32 [n], natural log, under the distribution drawn from.
        model_log_probs: float32 [n] under the plain model, or None unless asked.
        finish: `stop`, `length` or `stop_string`.
        tape: this sample's counts (touched tokens) and reads.
    """

    prompt: int
    sample: int
    text: str
    tokens: np.ndarray
    log_probs: np.ndarray
    model_log_probs: np.ndarray | None
    finish: Finish
    tape: dict[str, np.ndarray]


class Generation(list[Completion]):
    """Completions in the order prompt, then sample, with the engine's `stats`."""

    stats: Stats


@dataclasses.dataclass(frozen=True)
class LanguageModel:
    """See the module. Replace `network` to study an edited one."""

    network: Decoder
    tokenizer: Tokenizer
    chat_template: ChatTemplate | None
    origin: Origin

    def prompt(
        self, what: AnyPrompt, *, chat: bool = True, continue_final: bool = False
    ) -> Prompt:
        """Tokens and roles of a prompt; see `prompts.make_prompt`."""
        return make_prompt(
            what, self.tokenizer, self.chat_template, chat=chat, continue_final=continue_final
        )

    def batch(self, prompts: Sequence[AnyPrompt], **options) -> Batch:
        """Prompts as a batch, padded on the right to a length bucket."""
        return pad_prompts([self.prompt(p, **options) for p in prompts])

    def logits(
        self, prompts: Sequence[AnyPrompt], *interventions, logits_at: str = "all",
        allow_untouched: bool = False, **options,
    ) -> tuple[jax.Array, Tape]:
        """One forward pass over prompts; see `interventions.run.run`."""
        return run(
            self.network, self.batch(prompts, **options), *interventions, logits_at=logits_at,
            allow_untouched=allow_untouched,
        )

    def generate(
        self,
        prompts: AnyPrompt | Sequence[AnyPrompt],
        *,
        interventions=None,
        per_row: PerRow | None = None,
        max_new_tokens: int = 128,
        temperature: float = 0.0,
        top_p: float | None = None,
        top_k: int | None = None,
        min_p: float | None = None,
        repetition_penalty: float | None = None,
        n: int = 1,
        seed: int = 0,
        stop: Sequence[str] = (),
        stop_tokens: Sequence[int] | None = None,
        batch_size: int = 64,
        chat: bool = True,
        continue_final: bool = False,
        role: int = roles.ANSWER,
        model_log_probs: bool = False,
        keep: Keep | None = None,
        allow_untouched: bool = False,
        progress: bool = False,
    ) -> Generation:
        """Samples `n` continuations of every prompt.

        Args:
            prompts: strings, message lists, token ids or `Prompt`s; one of these
                stands for a list of one. See `prompts.make_prompt`.
            interventions: `network -> network`, held through prompt and decoding.
            per_row: prompt indices [B] -> intervention with per-row operands.
            max_new_tokens: at most, the stop token included.
            temperature: 0 is greedy. top_p, top_k, min_p, repetition_penalty:
                filters in transformers' order; None leaves one out.
            n: samples of each prompt. seed: root of all draws; sample s of
                prompt p depends on (seed, p, s) and on nothing else.
            stop: strings that end a sample. stop_tokens: ids that do; None for
                the tokenizer's own.
            batch_size: rows in flight at most.
            chat, continue_final: see `prompts.make_prompt`.
            role: of the generated tokens.
            model_log_probs: also under the plain model.
            keep: what becomes of reads during decoding, see `collecting`.
            allow_untouched: accept interventions that touched no token.
            progress: show a bar of finished samples.

        Returns:
            Completions, in the order of prompts and samples.

        Raises:
            UserError: a prompt with its budget longer than the context, or an
                intervention that touched nothing.
        """
        single = _is_one(prompts)
        made = [
            self.prompt(p, chat=chat, continue_final=continue_final)
            for p in ([prompts] if single else prompts)
        ]
        # Many samples of one prompt share its cache.
        prefix = None
        if len(made) == 1 and n > 1 and per_row is None and len(made[0].ids) > 1:
            prefix = self._all_but_last(made[0], interventions)
        cut = 0 if prefix is None else len(prefix.tokens)
        key = root_key(seed)
        requests = [
            Request(
                p.ids[cut:], fold(key, "sample", index, sample), max_new_tokens, p.roles[cut:],
                cut, index * n + sample,
            )
            for index, p in enumerate(made) for sample in range(n)
        ]
        params = SamplingParams.make(
            temperature, top_p, top_k, min_p, repetition_penalty,
            with_model_log_prob=model_log_probs,
        )
        watch = _StopWatch(self.tokenizer, StopStrings(tuple(stop))) if stop else None
        engine = Engine(
            self.network, params,
            stop_tokens=self.tokenizer.special.stop if stop_tokens is None else stop_tokens,
            interventions=interventions, batch_size=batch_size, role=role, keep=keep,
            per_row=None if per_row is None else (lambda items: per_row(items // n)),
            watch=watch,
        )
        samples: list[Sample] = list(
            _shown(engine.run(requests, prefix), len(requests), progress)
        )
        for sample in samples if prefix is not None else ():
            for name, count in prefix.tape.items():
                sample.tape[name] = sample.tape.get(name, np.int32(0)) + np.int32(count[0])
        result = Generation(
            self.completion(s, s.item // n, s.item % n, watch)
            for s in sorted(samples, key=lambda s: s.item)
        )
        result.stats = engine.stats
        if not allow_untouched and (interventions is not None or per_row is not None):
            require_touched(_total_counts(samples))
        return result

    def completion(
        self, sample: Sample, prompt: int = 0, number: int = 0, watch: _StopWatch | None = None
    ) -> Completion:
        """A sample of the engine as text."""
        finish = sample.finish
        text = self.tokenizer.decode(sample.tokens[:-1] if finish == "stop" else sample.tokens)
        if watch is not None:
            text, keep, found = watch.trim(sample.tokens, text)
            finish = "stop_string" if found else finish
            sample = sample.first(keep)
        return Completion(
            prompt, number, text, sample.tokens, sample.log_probs, sample.model_log_probs, finish,
            sample.tape,
        )

    def prefix(self, prompt: Prompt, interventions=None) -> SharedPrefix:
        """Runs a prompt once, so that many samples can continue it anywhere."""
        return make_prefix(
            self.network, prompt.ids, roles=prompt.roles, interventions=interventions
        )

    def _all_but_last(self, prompt: Prompt, interventions) -> SharedPrefix:
        """A prompt's prefix for rows that feed its last token themselves."""
        return make_prefix(
            self.network, prompt.ids[:-1], roles=prompt.roles[:-1], interventions=interventions,
            length=len(prompt.ids),
        )


class _StopWatch:
    """Looks for stop strings in what rows have written so far."""

    def __init__(self, tokenizer: Tokenizer, strings: StopStrings):
        self.tokenizer, self.strings = tokenizer, strings

    def __call__(self, item: int, tokens: np.ndarray) -> bool:
        return self.strings.match(self.tokenizer.decode(tokens)) is not None

    def trim(self, tokens: np.ndarray, text: str) -> tuple[str, int, bool]:
        """(text before the stop string, tokens up to the one that completes it, found)."""
        match = self.strings.match(text)
        if match is None:
            return text, len(tokens), False
        low, high = 1, len(tokens)
        while low < high:
            middle = (low + high) // 2
            done = self.strings.match(self.tokenizer.decode(tokens[:middle])) is not None
            low, high = (low, middle) if done else (middle + 1, high)
        return text[: match.start], low, True


def load(
    name: str = DEFAULT_MODEL, *, dtype: str = "float32", layout: Layout | None = None,
    revision: str | None = None, tokenizer: str | None = None,
    mesh: jax.sharding.Mesh | None = None,
) -> LanguageModel:
    """Loads a language model.

    Args:
        name: a folder in Hugging Face layout, a `.gguf` file, a packaged model
            (`smollm2-135m-instruct`) or a hub id. See `models.sources`.
        dtype: of the weights, `float32` or `bfloat16`. The residual stream is
            float32 with both.
        layout: `unrolled` or `scanned`; None is unrolled on a CPU, where decoding
            is then faster, and scanned elsewhere, where it compiles faster.
        revision: of a hub id. tokenizer: folder of another tokenizer.
        mesh: devices that hold the weights together (`runtime.mesh.make_mesh`), each
            reading its own part of the files; None for the default device.

    Raises:
        UserError: whatever is wrong with the name, the files or their contents.
    """
    sharding_for = None if mesh is None else parameter_sharding(mesh)
    weights = load_parameters(name, dtype, revision, tokenizer, sharding_for)
    if layout is None:
        layout = "unrolled" if jax.default_backend() == "cpu" else "scanned"
    network = build_decoder(weights.config, weights.params, layout)
    return LanguageModel(network, weights.tokenizer, weights.chat_template, weights.origin)


def pad_prompts(prompts: Sequence[Prompt]) -> Batch:
    """A batch of prompts, padded on the right to a length bucket."""
    if not prompts:
        raise UserError(found="no prompts", expected="at least one", do="give some text")
    width = bucket(max(len(p.ids) for p in prompts))
    tokens, own = np.zeros((len(prompts), width), np.int32), np.zeros((len(prompts), width), bool)
    kinds = np.zeros((len(prompts), width), np.int8)
    for row, p in enumerate(prompts):
        tokens[row, : len(p.ids)], kinds[row, : len(p.ids)] = p.ids, p.roles
        own[row, : len(p.ids)] = True
    return Batch.make(tokens, own, roles=kinds)


def _is_one(prompts) -> bool:
    """Whether this is a single prompt rather than a sequence of them."""
    if isinstance(prompts, (str, Prompt, np.ndarray)):
        return True
    return len(prompts) > 0 and isinstance(prompts[0], (Mapping, int, np.integer))


def _total_counts(samples: Sequence[Sample]) -> Tape:
    totals: Tape = {}
    for sample in samples:
        for name, count in sample.tape.items():
            if name.startswith("touched/"):
                totals[name] = totals.get(name, np.int64(0)) + np.int64(count)
    return totals


def _shown(samples: Iterator[Sample], total: int, progress: bool) -> Iterator[Sample]:
    if not progress:
        yield from samples
        return
    from interp_jax.runtime.progress import Progress

    with Progress(total, "samples") as bar:
        for sample in samples:
            bar.update(1)
            yield sample
