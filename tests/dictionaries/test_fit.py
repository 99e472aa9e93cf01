"""Training: resume, sweeps, devices, the null of two equal models, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from interp_jax.dictionaries.delta import delta
from interp_jax.dictionaries.feed import Feed
from interp_jax.dictionaries.fit import Fit, fit
from interp_jax.dictionaries.fit_config import FitConfig
from interp_jax.dictionaries.fit_measures import HeldOut
from interp_jax.dictionaries.moments import Moments
from interp_jax.dictionaries.ring import Ring
from interp_jax.dictionaries.row_source import Chunk
from interp_jax.dictionaries.variants import Variant, parse_variants
from interp_jax.runtime.errors import UserError
from interp_jax.runtime.mesh import make_mesh
from interp_jax.runtime.workdir import Workdir

D, N = 8, 32


class Planted:
    """Rows that are sparse sums of 16 fixed directions; every fifth row is left out.

    Attributes:
        ends: number of chunks; None: no end.
        scales: of each input, so that inputs differ; equal ones make equal models.
        heavy: how much longer every eighth row is.
    """

    def __init__(self, scales=(1.0,), ends: int | None = None, heavy: float = 1.0):
        self.size, self.ends, self.heavy, self._at = N, ends, heavy, 0
        self.scales = np.asarray(scales, np.float32)
        self.shapes = {"x": jax.ShapeDtypeStruct((len(scales), D), jnp.float32)}
        found = np.random.default_rng(7).standard_normal((16, D))
        self.directions = found / np.linalg.norm(found, axis=1, keepdims=True)

    def next(self) -> Chunk:
        if self._at == self.ends:
            raise StopIteration
        rng = np.random.default_rng([1, self._at])
        self._at += 1
        code = rng.uniform(0.5, 1.5, (N, 16)) * (rng.uniform(size=(N, 16)) < 3 / 16)
        one = (code @ self.directions).astype(np.float32)
        one[1::8] *= self.heavy
        x = one[:, None] * self.scales[None, :, None]
        return Chunk({"x": jnp.asarray(x)}, np.arange(N) % 5 != 0)

    def cursor(self):
        return {"at": self._at}

    def seek(self, cursor):
        self._at = cursor["at"]


def config(**over) -> FitConfig:
    fields = dict(
        latents=32, k=3, ring_rows=128, batch_size=16, context=8, rows_at_once=4, steps=12,
        lr=1e-2, warm_up=3, threshold_start=2, threshold_decay=0.9, dead_after=60,
        eval_rows=64, log_steps=1, checkpoint_every=5,
    )  # fmt: skip
    return FitConfig(**(fields | over))


def same(a, b) -> None:
    for one, two in zip(a.dictionaries, b.dictionaries, strict=True):
        for name, array in one.arrays().items():
            np.testing.assert_array_equal(array, two.array(name), err_msg=name)


def close(a, b, atol=1e-5) -> None:
    for one, two in zip(a.dictionaries, b.dictionaries, strict=True):
        for name, array in one.arrays().items():
            np.testing.assert_allclose(array, two.array(name), atol=atol, err_msg=name)


class Stop(Exception):
    pass


def stop_at(step: int):
    def look(done, metrics):
        if done == step:
            raise Stop

    return look


@pytest.mark.parametrize(
    "save_ring, place", [(True, "device"), (False, "device"), (True, "host")]
)
def test_stopped_and_resumed_is_unbroken(tmp_path, save_ring, place):
    """2N steps are N, a stop between two checkpoints, and the rest: same bits, same metrics."""
    c = config(save_ring=save_ring, ring=place, dictionaries="k=2,4", normaliser="rms",
               statistics_rows=50)  # fmt: skip
    unbroken = fit(c, Planted(), workdir=Workdir(tmp_path / "a", c))
    with pytest.raises(Stop):
        fit(c, Planted(), workdir=Workdir(tmp_path / "b", c), on_step=stop_at(8))
    seen = []
    broken = fit(
        c, Planted(), workdir=Workdir(tmp_path / "b", c), on_step=lambda n, m: seen.append(n)
    )
    assert seen == list(range(6, 13))  # from the checkpoint at 5
    same(unbroken, broken)
    for one, two in zip(unbroken.measures, broken.measures, strict=True):
        jax.tree.map(np.testing.assert_array_equal, one, two)
    assert lines(tmp_path / "a") == lines(tmp_path / "b")


def lines(folder) -> dict:
    """Step and names -> numbers; where a step occurs twice the later line holds."""
    found = {}
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        fields = json.loads(line)
        del fields["time"]
        found[fields["step"], *sorted(fields["values"])] = fields
    return found


def test_logging_and_measuring_change_nothing(tmp_path):
    quiet = fit(config(eval_rows=64), Planted())
    c = config(eval_every=3, log_steps=1, tensorboard=False)
    loud = fit(c, Planted(), workdir=Workdir(tmp_path, c), on_step=lambda n, m: jax.device_get(m))
    same(quiet, loud)
    jax.tree.map(np.testing.assert_array_equal, quiet.measures, loud.measures)
    steps = [key[0] for key in lines(tmp_path) if any("eval/fve" in name for name in key[1:])]
    assert steps == [3, 6, 9, 12]


def test_sigterm_leaves_a_checkpoint_to_go_on_from(tmp_path):
    c = config(checkpoint_every=100)
    ask = lambda done, _: done == 7 and os.kill(os.getpid(), signal.SIGTERM)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt, match="after 7 steps"):
        fit(c, Planted(), workdir=Workdir(tmp_path, c), on_step=ask)
    assert signal.getsignal(signal.SIGTERM) is before
    seen = []
    resumed = fit(c, Planted(), workdir=Workdir(tmp_path, c), on_step=lambda n, _: seen.append(n))
    assert seen == list(range(8, 13))
    same(fit(c, Planted()), resumed)


def test_another_source_is_met_on_resuming(tmp_path):
    c = config()
    with pytest.raises(Stop):
        fit(c, Planted(), workdir=Workdir(tmp_path, c), on_step=stop_at(8))
    other = Planted()
    plain = other.next
    other.next = lambda: plain()._replace(keep=np.arange(N) % 4 == 0)
    with pytest.raises(UserError, match="other rows in chunk"):
        fit(c, other, workdir=Workdir(tmp_path, c))


def test_a_sweep_compiles_once_and_equals_single_runs(compile_counter):
    """k, rates, coefficients and seeds are traced: another sweep of as many compiles nothing."""
    with compile_counter() as counter:
        many = fit(config(dictionaries="k=2,5"), Planted())
    assert counter.count_of("dictionary_step") <= 1  # a test before may have had the same
    with compile_counter() as counter:
        rates = fit(config(dictionaries="lr=1e-2,2e-2", steps=9, auxiliary=0.1), Planted())
    assert counter.count_of("dictionary_step") == 0
    assert [(v.k, v.lr) for v in many.variants] == [(2, 0.01), (5, 0.01)]
    for i, k in enumerate((2, 5)):
        one = dataclasses.replace(many, dictionaries=many.dictionaries[i : i + 1])
        close(one, fit(config(k=k, decode="dense"), Planted()))
        assert many.measures[i]["l0_in_training_mode"] == k
    one = dataclasses.replace(rates, dictionaries=rates.dictionaries[1:])
    close(one, fit(config(lr=2e-2, steps=9, auxiliary=0.1), Planted()))
    for run in (many, rates):
        rows = [np.asarray(d.array("decoder")) for d in run.dictionaries]
        assert np.abs(rows[0] - rows[1]).max() > 1e-3


def test_sparse_leaves_nothing_out_where_rows_are_heavy():
    """Rows of huge norm take most of what a batch keeps."""
    run = lambda decode: fit(
        config(decode=decode, steps=8, eval_rows=0, checkpoint_every=0), Planted(heavy=50.0)
    )
    close(run("sparse"), run("dense"))


def test_seeds_differ_and_see_the_same_rows():
    many = fit(config(dictionaries="seed=0,1"), Planted())
    close(dataclasses.replace(many, dictionaries=many.dictionaries[:1]), fit(config(), Planted()))
    a, b = (np.asarray(d.array("encoder")) for d in many.dictionaries)
    assert np.abs(a - b).max() > 0.1
    means = [np.asarray(d.array("decoder_bias")) for d in many.dictionaries]
    np.testing.assert_allclose(*means, atol=0.2)


def test_a_sparse_sweep_trains_each_as_it_would_alone():
    """Steps are taken in turn there."""
    c = config(decode="sparse", dictionaries="k=2,3", steps=6, checkpoint_every=0)
    together = fit(c, Planted(heavy=50.0))
    for one, k in zip(together.dictionaries, (2, 3), strict=True):
        alone = fit(dataclasses.replace(c, dictionaries="", k=k), Planted(heavy=50.0))
        np.testing.assert_allclose(
            one.array("encoder"), alone.dictionaries[0].array("encoder"), rtol=1e-5, atol=1e-6
        )


def test_two_by_four_devices_equal_one(tmp_path):
    """Rows over `data`, latents over `model`; also from a checkpoint of one device."""
    c = config(dictionaries="k=2,4", ring_rows=64)
    one = fit(two(c), Planted((1.0, 0.5)))
    mesh = make_mesh("data:2,model:4")
    run = Fit(two(c), Planted((1.0, 0.5)), mesh)
    state = run.first_state()
    for leaf in (state.train.params["decoder"], state.train.optimiser):
        specs = {x.sharding.spec for x in jax.tree.leaves(leaf) if x.ndim == 3 and x.shape[1] == 32}
        assert specs and all(spec[1] == "model" for spec in specs)
    state, _ = run.step(state, run.feed.draw())
    assert state.train.params["decoder"].get_value().sharding.spec[1] == "model"
    close(one, fit(two(c), Planted((1.0, 0.5)), mesh=mesh))
    with pytest.raises(Stop):
        fit(two(c), Planted((1.0, 0.5)), workdir=Workdir(tmp_path, two(c)), on_step=stop_at(6))
    many = fit(two(c), Planted((1.0, 0.5)), workdir=Workdir(tmp_path, two(c)), mesh=mesh)
    close(one, many)


def two(c: FitConfig) -> FitConfig:
    return dataclasses.replace(c, kind="crosscoder", layers=(1, 2))


@pytest.mark.parametrize("activation", ["batch_topk", "relu"])
def test_a_model_against_itself_has_delta_one_half(activation):
    """The null: equal inputs and tied initialisation, bit for bit."""
    lr = dict(lr=1e-2, init_norm=1.0, sparsity=0.05, steps=30)
    c = two(config(activation=activation, threshold_start=5, dictionaries="seed=0,1", **lr))
    found = fit(c, Planted((1.0, 1.0)))
    first = Fit(c, Planted((1.0, 1.0))).first_state().train.params["decoder"].get_value()
    for before, d, measured in zip(first, found.dictionaries, found.measures, strict=True):
        learnt = np.abs(np.asarray(before) - np.asarray(d.array("decoder"))).max()
        assert learnt > 1e-3
        np.testing.assert_array_equal(delta(d.decoder_norms()), 0.5)
        assert measured["shared"] == 32 and measured["chat_only"] == measured["base_only"] == 0
        alive = round(32 * (1 - float(measured["dead_share"])))
        assert measured["shared_alive"] == alive > 0


def test_it_learns_planted_features():
    c = config(steps=400, threshold_start=100, lr=5e-3, eval_rows=2048, checkpoint_every=0,
               dead_after=2000)  # fmt: skip
    found = fit(c, Planted()).measures[0]
    assert found["fve"] > 0.75
    assert abs(found["l0"] / 3 - 1) < 0.15
    assert found["l0_in_training_mode"] == 3


def test_the_normaliser_holds_the_statistics_of_the_first_rows():
    c = config(normaliser="std", statistics_rows=70)
    run = Fit(c, Planted((1.0,)))
    state = run.first_state()
    source, kept = Planted((1.0,)), []
    HeldOut(source, 64, 16)  # moves past the rows that are set aside
    while sum(map(len, kept)) < 70:
        rows, keep = source.next()
        kept.append(np.asarray(rows["x"])[keep])
    rows = np.concatenate(kept)[:70]
    d = jax.tree.map(lambda leaf: leaf[0], state.train).dictionary()
    np.testing.assert_allclose(d.array("shift_in"), rows.mean(0), atol=1e-6)
    np.testing.assert_allclose(1 / d.array("scale_in"), rows.std(0, ddof=1), rtol=1e-5)
    np.testing.assert_array_equal(d.array("shift_out"), d.array("shift_in"))


class Mapped(Planted):
    """Two linear images, of width 5, of what is planted: for a transcoder."""

    def __init__(self):
        super().__init__()
        self.shapes = self.shapes | {"target": jax.ShapeDtypeStruct((2, 5), jnp.float32)}
        self.matrix = np.random.default_rng(3).standard_normal((D, 10)).astype(np.float32)

    def next(self) -> Chunk:
        rows, keep = super().next()
        target = 3 + (np.asarray(rows["x"])[:, 0] @ self.matrix).reshape(-1, 2, 5)
        return Chunk(rows | {"target": jnp.asarray(target)}, keep)


def test_a_transcoder_learns_what_another_site_holds():
    """With a linear map beside it, all there is; each side is normalised by its own statistics."""
    c = config(kind="transcoder", skip=True, steps=600, lr=3e-2, squared=True, normaliser="std",
               statistics_rows=70)  # fmt: skip
    found = fit(c, Mapped())
    (d,) = found.dictionaries
    assert d.array("shift_out").shape == (2, 5) and d.array("shift_in").shape == (1, D)
    want = 3 + (np.asarray(d.array("shift_in")) @ Mapped().matrix).reshape(2, 5)
    np.testing.assert_allclose(d.array("shift_out"), want, atol=1e-4)
    assert found.measures[0]["fve"] > 0.97
    assert found.measures[0]["fve_per_output"].shape == (2,)


def test_moments_are_those_of_all_rows(fresh_key):
    rows = np.asarray(jax.random.normal(fresh_key(), (50, 2, 3))) * 3 + 5
    moments = Moments.empty((2, 3))
    for part in (rows[:1], rows[1:1], rows[1:40], rows[40:]):
        moments.add(part)
    np.testing.assert_allclose(moments.mean, rows.mean(0), rtol=1e-6)
    np.testing.assert_allclose(moments.std(), rows.std(0, ddof=1), rtol=1e-6)
    assert np.isnan(Moments.empty((2,)).std()).all()


def feed(source, **over) -> Feed:
    ring = Ring(128, source.shapes, jax.random.key(0), place="host")
    return Feed(source, ring, 16, **over)


def rows_of(batches) -> list[bytes]:
    return [row.tobytes() for batch in batches for row in np.asarray(batch["x"])]


@pytest.mark.parametrize("refill", [0.3, 1.0])
def test_the_feed_gives_every_row_once_an_epoch(refill):
    source = Planted(ends=20)
    given, one = feed(source, refill=refill, epochs=2), []
    with pytest.raises(UserError, match="data that ended"):
        while True:
            one.append(given.draw())
    rows = Counter(rows_of(one))
    every = Counter(row.tobytes() for number in range(20) for row in source_chunk(number))
    assert rows.total() == 2 * every.total() // 16 * 16
    left = every + every
    left.subtract(rows)
    assert min(left.values()) == 0 and left.total() == 2 * every.total() % 16


def source_chunk(number: int) -> np.ndarray:
    source = Planted()
    source.seek({"at": number})
    rows, keep = source.next()
    return np.asarray(rows["x"])[keep]


def test_data_without_anything_to_keep_is_refused():
    for ends in (3, None):
        source = Planted(ends=ends)
        plain = source.next
        source.next = lambda: plain()._replace(keep=np.zeros(N, bool))  # noqa: B023
        with pytest.raises(UserError, match="no token is kept"):
            feed(source).draw()


def test_short_data_is_told():
    with pytest.raises(UserError, match="data that ended, with .* rows left, after"):
        fit(config(steps=200), Planted(ends=20))
    with pytest.raises(UserError, match="data that ended after .*expected 64 rows to measure on"):
        fit(config(), Planted(ends=1))


def test_resampling_gives_dead_latents_directions():
    c = config(activation="relu", sparsity=5.0, lr=0.1, resample_every=6, steps=14,
               eval_rows=0)  # fmt: skip
    seen = []
    fit(c, Planted(), on_step=lambda n, m: seen.append(float(m["resampled"][0])))
    assert [n for n, count in enumerate(seen) if count] and set(
        n for n, count in enumerate(seen) if count
    ) <= {6, 12}


BASE = Variant(k=100, lr=None, sparsity=0.1, auxiliary=0.2, seed=3)


def test_variants():
    found = parse_variants("k=50,100; lr=1e-4", BASE, "batch_topk")
    assert [v.name for v in found] == ["k50_lr0.0001", "k100_lr0.0001"]
    assert found[0] == dataclasses.replace(BASE, k=50, lr=1e-4, name="k50_lr0.0001")
    assert parse_variants("", BASE, "relu") == (BASE,)


@pytest.mark.parametrize(
    "text, activation, said",
    [
        ("q=1", "relu", "'q' in dictionaries"),
        ("k=1;k=2", "topk", "k twice"),
        ("k=0", "topk", "k = '0'"),
        ("lr=fast", "relu", "lr = 'fast'"),
        ("lr=nan", "relu", "lr = 'nan'"),
        ("k=5", "relu", "k, which relu does not use"),
        ("sparsity=1", "topk", "sparsity, which topk does not use"),
        ("seed=1,1", "relu", "the same dictionary twice"),
    ],
)
def test_variants_that_are_refused(text, activation, said):
    with pytest.raises(UserError, match=said):
        parse_variants(text, BASE, activation)


@pytest.mark.parametrize(
    "over, said",
    [
        (dict(kind="crosscoder"), "a crosscoder of one model and one layer"),
        (dict(layers=(1, 2)), "an sae of 2 activations"),
        (dict(other_model="b"), "--other_model with kind sae"),
        (dict(target_site="mlp_out"), "--target_site with kind sae"),
        (dict(skip=True), "--skip with kind sae"),
        (dict(steps=100, threshold_start=100), "100 steps with threshold_start 100"),
        (dict(ring_rows=40), "a ring of 40 rows"),
        (dict(normaliser="rms", statistics_rows=100), "statistics of 100 rows"),
        (dict(resample_every=5), "--resample_every with batch_topk"),
        (dict(decay=12), "decay over 12 steps"),
        (dict(replace_tokens=("5",)), "--replace_tokens '5'"),
        (dict(dictionaries="k=2;k=3"), "k twice"),
    ],
)
def test_configs_that_are_refused(over, said):
    with pytest.raises(UserError, match=said):
        config(**over)


def test_rows_that_do_not_fit_the_config_are_refused():
    with pytest.raises(UserError, match="k = 33; expected at most 32"):
        Fit(config(k=33), Planted())
    with pytest.raises(UserError, match="2 activations for each token with kind sae"):
        Fit(config(), Planted((1.0, 1.0)))
    with pytest.raises(UserError, match="1 activations for each token with kind crosscoder"):
        Fit(two(config()), Planted())
