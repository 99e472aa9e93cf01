"""Fine-tune a language model: an adapter (LoRA) or all weights.

The result is an ordinary model folder, an adapter merged into the weights, which
scripts/train_dictionary.py and scripts/diff_models.py take as --other_model.

Examples:

  Does it all work here? A minute or two; the numbers mean little.
    python scripts/finetune.py --workdir=runs/tuned --smoke

  Chats of your own, one {"messages": [...]} a line; what the assistant says is learnt.
    python scripts/finetune.py --workdir=runs/tuned --data=chats.jsonl --steps=400

  Plain text, all weights.
    python scripts/finetune.py --workdir=runs/full --data=texts.jsonl --method=full \\
        --loss_roles= --pack

The loss on rows that were set aside is printed before and after. The model is written to `model` in
the workdir, metrics.jsonl holds the losses. A run that was stopped goes on when the same command is
given again, and ends with the same weights.
"""

from __future__ import annotations

from interp_jax.finetuning.run import FinetuneRun, run
from interp_jax.generation.language_model import LanguageModel
from interp_jax.runtime.devices import banner, setup
from interp_jax.runtime.flags import define_from_dataclass, read_into_dataclass, run_main
from interp_jax.text.streams import RowStream
from interp_jax.text.streams_mixed import open_streams


def text(config: FinetuneRun, model: LanguageModel) -> RowStream:
    """Rows of what --data names, by the model's tokenizer and chat template."""
    return open_streams(
        config.data, model.tokenizer, config.context, seed=config.seed,
        text_field=config.text_field, messages_field=config.messages_field,
        template=model.chat_template, pack=config.pack, epochs=config.epochs,
    )


def main() -> None:
    """Reads the flags, says what will be done, does it, and says where the result is."""
    config = read_into_dataclass(FinetuneRun)
    setup()
    c = config.resolved()
    sizes = {"model": c.model, "method": c.method, "data": ", ".join(c.data), "steps": c.steps,
             "rows per step": c.batch_size * c.accumulate}  # fmt: skip
    print(banner("Fine-tune", sizes=sizes, writes=c.workdir))
    made = run(config, text)
    print()
    for line in made.facts:
        print(line)
    print(f"\nThe model is in {made.folder}")


if __name__ == "__main__":
    define_from_dataclass(FinetuneRun)
    run_main(main)
