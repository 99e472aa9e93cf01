"""What the thought-anchors report is made from, and the check that it is all there.

`check(data)` takes one mapping. Sentences count from 0. `null` is None (or NaN in
a number's place). "interval" is `[low, high]`. N is the number of sentences.

    title       string
    model       {id, weights, dtype: strings; layers, heads: integers | null}
    run         {seed, versions: {name: version}, device, tokens_generated, seconds,
                tokens_per_second, compilations, date, config: {name: anything}};
                every entry may be left out
    problem     null, or {id, question, answer | null, rule,
                correct_answers: [normalised answers graded correct], left out = [answer],
                screen: {candidates, accuracy, interval, n, chosen_by} | null}
    trace       {text, answer | null, is_correct | null,
                sentences: N of {text, start, end, tokens | null, label | null, index = place,
                depends_on: [earlier sentences] | null},
                tags = []: of every label [{name, words, short, meaning, colour "#rrggbb"}]};
                text[start:end] is the sentence, up to white space, counted in characters
    rollouts    null, or {per_sentence, unfinished_share, unanswered_share, temperature, top_p,
                max_new_tokens, similarity_threshold = 0.8}
    resampling  null, {not_shown: reason}, or N of
                {n: all rollouts; answers: {normalised answer: count}, those without one left out;
                 accuracy, interval; resampling_accuracy, resampling_kl,
                 counterfactual_accuracy, counterfactual_kl (nats); each may have
                 NAME_interval, and the KLs NAME_null: the 95th percentile of split halves;
                 forced_accuracy, forced_kl: the same, left out without forced answers;
                 different_trajectories, overdeterminedness: shares;
                 content: null, left out, or {absent, present: counts; absent_fraction, accuracy,
                 kl, log_odds, each with NAME_interval, and kl_null; resilience, stayed_out,
                 chains}: CF++ and resilience, whose positive accuracy means that the content helps;
                 alternatives: [{text, similarity, answer, is_correct}, each but text | null]}
                Every number may be null. Signs are the paper's: a positive resampling_accuracy or
                forced_accuracy and a NEGATIVE counterfactual_accuracy mean that the sentence helps.
    sentence_matrix  null, or M[source][target], [N][N], null where undefined
    receiver    null, {not_shown: reason}, or
                {heads: [{layer, head, kurtosis}], scores: [N] | null,
                 intervals: [N] of interval | null, heatmap: [layers][heads] kurtosis | null;
                 sink = false: whether sentence 0 holds the first token of all}
    suppression null, {not_shown: reason}, or
                {matrix: normalised [target][source], raw: the same before normalising | null,
                 outgoing: [N], outgoing_intervals: [N] of interval | null,
                 distance_profile: mean at distance 1, 2, ...; mode: "exact" or another name,
                 control: {outgoing: [N] expected from distance alone,
                           explained: share of variance that distance explains | null} | null}
    masking     null, left out, {not_shown: reason}, or as suppression without mode (raw is the
                mean KL in nats), and
                {edges: [{source, target, mean, total, first, cleaned}], strongest first; count: of
                 all edges}
    ablation    null, left out, {not_shown: reason}, or
                {heads: [{layer, head}]; kl, log_probability: {value, controls: [one per set of
                 random heads], p_value}, nats a token; overlapping: [layers where those hold
                 chosen heads]; answers: {not_shown: reason} or {problems, samples: counts,
                 conditions: none, receiver, random: {name, value, interval, unanswered},
                 changes: [{name, against, value, interval}]}}
    notes       [string]; may be left out
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from interp_jax.report.embed import plain
from interp_jax.runtime.errors import UserError

MEASURES = (
    "resampling_accuracy",
    "resampling_kl",
    "counterfactual_accuracy",
    "counterfactual_kl",
    "forced_accuracy",
    "forced_kl",
)
CONTENT = {
    "absent_fraction": (0, 1), "accuracy": (-1, 1), "kl": (0, None), "log_odds": (None, None),
}
_COLOUR = re.compile(r"#[0-9a-fA-F]{6}")
_ADVICE = "see interp_jax.studies.thought_anchors.report_data for the layout"


def check(data: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `data` as plain JSON types, or raises.

    Raises:
        UserError: something is missing, of another type or shape, or out of order;
            the message names the place.
    """
    report = plain(data)
    _mapping(report, "data")
    _string(report, "title", "data")
    model = _mapping(report.get("model"), "model")
    for name in ("id", "weights", "dtype"):
        _string(model, name, "model")
    unknown = model["weights"] == ""  # of a released trace nothing is known but a name
    for name in ("layers", "heads"):
        _number(model.setdefault(name, None), f"model.{name}", low=1, optional=unknown)
    _mapping(report.setdefault("run", {}), "run")
    _check_problem(report.setdefault("problem", None))
    count = _check_trace(report.get("trace"))
    if report.setdefault("rollouts", None) is not None:
        rollouts = _mapping(report["rollouts"], "rollouts")
        _number(rollouts.get("per_sentence"), "rollouts.per_sentence", low=1)
        for name in ("unfinished_share", "unanswered_share"):
            _number(rollouts.get(name), f"rollouts.{name}", low=0, high=1, optional=True)
        rollouts.setdefault("similarity_threshold", 0.8)
    _check_resampling(report.setdefault("resampling", None), count)
    _grid(report.setdefault("sentence_matrix", None), "sentence_matrix", count, optional=True)
    _check_receiver(report.setdefault("receiver", None), count)
    for name in ("suppression", "masking"):
        _check_sources(report.setdefault(name, None), name, count)
    _check_edges(report["masking"], count)
    _check_ablation(report.setdefault("ablation", None))
    notes = report.setdefault("notes", [])
    for index, note in enumerate(_list(notes, "notes")):
        if not isinstance(note, str):
            raise _wrong(f"notes[{index}] = {note!r}", "a string")
    return report


