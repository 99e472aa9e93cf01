"""Which kinds of sentence matter, over many traces, and do the methods agree?

Reads traces in the released layout (released data, or workdirs of scripts/thought_anchors.py) and
writes importance by category with tests, correlations between methods with their controls, the
dependence on distance, and what explains importance (Thought Anchors, arXiv 2506.19143).

Examples:

  Released traces: every problem below the folder.
    python scripts/thought_anchors_aggregate.py --traces=data/deepseek-r1-distill-qwen-14b

  Runs of our own.
    python scripts/thought_anchors_aggregate.py --traces=runs/a,runs/b --workdir=runs/both

  As in the published figures: clipped at zero, three categories left out.
    python scripts/thought_anchors_aggregate.py --traces=data --values=clipped \\
        --exclude=PS,FAE,SC --convergence=plots

The result is aggregate.html in the workdir, with aggregate.json and CSV tables beside it.
"""

from __future__ import annotations

from interp_jax.runtime.flags import define_from_dataclass, read_into_dataclass, run_main
from interp_jax.studies.thought_anchors.aggregates.config import AggregateConfig
from interp_jax.studies.thought_anchors.aggregates.run import run


def main() -> None:
    """Reads the flags, aggregates, and says where the result is."""
    config = read_into_dataclass(AggregateConfig)
    print(f"Thought anchors over traces: {', '.join(config.traces)}; writes {config.workdir}\n")
    result = run(config)
    for name, group in result.data["groups"].items():
        print(f"{name}: {group['traces']} of the traces, {group['sentences']} sentences")
    print()
    for note in result.notes:
        print(note)
    print(f"\nOpen {result.page}")


if __name__ == "__main__":
    define_from_dataclass(AggregateConfig)
    run_main(main)
