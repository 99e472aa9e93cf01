"""The study from end to end on a small trained model: results, and resume after any kill."""

from __future__ import annotations

import dataclasses
import json
import re
import signal
import subprocess
import sys

import numpy as np
import pytest

from interp_jax.runtime.errors import UserError
from interp_jax.runtime.journal import Journal
from interp_jax.studies.thought_anchors import run as study
from interp_jax.studies.thought_anchors.presenting import report_parts
from interp_jax.studies.thought_anchors.released import read_trace
from interp_jax.studies.thought_anchors.released_matrices import matrix_from_impacts
from interp_jax.studies.thought_anchors.rollouts import Reader
from interp_jax.studies.thought_anchors.suppression import FLOOR, Suppression
from tests.studies.thought_anchors.small_study import small_config, small_model

pytestmark = pytest.mark.usefixtures("one_encoder")


@pytest.fixture(scope="module")
def lm():
    return small_model()


@pytest.fixture(scope="module")
def unbroken(lm, tmp_path_factory):
    return study.run(small_config(tmp_path_factory.mktemp("unbroken")), lm)


def outputs(result):
    """Everything that must not depend on how often a run was stopped."""
    files = sorted((result.workdir / "trace").rglob("*.json"))
    texts = {str(path.relative_to(result.workdir)): path.read_text() for path in files}
    return texts | {"effects": result.found.suppression.effects.tolist()}


def test_every_part_is_there_and_reads_back(unbroken):
    trace, found = unbroken.trace, unbroken.found
    count = len(trace.sentences)
    assert trace.finish == "stop" and 2 <= count <= 6
    assert all(len(own) == 3 for own in found.rollouts.by_sentence.values())
    assert len(found.rollouts.by_sentence) == count
    released = read_trace(unbroken.workdir / "trace")
    assert [one["chunk"] for one in released.labeled] == [s.text for s in trace.sentences]
    assert {len(own) for own in released.rollouts.values()} == {3}
    assert released.base_solution["solution"] == trace.text
    supp = matrix_from_impacts(released.step_suppression, count)
    assert np.isfinite(supp).sum() == count * (count - 1) // 2
    page = (unbroken.workdir / "report.html").read_text()
    assert "http://" not in re.sub(r"http://www\.w3\.org/\S*", "", page)
    provenance = json.loads((unbroken.workdir / "provenance.json").read_text())
    assert provenance["model"] == "glassllm-en" and provenance["config"]["rollouts"] == 3
    lines = (unbroken.workdir / "metrics.jsonl").read_text().splitlines()
    assert any("rollouts/tokens" in json.loads(line)["values"] for line in lines)


