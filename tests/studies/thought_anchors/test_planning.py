"""What a plan covers: every big program of the parts that are asked for, and none of the others."""

from __future__ import annotations

import pytest

from interp_jax.studies.thought_anchors.planning import plan_run
from tests.studies.thought_anchors.small_study import small_config, small_model


@pytest.fixture(scope="module")
def lm():
    return small_model()


def test_everything_that_is_asked_for_is_planned(lm):
    config = small_config(
        "unused", max_new_tokens=30, forced_rollouts=2, forced_max_new_tokens=8,
        resilience_rounds=2, masking_graph=True, ablate_heads=2, answer="so",
    )
    plans = plan_run(lm, config)
    assert list(plans) == [
        "rollouts", "forced", "resilience", "suppression", "masking", "ablation",
        "ablation answers",
    ]
    assert all(plan.peak_bytes > 0 for plan in plans.values())
    # A forced answer needs less room than a rollout.
    size = lambda name: plans[name].argument_bytes + plans[name].temporary_bytes
    assert size("forced") < size("rollouts")
    # A joined prefix is a row's own, so it needs more.
    joined = plan_run(lm, small_config("unused", max_new_tokens=30, rollout_prefix="reference"))
    assert joined["rollouts"].argument_bytes > plans["rollouts"].argument_bytes


def test_what_is_not_asked_for_is_not(lm, tmp_path):
    (tmp_path / "trace.txt").write_text("She saw the Queen. The King was there. So she went.")
    config = small_config(
        "unused", trace=str(tmp_path / "trace.txt"), prompt=None, rule=None, forced_rollouts=2
    )
    assert list(plan_run(lm, config)) == ["suppression"]
