"""The model-diffing report: one HTML page that opens without a network.

`write_report(path, data)` puts `presenting.report_parts` and a few findings in words into the page.
Its scripts, in `page/`, put every text from data into the page as text, never as markup.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from interp_jax.report.page import asset, base_scripts, base_styles, build_page, write_page

_PAGE = "interp_jax.studies.model_diffing.page"
_SCRIPTS = ("figures.js", "scatter.js", "sections.js", "report.js")
ALL, FIRST = "all", "first_nine"


def write_report(path: str | os.PathLike[str], data: Mapping[str, Any]) -> Path:
    """Writes the report of one run to `path` by atomic rename and returns the path.

    Raises:
        UserError: data without a JSON counterpart; nothing is written.
    """
    return write_page(path, build_report(data))


def build_report(data: Mapping[str, Any]) -> str:
    """The text of the page; see `write_report`."""
    facts = data["facts"]
    pair = f"{facts['base']['model']} and {facts['other'] or facts['model']}"
    return build_page(
        title=f"Model diffing: {pair}",
        body=asset(_PAGE, "report.html"),
        styles=(*base_styles(), asset(_PAGE, "report.css")),
        scripts=(*base_scripts(), *(asset(_PAGE, name) for name in _SCRIPTS)),
        data=dict(data) | {"pair": pair, "findings": findings(data)},
    )


def findings(data: Mapping[str, Any]) -> list[str]:
    """What was found, in sentences with their doubts; a number that is not known is not told."""
    told = [_quality(data["quality"]), _classes(data)]
    told += [_flagged(data["scaling"])]
    told += [_template(data["template"])] if data["template"] else []
    told += [_twins(data["twins"])] if data["twins"] else []
    told += _causal(data["causality"]) if data["causality"] else []
    told += [_explained(data["explained"])] if data["explained"] else []
    return [sentence for sentence in told if sentence]


def _quality(q: Mapping[str, Any]) -> str:
    return (
        f"The crosscoder explains {_percent(q['fve_base'])} of the variance of the base model and "
        f"{_percent(q['fve_chat'])} of the chat model, with {q['l0']:.3g} latents a token; "
        f"{_percent(q['dead_share'])} of its {q['latents']:,} latents never fired in "
        f"{q['tokens']:,} tokens."
        if None not in (q["fve_base"], q["fve_chat"], q["l0"]) else ""
    )


def _classes(data: Mapping[str, Any]) -> str:
    counts = data["delta"]["counts"]
    return (
        f"By decoder norms {counts['chat_only']:,} latents are the chat model's alone "
        f"({counts['chat_only_alive']:,} of them ever fire), {counts['base_only']:,} the base "
        f"model's, and {counts['shared']:,} shared ({counts['shared_alive']:,} fire)."
    )


def _flagged(scaling: Mapping[str, Any]) -> str:
    table = scaling["tables"]["effective chat-only"]["verdicts"]
    total = sum(table.values())
    if not total:
        return ""
    shrunk, decoupled = (table[name] + table["both"] for name in ("shrinkage", "decoupling"))
    return (
        f"Of the {total:,} alive latents of largest Delta, latent scaling confirms "
        f"{table['chat_specific']:,} as the chat model's own. {shrunk:,} are also in the base "
        f"model's residual (complete shrinkage, where the base row is short), {decoupled:,} in its "
        f"reconstruction (latent decoupling, likewise), and {table['unknown']:,} are not known."
    )


def _template(template: Mapping[str, Any]) -> str:
    own = next(row for row in template["classes"] if row["class"] == "chat_only")
    if not own["latents"]:
        return ""
    return (
        f"{_with_interval(own['mainly'], _percent)} of the {own['latents']:,} chat-only latents "
        f"that fire do so mainly on the template's tokens, which are "
        f"{_percent(template['of_data'])} of the data."
    )


def _twins(twins: Mapping[str, Any]) -> str:
    above = f"decoder cosine above {twins['cosine']:.3g}"
    if not twins["pairs"]:
        return (
            f"There are no twins: of the {twins['chat_only']:,} chat-only and "
            f"{twins['base_only']:,} base-only latents that fire, no two point the same way "
            f"({above})."
        )
    count = f"Twin pairs of a chat-only and a base-only latent: {twins['pairs']:,} ({above})."
    if not twins["known"]:
        return f"{count} None of them is strong on held-out tokens."
    return (
        f"{count} The two are strong at different tokens in {twins['diverging']:,} of the "
        f"{twins['known']:,} that are strong on held-out tokens (divergence above "
        f"{twins['bound']:.3g})."
    )


def _causal(causality: Mapping[str, Any]) -> list[str]:
    cells = {(cell["condition"], cell["set"]): cell for cell in causality["cells"]}
    told = []
    none, every = cells.get(("none", ALL)), cells.get(("all latents", ALL))
    if none and every and every["recovered"]["value"] is not None:
        told.append(
            f"Giving the chat model the base model's activation costs {none['kl']['value']:.3g} "
            f"nats a token; patching all latents recovers "
            f"{_with_interval(every['recovered'], _percent)} of it."
        )
    for row in causality["ranking"]:
        if row["set"] != ALL or row["added"]:
            continue
        d = row["difference"]
        if d["low"] is None:
            continue
        verdict = "ranks latents by what they do" if d["low"] > 0 else (
            "ranks them the wrong way round" if d["high"] < 0 else "does not tell them apart"
        )
        told.append(
            f"{'Delta' if row['score'] == 'Delta' else 'Latent scaling'} {verdict}: the worst half "
            f"of the chosen latents leaves {_with_interval(d, _nats)} more KL than the best half."
        )
    return told


def _explained(explained: Mapping[str, Any]) -> str:
    told = " and ".join(
        f"{_with_interval(found, _percent)} by {scorer}"
        for scorer, found in explained["groups"]["largest Delta"].items() if found
    )
    if not told:
        return "No reply of the judge could be read."
    return (
        f"Explanations of the latents of largest Delta tell where these fire with a balanced "
        f"accuracy of {told} (chance: 50 %)."
    )


def _percent(share: float | None) -> str:
    return "an unknown share" if share is None else f"{100 * share:.3g} %"


def _nats(value: float) -> str:
    return f"{value:.3g} nats"


def _with_interval(found: Mapping[str, Any], write) -> str:
    if found["low"] is None:
        return f"{write(found['value'])} (one row: no interval)"
    low, high = (write(found[end]) for end in ("low", "high"))
    return f"{write(found['value'])} (95 % interval {low} to {high})"