def test_rollouts_continue_the_trace_s_own_tokens(unbroken, lm):
    """A rollout is what plain generation makes of the same tokens with the same draws."""
    trace, found = unbroken.trace, unbroken.found
    for index, own in found.rollouts.by_sentence.items():
        prefix = trace.text[: trace.cuts[index]]
        assert prefix.strip() == trace.text[: trace.sentences[index].start].strip()
        for rollout in own:
            assert rollout.finished == bool(rollout.answer) or not rollout.text.strip()
            if rollout.finished:
                assert found.problem.read(prefix + rollout.text) == rollout.answer
    with Journal(unbroken.workdir / "rollouts.jsonl") as journal:
        records = dict(journal.records())
    assert sum(name.startswith("session/") for name in records) == 1
    # Log-probabilities of what was sampled, uncached, on prompt + kept trace + rollout.
    index, cut = 1, int(trace.spans[1, 0])
    sampled = np.asarray(records["1/0"]["tokens"], np.int32)
    ids = np.concatenate([trace.ids[:cut], sampled])
    logits = np.asarray(lm.logits([ids])[0], np.float64)[0, : len(ids)]
    scaled = logits[cut - 1 : -1]
    p = np.exp(scaled - scaled.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    for step, token in enumerate(sampled):
        # Inside the nucleus: less than top-p of the mass is likelier than it.
        assert p[step][p[step] > p[step][token] * (1 + 1e-4)].sum() < 0.95
    assert found.rollouts.by_sentence[index][0].tokens == len(sampled)


def test_an_unfinished_rollout_has_no_answer(unbroken, lm):
    reader = Reader(lm, unbroken.found.problem, unbroken.trace)
    tokens = lm.tokenizer.encode("She said so.").ids.tolist()
    assert reader(0, {"tokens": tokens, "finish": "length"}).answer == ""
    assert not reader(0, {"tokens": tokens, "finish": "length"}).correct
    ended = reader(0, {"tokens": [*tokens, 3], "finish": "stop"})
    assert ended.answer == "she said so" and ended.first == "She said so."


def test_suppression_of_the_run_has_the_floor_above_its_diagonal(unbroken):
    effects = unbroken.found.suppression.effects
    above = np.triu(np.ones_like(effects, bool), 1)
    assert np.allclose(effects[above], FLOOR, atol=1e-5)
    assert (effects[~above] > FLOOR).all()


def test_below_twenty_sentences_receiver_heads_are_not_shown_and_the_report_says_why(unbroken):
    parts = report_parts(unbroken.found, small_config(unbroken.workdir))
    assert unbroken.found.receiver is None
    assert "20" in parts["receiver"]["not_shown"]
    assert any("Receiver heads: not shown" in line for line in unbroken.facts)


def test_a_source_stands_out_only_above_the_null_s_high_point(unbroken):
    """The largest cell of a distance, alone, is what chance gives one time in so many pairs."""
    rng = np.random.default_rng(0)
    effects = np.tril(rng.normal(-5, 1, (8, 8)), -1)
    effects[7, 6] = effects[np.eye(8, k=-1, dtype=bool)].max() + 0.1
    trace = dataclasses.replace(
        unbroken.trace, sentences=unbroken.trace.sentences[:1] * 8, ranges=np.zeros((8, 2), int)
    )
    found = dataclasses.replace(
        unbroken.found, trace=trace, rollouts=None, labels=None,
        suppression=Suppression(effects, np.zeros(8, int)),
    )

    def clear(found, source):
        part = report_parts(found, small_config("unused"))["suppression"]
        return part["outgoing_intervals"][source][0] > part["control"]["outgoing"][source]

    assert not clear(found, 6)
    effects[3:, 2] += 12.0
    assert clear(dataclasses.replace(found, suppression=Suppression(effects, np.zeros(8, int))), 2)


class Killed(BaseException):
    """What stops a run at once, as a kill does: nothing may handle it."""


def test_a_run_killed_after_any_write_ends_as_an_unbroken_one(unbroken, lm, tmp_path, monkeypatch):
    """One journal write more each time; all of them, one after the other, in one workdir."""
    config = small_config(tmp_path)
    append, left = Journal.append, [0]

    def append_then_die(journal, name, record):
        append(journal, name, record)
        left[0] -= 1
        if left[0] == 0:
            raise Killed

    monkeypatch.setattr(Journal, "append", append_then_die)
    kills, remade = 0, []
    while True:
        # A session of rollouts begins with a record of its own, so two writes make one rollout.
        left[0] = 2
        before = _rollouts_in(tmp_path)
        try:
            result = study.run(config, lm)
            break
        except Killed:
            kills += 1
            assert _rollouts_in(tmp_path) - before in (0, 1)
    assert kills >= 3 * len(unbroken.trace.sentences)
    assert outputs(result) == outputs(unbroken)
    assert result.found.rollouts.remade <= config.batch_size
    remade.append(result.found.rollouts.remade)


def _rollouts_in(workdir):
    path = workdir / "rollouts.jsonl"
    if not path.exists():
        return 0
    with Journal(path) as journal:
        return sum(not name.startswith("session/") for name in journal.done)


def test_what_is_made_again_is_at_most_one_batch_and_is_told(lm, tmp_path, monkeypatch, capsys):
    config = small_config(tmp_path)
    append, begun, made = Journal.append, [], []

    def die_in_the_fifth_rollout(journal, name, record):
        append(journal, name, record)
        if journal.path.name == "rollouts.jsonl" and name[0].isdigit():
            made.append(name)
            if len(made) == 5:
                raise Killed

    monkeypatch.setattr(Journal, "append", die_in_the_fifth_rollout)
    with pytest.raises(Killed):
        study.run(config, lm)
    monkeypatch.setattr(Journal, "append", append)
    capsys.readouterr()
    result = study.run(config, lm)
    said = capsys.readouterr().out
    begun = result.found.rollouts.remade
    assert 0 < begun <= config.batch_size
    assert f"at most {begun} that were under way are made again" in said
    # Nothing that was finished was sampled a second time.
    with Journal(tmp_path / "rollouts.jsonl") as journal:
        records = [(n, r) for n, r in journal.records() if not n.startswith("session/")]
    assert [name for name, _ in records[:5]] == made
    assert result.found.rollouts.tokens == sum(len(r["tokens"]) for _, r in records[5:])


def test_a_finished_run_makes_nothing_again(unbroken, lm):
    again = study.run(small_config(unbroken.workdir), lm)
    assert again.found.rollouts.tokens == 0 and outputs(again) == outputs(unbroken)
    assert any("earlier run" in line for line in again.facts)


def test_another_config_in_a_used_workdir_is_refused(unbroken, lm):
    with pytest.raises(UserError, match="rollouts: 3 there, 5 now"):
        study.run(small_config(unbroken.workdir, rollouts=5), lm)
    # Where and how fast may differ.
    config = small_config(unbroken.workdir, log_every=1.0)
    assert outputs(study.run(config, lm)) == outputs(unbroken)


def test_a_given_trace_is_looked_into_and_not_continued(lm, tmp_path):
    text = " ".join(f"She saw the Queen number {i} there." for i in range(4))
    (tmp_path / "trace.txt").write_text(text)
    config = small_config(
        tmp_path / "run", trace=str(tmp_path / "trace.txt"), prompt=None, rule=None
    )
    result = study.run(config, lm)
    assert result.found.rollouts is None and len(result.found.suppression.effects) == 4
    assert "not continued" in report_parts(result.found, config)["resampling"]["not_shown"]
    released = read_trace(result.workdir / "trace")
    assert released.labeled is None and released.step_suppression


def test_twenty_sentences_have_receiver_heads(lm, tmp_path):
    words = "cat dog hat tea Queen King".split()
    text = " ".join(f"It was {words[i * 5 % 6]}." for i in range(20))
    (tmp_path / "trace.txt").write_text(text)
    config = small_config(
        tmp_path / "run", trace=str(tmp_path / "trace.txt"), prompt=None, rule=None,
        receiver_heads=5,
    )
    assert len(lm.tokenizer.encode(text).ids) < 128
    result = study.run(config, lm)
    receiver = result.found.receiver
    assert len(receiver.heads) == 5 and all(layer > 0 for layer, _ in receiver.heads)
    assert np.isfinite(receiver.scores[:-4]).all() and np.isnan(receiver.scores[-4:]).all()
    again = study.run(config, lm)
    assert again.found.receiver.heads == receiver.heads
    # Without a question the first sentence has the first token, and that is said.
    assert report_parts(result.found, config)["receiver"]["sink"]
    assert any("Nothing stands before sentence 0" in line for line in result.facts)


def test_no_base_trace_that_will_do_says_why(lm, tmp_path):
    config = small_config(tmp_path, base_tries=4, min_sentences=30, max_sentences=40)
    with pytest.raises(UserError, match=r"in 4 tries \(.*too short"):
        study.run(config, lm)


def test_a_prompt_longer_than_the_context_is_refused(lm, tmp_path):
    with pytest.raises(UserError, match="context"):
        study.run(small_config(tmp_path, prompt="Alice went on and on. " * 40), lm)


def test_a_real_kill_loses_nothing_finished(tmp_path):
    """The process is killed with signal 9 in the middle of its rollouts."""
    code = (
        "import os, signal\n"
        "from interp_jax.runtime.journal import Journal\n"
        "from interp_jax.studies.thought_anchors.run import run\n"
        "from tests.studies.thought_anchors.small_study import small_config, small_model\n"
        "append, count = Journal.append, [0]\n"
        "def counted(journal, name, record):\n"
        "    append(journal, name, record)\n"
        "    count[0] += journal.path.name == 'rollouts.jsonl'\n"
        "    if count[0] == 4:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "Journal.append = counted\n"
        f"run(small_config({str(tmp_path)!r}), small_model())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=240)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()[-2000:]
    assert _rollouts_in(tmp_path) == 3
    config = dataclasses.replace(small_config(tmp_path), log_every=5.0)
    result = study.run(config, small_model())
    assert 0 < result.found.rollouts.remade <= config.batch_size
    assert _rollouts_in(tmp_path) == 3 * len(result.trace.sentences)
