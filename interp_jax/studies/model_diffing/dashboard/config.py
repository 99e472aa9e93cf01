"""What a dashboard is told: one frozen dataclass, from which the flags are derived.

What changes the page alone, not the examples, has `affects_results` False: it may be another in the
same workdir.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

from interp_jax.dictionaries.formats.opening import Layout
from interp_jax.dictionaries.replaced_tokens import HELP as REPLACED
from interp_jax.dictionaries.replaced_tokens import Replacements, parse_replacements
from interp_jax.models.sites import Site
from interp_jax.models.sources import DEFAULT_MODEL
from interp_jax.runtime.config_fields import option as _field
from interp_jax.runtime.errors import UserError


@dataclass(frozen=True)
class DashboardConfig:
    """The help of each field is its documentation.

    Raises:
        UserError: a site that is none, or replaced tokens that are none or have no second model.
    """

    workdir: str = _field(
        "runs/dashboard", "Folder for the page and what it is made from.", affects_results=False
    )
    dictionary: str = _field("", "The dictionary: a folder or a file.")
    layout: Layout = _field("auto", "Its layout; auto tells it by the names of its files.")
    scales: tuple[float, ...] = _field(
        (), "What inputs are multiplied by, where the dictionary's files do not say."
    )
    model: str = _field(
        DEFAULT_MODEL, "Model that the dictionary reads: a packaged model, a folder, a .gguf "
        "file, or a hub id. The base of two.",
    )
    revision: str | None = _field(None, "Revision of a hub id.")
    other_model: str | None = _field(
        None, "Second model of a crosscoder (chat). Its tokenizer is used for both."
    )
    other_revision: str | None = _field(None, "Revision of --other_model.")
    dtype: Literal["float32", "bfloat16"] = _field("float32", "Type of the models' weights.")
    site: str = _field(
        "", "What the dictionary reads, e.g. resid_post[13]; with several layers, one input each. "
        "Default: the site in the dictionary's provenance, else the stream after the middle block.",
    )
    skip_first: int = _field(0, "First tokens of each row that do not count.", minimum=0)
    replace_tokens: tuple[str, ...] = _field((), REPLACED)
    data: str = _field(
        "puzzles", "Where text comes from: a file or folder (.jsonl or .parquet with `messages` or "
        "`text`, .txt), puzzles (generated conversations), docstrings, or datasets:NAME:SPLIT.",
    )
    tokens: int = _field(500_000, "Tokens to look at.", minimum=1)
    length: int = _field(128, "Tokens of a row; longer documents are cut.", minimum=2)
    batch_size: int = _field(8, "Rows that are run at once.", minimum=1)
    seed: int = _field(0, "Root of all random draws.", minimum=0, maximum=2**31 - 1)
    top: int = _field(12, "Strongest examples of each latent.", minimum=1)
    per_band: int = _field(4, "Sampled examples of each band of strength.", minimum=1)
    bands: Literal["octaves", "quantiles"] = _field(
        "octaves", "Bands of strength: half octaves below the maximum, in one pass; or cut at "
        "0.25, 0.5, 0.75 and 0.95 of the maximum as in the paper, with a pass before for the "
        "maxima.",
    )
    before: int = _field(20, "Tokens shown before a peak.", minimum=0)
    after: int = _field(11, "Tokens shown after it.", minimum=0)
    effects: int = _field(
        10, "Tokens named on either side of the logit effects; 0: none. Where the dictionary "
        "does not write to the stream, there are none.", minimum=0, affects_results=False,
    )  # fmt: skip
    neighbours: int = _field(
        8, "Nearest latents named; 0: none.", minimum=0, affects_results=False
    )
    diff_run: str | None = _field(
        None, "Workdir of scripts/diff_models.py with the same crosscoder: its ratios of latent "
        "scaling become columns.", affects_results=False,
    )
    title: str = _field("", "Title of the page. Default: the dictionary's name.",
                        affects_results=False)  # fmt: skip
    log_every: float = _field(30.0, "Seconds between log lines where there is no terminal.",
                              minimum=0.0, affects_results=False)  # fmt: skip
    smoke: bool = _field(
        False, "Few tokens; without --dictionary, on a crosscoder of the model and a copy with "
        "noise, trained for a few steps. About a minute.",
    )

    def __post_init__(self):
        if self.site:
            Site.parse(self.site)
        two = self.other_model is not None or (self.smoke and not self.dictionary)
        if self.replacements() and not two:
            raise UserError(
                found="--replace_tokens with one model", expected="a base and a chat model",
                do="give --other_model",
            )

    def replacements(self) -> Replacements:
        """`replace_tokens` as pairs of numbers."""
        return parse_replacements(self.replace_tokens)

    def resolved(self) -> DashboardConfig:
        """With the sizes of a smoke run where one is asked for."""
        if not self.smoke:
            return self
        return dataclasses.replace(
            self, tokens=min(self.tokens, 4000), length=min(self.length, 64),
            batch_size=min(self.batch_size, 4), top=min(self.top, 6),
            per_band=min(self.per_band, 2),
        )  # fmt: skip
