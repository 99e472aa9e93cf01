"""The columns of the table: a number for every latent, by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from interp_jax.dictionaries.delta import Classes, classes, delta
from interp_jax.dictionaries.dictionary import Dictionary
from interp_jax.dictionaries.examples import Examples
from interp_jax.runtime.errors import UserError

CLASS_NAMES = {"base_only": "{base} only", "shared": "shared", "chat_only": "{chat} only",
               "other": "other"}  # fmt: skip
RATIO_HELP = {
    "nu_eps": "Latent scaling: how much of the latent the first model's error still holds. High: "
    "complete shrinkage.",
    "nu_r": "Latent scaling: how much of the latent the first model's reconstruction holds. "
    "High: latent decoupling.",
    "nu_act": "Latent scaling: how much of the latent the first model's activation holds.",
}


@dataclasses.dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        key: its name in the page's address.
        name: what stands above it.
        help: what the number is, in a sentence.
        values: [F]; NaN where there is none. Of a class, the index into `classes`.
        kind: how it is written. `share` is written in percent, `delta` also drawn.
        classes: names, for kind `class`.
    """

    key: str
    name: str
    help: str
    values: np.ndarray
    kind: Literal["number", "count", "share", "delta", "class"] = "number"
    classes: tuple[str, ...] = ()


def columns_of(
    dictionary: Dictionary,
    examples: Examples,
    outputs: Sequence[str] = (),
    ratios: Mapping[str, np.ndarray] | None = None,
) -> list[Column]:
    """The table of a dictionary.

    Args:
        dictionary: F latents.
        examples: of the same latents.
        outputs: names of the dictionary's O outputs (models or layers). Delta and the classes
            are shown where there are two.
        ratios: more columns by name, [F] each, such as `nu_eps` and `nu_r` of latent scaling.

    Raises:
        UserError: another number of latents, names or values.
    """
    c = dictionary.config
    if len(examples.active) != c.latents:
        raise UserError(
            found=f"examples of {len(examples.active)} latents", expected=f"{c.latents}",
            do="collect examples with this dictionary",
        )
    outputs = tuple(outputs) or tuple(
        "decoder" if c.outs == 1 else f"output {o}" for o in range(c.outs)
    )
    if len(outputs) != c.outs:
        raise UserError(
            found=f"{len(outputs)} names for outputs", expected=f"{c.outs}",
            do="name each output of the dictionary",
        )
    norms = np.asarray(dictionary.decoder_norms())
    table = []
    if c.outs == 2:
        base, chat = outputs
        share = delta(norms)
        which = np.argmax(np.stack([np.asarray(m) for m in classes(share)]), axis=0)
        named = tuple(CLASS_NAMES[n].format(base=base, chat=chat) for n in Classes._fields)
        table += [
            Column("class", "Class", f"By Δ: below 0.1 {named[0]}, within 0.1 of 0.5 shared, above "
                   f"0.9 {named[2]}. A latent that was never active in training keeps the Δ "
                   "that it started with.", which, "class", named),
            Column("delta", "Δ", f"Relative decoder norm: 0 {base} only, 0.5 shared, 1 {chat} "
                   "only. (dec_norm_diff of released tables is 1 - Δ.)",
                   np.asarray(share), "delta"),
        ]  # fmt: skip
    table += [
        Column("density", "Density", f"Share of {examples.tokens:,} tokens at which the latent "
               "is active (above 0).", examples.density, "share"),
        Column("max", "Max", "Largest scaled activation (code times decoder norm, as the "
               "dictionary scales it).", np.where(examples.active > 0, examples.largest, np.nan)),
        Column("mean", "Mean", "Mean scaled activation over tokens where it is active.",
               examples.mean),
    ]  # fmt: skip
    for number, name in enumerate(outputs):
        table.append(
            Column(
                f"norm{number}", "Norm" if c.outs == 1 else f"Norm {name}",
                f"L2 norm of the latent's decoder row for {name}.", norms[number],
            )
        )
    for name, values in (ratios or {}).items():
        values = np.asarray(values)
        if values.shape != (c.latents,):
            raise UserError(
                found=f"{name} of shape {values.shape}", expected=f"[{c.latents}]",
                do="give one number per latent",
            )
        table.append(Column(name, name.replace("nu_", "ν "), RATIO_HELP.get(name, name), values))
    return table
