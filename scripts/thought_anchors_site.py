"""Reasoning traces, sentence by sentence, in one static site that opens from disk.

Every trace in the released layout of Thought Anchors (arXiv 2506.19143) under the given folders
is found: those of runs of `scripts/thought_anchors.py`, and released ones. The site shows each as
a circle, a tree and a matrix of sentences, with what every sentence leads to and draws on, its
numbers, and what the model writes in its place. It loads nothing from a network.

Examples:

  The trace of one run.
    python scripts/thought_anchors_site.py --traces=runs/demo --out=site

  A tree of released traces, and two runs.
    python scripts/thought_anchors_site.py --traces=released,runs/one,runs/two --out=site
"""

from __future__ import annotations

from interp_jax.runtime.flags import define_from_dataclass, read_into_dataclass, run_main
from interp_jax.studies.thought_anchors.visualiser.site import SiteConfig, build_site


def main() -> None:
    """Reads the flags, builds the site, and says where it is."""
    config = read_into_dataclass(SiteConfig)
    index = build_site(config.traces, config.out)
    files = [path.stat().st_size for path in sorted((index.parent / "data").iterdir())]
    print(f"Traces: {len(files)}, {sum(files) / 1e6:.1f} MB")
    print(f"Open {index}")


if __name__ == "__main__":
    define_from_dataclass(SiteConfig)
    run_main(main)
