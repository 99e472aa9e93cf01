"""The study with tokens replaced in what the base model reads.

Oracle: a base model whose embeddings of the old ids are those of the new ones, and that reads the
real tokens, goes through the same numbers.
"""

from __future__ import annotations

import dataclasses
import json

import jax
import numpy as np
import pytest
from absl import flags

from interp_jax.dictionaries.formats.files import Loaded
from interp_jax.dictionaries.formats.native import CONFIG as NATIVE
from interp_jax.dictionaries.formats.native import write_native
from interp_jax.models import roles
from interp_jax.models.batch import Batch
from interp_jax.models.decoder import build_decoder
from interp_jax.runtime.errors import UserError
from interp_jax.runtime.flags import define_from_dataclass, read_into_dataclass
from interp_jax.studies.model_diffing import run as study
from interp_jax.studies.model_diffing.conditions import Condition, rows_table, table
from interp_jax.studies.model_diffing.config import ModelDiffingConfig
from interp_jax.studies.model_diffing.conversations import token_rows
from interp_jax.studies.model_diffing.dashboard import run as dashboard
from interp_jax.studies.model_diffing.dashboard.config import DashboardConfig
from interp_jax.studies.model_diffing.patched_forward import (
    METRICS,
    PatchPlan,
    layers_after,
    patched_sums,
    require_patchable,
)
from interp_jax.studies.model_diffing.work import Work
from interp_jax.testing.tiny import random_parameters
from tests.studies.model_diffing.small_pair import (
    CONFIG,
    crosscoder,
    pair,
    small_config,
    write_conversations,
)

PAIRS, TEXTS = ((0, 20), (1, 21)), ("0:20", "1:21")  # the template's control tokens


def oracle_pair():
    """The base model with the embeddings that it is to read, and the chat model."""
    base, chat = pair()
    params = random_parameters(CONFIG, 0)
    embed = params["embed.table"]
    for old, new in PAIRS:
        embed = embed.at[old].set(embed[new])
    return dataclasses.replace(base, network=build_decoder(CONFIG, {**params, "embed.table": embed})
                               ), chat  # fmt: skip


def work(config, models) -> Work:
    return Work(config, None, *models, crosscoder(), 1, None)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_conversations(tmp_path_factory.mktemp("data") / "chats.jsonl")


@pytest.mark.parametrize("base_output", [0, 1])
def test_the_base_alone_reads_other_tokens(data, base_output):
    config = small_config("nowhere", data, base_output=base_output)
    replacing = dataclasses.replace(config, replace_tokens=TEXTS)
    rows = next(work(config, pair()).rows(held_out=False))
    edited = rows._replace(tokens=np.choose(np.minimum(rows.tokens, 2), [20, 21, rows.tokens]))
    plain, keep = work(config, pair()).activations(rows)
    by_hand, _ = work(config, pair()).activations(edited)
    got, same = work(replacing, pair()).activations(rows)
    np.testing.assert_array_equal(keep, same)
    chat = 1 - base_output
    np.testing.assert_array_equal(got[keep][:, base_output], by_hand[keep][:, base_output])
    np.testing.assert_array_equal(got[:, chat], plain[:, chat])
    assert (np.asarray(got[keep][:, base_output]) != plain[keep][:, base_output]).any()


def patched(models, plan, tokens, kinds):
    base, chat = (lm.network for lm in models)
    d, conditions = crosscoder(), [
        Condition("none"), Condition("full", share=1.0), Condition("all", latents=None),
    ]  # fmt: skip
    require_patchable(base, chat, d, plan)
    rows = rows_table(d, 0, 1, jax.random.key(0))
    return patched_sums(
        base, chat, layers_after(chat, plan.layer), d, rows, table(conditions, d.config.latents),
        Batch.make(tokens, roles=kinds), plan,
    )


@pytest.mark.slow
def test_causality_replaces_what_the_base_reads_and_not_what_follows():
    draw = np.random.default_rng(3)
    tokens = draw.integers(6, CONFIG.vocab_size, (2, 16))
    tokens[:, [0, 4, 9]], tokens[:, 15] = 0, 1  # an answer's own token is among those replaced
    kinds = np.full((2, 16), roles.ANSWER, np.int8)
    kinds[:, :6] = roles.TEMPLATE
    plan = PatchPlan(1, capacity=40)
    other = dataclasses.replace(plan, replace_tokens=PAIRS)
    got, want = patched(pair(), other, tokens, kinds), patched(oracle_pair(), plan, tokens, kinds)
    np.testing.assert_array_equal(got.sums, want.sums)
    np.testing.assert_array_equal(got.counts, want.counts)
    plain = np.asarray(patched(pair(), plan, tokens, kinds).sums)
    kl, nll = METRICS.index("kl"), METRICS.index("nll")
    sums = np.asarray(got.sums)
    for condition in (0, 2, 3):  # none, all, and the base model itself
        assert (sums[condition, kl, 0] != plain[condition, kl, 0]).all()
    np.testing.assert_array_equal(sums[1, nll], plain[1, nll])  # the chat model's own stream
    with pytest.raises(UserError, match="expected ids from 0 to 100"):
        patched(pair(), dataclasses.replace(plan, replace_tokens=((0, 101),)), tokens, kinds)


