"""The causality experiment on tiny networks: end points, linear truths, and position sets."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from interp_jax.dictionaries.dictionary import Dictionary
from interp_jax.interventions.run import run
from interp_jax.interventions.verbs import read, replace
from interp_jax.models import roles
from interp_jax.models.batch import Batch
from interp_jax.models.decoder import build_decoder
from interp_jax.runtime.errors import UserError
from interp_jax.runtime.journal import Journal
from interp_jax.studies.model_diffing import causality
from interp_jax.studies.model_diffing.causality import measure_causality
from interp_jax.studies.model_diffing.conditions import (
    Condition,
    choose_sets,
    paper_conditions,
    rows_table,
    table,
)
from interp_jax.studies.model_diffing.patched_forward import (
    METRICS,
    PatchPlan,
    layers_after,
    patched_sums,
    require_patchable,
)
from interp_jax.studies.model_diffing.positions import SETS, position_sets
from interp_jax.testing.tiny import random_parameters, tiny_config
from tests.studies.model_diffing.planted import random_crosscoder

pytestmark = pytest.mark.core
CONFIG = tiny_config("gemma2")
LAYER, T = 1, 24
PLAN = PatchPlan(LAYER, capacity=20, skip_first=0)
SKIPPING = dataclasses.replace(PLAN, skip_first=2)
HEADER = [roles.TEMPLATE] * 3


def networks(layout="unrolled"):
    """A base, and a chat model whose early layers alone differ from it."""
    params = random_parameters(CONFIG, 0)
    other = random_parameters(CONFIG, 5)
    tuned = {n: other[n] if n.startswith("layers.0.") else p for n, p in params.items()}
    return build_decoder(CONFIG, params, layout), build_decoder(CONFIG, tuned, layout)


def batch() -> Batch:
    """Three conversations; the last row is padding."""
    kinds = np.zeros((4, T), np.int8)
    kinds[:, :8] = [*HEADER, *[roles.USER] * 2, *HEADER]
    kinds[:, 8:] = roles.ANSWER
    kinds[1, 20:] = roles.TEMPLATE
    lengths = np.asarray([24, 22, 15, 0])
    tokens = np.random.default_rng(0).integers(3, 100, (4, T))
    return Batch.make(tokens, np.arange(T) < lengths[:, None], roles=kinds)


def crosscoder(**fields) -> Dictionary:
    return random_crosscoder(latents=20, width=CONFIG.width, **fields)


def sums_of(conditions, dictionary=None, plan=PLAN, layout="unrolled", pair=None):
    base, chat = pair or networks(layout)
    d = crosscoder() if dictionary is None else dictionary
    require_patchable(base, chat, d, plan)
    return patched_sums(
        base, chat, layers_after(chat, plan.layer), d,
        rows_table(d, plan.base, plan.chat, jax.random.key(0)),
        table(conditions, d.config.latents), batch(), plan,
    )


ENDS = [Condition("none"), Condition("full", share=1.0), Condition("template", template_share=1.0),
        Condition("all", latents=None), Condition("error", share=1.0, weight=-1.0, latents=None),
        Condition("nothing chosen", latents=np.zeros(0, int))]  # fmt: skip


def kl_by_hand(network, stream):
    """KL(chat || patched) at every position, by whole logits of the whole network."""
    b, (_, chat) = batch(), networks()
    told = lambda logits: jax.nn.log_softmax(logits, axis=-1)
    target = told(run(chat, b)[0])
    mine = target if stream is None else told(
        run(network, b, replace(f"resid_post[{LAYER}]", stream))[0]
    )
    if network is not None and stream is None:
        mine = told(run(network, b)[0])
    return np.asarray(jnp.sum(jnp.exp(target) * (target - mine), axis=-1))


def streams():
    base, chat = networks()
    site = read(f"resid_post[{LAYER}]", name="h")
    return tuple(run(n, batch(), site)[1]["h"][0] for n in (base, chat))


def test_conditions_are_whole_forward_passes_with_that_stream():
    d = crosscoder()
    out = sums_of(ENDS)
    h_base, h_chat = streams()
    code = d.encode(jnp.stack([h_base, h_chat], axis=2))
    rows = [d.written_rows(m) for m in (0, 1)]
    both = jnp.einsum("btf,fd->btd", code, rows[1] - rows[0])
    template = (np.asarray(batch().roles) == roles.TEMPLATE)[..., None]
    by_hand = {
        "none": h_base, "full": h_chat, "template": jnp.where(template, h_chat, h_base),
        "all": h_base + both, "error": h_chat - both, "nothing chosen": h_base,
    }  # fmt: skip
    sets = np.asarray(position_sets(batch()))
    _, chat = networks()
    kl = np.asarray(out.sums[:, METRICS.index("kl")])
    for place, (name, stream) in enumerate(by_hand.items()):
        expected = np.where(sets, kl_by_hand(chat, stream)[None], 0.0).sum(-1)
        np.testing.assert_allclose(kl[place], expected, rtol=2e-4, atol=2e-4, err_msg=name)
    base, _ = networks()
    expected = np.where(sets, kl_by_hand(base, None)[None], 0.0).sum(-1)
    np.testing.assert_allclose(kl[-1], expected, rtol=2e-4, atol=2e-4)
    # Oracles: full is the chat model; an empty set is the base's activation, to the bit.
    assert np.abs(kl[1]).max() < 1e-4 < kl[0, 0, :3].min()
    np.testing.assert_array_equal(kl[5], kl[0])
    np.testing.assert_array_equal(np.asarray(out.counts), sets.sum(-1))
    assert (np.asarray(out.touched) == np.asarray(batch().valid).sum()).all()
    assert int(out.overfull) == 0 and kl[..., 3].max() == 0


def test_other_metrics_and_squares():
    base, chat = networks()
    out = sums_of(ENDS)
    told = [jax.nn.log_softmax(run(n, batch())[0], axis=-1) for n in (base, chat)]
    sets = np.asarray(position_sets(batch()))
    total = lambda each: np.where(sets, np.asarray(each)[None], 0.0).sum(-1)
    picked = lambda p, index: -np.take_along_axis(np.asarray(p), index[..., None], -1)[..., 0]
    follows = np.pad(np.asarray(batch().tokens)[:, 1:], ((0, 0), (0, 1)))
    top = np.asarray(jnp.argmax(told[1], axis=-1))
    kl = np.sum(np.exp(told[1]) * np.asarray(told[1] - told[0]), axis=-1)
    back = np.sum(np.exp(told[0]) * np.asarray(told[0] - told[1]), axis=-1)
    sums = np.asarray(out.sums)
    close = lambda got, want: np.testing.assert_allclose(got, want, rtol=3e-4, atol=1e-3)
    close(sums[-1, METRICS.index("kl_squared")], total(np.square(kl)))
    close(sums[-1, METRICS.index("nll")], total(picked(told[0], follows)))
    close(sums[-1, METRICS.index("kl_from_base")], total(0 * kl))
    close(sums[1, METRICS.index("kl_from_base")], total(back))
    close(sums[1, METRICS.index("nll")], total(picked(told[1], follows)))
    close(sums[1, METRICS.index("nll_of_top")], total(picked(told[1], top)))


def test_an_error_free_crosscoder_with_equal_biases_has_no_kl_in_all():
    """Oracle: decoder rows that write each model's own activation."""
    width = CONFIG.width
    d = random_crosscoder(latents=4 * width, width=width, activation="relu")
    eye, none = jnp.eye(width), jnp.zeros((width, width))
    whole = jnp.concatenate(
        [jnp.concatenate([eye, none], axis=1), jnp.concatenate([none, eye], axis=1)]
    )
    rows = jnp.concatenate([whole, -whole])
    arrays = d.arrays() | {
        "encoder": rows, "decoder": rows, "encoder_bias": jnp.zeros(4 * width),
        "decoder_bias": jnp.zeros((2, width)),
    }  # fmt: skip
    d = Dictionary(d.config, arrays)
    out = sums_of(ENDS, d, dataclasses.replace(PLAN, capacity=4 * width))
    kl = np.asarray(out.sums[:, METRICS.index("kl")])
    assert np.abs(kl[3]).max() < 1e-4 < kl[0, 0, :3].min()
    np.testing.assert_allclose(kl[4], kl[0], rtol=1e-3, atol=1e-4)  # error: nothing of chat is left


