"""What did fine-tuning change? A crosscoder of two models, read carefully.

A crosscoder explains the activations of a base model and of the model made from it (chat) by one
set of latents. This script tells whose latents they are (Overcoming Sparsity Artifacts in
Crosscoders, arXiv 2504.02922):

  Delta        by the lengths of a latent's decoder rows
  scaling      how much of a latent the base model really holds, where its decoder row says none
  causality    how much of the difference in behaviour the chosen latents carry
  template     whether they fire on the chat template's tokens
  twins        which of them point the same way as one of the other model's, and where both fire
  autointerp   what a judge says they mean, and how well that tells where they fire

Examples:

  Does it all work here? About a minute; the numbers mean nothing.
    python scripts/diff_models.py --workdir=runs/smoke --smoke

  SmolLM2 against a fine-tune of it, with a crosscoder from scripts/train_dictionary.py.
    python scripts/diff_models.py --workdir=runs/diff --other_model=runs/tuned/model \\
        --dictionary=runs/crosscoder/dictionary --layer=15 --data=chats.jsonl

  Llama 3, with a crosscoder that was trained with the same --replace_tokens.
    python scripts/diff_models.py --workdir=runs/llama_diff --model=path/to/base \\
        --other_model=path/to/chat --dictionary=runs/llama/dictionary --layer=16 \\
        --data=chats.jsonl --replace_tokens=llama3

  With explanations by a model behind an OpenAI-compatible endpoint.
    python scripts/diff_models.py --workdir=runs/diff --other_model=runs/tuned/model \\
        --dictionary=runs/crosscoder/dictionary --layer=15 --data=chats.jsonl \\
        --judge=endpoint --judge_model=gpt-4o-mini

  One part alone: scaling, examples, causality, autointerp, report.
    python scripts/diff_models.py ... --stage=causality

The result is report.html in the workdir, which opens without a network, and latents.csv with every
latent. A run that was stopped goes on when the same command is given again.
"""

from __future__ import annotations

from interp_jax.runtime.devices import banner, setup
from interp_jax.runtime.flags import define_from_dataclass, read_into_dataclass, run_main
from interp_jax.studies.model_diffing.config import ModelDiffingConfig
from interp_jax.studies.model_diffing.report import findings
from interp_jax.studies.model_diffing.run import run, summary_of


def main() -> None:
    """Reads the flags, says what will be done, does it, and says where the result is."""
    config = read_into_dataclass(ModelDiffingConfig).resolved()
    setup()
    sizes = {
        "stage": config.stage, "base": config.model, "other": config.other_model,
        "crosscoder": config.dictionary or "trained for this smoke run", "dtype": config.dtype,
        "rows": config.batch_size, "row length": config.length, "tokens": config.tokens,
        "conversations": config.conversations,
        "replaced in the base": ", ".join(config.replace_tokens) or "nothing",
    }  # fmt: skip
    print(banner("Model diffing", sizes=sizes, writes=config.workdir))
    result = run(config)
    print()
    for line in findings(summary_of(result, config)):
        print(line)
    if result.report is None:
        print(f"\nStage {config.stage} is done; --stage=report shows what is in {config.workdir}")
    else:
        print(f"\nOpen {result.report}")


if __name__ == "__main__":
    define_from_dataclass(ModelDiffingConfig)
    run_main(main)