@pytest.mark.slow
def test_a_study_goes_through_the_numbers_of_the_oracle(data, tmp_path, compile_counter):
    config = small_config(tmp_path / "by_hand", data, stage="all")
    want = study.run(config, *oracle_pair(), crosscoder())
    replacing = dataclasses.replace(
        config, workdir=str(tmp_path / "run"), replace_tokens=TEXTS
    )
    got = study.run(replacing, *pair(), crosscoder())
    for name, value in want.scaling.ratios.items():
        np.testing.assert_array_equal(got.scaling.ratios[name], value, err_msg=name)
    for name in ("causality.jsonl", "latents.csv"):
        assert (got.workdir / name).read_bytes() == (want.workdir / name).read_bytes()
    for name in ("examples.npz", "templates.npz"):
        with np.load(got.workdir / name) as a, np.load(want.workdir / name) as b:
            for part in a.files:
                np.testing.assert_array_equal(a[part], b[part], err_msg=f"{name} {part}")
    shown = got.findings.examples.examples.top.tokens
    assert (shown == 0).any() and (shown == 1).any()
    facts = json.loads((got.workdir / "provenance.json").read_text())
    assert facts["base"]["replace_tokens"] == [[0, 20], [1, 21]]
    assert facts["config"]["replace_tokens"] == ["0:20", "1:21"]
    with pytest.raises(UserError, match=r'replace_tokens: \["0:20", "1:21"\] there, \[\] now'):
        study.run(dataclasses.replace(replacing, replace_tokens=()), *pair(), crosscoder())
    plain = dataclasses.replace(config, workdir=str(tmp_path / "plain"), stage="scaling")
    with compile_counter() as counter:  # no pairs: the oracle's programs serve
        nothing = study.run(plain, *pair(), crosscoder())
    assert counter.count_of("activations") == 0
    assert (nothing.scaling.ratios["nu_eps"] != want.scaling.ratios["nu_eps"]).any()


def test_what_a_study_refuses_and_says(data, tmp_path, capsys):
    wrong = small_config(tmp_path / "run", data, replace_tokens=("llama3",))
    with pytest.raises(UserError, match="token 128006 replaced by 1432; expected ids from 0"):
        study.run(wrong, *pair(), crosscoder())
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match="token 5 replaced twice"):
        small_config("nowhere", data, replace_tokens=("5:6", "5:7"))
    told = {NATIVE: {"provenance": {"replace_tokens": [[0, 20], [1, 21]]}}}
    write_native(tmp_path / "d", Loaded(crosscoder(), told))
    for pairs, said in (((), "and this run replaces none"), (TEXTS, None)):
        config = small_config(
            tmp_path / f"{len(pairs)}", data, dictionary=str(tmp_path / "d"), stage="scaling",
            replace_tokens=pairs,
        )  # fmt: skip
        study.run(config, *pair())
        out = capsys.readouterr().out
        assert said in out if said else "replaced" not in out


@pytest.mark.parametrize("cls", [ModelDiffingConfig, DashboardConfig])
def test_the_flag(cls):
    values = flags.FlagValues()
    define_from_dataclass(cls, values)
    values(["script", "--dictionary=d", "--other_model=chat", "--replace_tokens=llama3,1:2"])
    config = read_into_dataclass(cls, values)
    assert config.replace_tokens == ("llama3", "1:2")
    assert config.replacements()[0] == (128006, 1432) and config.replacements()[3] == (1, 2)


def test_a_dashboard_has_the_codes_of_the_oracle_and_the_real_tokens(data, tmp_path):
    fields = dict(dictionary="planted", site="resid_post[1]", data=str(data), tokens=300,
                  length=32, batch_size=4, top=3, per_band=1, effects=0, neighbours=0)  # fmt: skip
    config = lambda name, **more: DashboardConfig(
        workdir=str(tmp_path / name), other_model="chat", **fields | more
    )
    want = dashboard.run(config("by_hand"), oracle_pair(), crosscoder()).examples
    got = dashboard.run(config("run", replace_tokens=TEXTS), pair(), crosscoder()).examples
    np.testing.assert_array_equal(got.top.activations, want.top.activations)
    np.testing.assert_array_equal(got.top.tokens, want.top.tokens)
    made = json.loads((tmp_path / "run" / "provenance.json").read_text())
    assert made["replace_tokens"] == [[0, 20], [1, 21]]
    with pytest.raises(UserError, match="replaced by 101"):
        dashboard.run(config("x", replace_tokens=("0:101",)), pair(), crosscoder())
    with pytest.raises(UserError, match="--replace_tokens with one model"):
        DashboardConfig(dictionary="planted", replace_tokens=TEXTS)


def test_a_smoke_runs_crosscoder_has_its_inputs_in_order(data, tmp_path):
    """The base is the second input, and it alone reads other tokens."""
    seen = []
    config = small_config(tmp_path / "run", data, dictionary="", smoke=True, base_output=1,
                          replace_tokens=TEXTS).resolved()  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "little_crosscoder", lambda kept, *_: seen.extend(kept))
        study._dictionary(config, *pair(), 1)
    rows = next(token_rows(pair()[1], str(data), rows=4, length=config.length, seed=0))
    want, _ = work(config, pair()).activations(rows)
    np.testing.assert_array_equal(seen[0], want[rows.valid.reshape(-1)])