SETS_OF_LATENTS = [
    Condition("two", latents=np.asarray([2, 7])),
    Condition("two, added", rows="chat", latents=np.asarray([2, 7])),
    Condition("two, random", rows="random", latents=np.asarray([2, 7])),
    Condition("two, template", latents=np.asarray([2, 7]), template_only=True),
]


def test_chosen_latents_write_their_rows_where_they_may():
    d = crosscoder()
    out = sums_of(SETS_OF_LATENTS, plan=SKIPPING)
    h_base, h_chat = streams()
    code = np.asarray(d.encode(jnp.stack([h_base, h_chat], axis=2)))[..., [2, 7]]
    tables = np.asarray(rows_table(d, 0, 1, jax.random.key(0))).reshape(3, 20, -1)
    lengths = np.linalg.norm(tables, axis=-1)
    np.testing.assert_allclose(lengths[2], lengths[0], rtol=1e-5)
    far = np.asarray(batch().positions) >= 2
    template = np.asarray(batch().roles) == roles.TEMPLATE
    _, chat = networks()
    sets = np.asarray(position_sets(batch()))
    for place, (which, where) in enumerate([(0, far), (1, far), (2, far), (0, far & template)]):
        stream = h_base + where[..., None] * (code @ tables[which, [2, 7]])
        expected = np.where(sets, kl_by_hand(chat, jnp.asarray(stream))[None], 0.0).sum(-1)
        kl = out.sums[place, METRICS.index("kl")]
        np.testing.assert_allclose(kl, expected, rtol=3e-4, atol=2e-4)


