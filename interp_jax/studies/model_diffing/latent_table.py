"""One row for each latent, as CSV: Delta in both orientations, ratios, statistics."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np

from interp_jax.dictionaries.delta import classes
from interp_jax.dictionaries.dictionary import Dictionary

if TYPE_CHECKING:
    from interp_jax.studies.model_diffing.presenting import Findings


def class_names(delta: np.ndarray) -> np.ndarray:
    """[F] of `base_only`, `shared`, `chat_only`, `other`."""
    masks = classes(jnp.asarray(delta, jnp.float32))._asdict()
    names = np.full(len(delta), "other", dtype="<U9")
    for name, mask in masks.items():
        names[np.asarray(mask)] = name
    return names


def latent_table(dictionary: Dictionary, delta: np.ndarray, found: Findings) -> str:
    """CSV text. `delta` is the paper's (1: chat only), `dec_norm_diff` the released 1 - Delta."""
    scaling, examples = found.scaling, found.examples
    columns: dict[str, np.ndarray] = {
        "latent": np.arange(len(delta)),
        "delta": delta,
        "dec_norm_diff": 1 - delta,
        "class": class_names(delta),
        "active_tokens": scaling.active,
        "largest": scaling.largest,
    }
    columns |= {name: of for name, of in scaling.ratios.items()}
    columns |= {f"{name}_se": of for name, of in scaling.errors.items()}
    columns |= {f"beta_{name}": of for name, of in scaling.betas.items()}
    for control, of in scaling.controls.items():
        columns |= {f"{name}_{control}": of[name] for name in ("nu_eps", "nu_r", "nu_act")}
    if examples is not None:
        t = examples.template
        columns |= {
            "density": examples.examples.density, "template_share": t.share, "user_share": t.user,
            "assistant_share": t.assistant, "bos_share": t.bos,
        }  # fmt: skip
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*(map(_written, of) for of in columns.values()), strict=True))
    return buffer.getvalue()


def _written(value) -> str:
    if isinstance(value, (float, np.floating)):
        return "" if np.isnan(value) else f"{float(value):.7g}"
    return str(value)
