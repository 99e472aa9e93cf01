"""What the report says of findings, and that it says nothing that is not known."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from interp_jax.studies.model_diffing.presenting import Findings
from interp_jax.studies.model_diffing.report import build_report, findings
from interp_jax.studies.model_diffing.twins import Twins
from tests.studies.model_diffing.synthetic_findings import F, make_findings, make_parts

pytestmark = pytest.mark.core


def test_parts_agree_with_the_arrays():
    found = make_findings()
    parts = make_parts(found)
    delta, alive = found.delta, found.scaling.alive
    counts = parts["delta"]["counts"]
    assert counts["chat_only"] == (delta > 0.9).sum() == 30
    assert counts["chat_only_alive"] == ((delta > 0.9) & alive).sum()
    assert counts["base_only"] == 10 and counts["base_only_alive"] == 0
    assert sum(parts["delta"]["all"]) == F and sum(parts["delta"]["alive"]) == alive.sum()
    table = parts["scaling"]["tables"]["effective chat-only"]["verdicts"]
    assert sum(table.values()) == 40
    points = parts["scaling"]["points"]["effective chat-only"]
    assert points["latents"][0] == int(np.argmax(delta)) and len(points["nu_eps"]) == 40
    beside = parts["scaling"]["points"]["shared"]["latents"]
    assert len(beside) == 40 and not set(beside) & set(points["latents"])
    assert (np.abs(delta[beside] - 0.5) < 0.1).all()
    assert parts["scaling"]["correlation_with_delta"]["nu_eps"] < -0.9
    nu = found.scaling.ratios["nu_r"]
    shared = nu[(np.abs(delta - 0.5) < 0.1) & np.isfinite(nu)]
    inside = (nu[:30] > np.quantile(shared, 0.025)) & (nu[:30] < np.quantile(shared, 0.975))
    assert parts["scaling"]["like_shared"]["nu_r"] == inside.mean() == 1 / 30  # latent 4


def test_causality_cells_are_ratios_of_sums():
    found = make_findings()
    cells = {(c["condition"], c["set"]): c for c in make_parts(found)["causality"]["cells"]}
    c = found.causality
    none, best = c.names.index("none"), c.names.index("best half by Delta")
    for s, name in enumerate(("all", "first_nine", "after_first_nine", "template")):
        cell = cells["best half by Delta", name]
        kl = c.sums[best, 0, s].sum() / c.counts[s].sum()
        assert cell["kl"]["value"] == pytest.approx(kl)
        share = 1 - c.sums[best, 0, s].sum() / c.sums[none, 0, s].sum()
        assert cell["recovered"]["value"] == pytest.approx(share)
        second = c.sums[best, 1, s].sum() / c.counts[s].sum()
        assert cell["variance"] == pytest.approx(second - kl**2)
        assert cell["kl"]["low"] < kl < cell["kl"]["high"] and cell["kl"]["rows"] == 12
    assert cells["none", "all"]["recovered"]["value"] == 0
    assert cells["full", "all"]["recovered"]["value"] == 1


def test_scores_stand_side_by_side():
    found = make_findings()
    parts = make_parts(found)["explained"]
    for group, latents in (("largest Delta", [0, 1, 2]), ("shared", [100])):
        for scorer, most in (("detection", 8), ("fuzzing", 6)):
            mean = np.mean([((most - j % 3) / 10 + 0.9) / 2 for j in latents])
            one = parts["groups"][group][scorer]
            assert one["value"] == pytest.approx(mean) and one["rows"] == len(latents)
    assert parts["latents"][1]["scores"]["fuzzing"]["hits"] == 5
    assert (parts["unanswered"], parts["left_out"], parts["similar"]) == (1, 1, False)
    assert parts["versions"] == ["detect-1", "explain-1", "fuzz-1"]
    alone = {**found.explained, "scorers": ["fuzzing"], "latents": [
        {**one, "scores": {"fuzzing": one["scores"]["fuzzing"]}}
        for one in found.explained["latents"]
    ]}  # fmt: skip
    told = " ".join(findings(make_parts(dataclasses.replace(found, explained=alone))))
    assert "by fuzzing" in told and "by detection" not in told


def test_findings_are_sentences_of_what_was_measured():
    told = findings(make_parts())
    text = " ".join(told)
    assert "88.1 % of the variance of the base model" in text
    assert "30 latents are the chat model's alone" in text
    assert "costs 0.4" in text and "recovers 58.3 %" in text
    assert "Delta ranks latents by what they do" in text
    assert "40 % (95 % interval 40 % to 40 %) of the 30 chat-only latents" in text
    assert "balanced accuracy of 80 % (95 % interval" in text
    assert "by detection and 70 % (95 % interval" in text and "by fuzzing (chance" in text
    assert not any("nan" in sentence or "None" in sentence for sentence in told)


def test_twins_are_told_with_their_divergence():
    found = make_findings()
    twins = make_parts(found)["twins"]
    assert (twins["pairs"], twins["known"], twins["diverging"]) == (3, 2, 1)
    assert [(row["chat"], row["base"]) for row in twins["table"]] == [(2, 193), (2, 190), (7, 191)]
    assert [row["divergence"] for row in twins["table"]] == [1 / 5, 9 / 10, None]
    assert [row["strong"] for row in twins["table"]] == [5, 10, 0]
    assert twins["joint"] == found.examples.twins.joint.sum(0).tolist()
    told = " ".join(findings(make_parts(found)))
    assert "Twin pairs of a chat-only and a base-only latent: 3 (decoder cosine above 0.9)" in told
    assert "different tokens in 1 of the 2 that are strong" in told


def test_that_there_are_no_twins_is_told():
    found = make_findings()
    none = Twins(*(of[:0] for of in found.examples.twins))
    found = dataclasses.replace(found, examples=dataclasses.replace(found.examples, twins=none))
    parts = make_parts(found)
    assert parts["twins"]["pairs"] == 0 and parts["twins"]["table"] == []
    (told,) = [sentence for sentence in findings(parts) if "twins" in sentence]
    assert told.startswith("There are no twins: of the 30 chat-only and 0 base-only latents")
    build_report(parts)


def test_without_the_other_stages_there_is_less_to_say():
    found = make_findings()
    bare = Findings(found.delta, found.scaling)
    parts = make_parts(bare)
    assert parts["causality"] is parts["template"] is parts["twins"] is parts["explained"] is None
    assert len(findings(parts)) == 3
    build_report(parts)


def test_nothing_is_claimed_of_latents_that_never_fire():
    found = make_findings()
    dead = dataclasses.replace(
        found.scaling, active=np.zeros(F), fve=float("nan"), fve_base=float("nan"),
        ratios={n: np.full(F, np.nan) for n in found.scaling.ratios},
        errors={n: np.full(F, np.nan) for n in found.scaling.errors},
    )
    told = findings(make_parts(Findings(found.delta, dead)))
    assert len(told) == 1 and "(0 of them ever fire)" in told[0]


def test_a_score_that_does_not_rank_is_called_so():
    found = make_findings()
    flat = found.causality.sums.copy()
    best, worst = (found.causality.names.index(f"{h} half by Delta") for h in ("best", "worst"))
    flat[best], flat[worst] = flat[worst].copy(), flat[best].copy()
    turned = dataclasses.replace(found, causality=dataclasses.replace(found.causality, sums=flat))
    assert "Delta ranks them the wrong way round" in " ".join(findings(make_parts(turned)))
    flat = flat.copy()
    flat[worst] = flat[best]
    level = dataclasses.replace(found, causality=dataclasses.replace(found.causality, sums=flat))
    assert "Delta does not tell them apart" in " ".join(findings(make_parts(level)))
