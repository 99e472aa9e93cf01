"""Thought Anchors beside its peers: suppression matrix, receiver heads, rollouts.

    python benchmarks/thought_anchors.py [--quick] [--json PATH] [--patience MINUTES]

Runs `thought_anchors_suppression`, `thought_anchors_receiver` and `thought_anchors_rollouts`, each
of which says what it measures, and writes all their rows.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import thought_anchors_receiver
import thought_anchors_rollouts
import thought_anchors_suppression
from measuring import keep


def main() -> None:
    """Runs all three and writes the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="short traces, one round")
    parser.add_argument("--json", type=Path, help="write the rows here")
    parser.add_argument("--patience", metavar="MINUTES", type=float, default=0.0)
    options = parser.parse_args()
    rows = thought_anchors_receiver.cases(options.quick)
    rows += thought_anchors_rollouts.cases(options.quick, options.patience)
    rows += thought_anchors_suppression.cases(options.quick, options.patience)
    for row in rows:
        print(f"{row['case']:<32}{row['metric']:<28}{row['peer']:<38}{row['ours']:>10.2f}"
              f"{row['theirs']:>10.2f}{row['ratio']:>8.2f} {row['unit']}")
    keep(rows, options.json)


if __name__ == "__main__":
    main()
