"""What a thought-anchors run found, in plain sentences with their doubts.

Each method names its most important sentence. A KL between two finite samples
is positive by chance alone, so a sentence counts as "clear" only if its
interval lies above the split-half null, and the number of sentences that pass
is told beside the number expected by chance.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from typing import Any, Literal

from interp_jax.studies.thought_anchors.report_data import shown

Status = Literal["clear", "within chance", "untested", "not shown"]

# What a positive change of accuracy belongs to. Without an entry it is the other sentence's.
_KEEPING = {"resampling": "keeping it", "forced": "adding it", "content": "its content"}
_CHANCE = 0.05


@dataclasses.dataclass(frozen=True)
class Finding:
    """One method's answer.

    Attributes:
        method: "resampling", "counterfactual", "receiver" or "suppression"; where they were
            measured also "forced", "content", "masking" and "ablation".
        name: the method's name in words.
        sentence: the most important sentence, None where there is none.
        status: "clear" above chance, "within chance", "untested" without a null.
        text: the finding, one sentence.
        caveat: what to keep in mind; may be empty.
    """

    method: str
    name: str
    sentence: int | None
    status: Status
    text: str
    caveat: str


def findings(report: dict[str, Any]) -> list[Finding]:
    """Returns one finding per method from a report that passed `report_data.check`.

    Methods that are off by default have one only where they were measured.
    """
    entries = report["resampling"]
    found = [
        _from_answers(entries, "resampling", "Resampling", "Writing it anew"),
        _from_answers(entries, "counterfactual", "Counterfactual", "Saying something else there"),
    ]
    if shown(entries):
        if _has(entries, "forced_kl"):
            act = "Adding it before the thinking is closed"
            found.append(_from_answers(entries, "forced", "Forced answers", act))
        content = [_prefixed(entry.get("content") or {}) for entry in entries]
        if _has(content, "content_kl"):
            found.append(_from_content(content))
    found += [_from_receiver(report["receiver"]), _from_sources(report["suppression"], HIDING)]
    if report["masking"] is not None:
        found.append(_from_sources(report["masking"], DELETING))
    if report["ablation"] is not None:
        found.append(_from_ablation(report["ablation"]))
    return found


def _has(entries: list[dict[str, Any]], name: str) -> bool:
    return any(entry.get(name) is not None for entry in entries)


def _prefixed(content: dict[str, Any]) -> dict[str, Any]:
    return {f"content_{name}": value for name, value in content.items()}


def headline(found: Sequence[Finding]) -> str:
    """Returns the page's first sentences: what mattered, and whether the methods agree."""
    by_method = {finding.method: finding for finding in found}
    resampling = by_method["resampling"]
    if resampling.sentence is None:
        first = "Which sentence moves the answer was not measured."
    elif resampling.status == "clear":
        first = f"Sentence {resampling.sentence} moves the answer most, and more than chance would."
    elif resampling.status == "within chance":
        first = (
            "No sentence moves the answer clearly more than chance when it is written anew; "
            f"sentence {resampling.sentence} comes first."
        )
    else:
        first = f"Sentence {resampling.sentence} moves the answer most."
    others = [by_method[name] for name in ("receiver", "suppression")]
    others = [finding for finding in others if finding.sentence is not None]
    if not others:
        return first
    if resampling.sentence is None:
        named = " and ".join(f"{f.name.lower()} at sentence {f.sentence}" for f in others)
        verb = " point at " if others[0].method == "receiver" else " points at "
        return f"{first} {_capital(named.replace(' at ', verb, 1))}."
    agree = [finding for finding in others if finding.sentence == resampling.sentence]
    differ = [finding for finding in others if finding.sentence != resampling.sentence]
    if not differ:
        names = " and ".join(finding.name.lower() for finding in agree)
        verb = "point" if len(agree) > 1 or agree[0].method == "receiver" else "points"
        return f"{first} {_capital(names)} {verb} at the same one."
    parts = [
        f"{finding.name.lower()} {'point' if finding.method == 'receiver' else 'points'} at "
        + ("the same one" if finding in agree else f"sentence {finding.sentence}")
        for finding in others
    ]
    return f"{first} {_capital(' and '.join(parts))}."


