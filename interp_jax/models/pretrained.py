"""A model's weights, tokenizer and chat template by name, with where they came from."""

from __future__ import annotations

import dataclasses
import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax

from interp_jax.models.chat import ChatTemplate
from interp_jax.models.config import ModelConfig
from interp_jax.models.gguf_config import config_from_gguf
from interp_jax.models.gguf_header import open_gguf
from interp_jax.models.gguf_io import read_gguf
from interp_jax.models.glass import read_glass, read_glass_tokenizer
from interp_jax.models.orbax_io import read_orbax
from interp_jax.models.placing import ShardingFor, host_dtype
from interp_jax.models.safetensors_io import read_hf, weight_files
from interp_jax.models.sources import DEFAULT_MODEL, Located, locate
from interp_jax.models.tokenizer import Tokenizer
from interp_jax.models.tokenizer_files import (
    chat_template_from_hf,
    tokenizer_from_gguf,
    tokenizer_from_hf,
)
from interp_jax.runtime.errors import UserError
from interp_jax.runtime.provenance import hash_file


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where a model came from; the fields provenance is made of.

    Attributes:
        model: the name asked for.
        weights: SHA-256 of the weight file; of the shards' digests where there are several.
        tokenizer: the tokenizer's fingerprint.
        dtype: of the parameters.
        revision: the hub commit, if any.
    """

    model: str
    weights: str
    tokenizer: str
    dtype: str
    revision: str | None = None

    @property
    def model_id(self) -> str:
        """The name, with its revision where there is one."""
        return self.model if self.revision is None else f"{self.model}@{self.revision}"


@dataclasses.dataclass(frozen=True)
class LoadedWeights:
    """Everything read for a model; `build_decoder(config, params)` makes it a network.

    Attributes:
        params: canonical name -> array (see `parameter_shapes`).
        chat_template: None for a model without one.
    """

    config: ModelConfig
    params: dict[str, jax.Array]
    tokenizer: Tokenizer
    chat_template: ChatTemplate | None
    origin: Origin


def load_parameters(
    name: str = DEFAULT_MODEL,
    dtype: str = "float32",
    revision: str | None = None,
    tokenizer: str | Path | None = None,
    sharding_for: ShardingFor | None = None,
) -> LoadedWeights:
    """Read a model.

    Args:
        name: see `sources.locate`.
        dtype: `float32` or `bfloat16`; norm gains are float32 in both.
        revision: of a hub model.
        tokenizer: a folder with a tokenizer.json to use instead of the model's own.
        sharding_for: where each parameter shall live (see `place_parameters`).

    Raises:
        UserError: whatever is wrong with the name, the files or their contents.
    """
    host_dtype(dtype)
    at = locate(name, revision)
    template: str | None = None
    # The digest is taken beside the reading; hashing does not hold the interpreter's lock.
    with ThreadPoolExecutor(1) as beside:
        digest = beside.submit(_digest, at)
        if at.kind == "gguf":
            file = open_gguf(at.path)
            config_from_gguf(file)  # says what is wrong with the model before its tokenizer does
            words = _tokenizer(tokenizer) or tokenizer_from_gguf(file.metadata)
            template = file.metadata.get("tokenizer.chat_template")
            config, params = read_gguf(file, dtype, sharding_for)
        elif at.kind == "glass":
            own = at.path.with_suffix("").with_suffix(".tokenizer.json")
            words = _tokenizer(tokenizer) or read_glass_tokenizer(own)
            config, params = read_glass(at.path, dtype, sharding_for)
        elif at.kind == "orbax":
            words = _tokenizer(tokenizer or at.path)
            config, params = read_orbax(at.path, dtype, sharding_for)
        else:
            words = _tokenizer(tokenizer) or tokenizer_from_hf(at.path)
            config, params = read_hf(at.path, dtype, sharding_for)
            template = chat_template_from_hf(at.path)
        if tokenizer is not None:
            template = chat_template_from_hf(tokenizer) or template
        weights = digest.result()
    if words.vocab_size > config.vocab_size:
        raise UserError(
            found=f"a tokenizer with ids up to {words.vocab_size - 1}",
            expected=f"ids below {config.vocab_size}, the rows of the embedding of {name}",
            do="use the tokenizer that belongs to the model",
        )
    chat = None if template is None else ChatTemplate(template, words.special_texts())
    origin = Origin(name, weights, words.fingerprint, dtype, at.revision)
    return LoadedWeights(config, params, words, chat, origin)


def _tokenizer(folder: str | Path | None) -> Tokenizer | None:
    return None if folder is None else tokenizer_from_hf(folder)


def _digest(at: Located) -> str:
    """SHA-256 of the weights: of the one file, or of the list of the shards' digests."""
    if at.sha256 is not None:
        return at.sha256
    if at.kind == "orbax":
        files = sorted(f for f in (at.path / "orbax").rglob("*") if f.is_file())
    else:
        files = [at.path] if at.kind != "hf" else weight_files(at.path)
    digests = [hash_file(file) for file in files]
    return digests[0] if len(digests) == 1 else hashlib.sha256(repr(digests).encode()).hexdigest()
