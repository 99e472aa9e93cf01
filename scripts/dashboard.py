"""A dictionary as a page: a table of its latents, and what each of them is.

The models run over text; for every latent the page shows how often and how strongly it is active,
its strongest and sampled examples token by token, which tokens its decoder row raises and lowers,
and which latents point the same way. Of a crosscoder of two models (arXiv 2504.02922) also Delta,
the class, and the ratios of latent scaling. It opens from disk and loads nothing from a network.

Examples:

  Does it all work here? About a minute, on a crosscoder trained for a few steps.
    python scripts/dashboard.py --workdir=runs/dashboard_smoke --smoke

  An SAE of the stream after block 13 of one model, on texts of yours.
    python scripts/dashboard.py --workdir=runs/dashboard --dictionary=path/to/sae \\
        --model=path/to/model --site='resid_post[13]' --data=texts.jsonl

  A crosscoder of two models, with the ratios of a model-diffing run, and the paper's bands.
    python scripts/dashboard.py --workdir=runs/dashboard --dictionary=path/to/crosscoder \\
        --model=base --other_model=chat --diff_run=runs/diff --bands=quantiles

The result is index.html in the workdir, with data/ beside it: keep both together.
"""

from __future__ import annotations

from interp_jax.runtime.devices import banner, setup
from interp_jax.runtime.flags import define_from_dataclass, read_into_dataclass, run_main
from interp_jax.runtime.process import is_writer
from interp_jax.studies.model_diffing.dashboard.config import DashboardConfig
from interp_jax.studies.model_diffing.dashboard.run import run


def main() -> None:
    """Reads the flags, says what will be done, does it, and says where the result is."""
    config = read_into_dataclass(DashboardConfig).resolved()
    setup()
    sizes = {
        "dictionary": config.dictionary or "of a smoke run", "model": config.model,
        "other model": config.other_model or "none", "tokens": f"{config.tokens:,}",
        "row": config.length, "rows": config.batch_size,
    }  # fmt: skip
    print(banner("Dashboard of a dictionary", sizes=sizes, writes=config.workdir))
    made = run(config)
    if not is_writer():
        return
    alive = int((made.examples.active > 0).sum())
    files = list((made.page.parent / "data").rglob("*.js"))
    size = sum(path.stat().st_size for path in files) + made.page.stat().st_size
    print(
        f"\nLatents: {len(made.examples.active):,}, of which {alive:,} were active in "
        f"{made.examples.tokens:,} tokens\nPage: {len(files) + 1} files, {size / 1e6:.1f} MB"
    )
    print(f"Open {made.page}")


if __name__ == "__main__":
    define_from_dataclass(DashboardConfig)
    run_main(main)
