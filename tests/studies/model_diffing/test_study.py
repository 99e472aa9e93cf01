"""The study from end to end on tiny models: files, resuming, stages, and what is refused."""

from __future__ import annotations

import csv
import json

import jax.numpy as jnp
import numpy as np
import pytest

from interp_jax.dictionaries.examples import document_ids
from interp_jax.interventions.run import run as run_network
from interp_jax.interventions.verbs import read
from interp_jax.runtime.errors import UserError
from interp_jax.studies.model_diffing import explain_stage, scaling_stage, similar_texts
from interp_jax.studies.model_diffing.conversations import token_rows
from interp_jax.studies.model_diffing.report import findings
from interp_jax.studies.model_diffing.run import run, summary_of
from interp_jax.studies.model_diffing.template_tokens import Slots, template_slots
from tests.studies.model_diffing.small_pair import (
    CONFIG,
    TWIN,
    crosscoder,
    pair,
    small_config,
    write_conversations,
)
from tests.studies.model_diffing.test_autointerp import Known


def go(config, dictionary=None):
    return run(config, *pair(), crosscoder() if dictionary is None else dictionary)


def rule(pieces):
    return [n for n, words in pieces if "w1" in words]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run with everything, and its workdir."""
    folder = tmp_path_factory.mktemp("whole")
    data = write_conversations(folder / "chats.jsonl")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            explain_stage, "explaining_judge",
            lambda work: Known(rule, work.workdir / explain_stage.JUDGE_LOG),
        )
        config = small_config(folder / "run", data, judge="local", negatives="similar")
        result = go(config)
    return config, result


def test_everything_is_there_and_told(whole):
    config, result = whole
    left = {path.name for path in result.workdir.iterdir()}
    assert {"report.html", "latents.csv", "scaling.npz", "examples.npz", "templates.npz",
            "causality.jsonl",
            "autointerp.json", "judge.jsonl", "similar.npz", "config.json", "provenance.json",
            "metrics.jsonl"} <= left  # fmt: skip
    assert not [name for name in left if "state" in name]
    told = " ".join(findings(summary_of(result, config)))
    for word in ("latents a token", "decoder norms", "latent scaling confirms", "nats a token",
                 "balanced accuracy", "by detection", "by fuzzing",
                 "base-only latent: 1 (decoder cosine"):  # fmt: skip
        assert word in told
    facts = json.loads((result.workdir / "provenance.json").read_text())
    assert facts["base"]["weights"] == "hash of base" and facts["weights"] == "hash of chat"
    assert facts["site"] == "resid_post[1]" and len(facts["dictionary"]["arrays"]) == 64


def test_the_table_has_both_orientations_of_delta(whole):
    config, result = whole
    rows = list(csv.DictReader((result.workdir / "latents.csv").read_text().splitlines()))
    assert len(rows) == 40
    d = crosscoder()
    base, chat = np.asarray(d.decoder_norms())
    for row in rows:
        j, told = int(row["latent"]), float(row["delta"])
        true = 0.5 * (1 + (chat[j] - base[j]) / max(chat[j], base[j]))
        assert told == pytest.approx(true, abs=1e-6)
        assert told + float(row["dec_norm_diff"]) == pytest.approx(1, abs=1e-6)
        assert (row["class"] == "chat_only") == (told > 0.9)
    silent = [row for row in rows if row["active_tokens"] in ("0", "0.0")]
    assert silent and all(row["nu_eps"] == "" for row in silent)


def test_the_numbers_come_from_the_chat_models_rows(whole):
    config, result = whole
    s, e = result.scaling, result.findings.examples
    assert 400 <= s.tokens < 400 + 4 * 48
    assert np.nanmax(np.abs(s.ratios["nu_act"] - 1)) > 0.01
    assert e.examples.tokens >= 500 and e.template.slots.shape == (40, 10)
    assert np.all(e.template.of_data > 0)
    kl = result.findings.causality
    assert kl.counts.shape[1] == 8 and "other latents 1" in kl.names
    full, none = kl.names.index("full"), kl.names.index("none")
    assert np.abs(kl.sums[full, 0]).max() < 1e-3 < kl.sums[none, 0].min(axis=-1)[0]
    assert kl.sizes[none] is None and kl.sizes[kl.names.index("all latents")] == 40


def test_twins_are_found_and_counted_on_the_held_out_tokens(whole):
    config, result = whole
    found = result.findings.examples
    twins, e = found.twins, found.examples
    assert (twins.chat.tolist(), twins.base.tolist()) == ([2], [TWIN])
    assert twins.cosine[0] == pytest.approx(1, abs=1e-6)
    (joint,) = twins.joint
    assert joint.sum() == e.tokens
    for latent, silent in ((2, joint[0].sum()), (TWIN, joint[:, 0].sum())):
        assert e.tokens - silent == pytest.approx(e.density[latent] * e.tokens, abs=1e-3)
    assert joint[1:, 0].sum() == 0 < joint[0, 1:].sum()  # where latent 2 fires, TWIN does
    assert 0 < twins.divergence[0] < 1
    told = summary_of(result, config)["twins"]
    assert told["table"][0]["divergence"] == twins.divergence[0]


def test_the_same_again_reads_what_is_there(whole, monkeypatch):
    config, result = whole
    monkeypatch.setattr(scaling_stage, "add_moments", None)  # nothing is made anew
    before = (result.workdir / "causality.jsonl").read_bytes()
    again = go(config)
    assert (result.workdir / "causality.jsonl").read_bytes() == before
    np.testing.assert_array_equal(again.scaling.ratios["nu_eps"], result.scaling.ratios["nu_eps"])
    np.testing.assert_array_equal(again.scaling.controls["random"]["nu_r"],
                                  result.scaling.controls["random"]["nu_r"])  # fmt: skip
    for over, says in (
        ({"tokens": 401}, "tokens: 400 there, 401 now"),
        ({"scorers": ("detection",)}, r'scorers: \["detection", "fuzzing"\] there'),
        ({"negatives": "random"}, 'negatives: "similar" there, "random" now'),
    ):
        fields = {"judge": "local", "negatives": "similar"} | over
        with pytest.raises(UserError, match=says):
            go(small_config(config.workdir, config.data, **fields))


def test_similar_negatives_are_of_the_nearest_latents_and_silent(whole):
    config, result = whole
    d, (base, chat) = crosscoder(), pair()
    explained = json.loads((result.workdir / "autointerp.json").read_text())
    with np.load(result.workdir / "similar.npz") as file:
        arrays = dict(file)
    chosen = sorted({j for of in explained["groups"].values() for j in of})
    decoder = np.asarray(d.array("decoder"), np.float64).reshape(40, -1)
    unit = decoder / np.linalg.norm(decoder, axis=1, keepdims=True)
    cosine = unit @ unit.T
    cosine[:, result.findings.examples.examples.density == 0] = -2
    np.fill_diagonal(cosine, -2)
    for place, latent in enumerate(chosen):
        nearest = np.argsort(-cosine[latent])[:10]
        assert arrays["neighbours"][place].tolist() == nearest.tolist()
    # Whether a latent is silent on a window is seen in its whole conversation.
    site, known = read("resid_post[1]", name="h"), {}
    for rows in token_rows(chat, config.data, rows=4, length=48, seed=1):
        x = [run_network(lm.network, rows.batch(), site)[1]["h"][0] for lm in (base, chat)]
        code = d.activations(jnp.stack(x, axis=2).reshape(-1, 2, CONFIG.width))
        active = np.asarray(code).reshape(4, 48, 40) > 0
        for row, document in enumerate(document_ids(rows.tokens, rows.valid)[:, 0].tolist()):
            known[document] = (rows.tokens[row], active[row])
    assert len(arrays["document"]) > 50 and 0 < arrays["silent"].mean() < 1
    for window, document, told in zip(
        arrays["tokens"], arrays["document"].tolist(), arrays["silent"], strict=True
    ):
        tokens, active = known[document]
        words = window[window >= 0]
        fits = [s for s in range(49 - len(words)) if (tokens[s : s + len(words)] == words).all()]
        (start,) = fits
        fires = active[start : start + len(words)].any(0)[chosen]
        np.testing.assert_array_equal(told, ~fires)


def test_explaining_goes_on_with_the_texts_and_replies_that_are_there(whole, monkeypatch):
    config, result = whole
    before = (result.workdir / "autointerp.json").read_bytes()
    (result.workdir / "autointerp.json").unlink()  # as a run leaves it that died while asking

    def asked(pieces):
        raise AssertionError("a question whose reply is in the log")

    monkeypatch.setattr(
        explain_stage, "explaining_judge",
        lambda work: Known(asked, work.workdir / explain_stage.JUDGE_LOG),
    )
    monkeypatch.setattr(similar_texts, "_silent", None)  # no pass is made anew
    go(config)
    assert (result.workdir / "autointerp.json").read_bytes() == before


class Killed(Exception):
    pass


def test_a_killed_pass_ends_where_an_unbroken_one_does(whole, tmp_path, monkeypatch):
    config, result = whole
    broken = small_config(tmp_path / "run", config.data, stage="scaling", judge="local")
    real, calls = scaling_stage.add_moments, []

    def dying(*args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise Killed
        return real(*args, **kwargs)

    monkeypatch.setattr(scaling_stage, "add_moments", dying)
    with pytest.raises(Killed):
        go(broken)
    monkeypatch.setattr(scaling_stage, "add_moments", real)
    after = go(broken)
    assert after.report is None and after.scaling.tokens == result.scaling.tokens
    for name, value in result.scaling.ratios.items():
        np.testing.assert_array_equal(after.scaling.ratios[name], value)


def test_a_floor_takes_a_pass_for_the_maxima_first(whole, tmp_path):
    config, result = whole
    after = go(small_config(tmp_path / "run", config.data, stage="scaling", floor=0.5))
    s = result.scaling
    np.testing.assert_array_equal(after.scaling.largest, s.largest)
    assert (after.scaling.active <= s.active).all() and after.scaling.active.sum() < s.active.sum()
    assert (after.scaling.alive == s.alive).all()  # the largest activation is above the floor


def test_a_stage_without_what_it_needs_is_refused(tmp_path):
    data = write_conversations(tmp_path / "chats.jsonl", 4)
    with pytest.raises(UserError, match="--stage=scaling"):
        go(small_config(tmp_path / "run", data, stage="causality"))


@pytest.mark.parametrize(
    ("over", "says"),
    [
        ({"dictionary": ""}, "--dictionary and --other_model"),
        ({"effective": 0}, "1 or more latents, or -1"),
        ({"controls": ("random", "random")}, "each once"),
        ({"twin_cosine": 1.0}, "at least 0 and below 1"),
        ({"scorers": ()}, "some of detection, fuzzing, each once"),
        ({"scorers": ("fuzzing",), "negatives": "similar"}, "detection among --scorers"),
    ],
)
def test_bad_configs(over, says):
    with pytest.raises(UserError, match=says):
        small_config("nowhere", "none", **over)


def test_models_and_crosscoder_must_belong_together(tmp_path):
    from tests.studies.model_diffing.planted import random_crosscoder

    data = write_conversations(tmp_path / "chats.jsonl", 4)
    with pytest.raises(UserError, match="two inputs of the models' width"):
        go(small_config(tmp_path / "run", data), random_crosscoder(width=6))
    with pytest.raises(UserError, match="a layer that both have"):
        go(small_config(tmp_path / "run", data, layer=9))
    assert not (tmp_path / "run").exists()


def test_conversations_are_rows_with_their_numbers(tmp_path):
    _, chat = pair()
    data = write_conversations(tmp_path / "chats.jsonl", 5)
    rows = list(token_rows(chat, str(data), rows=2, length=20))
    assert [r.documents.tolist() for r in rows] == [[0, 1], [2, 3], [4, 0]]
    assert rows[2].valid.sum(1)[1] == 0 and rows[0].tokens.shape == (2, 20)
    cursor = json.loads(json.dumps(rows[0].cursor))
    later = list(token_rows(chat, str(data), rows=2, length=20, cursor=cursor))
    for a, b in zip(rows[1:], later, strict=True):
        np.testing.assert_array_equal(a.tokens, b.tokens)
        np.testing.assert_array_equal(a.documents, b.documents)
    assert template_slots(chat) == Slots(3, 5, 2)
    texts = tmp_path / "texts.jsonl"
    texts.write_text('{"text": " w1 w2"}\n')
    (row,) = token_rows(chat, str(texts), rows=1, length=8)
    assert row.valid.sum() == 2 and (row.roles[0, :2] == 1).all()


def test_bad_data_names_file_and_line(tmp_path):
    _, chat = pair()
    path = tmp_path / "data.jsonl"
    path.write_text('{"text": " w1"}\nnot json\n')
    with pytest.raises(UserError, match="data.jsonl.*2"):
        list(token_rows(chat, str(path), rows=1, length=8))
    path.write_text("")
    with pytest.raises(UserError, match="nothing in"):
        list(token_rows(chat, str(path), rows=1, length=8))
