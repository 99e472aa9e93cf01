"""Writes the parity card: how far our networks are from the reference implementations.

    python scripts/parity_card.py --out docs/parity.md

Runs the parity tests of the networks and tabulates the largest differences they recorded.
"""

from __future__ import annotations

import dataclasses
import pathlib
import platform
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from importlib.metadata import version

from interp_jax.runtime.atomic import atomic_write_text
from interp_jax.runtime.errors import UserError
from interp_jax.runtime.flags import define_from_dataclass, read_into_dataclass, run_main

ROOT = pathlib.Path(__file__).resolve().parent.parent
TESTS = "test_parity_ladder.py test_parity_sites.py test_parity_glass.py test_parity_smollm.py"
#: What the tests record -> heading of its column.
COLUMNS = {
    "logits": "logits",
    "cached": "logits, cached",
    "rungs": "worst rung",
    "sites": "worst site, relative",
    "least switch": "least effect of a switch",
}


@dataclasses.dataclass(frozen=True)
class Config:
    """What is written where."""

    out: str = dataclasses.field(
        default="docs/parity.md", metadata={"help": "File that the card is written to."}
    )


def measure() -> dict[str, dict[str, float]]:
    """Case -> column -> number, from one run of the tests.

    Raises:
        UserError: a test fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = pathlib.Path(folder) / "report.xml"
        paths = [str(ROOT / "tests" / "models" / name) for name in TESTS.split()]
        options = ["-q", f"--junitxml={report}", "-o", "junit_family=legacy"]
        command = [sys.executable, "-m", "pytest", *options, *paths]
        if subprocess.run(command, cwd=ROOT, check=False).returncode:
            raise UserError(
                found="parity tests that fail", expected="all of them to pass",
                do="read their messages above",
            )
        table: dict[str, dict[str, float]] = {}
        for found in ElementTree.parse(report).iter("property"):
            case, _, column = found.get("name").partition("/")
            row, value = table.setdefault(case, {}), float(found.get("value"))
            pick = min if column == "least switch" else max
            row[column] = pick(row.get(column, value), value)
    return table


def page(table: dict[str, dict[str, float]]) -> str:
    """The card as Markdown."""
    used = {name: version(name) for name in ("jax", "torch", "transformers")}
    lines = [
        "# Parity",
        "",
        "Largest absolute differences between our logits and the reference implementation's, "
        "both in float32 on a CPU. The families are tiny random networks with every switch on, "
        "full and ragged, padded on either side, unrolled and scanned, with reference and fused "
        "attention. A rung is the embedding, the stream after a block, the final norm or the "
        "logits. Sites are compared with hooks, relative to the site's largest value. The last "
        "column is the smallest change of a logit when one switch is turned alone: what the "
        "tests would see of a network that ignores it.",
        "",
        "| network | " + " | ".join(COLUMNS.values()) + " |",
        "|---|" + "---|" * len(COLUMNS),
    ]
    for case, row in table.items():
        cells = [f"{row[c]:.1e}" if c in row else "" for c in COLUMNS]
        lines.append(f"| {case} | " + " | ".join(cells) + " |")
    versions = ", ".join(f"{name} {v}" for name, v in used.items())
    lines += [
        "",
        f"Python {platform.python_version()}, {versions}, {platform.machine()}. "
        "Made by `python scripts/parity_card.py`.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Runs the tests and writes the card."""
    config = read_into_dataclass(Config)
    path = pathlib.Path(config.out)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_text(path, page(measure()))
    print(f"wrote {path}")


if __name__ == "__main__":
    define_from_dataclass(Config)
    run_main(main)