def test_chunks_and_layouts_change_nothing(compile_counter):
    usual = sums_of(SETS_OF_LATENTS, plan=SKIPPING)
    other = sums_of(SETS_OF_LATENTS, layout="scanned", plan=dataclasses.replace(
        SKIPPING, positions=7, conditions_at_once=3, rows_at_once=8
    ))  # fmt: skip
    np.testing.assert_allclose(other.sums, usual.sums, rtol=1e-3, atol=1e-3)
    with compile_counter() as counter:  # other latents are other numbers
        others = [dataclasses.replace(c, latents=np.asarray([1])) for c in SETS_OF_LATENTS]
        sums_of(others, plan=SKIPPING)
    assert counter.count_of("patched_sums") == 0


def measured(tmp_path, conditions, batches, plan=PLAN):
    base, chat = networks()
    with Journal(tmp_path / "causality.jsonl") as journal:
        return measure_causality(
            base, chat, crosscoder(), batches, conditions, plan, jax.random.key(0), journal
        )


def test_batches_are_journaled_and_rows_without_answers_left_out(tmp_path, monkeypatch):
    found = measured(tmp_path, ENDS, [batch(), batch()])
    whole = sums_of(ENDS)
    assert found.names == (*(c.name for c in ENDS), "base model")
    assert found.sizes == (None, None, None, 20, 20, 0, None)
    assert found.counts.shape == (4, 6)  # the padding row is gone
    np.testing.assert_array_equal(found.sums[..., :3], np.asarray(whole.sums)[..., :3])
    monkeypatch.setattr(causality, "patched_sums", None)  # nothing is run again
    again = measured(tmp_path, ENDS, [batch(), batch()])
    np.testing.assert_array_equal(again.sums, found.sums)
    with pytest.raises(UserError, match="other conditions"):
        measured(tmp_path, ENDS[:2], [batch(), batch()])


def test_too_little_room_is_made_more(tmp_path):
    for folder in ("some", "few"):
        (tmp_path / folder).mkdir()
    some = measured(tmp_path / "some", ENDS, [batch(), batch()])
    tight = dataclasses.replace(PLAN, capacity=1)
    few = measured(tmp_path / "few", ENDS, [batch(), batch()], tight)
    np.testing.assert_allclose(few.sums, some.sums, rtol=1e-4, atol=1e-5)