def shown(part: Any) -> bool:
    """Returns whether a method has results, rather than null or a reason for none."""
    return part is not None and not (isinstance(part, dict) and "not_shown" in part)


def _check_problem(problem: Any) -> None:
    if problem is None:
        return
    _mapping(problem, "problem")
    _string(problem, "question", "problem")
    answer = problem.setdefault("answer", None)
    correct = problem.setdefault("correct_answers", [] if answer is None else [str(answer)])
    _list(correct, "problem.correct_answers")
    if problem.setdefault("screen", None) is not None:
        screen = _mapping(problem["screen"], "problem.screen")
        _interval(screen.get("interval"), "problem.screen.interval")


def _check_trace(trace: Any) -> int:
    _mapping(trace, "trace")
    text = _string(trace, "text", "trace")
    sentences = _list(trace.get("sentences"), "trace.sentences")
    if not sentences:
        raise _wrong("a trace without sentences", "at least one")
    end = 0
    for index, sentence in enumerate(sentences):
        where = f"trace.sentences[{index}]"
        _mapping(sentence, where)
        if sentence.setdefault("index", index) != index:
            raise _wrong(f"{where}.index = {sentence['index']!r}", f"its place, {index}")
        words = _string(sentence, "text", where)
        span = (sentence.get("start"), sentence.get("end"))
        if not all(type(edge) is int for edge in span) or not end <= span[0] <= span[1] <= len(
            text
        ):
            raise _wrong(
                f"{where} at characters {span[0]!r} to {span[1]!r}",
                f"integers from {end} up to {len(text)}, in order and apart",
            )
        if text[span[0] : span[1]].split() != words.split():
            raise _wrong(
                f"{where}.text = {words[:60]!r} over {text[span[0] : span[1]][:60]!r}",
                "the trace's own text between start and end",
            )
        sentence.setdefault("label", None)
        for link in sentence.setdefault("depends_on", None) or []:
            if type(link) is not int or not 0 <= link < index:
                raise _wrong(f"{where}.depends_on with {link!r}", "earlier sentences")
        end = span[1]
    for place, tag in enumerate(_list(trace.setdefault("tags", []), "trace.tags")):
        where = f"trace.tags[{place}]"
        for name in ("name", "words", "short", "meaning", "colour"):
            _string(_mapping(tag, where), name, where)
        # It goes into a style, where no other text may.
        if not _COLOUR.fullmatch(tag["colour"]):
            raise _wrong(f"{where}.colour = {_brief(tag['colour'])}", "#rrggbb")
    trace.setdefault("answer", None)
    trace.setdefault("is_correct", None)
    return len(sentences)