def _from_content(content: list[dict[str, Any]]) -> Finding:
    """CF++: the rollouts in which no later sentence says it again, and those where it stands."""
    act = "Keeping what it says out of the whole rollout"
    found = _from_answers(content, "content", "Content taken out (CF++)", act)
    best = content[found.sentence]
    caveat = f"{found.caveat} {best['content_absent']:.0f} rollouts went without it"
    if best.get("content_resilience") is not None:
        caveat += (
            f"; it had to be removed {best['content_resilience']:.1f} times on average until it "
            f"stayed out, which it did in {best['content_stayed_out']:.0%} of the chains"
        )
    return dataclasses.replace(found, caveat=f"{caveat}.")


def _from_answers(entries: Any, method: str, name: str, act: str) -> Finding:
    if not shown(entries):
        return Finding(method, name, None, "not shown", _reason(entries), "")
    key = f"{method}_kl"
    best = _argmax([entry.get(key) for entry in entries])
    if best is None:
        return Finding(method, name, None, "not shown", "No answers could be compared.", "")
    value, null = entries[best][key], entries[best].get(f"{key}_null")
    interval = entries[best].get(f"{key}_interval")
    numbers = [f"KL {value:.2f} nats"]
    if _known(interval):
        numbers.append(f"95\N{NO-BREAK SPACE}% interval {interval[0]:.2f} to {interval[1]:.2f}")
    if null is not None:
        numbers.append(f"chance reaches {null:.2f}")
    text = f"{act} shifts the answers most ({', '.join(numbers)})"
    text += f"{_accuracy_words(entries[best], method)}."
    status = _above(value, interval, null)
    return Finding(method, name, best, status, text, _chance_caveat(entries, key, status))


def _accuracy_words(entry: dict[str, Any], method: str) -> str:
    """Says how accuracy changes; the counterfactual's sign points the other way."""
    change, interval = entry.get(f"{method}_accuracy"), entry.get(f"{method}_accuracy_interval")
    if change is None:
        return ""
    what = _KEEPING.get(method, "the other sentence")
    words = f"; {what} changes accuracy by {_signed(change)}"
    if change == 0 or (_known(interval) and interval[0] <= 0 <= interval[1]):
        return f"{words}, not clear of zero"
    side = "helps" if (change > 0) == (method in _KEEPING) else "hurts"
    return f"{words}, so {'it' if method in _KEEPING else 'the one kept'} {side}"


def _chance_caveat(entries: list[dict[str, Any]], key: str, status: Status) -> str:
    tested = [e for e in entries if e.get(key) is not None and e.get(f"{key}_null") is not None]
    if not tested:
        return "No chance level was computed, so a large value may still be noise."
    above = sum(entry[key] > entry[f"{key}_null"] for entry in tested)
    expected = 0.05 * len(tested)
    caveat = (
        f"Above their own chance level: {above} of {len(tested)} sentences; "
        f"by chance alone about {expected:.1f}."
    )
    if status == "within chance":
        caveat = f"Its interval reaches the chance level: this may be noise. {caveat}"
    return caveat


def _from_receiver(receiver: Any) -> Finding:
    method, name = "receiver", "Receiver heads"
    if not shown(receiver):
        return Finding(method, name, None, "not shown", _reason(receiver), "")
    scores = receiver["scores"]
    best = _argmax(scores)
    if best is None:
        return Finding(method, name, None, "not shown", "No sentence is far enough back.", "")
    middle = statistics.median(score for score in scores if score is not None)
    times = f", {scores[best] / middle:.1f} times the median sentence" if middle > 0 else ""
    heads = len(receiver["heads"])
    text = (
        f"Later sentences look back at it most: mean attention {scores[best]:.2g} "
        f"over {heads} {'head' if heads == 1 else 'heads'}{times}."
    )
    caveat = "Attention is not yet influence."
    if receiver["sink"]:
        caveat += (
            " Nothing stands before sentence 0, and heads with nothing to look for rest on the "
            "first token of all: its score, and which heads are sharpest, may be no more than "
            "that. With a question before the trace (--prompt) it is not a sentence's token."
        )
    return Finding(method, name, best, "untested", text, caveat)


@dataclasses.dataclass(frozen=True)
class _Edit:
    """A method that takes each sentence away from those after it."""

    method: str
    name: str
    act: str
    measure: str


