"""Fine-tuning a network on a stream of tokens, from the start or from the last checkpoint.

The state is one tree (values, optimiser, step) beside the stream's cursor, so 2N steps are
N steps, a stop, and N more, to the bit.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from interp_jax.finetuning.config import FinetuneConfig
from interp_jax.finetuning.loss import learnt_mask, mean_loss, require_learnt
from interp_jax.finetuning.training import Training
from interp_jax.generation.language_model import LanguageModel
from interp_jax.interventions.lora import LoRA, merge_lora
from interp_jax.models.decoder import Decoder
from interp_jax.models.safetensors_write import save_hf
from interp_jax.models.token_rows import Stream, TokenRows, cursor_values, put_back
from interp_jax.runtime.checkpoints import Checkpoints
from interp_jax.runtime.errors import UserError
from interp_jax.runtime.metrics import ManyWriters, open_writers
from interp_jax.runtime.progress import Progress
from interp_jax.runtime.stopping import stop_asked
from interp_jax.runtime.workdir import Workdir


@dataclasses.dataclass(frozen=True)
class Finetuned:
    """What a run gives.

    Attributes:
        base: the network that was fine-tuned, as it was.
        adapter: of a LoRA run; None of a full one.
        network: the fine-tuned network: with the adapter placed, or with the new weights.
        steps: finished steps.
        held_out: mean loss in nats on the held-out rows before and after; None without such rows.
    """

    base: Decoder
    adapter: LoRA | None
    network: Decoder
    steps: int
    held_out: tuple[float, float] | None

    def merged(self) -> Decoder:
        """The fine-tuned network with everything in its weights."""
        return self.network if self.adapter is None else merge_lora(self.base, self.adapter)

    def save(self, folder: str | Path, lm: LanguageModel) -> Path:
        """Writes the merged network as a Hugging Face folder; see `save_hf`.

        Args:
            folder: must not exist yet, or be empty.
            lm: whose tokenizer and chat template go with it.

        Raises:
            UserError: as `save_hf`.
        """
        template = None if lm.chat_template is None else lm.chat_template.source
        network = self.merged()
        return save_hf(folder, network.config, network.parameters(), lm.tokenizer, template)


def finetune(
    config: FinetuneConfig,
    network: Decoder,
    stream: Stream,
    *,
    held_out: Sequence[TokenRows] = (),
    workdir: Workdir | None = None,
    mesh: Mesh | None = None,
    on_step: Callable[[int, dict[str, jax.Array]], None] | None = None,
) -> Finetuned:
    """Trains an adapter or all weights.

    Args:
        config: every choice.
        network: what is fine-tuned; it is not changed.
        stream: rows, standing at the start of the data. With several processes each gives its own
            part of a batch (`shard`).
        held_out: rows whose loss is taken before and after.
        workdir: for checkpoints and `metrics.jsonl`; None: nothing is written.
        mesh: see `Training`.
        on_step: called after each step with its number and its metrics.

    Raises:
        UserError: what does not fit together, data that ends too soon, a step without a token to
            learn, or a loss that is not finite.
        KeyboardInterrupt: SIGTERM came; a checkpoint was written first.
    """
    training = Training(config, network, mesh)
    with contextlib.ExitStack() as stack:
        checkpoints, writers = None, ManyWriters()
        if workdir is not None:
            opened = open_writers(workdir.path, tensorboard=config.tensorboard)
            writers = stack.enter_context(opened)
            if config.checkpoint_every:
                checkpoints = stack.enter_context(Checkpoints(workdir / "checkpoints", keep=2))
        measure = lambda net: mean_loss(net, held_out, config.loss_roles, config.end_of_turn)
        before = measure(training.network) if held_out else None
        begin, state = 0, training.first_state()
        if checkpoints is not None and checkpoints.latest_step() is not None:
            begin, state, extra = checkpoints.restore(state)
            put_back(stream, extra["cursor"])
        elif before is not None:
            writers.scalars(0, {"held_out/loss": before})
        stopping = stack.enter_context(stop_asked())
        bar = stack.enter_context(Progress(config.steps, "fine-tuning", start=begin))
        saved = begin
        for step in range(begin, config.steps):
            rows, mask = _next_rows(config, stream, step)
            state, metrics = training(state, rows, mask)
            done = step + 1
            if on_step is not None:
                on_step(done, metrics)
            last = done == config.steps
            if done % config.log_steps == 0 or last:
                _log(writers, done, metrics)
            bar.update()
            due = config.checkpoint_every and (done % config.checkpoint_every == 0 or last)
            asked = stopping()
            if checkpoints is not None and (asked or due):
                checkpoints.save(done, state, {"cursor": cursor_values(stream)})
                saved = done
            if asked:
                if checkpoints is not None:
                    checkpoints.wait()
                raise KeyboardInterrupt(f"stopped after {saved} steps")
        tuned = training.trained(state.values)
        losses = None
        if before is not None:
            losses = (before, measure(tuned))
            writers.scalars(config.steps, {"held_out/loss": losses[1]})
    adapter = training.adapter
    if adapter is not None:
        adapter = adapter.with_trainable(state.values)
    return Finetuned(training.network, adapter, tuned, config.steps, losses)


def _next_rows(config: FinetuneConfig, stream: Stream, step: int) -> tuple[TokenRows, np.ndarray]:
    """The rows of a step, [accumulate, B, T], and what is learnt of them."""
    own = config.batch_size // jax.process_count()
    try:
        parts = [stream.next(own) for _ in range(config.accumulate)]
    except StopIteration:
        raise UserError(
            found=f"data that ended in step {step + 1}",
            expected=f"{config.accumulate} batches of {config.batch_size} rows for each of "
            f"{config.steps} steps",
            do="give more text or more epochs, or lower --steps",
        ) from None
    rows = TokenRows(*(np.stack(arrays) for arrays in zip(*parts, strict=True)))
    mask = learnt_mask(rows, config.loss_roles, config.end_of_turn)
    if jax.process_count() == 1:
        require_learnt(int(mask.sum()), config.loss_roles)
    return rows, mask


def _log(writers: Any, step: int, metrics: dict[str, jax.Array]) -> None:
    host = jax.device_get(metrics)
    if not np.isfinite(host["loss"]):
        raise UserError(
            found=f"a loss of {host['loss']} at step {step}", expected="a finite one",
            do="lower --lr, or look at the data, and begin in another workdir",
        )
    writers.scalars(step, host)