def test_experiments_that_cannot_be_made_are_refused(tmp_path):
    with pytest.raises(UserError, match="conditions without `none`"):
        measured(tmp_path, ENDS[1:], [batch()])
    silent = dataclasses.replace(batch(), roles=jnp.full((4, T), roles.USER, jnp.int8))
    with pytest.raises(UserError, match="no prediction of an assistant's token"):
        measured(tmp_path, ENDS, [silent])


def test_nine_positions_of_a_segment_of_thirty():
    """Oracle: with a header before the answer, the first ten without the template's are nine."""
    kinds = np.asarray([[*HEADER, *[roles.USER] * 4, *HEADER, *[roles.ANSWER] * 30,
                         *[roles.TEMPLATE] * 2, *[roles.USER] * 2, *HEADER,
                         *[roles.REASONING] * 3, *[roles.ANSWER] * 2]], np.int8)  # fmt: skip
    b = Batch.make(np.ones(kinds.shape, int), roles=kinds)
    every, nine, rest, template = np.asarray(position_sets(b))[:, 0]
    first = np.flatnonzero(every)[0]
    assert first == 9 and every.sum() == 30 + 5
    assert np.flatnonzero(nine).tolist() == [*range(10, 19), *range(47, 51)]
    assert every[first] and rest[first] and not (nine & rest).any()
    assert (nine | rest == every).all()
    assert np.flatnonzero(template).tolist() == [0, 1, 2, 7, 8, 9, 40, 41, 44, 45, 46]
    assert len(SETS) == 4


def test_the_last_token_predicts_nothing_and_padding_is_nowhere():
    sets = np.asarray(position_sets(batch()))
    lengths = np.asarray(batch().valid).sum(1)
    assert not sets[:, 3].any()
    for row in range(3):
        assert not sets[:, row, lengths[row] - 1 :].any()
    assert sets[0, 1].sum() == 12  # answers at 8 to 19, then the template


def test_sets_and_conditions_of_the_paper():
    draw = np.random.default_rng(0)
    delta = draw.uniform(size=40)
    ratios = {name: draw.uniform(-0.3, 2.3, 40) for name in ("nu_eps", "nu_r", "nu_act")}
    alive = np.arange(40) > 2
    effective = np.argsort(-delta)[:20]
    sets = choose_sets(delta, ratios, alive, effective, random_sets=2)
    for latent in sets.chosen:
        assert alive[latent] and all(-0.1 <= ratios[n][latent] <= 2 for n in ("nu_eps", "nu_r"))
    half = len(sets.chosen) // 2
    assert len(sets.by_delta.best) == len(sets.by_scaling.worst) == half
    assert delta[sets.by_delta.best].min() >= delta[sets.by_delta.worst].max()
    for of in sets.random_halves:
        assert len(of) == half and np.isin(of, sets.chosen).all()
    for of in sets.others:
        assert len(of) == half and not np.isin(of, sets.chosen).any()
    conditions = paper_conditions(sets)
    assert len({c.name for c in conditions}) == len(conditions)
    arrays = table(conditions, 40)
    assert arrays.weights.shape == (len(conditions), 40)
    with pytest.raises(UserError, match="0 of 20 effective"):
        choose_sets(delta, ratios, alive & False, effective)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"plan": dataclasses.replace(PLAN, layer=2)}, "with another one after it"),
        ({"dictionary": lambda: random_crosscoder(width=6)}, "dictionary of width 6"),
        ({"dictionary": lambda: crosscoder(code_norm="decoupled")}, "a code for each model"),
        ({"conditions": [Condition("a"), Condition("a")]}, "each once"),
        ({"conditions": []}, "none"),
        ({"conditions": [Condition("a", latents=np.asarray([20]))]}, "latent 20"),
    ],
)
def test_what_does_not_belong_together_is_refused(change, says):
    dictionary = change.get("dictionary", crosscoder)()
    with pytest.raises(UserError, match=says):
        sums_of(change.get("conditions", ENDS), dictionary, change.get("plan", PLAN))
