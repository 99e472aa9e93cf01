"""What the stages of one run share, and how their results lie in the workdir."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from interp_jax.dictionaries.delta import delta
from interp_jax.dictionaries.dictionary import Dictionary
from interp_jax.dictionaries.formats.files import Loaded
from interp_jax.dictionaries.formats.native import provenance_of
from interp_jax.dictionaries.harvest import Harvest, harvest, keep_mask
from interp_jax.dictionaries.replaced_tokens import Replacements, trained_otherwise
from interp_jax.generation.language_model import LanguageModel
from interp_jax.models.batch import Batch
from interp_jax.models.decoder import Decoder
from interp_jax.models.sites import Site
from interp_jax.runtime import keys
from interp_jax.runtime.errors import UserError
from interp_jax.runtime.metrics import MetricWriter
from interp_jax.runtime.process import is_writer
from interp_jax.runtime.workdir import Workdir
from interp_jax.studies.model_diffing.config import ModelDiffingConfig
from interp_jax.studies.model_diffing.conversations import Rows, token_rows

SCALING, EXAMPLES, TEMPLATES = "scaling.npz", "examples.npz", "templates.npz"
CAUSALITY, AUTOINTERP, JUDGE_LOG = "causality.jsonl", "autointerp.json", "judge.jsonl"
SIMILAR = "similar.npz"
REPORT, LATENTS = "report.html", "latents.csv"


@dataclass(frozen=True)
class Work:
    """One run.

    Attributes:
        config: resolved. workdir: where everything is.
        base, chat: the models; the chat model's tokenizer is used for both.
        dictionary: their crosscoder.
        layer: it reads the stream after this block.
        writer: of metrics.
    """

    config: ModelDiffingConfig
    workdir: Workdir
    base: LanguageModel
    chat: LanguageModel
    dictionary: Dictionary
    layer: int
    writer: MetricWriter

    @property
    def networks(self) -> tuple[Decoder, Decoder]:
        """In the order of the crosscoder's inputs."""
        return in_order(self.config, self.base, self.chat)

    @cached_property
    def what(self) -> Harvest:
        """What is read of them."""
        return reading(self.layer, self.config)

    @cached_property
    def key(self) -> jax.Array:
        """Root of all draws."""
        return keys.root_key(self.config.seed)

    @cached_property
    def delta(self) -> np.ndarray:
        """float64 [F], the paper's Delta: 1 for a latent of the chat model alone."""
        pair = jnp.asarray([self.config.base_output, self.config.chat_output])
        return np.asarray(delta(self.dictionary.decoder_norms()[pair]), np.float64)

    def has(self, name: str) -> bool:
        """Whether a file is there."""
        return (self.workdir / name).exists()

    def missing(self, name: str, stage: str) -> UserError:
        """That a stage lacks what another one makes."""
        return UserError(
            found=f"no {self.workdir / name}", expected=f"what --stage={stage} makes there",
            do=f"run the same command with --stage={stage} first",
        )

    def save(self, name: str, arrays: dict[str, Any]) -> None:
        """Writes arrays as one file, whole or not at all."""
        buffer = io.BytesIO()
        np.savez(buffer, **{key: np.asarray(value) for key, value in arrays.items()})
        self.workdir.write_bytes(name, buffer.getvalue())

    def load(self, name: str) -> dict[str, np.ndarray]:
        """Reads them back."""
        with np.load(self.workdir / name, allow_pickle=False) as file:
            return {key: file[key] for key in file.files}

    def rows(self, held_out: bool, cursor: Mapping[str, Any] | None = None) -> Iterator[Rows]:
        """The data, in batches; held out means examples, templates and causality."""
        data, seed = data_of(self.config, held_out)
        return token_rows(
            self.chat, data, rows=self.config.batch_size, length=self.config.length, seed=seed,
            cursor=cursor,
        )

    def activations(self, rows: Rows) -> tuple[jax.Array, np.ndarray]:
        """float32 [B*T, 2, D] and bool [B*T], which of them count."""
        keep = keep_mask(self.what, rows.tokens, rows.valid, rows.roles)
        return activations(self.networks, rows.batch(), self.what), keep.reshape(-1)


def in_order(
    config: ModelDiffingConfig, base: LanguageModel, chat: LanguageModel
) -> tuple[Decoder, Decoder]:
    """The networks in the order of the crosscoder's inputs."""
    pair = (base.network, chat.network)
    return pair if config.base_output == 0 else pair[::-1]


def reading(layer: int, config: ModelDiffingConfig) -> Harvest:
    """What is read of both models, in the order of `in_order`."""
    return Harvest(
        (Site("resid_post", (layer,)),), skip_first=config.skip_first,
        replace_tokens=config.replacements(), replaced_network=config.base_output,
    )


def data_of(config: ModelDiffingConfig, held_out: bool) -> tuple[str, int]:
    """Where the data is, and the seed of what is generated."""
    data = (config.held_out_data if held_out else None) or config.data
    return data, 2 * config.seed + held_out


@partial(jax.jit, static_argnames=("what",))
def activations(networks: tuple[Decoder, ...], batch: Batch, what: Harvest) -> jax.Array:
    """float32 [B*T, M, D] of a batch."""
    return harvest(networks, batch, what).x


def plain(value: Any) -> Any:
    """Dataclasses as dictionaries, numbers that are not finite as None: for JSON."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): plain(of) for key, of in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(of) for of in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if np.isfinite(value) else None
    if isinstance(value, np.integer):
        return int(value)
    return value


def say_if_trained_otherwise(loaded: Loaded, pairs: Replacements) -> None:
    """Tells of a dictionary that was trained with other replaced tokens than this run's."""
    if (differs := trained_otherwise(provenance_of(loaded), pairs)) is not None:
        say(differs)


def say(line: str) -> None:
    """Prints a line, once however many processes there are."""
    if is_writer():
        print(line, flush=True)