def _check_resampling(resampling: Any, count: int) -> None:
    if not _has_results(resampling, "resampling"):
        return
    for index, entry in enumerate(_list(resampling, "resampling", count)):
        where = f"resampling[{index}]"
        _mapping(entry, where)
        total = _number(entry.get("n"), f"{where}.n", low=0)
        answers = _mapping(entry.get("answers"), f"{where}.answers")
        for answer, times in answers.items():
            _number(times, f"{where}.answers[{answer!r}]", low=0)
        if sum(answers.values()) > total:
            raise _wrong(
                f"{where} with {sum(answers.values())} answers from n = {total} rollouts",
                "at most one answer for each rollout",
            )
        for name in ("accuracy", "different_trajectories", "overdeterminedness"):
            _number(entry.setdefault(name, None), f"{where}.{name}", low=0, high=1, optional=True)
        _interval(entry.setdefault("interval", None), f"{where}.interval")
        for name in MEASURES:
            low = 0 if name.endswith("kl") else -1
            _number(entry.get(name), f"{where}.{name}", low=low, optional=True)
            _interval(entry.get(f"{name}_interval"), f"{where}.{name}_interval")
            _number(entry.get(f"{name}_null"), f"{where}.{name}_null", optional=True)
        content = entry.setdefault("content", None)
        for name, (low, high) in CONTENT.items() if content is not None else ():
            _number(content.get(name), f"{where}.content.{name}", low=low, high=high, optional=True)
            _interval(content.get(f"{name}_interval"), f"{where}.content.{name}_interval")
        if content is not None:
            _number(content.setdefault("kl_null", None), f"{where}.content.kl_null", optional=True)
        for place, other in enumerate(_list(entry.setdefault("alternatives", []), where)):
            where_other = f"{where}.alternatives[{place}]"
            _string(_mapping(other, where_other), "text", where_other)
            similarity = other.setdefault("similarity", None)
            _number(similarity, f"{where_other}.similarity", low=-1.01, high=1.01, optional=True)


def _check_receiver(receiver: Any, count: int) -> None:
    if not _has_results(receiver, "receiver"):
        return
    _mapping(receiver, "receiver")
    for index, head in enumerate(_list(receiver.setdefault("heads", []), "receiver.heads")):
        for name in ("layer", "head"):
            _number(_mapping(head, "receiver.heads").get(name), f"receiver.heads[{index}].{name}")
    if not isinstance(receiver.setdefault("sink", False), bool):
        raise _wrong(f"receiver.sink = {_brief(receiver['sink'])}", "true or false")
    _numbers(receiver.get("scores"), "receiver.scores", count)
    _intervals(receiver.setdefault("intervals", None), "receiver.intervals", count)


def _check_sources(part: Any, where: str, count: int) -> None:
    if not _has_results(part, where):
        return
    _mapping(part, where)
    _grid(part.get("matrix"), f"{where}.matrix", count)
    _grid(part.setdefault("raw", None), f"{where}.raw", count, optional=True)
    _numbers(part.get("outgoing"), f"{where}.outgoing", count)
    name = "outgoing_intervals"
    _intervals(part.setdefault(name, None), f"{where}.{name}", count)
    _numbers(part.setdefault("distance_profile", []), f"{where}.distance_profile")
    control = part.setdefault("control", None)
    if control is not None and _mapping(control, f"{where}.control").get("outgoing"):
        _numbers(control["outgoing"], f"{where}.control.outgoing", count)


def _check_edges(masking: Any, count: int) -> None:
    if not shown(masking):
        return
    _number(masking.get("count"), "masking.count", low=0)
    for place, edge in enumerate(_list(masking.get("edges"), "masking.edges")):
        where = f"masking.edges[{place}]"
        ends = _mapping(edge, where).get("source"), edge.get("target")
        if not all(type(end) is int for end in ends) or not 0 <= ends[0] < ends[1] < count:
            raise _wrong(f"{where} from {ends[0]!r} to {ends[1]!r}", "an earlier and a later one")
        for name in ("mean", "total", "first", "cleaned"):
            _number(edge.get(name), f"{where}.{name}")


