"""Which sentences of a model's reasoning mattered?

A model reasons about a problem. For each sentence of that reasoning three independent methods ask
how much it mattered (Thought Anchors, arXiv 2506.19143):

  resampling    the model continues many times from just before the sentence; if the answers
                change when the sentence is kept, it mattered
  receiver      heads that later sentences use to look back at few earlier ones
  suppression   attention to the sentence is taken away; how much do later words change?

Examples:

  The demo: one problem that the packaged model solves sometimes, two to ten minutes.
    python scripts/thought_anchors.py --workdir=runs/demo

  Does it all work here? About a minute; the numbers mean nothing.
    python scripts/thought_anchors.py --workdir=runs/smoke --smoke

  A question of your own, with the right answer, on a model folder of yours.
    python scripts/thought_anchors.py --workdir=runs/mine --model=path/to/model \\
        --prompt="A train leaves at 9:40 and arrives at 11:05. How many minutes?" \\
        --answer=85 --rule=last_number

  A reasoning that you have as a text; only the methods that look inside the model.
    python scripts/thought_anchors.py --workdir=runs/text --trace=reasoning.txt

  Find problems that the model solves sometimes.
    python scripts/thought_anchors.py --workdir=runs/screen --screen=200

  With forced answers, resilience, and no more rollouts of a sentence than its accuracy needs.
    python scripts/thought_anchors.py --workdir=runs/more --rollouts=100 --adaptive_width=0.2 \\
        --forced_rollouts=16 --resilience_rounds=6

  A longer reasoning, looked into: its 20 sharpest receiver heads ablated beside random ones, with
  the accuracy of answers to 32 problems under either, and the masking graph.
    python scripts/thought_anchors.py --workdir=runs/heads --trace=reasoning.txt --masking_graph \\
        --ablate_heads=20 --ablation_problems=reasoning_gym:syllogism:0:0

  One part alone, on what the parts before it left there: base, rollouts, forced, score, labels,
  white_box, ablation, report.
    python scripts/thought_anchors.py --workdir=runs/demo --stage=white_box

  The same parts on a trace in the released layout, which is only read.
    python scripts/thought_anchors.py --workdir=runs/4682 --stage=score \\
        --released=correct_base_solution/problem_4682

The result is report.html in the workdir: one page, which opens without a network. A run that was
stopped goes on when the same command is given again.
"""

from __future__ import annotations

from interp_jax.runtime.devices import banner, setup
from interp_jax.runtime.flags import define_from_dataclass, read_into_dataclass, run_main
from interp_jax.studies.thought_anchors.asking import chosen_problem
from interp_jax.studies.thought_anchors.config import ThoughtAnchorsConfig
from interp_jax.studies.thought_anchors.planning import plan_run
from interp_jax.studies.thought_anchors.run import loaded, run, run_screen


def main() -> None:
    """Reads the flags, says what will be done, does it, and says where the result is."""
    config = read_into_dataclass(ThoughtAnchorsConfig).resolved()
    setup()
    sizes = {
        "stage": config.stage, "model": config.model, "dtype": config.dtype,
        "rows": config.batch_size, "new tokens": config.max_new_tokens,
        "rollouts per sentence": config.rollouts,
    }
    print(banner("Thought anchors", sizes=sizes, writes=config.workdir))
    if config.plan_only:
        for name, plan in plan_run(loaded(config), config).items():
            print(f"{name}: {plan}")
        return
    if config.screen:
        print(run_screen(config).text())
        print(f"\nThe whole table is in {config.workdir}/screen.json")
        return
    if config.released is not None:
        print(f"Released trace: {config.released}\n")
    elif config.trace is not None:
        print(f"Trace: {config.trace}\n")
    else:
        problem = chosen_problem(config)
        print(f"Problem {problem.id}: {problem.question.strip()}\nAnswer: {problem.answer}\n")
    result = run(config)
    print()
    for line in result.facts:
        print(line)
    if result.report is None:
        print(f"\nStage {config.stage} is done; --stage=report shows what is in {config.workdir}")
    else:
        print(f"\nOpen {result.report}")


if __name__ == "__main__":
    define_from_dataclass(ThoughtAnchorsConfig)
    run_main(main)
