"""Every choice of a training run of dictionaries; the script's flags are derived from it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from interp_jax.dictionaries.config import Activation, CodeNorm, DictionaryConfig
from interp_jax.dictionaries.harvest import Harvest
from interp_jax.dictionaries.recipe import Recipe, quickest
from interp_jax.dictionaries.replaced_tokens import HELP as REPLACED
from interp_jax.dictionaries.replaced_tokens import Replacements, parse_replacements
from interp_jax.dictionaries.variants import Variant, parse_variants
from interp_jax.models import roles
from interp_jax.models.sites import Site
from interp_jax.models.sources import DEFAULT_MODEL
from interp_jax.runtime.config_fields import how as _speed
from interp_jax.runtime.config_fields import option as _field
from interp_jax.runtime.errors import UserError

SAMPLED = ("topk", "batch_topk")


@dataclass(frozen=True)
class FitConfig:
    """The help of each field is its documentation. Sections are those of the crosscoder paper's
    code, whose values the defaults are unless said.

    Raises:
        UserError: values that do not go together.
    """

    workdir: str = _speed(
        "runs/dictionary",
        "Folder that everything is written to. Run the same command again to go on there.",
    )
    model: str = _field(
        DEFAULT_MODEL, "Model to study: a packaged model, a folder, a .gguf file, or a hub id."
    )
    revision: str | None = _field(None, "Revision of a hub id.")
    other_model: str | None = _field(
        None,
        "Second model of a crosscoder, in the same forms. The first one is the base, this one the "
        "chat model.",
    )
    other_revision: str | None = _field(None, "Revision of --other_model.")
    dtype: Literal["float32", "bfloat16"] = _field("float32", "Type of the models' weights.")
    seed: int = _field(0, "Root of all random draws.", minimum=0, maximum=2**32 - 1)

    kind: Literal["sae", "crosscoder", "transcoder"] = _field(
        "sae",
        "What is trained: an autoencoder of one activation, a crosscoder of several (models or "
        "layers), or a transcoder from --site to --target_site.",
    )
    site: str = _field("resid_post", "What is read: the name of a site.")
    target_site: str | None = _field(
        None, "What a transcoder reconstructs, in the same layers. Default: mlp_out."
    )
    layers: tuple[int, ...] = _field((), "Layers, from 0. Default: the middle one.", minimum=0)
    activation: Activation = _field("batch_topk", "Activation of the dictionary.")
    latents: int | None = _field(None, "Number of latents. Default: by --expansion.", minimum=1)
    expansion: int = _field(32, "Latents per unit of width.", minimum=1)
    code_norm: CodeNorm | None = _field(
        None, "How a code is scaled before it is ranked or penalised. Default: crosscoder for a "
        "crosscoder, else none.",
    )  # fmt: skip
    k: int = _field(100, "Mean active latents per row, of topk and batch_topk.", minimum=1)
    sparsity: float = _field(
        0.041, "Weight of the sparsity term of relu, gated and jumprelu.", minimum=0.0
    )
    dictionaries: str = _field(
        "",
        "Several dictionaries from one harvest: lists of values, e.g. k=50,100;lr=1e-4,3e-4. Every "
        "combination is trained. Names: k, lr, sparsity, auxiliary, seed.",
    )
    init_norm: float | None = _field(
        None, "Length of encoder rows at the start, per input. Default: 0.005 for relu, else 1.",
        minimum=0.0,
    )  # fmt: skip
    tied: bool = _field(True, "All inputs start with the same directions.")
    transposed: bool = _field(True, "The decoder starts as the encoder.")
    centred: bool = _field(False, "The decoder's bias is subtracted before the encoder.")
    skip: bool = _field(False, "A linear map beside a transcoder.")
    prefixes: tuple[int, ...] = _field(
        (), "Nested sizes (Matryoshka), rising to the number of latents.", minimum=1
    )
    unit_norm: bool = _field(False, "Decoder rows are held at length 1.")
    normaliser: Literal["none", "rms", "std"] = _field(
        "none",
        "Inputs are centred and scaled by statistics of the first rows: one scale for each input, "
        "or one for each coordinate.",
    )
    statistics_rows: int = _field(10_000, "Rows that --normaliser looks at.", minimum=2)
    median_bias: bool = _field(
        True, "The decoder's bias starts at the geometric median of the first batch."
    )
    matmul_dtype: Literal["float32", "bfloat16"] = _field(
        "float32", "Type of the factors of the dictionary's matrix products; sums are float32."
    )

    data: tuple[str, ...] = _field(
        ("docstrings",),
        "Text: .jsonl, .parquet or .txt files or folders of them, `docstrings` (of the Python "
        "library) or `puzzles` (chats, without end). Several are mixed strictly in turn.",
    )
    text_field: str = _field("text", "Name of a text in a record of --data.")
    messages_field: str = _field("messages", "Name of a chat in a record of --data.")
    pack: bool = _field(
        True, "Documents follow each other in a row, nothing lost. Else each has a row of its own."
    )
    document_shuffle: int = _field(
        0, "Documents of a block that is permuted before it is read; 0: as they come.", minimum=0
    )
    context: int = _field(256, "Tokens of a row of text.", minimum=2)
    rows_at_once: int = _field(8, "Rows of text that the models run on at once.", minimum=1)
    skip_first: int = _field(
        0,
        "First tokens of each row that are left out. In many models the very first one is so long "
        "that it decides losses and measures: compare with 1.",
        minimum=0,
    )
    exclude_bos: bool = _field(False, "Leave the BOS token out.")
    exclude_roles: tuple[str, ...] = _field(
        (), "Roles of tokens that are left out.", choices=tuple(roles.NAMES)
    )
    replace_tokens: tuple[str, ...] = _field((), REPLACED)
    epochs: int = _field(1, "How often the data is gone through, at most.", minimum=1)
    cache: tuple[str, ...] = _field(
        (),
        "Train from activations on disk: one folder like layer_13_out for each input, in the "
        "inputs' order, then one for each target of a transcoder. No model is loaded.",
    )
    write_cache: str | None = _speed(
        None, "Store the activations in this folder, in the layout of --cache, and stop."
    )
    cache_rows: int = _speed(1_000_000, "Rows that --write_cache stores.", minimum=1)

    ring_rows: int = _field(65_536, "Rows of activations that are held for shuffling.", minimum=2)
    ring: Literal["device", "host"] = _speed("device", "Memory that holds them.")
    ring_dtype: Literal["float32", "bfloat16"] = _field("float32", "Type they are held in.")
    refill: float = _field(
        0.5,
        "Share of the ring that is drawn before it is filled up and shuffled again; 1 keeps every "
        "row within its own filling, as the reference's local shuffling does.",
        minimum=0.01,
        maximum=1.0,
    )
    save_ring: bool = _speed(
        False, "Checkpoints hold the ring's rows. Else the models run again on resuming."
    )

    steps: int = _field(10_000, "Training steps.", minimum=1)
    batch_size: int = _field(2048, "Rows of activations in a training step.", minimum=2)
    lr: float | None = _field(
        None, "Learning rate. Default: 2e-4 / sqrt(latents / 16384), and 1e-4 for relu.",
        minimum=0.0,
    )  # fmt: skip
    warm_up: int = _field(1000, "Steps of linear warm-up of the learning rate.", minimum=0)
    decay: int = _field(0, "Last steps over which it falls to 0.", minimum=0)
    clip: float | None = _field(
        None, "Clip of the global gradient norm; 0 for none. Default: 1 for topk and batch_topk, "
        "else none.", minimum=0.0,
    )  # fmt: skip
    squared: bool = _field(False, "The error's squared norm is minimised, not its norm.")
    auxiliary: float = _field(
        1 / 32, "Weight of the auxiliary loss of topk and batch_topk.", minimum=0.0
    )
    dead_after: int = _field(
        10_000_000, "Rows without being kept after which a latent is dead.", minimum=1
    )
    threshold_start: int = _field(
        1000, "Step after which the threshold of batch_topk moves.", minimum=0
    )
    threshold_decay: float = _field(
        0.999, "Of the threshold's moving average.", minimum=0.0, maximum=1.0
    )
    k_start: int = _field(0, "k at the first step, when annealed.", minimum=0)
    k_steps: int = _field(0, "Steps until k is reached; 0: k from the start.", minimum=0)
    resample_every: int = _field(
        0, "Steps between resampling dead latents of relu; 0: never.", minimum=0
    )
    decode: Literal["auto", "dense", "sparse"] = _field(
        "auto",
        "Whether the decoder works at the kept latents only. auto: where it pays.",
    )

    mesh: str | None = _speed(
        None, "Device mesh as axis:size pairs, e.g. data:2,model:4. Default: all devices on data."
    )
    matmul_precision: Literal["default", "high", "highest"] = _field(
        "default", "Precision of matrix products (changes numbers on TPU and GPU)."
    )
    eval_rows: int = _field(
        16_384, "Rows that are set aside from the start of the data and measured on.", minimum=0
    )
    eval_every: int = _speed(0, "Steps between measurements; 0: at the end only.", minimum=0)
    log_steps: int = _speed(50, "Steps between lines of metrics.jsonl.", minimum=1)
    checkpoint_every: int = _speed(1000, "Steps between checkpoints; 0: none.", minimum=0)
    tensorboard: bool = _speed(False, "Write TensorBoard files beside the JSON lines.")
    compilation_cache_dir: str | None = _speed(
        None, "Folder that compiled programs are kept in. Whoever can write there can run code as "
        "you.",
    )  # fmt: skip
    smoke: bool = _field(False, "Sizes too small to mean anything; about a minute.")
    plan_only: bool = _speed(False, "Compile, print memory and operation counts, and stop.")

    def __post_init__(self):
        def need(holds: Any, found: str, expected: str, do: str = "change one of them") -> None:
            if not holds:
                raise UserError(found=found, expected=expected, do=do)

        Site(self.site)
        need(
            self.kind == "transcoder" or self.target_site is None,
            f"--target_site with kind {self.kind}", "it with a transcoder only",
        )  # fmt: skip
        need(
            self.kind == "crosscoder" or self.other_model is None,
            f"--other_model with kind {self.kind}", "it with a crosscoder only",
        )  # fmt: skip
        need(
            self.kind != "crosscoder" or self.inputs_given != 1,
            "a crosscoder of one model and one layer",
            "several activations", "give --other_model, or several --layers",
        )  # fmt: skip
        need(
            self.kind != "sae" or self.inputs_given <= 1,
            f"an sae of {self.inputs_given} activations", "one",
            "train one for each, or a crosscoder of all",
        )  # fmt: skip
        need(
            not self.skip or self.kind == "transcoder",
            f"--skip with kind {self.kind}", "it with a transcoder only",
        )  # fmt: skip
        small = self.resolved() if self.smoke else self
        need(
            self.activation != "batch_topk" or small.steps > small.threshold_start + 1,
            f"{small.steps} steps with threshold_start {small.threshold_start}",
            "more steps than that: else the threshold is never set, and afterwards everything "
            "positive is kept",
            "lower --threshold_start",
        )  # fmt: skip
        need(
            small.ring_rows >= small.rows_at_once * small.context + small.batch_size,
            f"a ring of {small.ring_rows} rows",
            f"at least {small.rows_at_once * small.context} (a batch of text) + "
            f"{small.batch_size} (a training step)",
        )  # fmt: skip
        need(
            small.normaliser == "none"
            or small.statistics_rows <= small.ring_rows - small.rows_at_once * small.context,
            f"statistics of {small.statistics_rows} rows with a ring of {small.ring_rows}",
            "no more than the ring surely holds", "lower --statistics_rows, or raise --ring_rows",
        )  # fmt: skip
        need(
            not self.resample_every or self.activation == "relu",
            f"--resample_every with {self.activation}", "it with relu only",
        )  # fmt: skip
        need(self.cache or self.data, "no --data", "text", "name a file, or leave the flag out")
        need(
            not self.cache or self.write_cache is None, "--write_cache with --cache", "one of them"
        )
        need(small.decay < small.steps, f"decay over {small.decay} steps", "less than --steps")
        self.variants()
        need(
            not self.replacements() or (self.other_model is not None and not self.cache),
            f"--replace_tokens with {'--cache' if self.cache else 'one model'}",
            "a base and a chat model that are run",
            "store the activations with it" if self.cache else "give --other_model",
        )  # fmt: skip

    @property
    def inputs_given(self) -> int:
        """M as far as the config says: caches, or models times layers."""
        if self.cache:
            return len(self.cache)
        return (2 if self.other_model else 1) * max(len(self.layers), 1)

    def resolved(self) -> FitConfig:
        """The config that is run: under `smoke`, small sizes in place of those given."""
        if not self.smoke:
            return self
        return dataclasses.replace(
            self, smoke=False, expansion=min(self.expansion, 2), k=min(self.k, 16), context=64,
            rows_at_once=4, ring_rows=2048, batch_size=128, steps=40, warm_up=5, decay=0,
            threshold_start=10, threshold_decay=0.9, dead_after=2000, eval_rows=512, log_steps=10,
            checkpoint_every=20, statistics_rows=min(self.statistics_rows, 1024),
        )  # fmt: skip

    def variants(self) -> tuple[Variant, ...]:
        """The dictionaries of the sweep; one if there is none."""
        rate = self.lr
        base = Variant(k=self.k, lr=rate, sparsity=self.sparsity, auxiliary=self.auxiliary,
                       seed=self.seed)  # fmt: skip
        return parse_variants(self.dictionaries, base, self.activation)

    def replacements(self) -> Replacements:
        """`replace_tokens` as pairs of numbers."""
        return parse_replacements(self.replace_tokens)

    def harvest(self, n_layers: int, bos: int | None = None) -> Harvest:
        """What is read from networks of `n_layers` layers.

        Args:
            n_layers: of each network.
            bos: id of the BOS token, which is left out with `exclude_bos`.
        """
        if self.exclude_bos and bos is None:
            raise UserError(
                found="--exclude_bos with a tokenizer that has no BOS token",
                expected="a BOS token", do="use --skip_first",
            )  # fmt: skip
        layers = self.layers or (n_layers // 2,)
        place = lambda name: Site(name, layers) if Site(name).layered else Site(name)
        target = (self.target_site or "mlp_out") if self.kind == "transcoder" else None
        return Harvest(
            sites=(place(self.site),),
            targets=() if target is None else (place(target),),
            skip_first=self.skip_first,
            exclude_tokens=(bos,) if self.exclude_bos and bos is not None else (),
            exclude_roles=tuple(roles.NAMES[name] for name in self.exclude_roles),
            dtype=self.ring_dtype,
            replace_tokens=self.replacements(),
        )

    def dictionary(
        self, inputs: int, width: int, outputs: int | None = None, width_out: int | None = None
    ) -> DictionaryConfig:
        """What is trained on rows x [M, D] (and targets [O, D'])."""
        norm: CodeNorm = "crosscoder" if self.kind == "crosscoder" else "none"
        return DictionaryConfig(
            width=width,
            latents=self.latents or self.expansion * width,
            inputs=inputs,
            activation=self.activation,
            code_norm=self.code_norm or norm,
            outputs=outputs,
            width_out=width_out,
            centred=self.centred,
            skip=self.skip,
            prefixes=self.prefixes,
            normaliser=self.normaliser != "none",
            matmul_dtype=self.matmul_dtype,
        )

    def recipe(self, config: DictionaryConfig, devices: int = 1) -> Recipe:
        """Coefficients and structure of the training step; those of a variant replace some.

        Args:
            config: of the dictionaries.
            devices: that they are cut over; what goes through pairs one by one is for one.
        """
        many = self.variants()
        fields: dict[str, Any] = {"decode": "dense"}
        able = self.activation in SAMPLED and not config.decoupled
        able = able and self.matmul_dtype == "float32" and devices == 1
        most = max(one.k for one in many)
        quick = quickest(config.latents, max(most, self.k_start) if self.k_steps else most)
        if self.decode == "sparse":
            fields = {"decode": "sparse", "most_k": quick["most_k"]}
        elif self.decode == "auto" and able:
            fields = quick
        return Recipe(
            sparsity=self.sparsity,
            auxiliary=self.auxiliary,
            dead_after=self.dead_after,
            threshold_start=self.threshold_start,
            threshold_decay=self.threshold_decay,
            k_start=self.k_start,
            k_steps=self.k_steps,
            squared=self.squared,
            unit_norm=self.unit_norm,
            **fields,  # type: ignore[arg-type]
        )

    @property
    def clip_norm(self) -> float | None:
        """The clip of the gradient's norm that is used."""
        if self.clip is None:
            return 1.0 if self.activation in SAMPLED else None
        return self.clip or None

    def rate(self, variant: Variant, latents: int) -> float:
        """The full learning rate of a variant."""
        if variant.lr is not None:
            return variant.lr
        return 1e-4 if self.activation == "relu" else 2e-4 / (latents / 16_384) ** 0.5

    @property
    def start_norm(self) -> float:
        """Length of encoder rows at the start."""
        if self.init_norm is not None:
            return self.init_norm
        return 0.005 if self.activation == "relu" else 1.0
