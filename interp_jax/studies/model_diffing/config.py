"""What a model-diffing run is told: one frozen dataclass, from which the flags are derived."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

from interp_jax.dictionaries.replaced_tokens import HELP as REPLACED
from interp_jax.dictionaries.replaced_tokens import Replacements, parse_replacements
from interp_jax.models.sources import DEFAULT_MODEL
from interp_jax.runtime.config_fields import how as _speed
from interp_jax.runtime.config_fields import option as _field
from interp_jax.runtime.errors import UserError
from interp_jax.studies.model_diffing.autointerp import SCORERS, require_scorers
from interp_jax.studies.model_diffing.subsets import EFFECTIVE_CHAT_ONLY
from interp_jax.studies.model_diffing.twins import COSINE

Stage = Literal["all", "scaling", "examples", "causality", "autointerp", "report"]


@dataclass(frozen=True)
class ModelDiffingConfig:
    """The help of each field is its documentation.

    Raises:
        UserError: values that do not go together.
    """

    workdir: str = _speed(
        "runs/model_diffing",
        "Folder that everything is written to. Run the same command again to go on there.",
    )
    stage: Stage = _speed(
        "all",
        "Which part is run, on what the parts before it left in the workdir: latent scaling, "
        "examples, template tokens and twins, causality, explanations by a judge, or the report.",
    )
    model: str = _field(
        DEFAULT_MODEL, "Base model: a packaged model, a folder, a .gguf file, or a hub id."
    )
    revision: str | None = _field(None, "Revision of a hub id.")
    other_model: str = _field(
        "", "The model that was made from it (chat), in the same forms. Its tokenizer and chat "
        "template are used for both.",
    )
    other_revision: str | None = _field(None, "Revision of --other_model.")
    dictionary: str = _field(
        "", "The crosscoder, in any layout of this package; told by the files that are there."
    )
    scales: tuple[float, ...] = _field(
        (), "Of Kissane's layout: the factor of each model's activations, base first."
    )
    layer: int | None = _field(
        None, "The crosscoder reads the stream after this block, from 0. Default: the middle one.",
        minimum=0,
    )  # fmt: skip
    base_output: int = _field(0, "Which input and output of the crosscoder is the base model.",
                              minimum=0, maximum=1)  # fmt: skip
    dtype: Literal["float32", "bfloat16"] = _field("float32", "Type of the models' weights.")
    seed: int = _field(0, "Root of all random draws.", minimum=0, maximum=2**31 - 1)

    data: str = _field(
        "puzzles", "Where conversations come from: a file or folder (.jsonl or .parquet with "
        "`messages` or `text`, .txt), puzzles (generated, with answers), docstrings, or "
        "datasets:NAME:SPLIT. What has no answers serves latent scaling only.",
    )
    held_out_data: str | None = _field(
        None, "The same, for examples, template statistics and causality. Default: --data, where "
        "puzzles are then other ones.",
    )
    length: int = _field(256, "Tokens of a row; longer documents are cut.", minimum=8)
    batch_size: int = _field(8, "Rows that are run at once.", minimum=1)
    skip_first: int = _field(
        0, "First tokens of each row that the crosscoder was not trained on.", minimum=0
    )
    replace_tokens: tuple[str, ...] = _field((), REPLACED)
    tokens: int = _field(2_000_000, "Tokens for latent scaling.", minimum=1)
    example_tokens: int = _field(500_000, "Tokens for examples, templates and twins.", minimum=1)
    groups: int = _field(
        16, "Groups of documents, for standard errors of the ratios.", minimum=2
    )
    controls: tuple[str, ...] = _field(
        ("random", "shuffled"), "Control vectors for latent scaling.",
        choices=("random", "shuffled"),
    )
    floor: float = _field(
        0.0, "Share of its maximum below which a latent's activation is left out of the fit. Wants "
        "a pass of its own for the maxima.", minimum=0.0, maximum=1.0,
    )  # fmt: skip
    capacity: int = _speed(
        512, "Active latents of a token that there is room for. Where a token has more, latent "
        "scaling takes its batch densely and the causality experiment makes more room.", minimum=1,
    )  # fmt: skip
    effective: int = _field(
        EFFECTIVE_CHAT_ONLY, "Size of the effective chat-only set (largest Delta); -1: the class.",
        minimum=-1,
    )  # fmt: skip
    twin_cosine: float = _field(
        COSINE, "A chat-only and a base-only latent are twins where the cosine of their decoder "
        "directions lies above this, which is below 1.", minimum=0.0, maximum=1.0,
    )  # fmt: skip
    conversations: int = _field(512, "Conversations of the causality experiment.", minimum=1)
    random_sets: int = _field(3, "Random sets of each kind there.", minimum=0)
    resamples: int = _field(2000, "Resamples of an interval.", minimum=100)

    judge: Literal["none", "local", "endpoint"] = _field(
        "none", "Who explains latents: nobody, a model loaded here, or one behind an "
        "OpenAI-compatible endpoint.",
    )
    judge_model: str = _field(DEFAULT_MODEL, "The judge's model.")
    judge_url: str = _field("https://api.openai.com/v1", "Address of the endpoint.")
    judge_key_variable: str = _speed("OPENAI_API_KEY", "Environment variable with its key.")
    explained: int = _field(20, "Latents of largest Delta to explain, and as many shared ones.",
                            minimum=1)  # fmt: skip
    scorers: tuple[str, ...] = _field(
        tuple(SCORERS), "How explanations are scored: by telling which texts a latent is active in "
        "(detection), or in which of its texts the right tokens are marked (fuzzing).",
        choices=tuple(SCORERS),
    )
    negatives: Literal["random", "similar"] = _field(
        "random", "Detection's texts without the latent: any, or examples of the latents with the "
        "most similar decoder rows, which takes another pass over --example_tokens.",
    )

    checkpoint_every: int = _speed(200, "Batches between checkpoints of latent scaling.", minimum=1)
    log_every: float = _speed(30.0, "Seconds between log lines where there is no terminal.",
                              minimum=0.0)  # fmt: skip
    smoke: bool = _field(
        False, "Run everything in about a minute, with sizes too small to mean anything; without "
        "--dictionary, on a random one."
    )
    tensorboard: bool = _speed(False, "Write TensorBoard files beside the JSON lines.")
    compilation_cache_dir: str | None = _speed(
        None, "Folder that compiled programs are kept in between runs. Whoever can write there can "
        "run code as you.",
    )

    def __post_init__(self):
        require_scorers(self.scorers)
        wrong = None
        if not self.smoke and not (self.dictionary and self.other_model):
            wrong = ("no dictionary or no other model", "--dictionary and --other_model")
        elif self.effective == 0:
            wrong = ("effective = 0", "1 or more latents, or -1")
        elif not 0 <= self.twin_cosine < 1:
            wrong = (f"twin_cosine = {self.twin_cosine}", "at least 0 and below 1")
        elif len(set(self.controls)) < len(self.controls):
            wrong = (f"controls {', '.join(self.controls)}", "each once")
        elif self.negatives != "random" and "detection" not in self.scorers:
            wrong = (f"negatives = {self.negatives} without detection", "detection among --scorers")
        if wrong:
            raise UserError(found=wrong[0], expected=wrong[1], do="correct the flags")
        self.replacements()

    def resolved(self) -> ModelDiffingConfig:
        """With the sizes of a smoke run where one is asked for."""
        if not self.smoke:
            return self
        small = dict(
            other_model=self.other_model or self.model, length=min(self.length, 64),
            batch_size=min(self.batch_size, 4), tokens=min(self.tokens, 1500),
            example_tokens=min(self.example_tokens, 1500), groups=min(self.groups, 4),
            effective=min(self.effective, 20), conversations=min(self.conversations, 4),
            random_sets=min(self.random_sets, 1), explained=min(self.explained, 3),
            resamples=min(self.resamples, 200),
        )  # fmt: skip
        return dataclasses.replace(self, **small)

    def replacements(self) -> Replacements:
        """`replace_tokens` as pairs of numbers."""
        return parse_replacements(self.replace_tokens)

    @property
    def chat_output(self) -> int:
        """Which output is the chat model."""
        return 1 - self.base_output
