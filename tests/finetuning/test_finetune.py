"""Fine-tuning: losses against closed forms, exact resume, meshes, and weights that go out."""

from __future__ import annotations

import json
import math
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from interp_jax.finetuning.config import FinetuneConfig
from interp_jax.finetuning.finetune import finetune
from interp_jax.finetuning.loss import learnt_mask, mean_loss, summed_loss
from interp_jax.finetuning.optimiser import decayed, learning_rate
from interp_jax.interventions.run import run
from interp_jax.models import roles
from interp_jax.models.batch import Batch
from interp_jax.models.decoder import build_decoder
from interp_jax.models.remat import with_remat
from interp_jax.models.safetensors_io import read_hf
from interp_jax.models.safetensors_write import save_hf
from interp_jax.models.token_rows import TokenRows
from interp_jax.runtime.errors import UserError
from interp_jax.runtime.mesh import make_mesh
from interp_jax.runtime.workdir import Workdir
from interp_jax.testing.tiny import random_parameters, tiny_config

CONFIG = tiny_config("llama")
SMALL = dict(
    rank=2, alpha=4.0, steps=6, batch_size=2, accumulate=2, loss_roles=(), lr=1e-2, warm_up=1,
    checkpoint_every=3, targets=("q", "down"),
)  # fmt: skip


def network(layout="unrolled", dtype="float32"):
    return build_decoder(CONFIG, random_parameters(CONFIG, dtype=dtype), layout)


