"""`build_dashboard`: a folder with one page and the files it loads, which opens from disk.

`index.html` holds the table; what is shown of each latent is in `data/<hash>/`, 64 latents a file,
loaded when one of them is asked for. A page opened from disk may not fetch, so the files are
scripts that hand their data to the page. The folder is named by its content and comes first, the
page comes last by atomic rename: at every moment the page that is there finds its data whole.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from interp_jax.dictionaries.dictionary import Dictionary
from interp_jax.dictionaries.examples import Examples
from interp_jax.dictionaries.examples_collection import BINS_PER_OCTAVE, LOWEST
from interp_jax.models.tokenizer import Tokenizer
from interp_jax.report.embed import embed_json
from interp_jax.report.page import asset, base_scripts, base_styles, build_page, write_page
from interp_jax.report.place import require_place
from interp_jax.runtime.atomic import disk_full_told
from interp_jax.runtime.errors import UserError
from interp_jax.studies.model_diffing.dashboard.blocks import (
    BLOCK,
    block_texts,
    rounded,
    used_tokens,
)
from interp_jax.studies.model_diffing.dashboard.columns import Column, columns_of
from interp_jax.studies.model_diffing.dashboard.directions import (
    LogitEffects,
    nearest_latents,
    whole_rows,
)
from interp_jax.studies.model_diffing.dashboard.words import token_texts

_PAGE = "interp_jax.studies.model_diffing.dashboard.page"
_STYLES = ("dashboard.css",)
_SCRIPTS = (
    "state.js", "formats.js", "files.js", "rows.js", "table.js", "histogram.js", "contexts.js",
    "panel.js", "keys.js", "dashboard.js",
)  # fmt: skip
_MARK = 'id="dictionary-dashboard"'
_OURS = re.compile(r"[0-9a-f]{12}|\.new-[0-9]+")


def build_dashboard(
    out: str | os.PathLike[str],
    dictionary: Dictionary,
    examples: Examples,
    tokenizer: Tokenizer,
    *,
    title: str = "Dictionary",
    facts: Mapping[str, str] | None = None,
    outputs: Sequence[str] = (),
    ratios: Mapping[str, np.ndarray] | None = None,
    effects: LogitEffects | None = None,
    effects_of: str = "",
    neighbours: int = 8,
    provenance: Mapping[str, Any] | None = None,
) -> Path:
    """Writes the dashboard of a dictionary to `out` and returns its `index.html`.

    Args:
        out: made when missing. An older dashboard there is replaced.
        dictionary: F latents.
        examples: of `dictionaries.examples`, of scaled activations.
        tokenizer: of the tokens.
        title: what stands above the page.
        facts: what was looked at, name to text (model, site, data); shown at the top.
        outputs: names of the dictionary's outputs, e.g. the two models.
        ratios: more columns, [F] each; see `columns_of`.
        effects: of `logit_effects`; None leaves them out.
        effects_of: whose rows and head the effects are of, e.g. the second model's name.
        neighbours: nearest latents to name, by the cosine of whole decoder rows.
        provenance: JSON values that the page carries and shows under About.

    Raises:
        UserError: what does not fit together, `out` holds another page, or the disk is full. A
            dashboard that was there is then as it was.
    """
    out = Path(out)
    require_place(out, _MARK, "a dictionary's dashboard")
    table = columns_of(dictionary, examples, outputs, ratios)
    if effects is not None and len(effects.raised) != len(examples.active):
        raise UserError(
            found=f"logit effects of {len(effects.raised)} latents",
            expected=f"{len(examples.active)}", do="make them with this dictionary",
        )
    near = nearest_latents(whole_rows(dictionary), neighbours) if neighbours else None
    used = used_tokens(examples, effects)
    words = embed_json(token_texts(tokenizer, used.tolist()))
    folder = out / "data"
    fresh = folder / f".new-{os.getpid()}"
    digest = hashlib.sha256()
    try:
        with disk_full_told(folder):
            shutil.rmtree(fresh, ignore_errors=True)
            fresh.mkdir(parents=True)
            texts = block_texts(examples, used, effects, near)
            for name, text in (("words", f"report.words({words});\n"), *_numbered(texts)):
                (fresh / f"{name}.js").write_text(text, encoding="utf-8")
                digest.update(text.encode())
            place = digest.hexdigest()[:12]
            if (folder / place).exists():
                shutil.rmtree(fresh)  # the same dashboard again
            else:
                os.replace(fresh, folder / place)
        data = {
            "title": title,
            "facts": [[str(name), str(text)] for name, text in (facts or {}).items()],
            "latents": len(examples.active),
            "columns": [_column(column) for column in table],
            "folder": f"data/{place}",
            "block": BLOCK,
            "bins": {"lowest": LOWEST, "per_octave": BINS_PER_OCTAVE},
            "effects_of": effects_of,
            "provenance": provenance,
        }
        with disk_full_told(out):
            index = write_page(out / "index.html", _page(title, data))
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    for other in folder.iterdir():
        if other.name != place and _OURS.fullmatch(other.name):
            shutil.rmtree(other)
    return index


def _numbered(texts):
    return ((f"{number:05d}", text) for number, text in enumerate(texts))


def _page(title: str, data: dict[str, Any]) -> str:
    return build_page(
        title=title,
        body=asset(_PAGE, "dashboard.html"),
        styles=(*base_styles(), *(asset(_PAGE, name) for name in _STYLES)),
        scripts=(*base_scripts(), *(asset(_PAGE, name) for name in _SCRIPTS)),
        data=data,
        script_files=True,
    )


def _column(column: Column) -> dict[str, Any]:
    values = np.asarray(column.values)
    whole = column.kind in ("class", "count")
    return {
        "key": column.key, "name": column.name, "help": column.help, "kind": column.kind,
        "classes": list(column.classes),
        "values": values.astype(np.int64) if whole else rounded(values, 5),
    }  # fmt: skip
