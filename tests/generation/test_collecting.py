"""What becomes of the tape during decoding, against one forward pass over everything."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from interp_jax.interventions.placing import compose
from interp_jax.interventions.reads import Last, Norm, SpanMeans
from interp_jax.interventions.verbs import add, read
from interp_jax.interventions.where import Where
from interp_jax.models import roles
from tests.generation.samples import (
    BUDGETS,
    WARM,
    by_item,
    engine,
    forced,
    network,
    prompts,
    requests,
)


def _edit():
    return compose(
        add("resid_post[0]", jnp.linspace(-1.0, 1.0, 32), name="steer"),
        read("resid_post[0,1]", reduce=Last(), name="stream"),
        read("mlp_out[1]", reduce=Norm(), name="size"),
        read("final_norm", reduce=Last(), name="end"),
    )


@pytest.mark.parametrize("layout", ["unrolled", "scanned"])
@pytest.mark.parametrize("keep", ["last", "sum", "per_token"])
def test_reads_equal_those_of_a_full_forward(keep, layout):
    """Steps feed the prompt's last token, then all generated ones but the newest."""
    net, rows = network(layout=layout), prompts(4)
    running = engine(WARM, net=net, interventions=_edit(), keep=keep)
    full = compose(
        add("resid_post[0]", jnp.linspace(-1.0, 1.0, 32), name="steer"),
        read("resid_post[0,1]", name="stream"), read("mlp_out[1]", reduce=Norm(), name="size"),
        read("final_norm", name="end"),
    )(net)
    for item, sample in by_item(running, requests(rows, BUDGETS[:4])).items():
        n, first = len(sample.tokens), len(rows[item]) - 1
        _, tape = forced(full, rows[item], sample.tokens)
        want = {
            "stream": tape["stream"][:, 0, first : first + n].swapaxes(0, 1),
            "size": tape["size"][0, 0, first : first + n][:, None, None],
            "end": tape["end"][0, first : first + n],
        }
        reduce = {"last": lambda a: a[-1], "sum": lambda a: a.sum(0), "per_token": lambda a: a}
        assert sample.per_token == (() if keep != "per_token" else ("end", "size", "stream"))
        for name, steps in want.items():
            np.testing.assert_allclose(sample.tape[name], reduce[keep](steps), atol=2e-4)


def test_reads_are_dropped_unless_asked_for():
    sample = by_item(engine(interventions=_edit()), requests(prompts(4)))[0]
    assert all(name.startswith("touched/") for name in sample.tape)


@pytest.mark.parametrize(
    ("where", "asked"),
    [
        (Where(), lambda fed, roles_: np.ones(len(fed), bool)),
        (Where(positions=[0, 3, 11, 40]), lambda fed, r: np.isin(np.arange(len(fed)), (0, 3, 11))),
        (Where(spans=[[2, 14]]), lambda fed, r: np.isin(np.arange(len(fed)), range(2, 14))),
        (Where(roles=[roles.ANSWER]), lambda fed, r: r == roles.ANSWER),
        (Where(token_ids=list(range(50))), lambda fed, r: fed < 50),
        (Where(exclude=Where(token_ids=list(range(50)))), lambda fed, r: fed >= 50),
    ],
)
def test_touched_counts_are_the_asked_tokens(where, asked):
    """Prompt and decoding together; the newest token of a sample has not been fed."""
    rows = prompts()
    edit = add("resid_post[0,1]", jnp.full(32, 0.1), where=where, name="steer")
    running = engine(interventions=edit, role=roles.ANSWER)
    for item, sample in by_item(running, requests(rows, BUDGETS)).items():
        fed = np.concatenate([rows[item], sample.tokens])[:-1]
        kinds = np.where(np.arange(len(fed)) < len(rows[item]), 0, roles.ANSWER)
        assert int(sample.tape["touched/steer"]) == 2 * asked(fed, kinds).sum()


def test_negative_positions_count_from_the_prompt():
    rows = prompts(4)
    edit = add("resid_post[0]", jnp.ones(32), where=Where(positions=[-1, -2]), name="steer")
    got = by_item(engine(interventions=edit), requests(rows))
    assert [int(got[i].tape["touched/steer"]) for i in range(4)] == [2] * 4


def test_taking_the_edit_out_takes_its_count_away():
    assert by_item(engine(), requests(prompts(4)))[0].tape == {}


def test_span_means_over_the_cache_are_bounded_reads():
    """A read that reduces over spans keeps its shape at every step."""
    edit = read("attn_weights[1]", reduce=SpanMeans(np.array([[0, 4], [4, 9]])), name="attention")
    sample = by_item(engine(interventions=edit, keep="sum"), requests(prompts(4)))[0]
    assert sample.tape["attention"].shape == (1, 4, 2, 2)
