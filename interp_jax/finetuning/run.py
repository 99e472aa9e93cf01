"""Fine-tuning from a config: the model loaded, rows read, a model folder written.

`run(config, stream)` is what `scripts/finetune.py` does, for a notebook.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from interp_jax.finetuning.config import FinetuneConfig
from interp_jax.finetuning.finetune import Finetuned, finetune
from interp_jax.generation.language_model import LanguageModel, load
from interp_jax.models.sources import DEFAULT_MODEL
from interp_jax.models.token_rows import Stream, TokenRows
from interp_jax.runtime.compilation import enable_compilation_cache
from interp_jax.runtime.config_fields import how as _speed
from interp_jax.runtime.config_fields import option as _field
from interp_jax.runtime.errors import UserError
from interp_jax.runtime.process import is_writer
from interp_jax.runtime.provenance import Provenance
from interp_jax.runtime.workdir import Workdir

#: (config, the model whose tokenizer and template are used) -> rows of `config.context` tokens.
StreamMaker = Callable[["FinetuneRun", LanguageModel], Stream]


@dataclass(frozen=True)
class FinetuneRun(FinetuneConfig):
    """A fine-tuning with its model and its data. The help of each field is its documentation.

    Raises:
        UserError: values that do not go together.
    """

    workdir: str = _speed(
        "runs/finetune",
        "Folder that everything is written to. Run the same command again to go on there.",
    )
    model: str = _field(
        DEFAULT_MODEL, "What is fine-tuned: a packaged model, a folder, a .gguf file or a hub id."
    )
    revision: str | None = _field(None, "Revision of a hub id.")
    dtype: str = _field("float32", "Type of the model's weights.",
                        choices=("float32", "bfloat16"))  # fmt: skip
    data: tuple[str, ...] = _field(
        ("puzzles",), "Chats or text: .jsonl, .parquet or .txt files or folders of them, `puzzles` "
        "(generated chats, without end) or `docstrings`. Several are mixed strictly in turn.",
    )
    text_field: str = _field("text", "Field of plain text in .jsonl and .parquet.")
    messages_field: str = _field("messages", "Field of a chat there.")
    context: int = _field(256, "Tokens of a row.", minimum=2)
    pack: bool = _field(False, "Several documents in a row; else one each, cut at --context.")
    epochs: int = _field(1, "How often the data is gone through, at most.", minimum=1)
    held_out_rows: int = _field(
        32, "Rows that are set aside from the start of the data; 0: none.", minimum=0
    )
    smoke: bool = _field(False, "Few short steps; a minute or two.")
    compilation_cache_dir: str | None = _speed(
        None, "Folder that compiled programs are kept in. Whoever can write there can run code as "
        "you.",
    )  # fmt: skip

    def resolved(self) -> FinetuneRun:
        """The config that is run: under `smoke`, small sizes in place of those given."""
        if not self.smoke:
            return self
        return dataclasses.replace(
            self, smoke=False, steps=min(self.steps, 6), warm_up=1, batch_size=2, accumulate=1,
            rank=min(self.rank, 4), lr=max(self.lr, 5e-4), held_out_rows=min(self.held_out_rows, 4),
            context=min(self.context, 192),
        )  # fmt: skip


@dataclass(frozen=True)
class Run:
    """What `run` gives.

    Attributes:
        finetuned: networks and losses.
        folder: the model, in Hugging Face layout.
        facts: lines that say how it went.
    """

    finetuned: Finetuned
    folder: Path
    facts: tuple[str, ...]


def run(config: FinetuneRun, stream: StreamMaker, lm: LanguageModel | None = None) -> Run:
    """Fine-tunes what the config says, and writes it; the same call again goes on, or reads.

    Args:
        config: every choice.
        stream: makes rows of text.
        lm: what the config names, if it is loaded already.

    Raises:
        UserError: whatever is wrong with the config, the model or the data.
    """
    c = config.resolved()
    if c.compilation_cache_dir is not None:
        enable_compilation_cache(c.compilation_cache_dir)
    lm = lm or load(c.model, dtype=c.dtype, revision=c.revision)
    workdir = Workdir(c.workdir, c)
    rows = stream(c, lm)
    # They come first, so that the data that is trained on begins after them.
    held_out = _set_aside(rows, c)
    found = finetune(c, lm.network, rows, held_out=held_out, workdir=workdir)
    folder = workdir / "model"
    if is_writer():
        if folder.exists():  # of a run that had ended
            shutil.rmtree(folder)
        found.save(folder, lm)
        workdir.write_json("provenance.json", Provenance(
            model=lm.origin.model_id, weights=lm.origin.weights, tokenizer=lm.origin.tokenizer,
            dtype=lm.origin.dtype, seed=c.seed, site=None, data=", ".join(c.data),
            config=workdir.config,
        ).to_json())  # fmt: skip
    facts = [f"{found.steps} steps of {c.batch_size * c.accumulate} rows"]
    if found.held_out is not None:
        before, after = found.held_out
        facts.append(
            f"loss on {c.held_out_rows} held-out rows: {before:.4f} nats a token before, "
            f"{after:.4f} after"
        )
    return Run(found, folder, tuple(facts))


def _set_aside(rows: Stream, config: FinetuneRun) -> list[TokenRows]:
    parts = []
    try:
        for start in range(0, config.held_out_rows, config.batch_size):
            parts.append(rows.next(min(config.batch_size, config.held_out_rows - start)))
    except StopIteration:
        raise UserError(
            found="data that ended within the held-out rows",
            expected=f"more than {config.held_out_rows} rows",
            do="give more text, or lower --held_out_rows",
        ) from None
    return parts