def rows_of(count, length=10, seed=0) -> TokenRows:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(length // 2, length + 1, count)
    valid = np.arange(length) < lengths[:, None]
    tokens = np.where(valid, rng.integers(3, 90, valid.shape), 0).astype(np.int32)
    return TokenRows(tokens, valid, rng.integers(0, 5, valid.shape).astype(np.int8))


class Repeating:
    """Rows by number, without end; the cursor is the number."""

    def __init__(self, end=10_000):
        self.at, self.end = 0, end

    def next(self, batch):
        if self.at + batch > self.end:
            raise StopIteration
        parts = [rows_of(1, seed=self.at + i) for i in range(batch)]
        self.at += batch
        return TokenRows(*(np.concatenate(a) for a in zip(*parts, strict=True)))

    def cursor(self):
        return {"row": self.at}

    def seek(self, cursor):
        self.at = cursor["row"]


def same_bits(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def test_uniform_logits_cost_ln_v_for_each_learnt_token():
    parameters = random_parameters(CONFIG)
    parameters["head.weight"] = jnp.zeros_like(parameters["head.weight"])
    rows = rows_of(3)
    net, summed = build_decoder(CONFIG, parameters), jax.jit(summed_loss)
    for chosen in ((), ("answer",), ("user", "system")):
        mask = learnt_mask(rows, chosen)
        total = float(summed(net, rows, mask))
        assert total == pytest.approx(math.log(CONFIG.vocab_size) * mask.sum(), rel=1e-6)


@pytest.mark.parametrize("layout", ["unrolled", "scanned"])
def test_the_loss_is_the_cross_entropy_of_the_logits(layout):
    rows, net = rows_of(40, length=9), network(layout)  # more positions than one chunk holds
    logits, _ = run(net, Batch.make(rows.tokens, rows.valid, roles=rows.roles))
    log_probs = np.asarray(jax.nn.log_softmax(logits, axis=-1), np.float64)
    mask, wanted, count = learnt_mask(rows, ("answer", "user")), 0.0, 0
    for b, t in zip(*np.nonzero(mask), strict=True):
        wanted -= log_probs[b, t - 1, rows.tokens[b, t]]
        count += 1
    assert float(jax.jit(summed_loss)(net, rows, mask)) == pytest.approx(wanted, rel=1e-5)
    found = mean_loss(net, [rows, rows], ("answer", "user"))
    assert found == pytest.approx(wanted / count, rel=1e-5)


def test_what_is_learnt():
    template, answer = roles.TEMPLATE, roles.ANSWER
    row = [template, roles.USER, template, template, roles.REASONING, answer, template, template]
    kinds = np.array([[*row, answer]], np.int8)
    valid = np.arange(9)[None] < 8
    rows = TokenRows(np.ones((1, 9), np.int32), valid, kinds)
    on = lambda *args: np.flatnonzero(learnt_mask(rows, *args)[0]).tolist()
    assert on() == [1, 2, 3, 4, 5, 6, 7]
    assert on(("answer", "reasoning")) == [4, 5, 6]
    assert on(("answer",), False) == [5]
    assert on(("answer",)) == [5, 6]
    assert on(("template",), False) == [2, 3, 6, 7]


def test_learning_rates_have_the_closed_form():
    for schedule, form in (
        ("linear", lambda t: (20 - t) / 16),
        ("cosine", lambda t: (1 + math.cos(math.pi * (t - 4) / 16)) / 2),
        ("constant", lambda t: 1.0),
    ):
        rate = learning_rate(FinetuneConfig(steps=20, warm_up=4, schedule=schedule, lr=3e-4))
        found = [float(rate(jnp.asarray(t, jnp.int32))) for t in range(20)]
        wanted = [3e-4 * (t / 4 if t < 4 else form(t)) for t in range(20)]
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("layout", ["unrolled", "scanned"])
def test_only_matrices_decay(layout):
    mask = decayed(network(layout))
    names = {
        jax.tree_util.keystr(path[-1:]): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(mask)
    }
    assert {n.strip(".") for n, on in names.items() if not on} == {"bias", "gain"}
    assert {n.strip(".") for n, on in names.items() if on} == {"weight", "embed", "head"} - {
        "head"
    } | ({"head"} if CONFIG.tied_head is False else set())


@pytest.mark.parametrize("layout", ["unrolled", "scanned"])
def test_computing_blocks_again_changes_no_gradient(layout):
    net, rows = network(layout), rows_of(2)
    mask = learnt_mask(rows)
    value = lambda again: jax.jit(
        jax.value_and_grad(lambda n: summed_loss(with_remat(n) if again else n, rows, mask))
    )(net)
    (loss, gradient), (other, again) = value(False), value(True)
    np.testing.assert_allclose(float(loss), float(other), rtol=1e-6)
    for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(again), strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-4, atol=1e-5)
    program = str(jax.make_jaxpr(jax.grad(lambda n: summed_loss(with_remat(n), rows, mask)))(net))
    plain = str(jax.make_jaxpr(jax.grad(lambda n: summed_loss(n, rows, mask)))(net))
    assert program.count("remat") > plain.count("remat")


@pytest.mark.parametrize(
    "method, layout, gone_on", [("lora", "scanned", [4, 5, 6]), ("full", "unrolled", [5, 6])]
)
def test_a_run_that_stops_ends_where_an_unbroken_one_does(tmp_path, method, layout, gone_on):
    """Struck in step 4, or told by SIGTERM to stop after it."""
    config = FinetuneConfig(**{**SMALL, "method": method})
    net, held = network(layout), [rows_of(4, seed=77)]
    unbroken = finetune(config, net, Repeating(), held_out=held)

    def stop(step, _):
        if step == 4 and gone_on[0] == 4:
            raise KeyboardInterrupt
        if step == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    work = lambda: Workdir(tmp_path / "run", config)
    with pytest.raises(KeyboardInterrupt):
        finetune(config, net, Repeating(), held_out=held, workdir=work(), on_step=stop)
    seen = []
    broken = finetune(
        config, net, Repeating(), held_out=held, workdir=work(),
        on_step=lambda step, _: seen.append(step),
    )
    assert seen == gone_on
    same_bits(unbroken.network, broken.network)
    assert unbroken.held_out == broken.held_out and broken.held_out[0] != broken.held_out[1]
    text = (tmp_path / "run" / "metrics.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    held_lines = [line for line in lines if "held_out/loss" in line["values"]]
    assert [line["step"] for line in held_lines] == [0, 6]
    again = finetune(config, net, Repeating(), held_out=held, workdir=work())
    same_bits(again.network, broken.network)


def test_how_a_step_is_split_changes_nothing_but_rounding():
    first = {}
    for batch, parts in ((4, 1), (2, 2), (1, 4)):
        config = FinetuneConfig(**{**SMALL, "steps": 2, "batch_size": batch, "accumulate": parts})
        finetune(
            config, network(), Repeating(),
            on_step=lambda n, m, at=(batch, parts): first.setdefault(at, jax.device_get(m)),
        )
    for metrics in first.values():
        assert metrics["tokens"] == first[4, 1]["tokens"]
        for name in ("loss", "gradient_norm"):
            assert metrics[name] == pytest.approx(first[4, 1][name], rel=1e-5)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_mesh_gives_the_same_numbers(method):
    config = FinetuneConfig(
        **{**SMALL, "steps": 2, "batch_size": 8, "accumulate": 1, "method": method}
    )
    losses = {}
    for mesh in (None, make_mesh("data:8")):
        own = losses.setdefault(mesh is None, [])
        finetune(
            config, network(), Repeating(), mesh=mesh,
            on_step=lambda _, m, own=own: own.append(float(m["loss"])),
        )
    np.testing.assert_allclose(losses[True], losses[False], rtol=1e-5)
    with pytest.raises(UserError, match="rows that they divide"):
        finetune(FinetuneConfig(**SMALL), network(), Repeating(), mesh=make_mesh("data:8"))


def test_full_training_of_bfloat16_keeps_float32_masters_and_the_weights_dtype():
    config = FinetuneConfig(**{**SMALL, "method": "full", "lr": 1e-6, "steps": 2})
    net = network(dtype="bfloat16")
    tuned = finetune(config, net, Repeating())
    kinds = lambda n: jax.tree.map(lambda a: a.dtype, n)
    assert kinds(tuned.network) == kinds(net)
    from interp_jax.finetuning.training import Training

    state = Training(config, net).first_state()
    assert {leaf.dtype for leaf in jax.tree.leaves(state.values)} == {jnp.dtype("float32")}


@pytest.mark.parametrize("method", ["lora", "full"])
def test_merged_weights_load_again(tmp_path, method):
    net = network()
    tuned = finetune(FinetuneConfig(**{**SMALL, "method": method}), net, Repeating())
    merged = tuned.merged()
    save_hf(tmp_path / "out", CONFIG, merged.parameters())
    config, params = read_hf(tmp_path / "out")
    rows = rows_of(3, seed=5)
    batch = Batch.make(rows.tokens, rows.valid, roles=rows.roles)
    logits = [  # at a row's own tokens: an adapter leaves padding alone, merged weights do not
        np.asarray(jax.jit(lambda n: n(batch)[0])(n))[rows.valid]
        for n in (net, tuned.network, merged, build_decoder(config, params))
    ]
    scale = np.abs(logits[0]).max()
    assert np.abs(logits[1] - logits[0]).max() > 1e-2 * scale
    assert np.abs(logits[2] - logits[1]).max() <= 1e-5 * scale
    np.testing.assert_array_equal(logits[3], logits[2])


def test_training_lowers_the_loss_on_what_it_sees():
    class Same(Repeating):
        def next(self, batch):
            return rows_of(batch, seed=1)

    held = [rows_of(2, seed=1)]
    config = FinetuneConfig(**{**SMALL, "steps": 12, "accumulate": 1})
    before, after = finetune(config, network(), Same(), held_out=held).held_out
    assert after < 0.9 * before


def test_what_cannot_be_trained_is_refused():
    train = lambda stream, **over: finetune(FinetuneConfig(**{**SMALL, **over}), network(), stream)
    with pytest.raises(UserError, match="data that ended in step 2"):
        train(Repeating(end=7))
    with pytest.raises(UserError, match="no token of the roles image"):
        train(Repeating(), loss_roles=("image",))
    with pytest.raises(UserError, match="layers \\[7\\]"):
        train(Repeating(), layers=(7,))
    with pytest.raises(UserError, match="LoRA targets"):
        train(Repeating(), targets=("nothing",))
    with pytest.raises(UserError, match="roles nobody"):
        FinetuneConfig(loss_roles=("nobody",))
    with pytest.raises(UserError, match="warm-up of 9 in 4 steps"):
        FinetuneConfig(steps=4, warm_up=9)
    with pytest.raises(UserError, match="rank 0"):
        FinetuneConfig(rank=0)
    with pytest.raises(UserError, match="a loss of .*nan"):
        train(Repeating(), lr=float("inf"), method="full", clip=0.0)