def _check_ablation(ablation: Any) -> None:
    if not _has_results(ablation, "ablation"):
        return
    for index, head in enumerate(_list(_mapping(ablation, "ablation").get("heads"), "heads")):
        for name in ("layer", "head"):
            _number(_mapping(head, "heads").get(name), f"ablation.heads[{index}].{name}", low=0)
    _numbers(ablation.setdefault("overlapping", []), "ablation.overlapping")
    for name in ("kl", "log_probability"):
        measure = _mapping(ablation.get(name), f"ablation.{name}")
        _number(measure.get("value"), f"ablation.{name}.value")
        _numbers(measure.get("controls"), f"ablation.{name}.controls")
        _number(measure.get("p_value"), f"ablation.{name}.p_value", low=0, high=1)
    answers = _mapping(ablation.get("answers"), "ablation.answers")
    if not _has_results(answers, "ablation.answers"):
        return
    for name in ("problems", "samples"):
        _number(answers.get(name), f"ablation.answers.{name}", low=1)
    for name, low, texts in (("conditions", 0, ("name",)), ("changes", -1, ("name", "against"))):
        for place, one in enumerate(_list(answers.get(name), f"ablation.answers.{name}")):
            where = f"ablation.answers.{name}[{place}]"
            for text in texts:
                _string(_mapping(one, where), text, where)
            _number(one.get("value"), f"{where}.value", low=low, high=1)
            _interval(one.get("interval"), f"{where}.interval")
            if name == "conditions":
                _number(one.get("unanswered"), f"{where}.unanswered", low=0, high=1)


def _has_results(part: Any, where: str) -> bool:
    if isinstance(part, dict) and "not_shown" in part:
        _string(part, "not_shown", where)
    return shown(part)


def _wrong(found: str, expected: str) -> UserError:
    return UserError(found=f"{found} in the report's data", expected=expected, do=_ADVICE)


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _wrong(f"{where} = {_brief(value)}", "a mapping")
    return value


def _list(value: Any, where: str, length: int | None = None) -> list[Any]:
    if not isinstance(value, list):
        raise _wrong(f"{where} = {_brief(value)}", "a list")
    if length is not None and len(value) != length:
        raise _wrong(f"{where} with {len(value)} entries", f"{length}, one per sentence")
    return value


def _string(mapping: dict[str, Any], name: str, where: str) -> str:
    if not isinstance(mapping.get(name), str):
        raise _wrong(f"{where}.{name} = {_brief(mapping.get(name))}", "a string")
    return mapping[name]


def _number(
    value: Any,
    where: str,
    *,
    low: float | None = None,
    high: float | None = None,
    optional: bool = False,
) -> Any:
    if value is None and optional:
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong(f"{where} = {_brief(value)}", "a number")
    if (low is not None and value < low) or (high is not None and value > high):
        bounds = f"at least {low}" if high is None else f"from {low} to {high}"
        raise _wrong(f"{where} = {value}", f"a number {bounds}")
    return value


def _numbers(values: Any, where: str, length: int | None = None) -> None:
    for index, value in enumerate(_list(values, where, length)):
        _number(value, f"{where}[{index}]", optional=True)


def _interval(value: Any, where: str) -> None:
    if value is None or value == [None, None]:
        return
    if len(_list(value, where)) != 2:
        raise _wrong(f"{where} = {_brief(value)}", "[low, high]")
    low, high = (_number(edge, where) for edge in value)
    if low > high:
        raise _wrong(f"{where} = {value}", "low at most high")


def _intervals(values: Any, where: str, count: int) -> None:
    if values is not None:
        for index, value in enumerate(_list(values, where, count)):
            _interval(value, f"{where}[{index}]")


def _grid(rows: Any, where: str, count: int, *, optional: bool = False) -> None:
    if rows is None and optional:
        return
    for index, row in enumerate(_list(rows, where, count)):
        _numbers(row, f"{where}[{index}]", count)


def _brief(value: Any) -> str:
    return repr(value)[:80]