HIDING = _Edit(
    "suppression", "Attention suppression", "Hiding it from attention", "normalised log KL"
)
DELETING = _Edit(
    "masking", "Masking graph", "Deleting it and moving up what follows",
    "KL in nats less each target's own mean,",
)


def _from_sources(part: Any, edit: _Edit) -> Finding:
    method, name = edit.method, edit.name
    if not shown(part):
        return Finding(method, name, None, "not shown", _reason(part), "")
    outgoing = part["outgoing"]
    best = _argmax(outgoing)
    if best is None:
        return Finding(method, name, None, "not shown", "No later sentence to disturb.", "")
    control = (part["control"] or {}).get("outgoing")
    expected = control[best] if control else None
    text = (
        f"{edit.act} disturbs the sentences after it most "
        f"(mean {edit.measure} {_signed(outgoing[best])}"
    )
    interval = (part["outgoing_intervals"] or [None] * len(outgoing))[best]
    if _known(interval):
        text += f", 95\N{NO-BREAK SPACE}% interval {_signed(interval[0])} to {_signed(interval[1])}"
    if expected is None:
        return Finding(
            method,
            name,
            best,
            "untested",
            f"{text}).",
            "Near sentences always count more; no distance control was computed.",
        )
    text += f"; distance alone predicts {_signed(expected)})."
    status = _above(outgoing[best], interval, expected)
    caveat = "Near sentences always count more, so compare with what distance predicts."
    if status == "within chance":
        caveat = "This is no more than the distance between sentences predicts."
    return Finding(method, name, best, status, text, caveat)


def _from_ablation(part: Any) -> Finding:
    """Receiver heads against random ones: by accuracy where it was measured, else by the KL."""
    method, name = "ablation", "Head ablation"
    if not shown(part):
        return Finding(method, name, None, "not shown", _reason(part), "")
    count, kl, answers = len(part["heads"]), part["kl"], part["answers"]
    heads = "receiver head" if count == 1 else f"{count} receiver heads"
    trace = (
        f"on the trace it costs {kl['value']:.2g} nats a token, as many random heads "
        f"{statistics.mean(kl['controls']):.2g} (p\N{NO-BREAK SPACE}{kl['p_value']:.2f})."
    )
    caveat = "Random heads are of the same layers, as many in each."
    if part["overlapping"]:
        caveat += " In some layers they hold receiver heads too, for want of others."
    if not shown(answers):
        status = "clear" if kl["p_value"] <= _CHANCE else "within chance"
        return Finding(
            method, name, None, status, f"Without the {heads}: {trace}",
            f"{caveat} {_reason(answers)}",
        )
    share = {one["name"]: one for one in answers["conditions"]}
    told = lambda one: f"{one['value']:.0%} ({one['interval'][0]:.0%} to {one['interval'][1]:.0%})"
    change = next(
        one for one in answers["changes"] if (one["name"], one["against"]) == ("receiver", "random")
    )
    low, high = change["interval"]
    status = "clear" if low > 0 or high < 0 else "within chance"
    text = (
        f"Without the {heads} {told(share['receiver'])} of the answers are right, without as many "
        f"random heads {told(share['random'])}, with all heads {told(share['none'])}; {trace}"
    )
    against = "clear of zero" if status == "clear" else "not clear of zero"
    caveat = (
        f"Receiver minus random: {_signed(change['value'])} ({_signed(low)} to {_signed(high)}), "
        f"{against}; {answers['problems']} problems, {answers['samples']} answers each; intervals "
        f"hold for these problems. {caveat}"
    )
    return Finding(method, name, None, status, text, caveat)


def _above(value: float, interval: Any, null: float | None) -> Status:
    if null is None:
        return "untested"
    return "clear" if (interval[0] if _known(interval) else value) > null else "within chance"


def _argmax(values: Sequence[float | None]) -> int | None:
    known = [index for index, value in enumerate(values) if value is not None]
    return max(known, key=lambda index: (values[index], -index)) if known else None


def _known(interval: Any) -> bool:
    return interval is not None and interval != [None, None]


def _reason(part: Any) -> str:
    return "This method was not run." if part is None else part["not_shown"]


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "\N{MINUS SIGN}")


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
