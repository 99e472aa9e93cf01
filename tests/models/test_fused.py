"""Fused attention against a dense reference: values, gradients, bits, memory, transforms."""

from __future__ import annotations

import dataclasses
from functools import partial

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from interp_jax.models import fused_blocks
from interp_jax.models.fused import fused_attention
from interp_jax.models.suppression import Suppression
from interp_jax.runtime.errors import UserError

NOWHERE = 2**31 - 1


@dataclasses.dataclass
class Case:
    """Operands of one attention call, and the options that are static."""

    arrays: dict
    scale: float
    softcap: float | None

    def __call__(self, **changes):
        arrays = self.arrays | changes
        return fused_attention(**arrays, scale=self.scale, softcap=self.softcap)


def make_case(
    seed=0, B=2, T=70, S=None, K=2, G=3, hd=8, window=None, softcap=None, padding="right",
    suppressions=0, dtype=np.float32, keep_dtype=np.float32,
):  # fmt: skip
    """Random operands: causal over ragged rows, queries standing at the end of the keys."""
    rng = np.random.default_rng(seed)
    S = T if S is None else S
    length = rng.integers(1, S + 1, size=B)
    length[0] = S
    slots = np.arange(S)[None]
    if padding == "right":
        positions = np.where(slots < length[:, None], slots, NOWHERE)
    elif padding == "left":
        positions = np.where(slots >= S - length[:, None], slots - (S - length[:, None]), NOWHERE)
    else:  # any order at all
        positions = rng.permuted(np.where(slots < length[:, None], slots, NOWHERE), axis=1)
    if T == S:
        upper = np.where(positions == NOWHERE, -1, positions)
    else:
        upper = rng.integers(-1, S, size=(B, T))
    lower = np.zeros((B, T)) if window is None else np.maximum(upper - window + 1, 0)
    suppress = []
    for _ in range(suppressions):
        log_keep = np.log(rng.uniform(0.05, 1, size=(B, S)))
        log_keep = np.where(rng.random((B, S)) < 0.3, -np.inf, log_keep)
        suppress.append(
            Suppression(
                jnp.asarray(rng.random((B, T)) < 0.6),
                jnp.asarray(rng.random(K * G) < 0.6).at[0].set(True),
                jnp.asarray(np.where(rng.random((B, S)) < 0.4, 0.0, log_keep), keep_dtype),
            )
        )
    arrays = {
        "q": jnp.asarray(rng.normal(size=(B, T, K * G, hd)), dtype),
        "k": jnp.asarray(rng.normal(size=(B, S, K, hd)), dtype),
        "v": jnp.asarray(rng.normal(size=(B, S, K, hd)), dtype),
        "lower": jnp.asarray(lower, jnp.int32),
        "upper": jnp.asarray(upper, jnp.int32),
        "key_positions": jnp.asarray(positions, jnp.int32),
        "suppress": tuple(suppress),
    }
    return Case(arrays, 1.5 * hd**-0.5, softcap)


def dense(case: Case, **changes):
    """The same attention with all scores at once, in the dtype of q."""
    a = case.arrays | changes
    q, k, v, lower, upper = a["q"], a["k"], a["v"], a["lower"], a["upper"]
    B, T, H, hd = q.shape
    K = k.shape[2]
    repeated = [jnp.repeat(x, H // K, axis=2) for x in (k, v)]
    s = jnp.einsum("bthd,bshd->bhts", q, repeated[0]) * case.scale
    if case.softcap is not None:
        s = case.softcap * jnp.tanh(s / case.softcap)
    for one in a["suppress"]:
        hit = one.queries[:, None, :, None] & one.heads[None, :, None, None]
        keep = one.log_keep.astype(q.dtype)[:, None, None]
        # Where a key is lost its derivative is 0, as the fused path defines it.
        lost = jnp.where(hit & (keep == -jnp.inf), -jnp.inf, 0.0).astype(q.dtype)
        soft = jnp.where(hit & (keep != -jnp.inf), jnp.where(keep == -jnp.inf, 0, keep), 0)
        s = s + soft + lost
    positions = a["key_positions"][:, None]
    visible = (lower[..., None] <= positions) & (positions <= upper[..., None])
    s = jnp.where(visible[:, None], s, -jnp.inf)
    top = jax.lax.stop_gradient(jnp.maximum(s.max(axis=-1, keepdims=True), -1e30))
    p = jnp.exp(s - top)
    total = p.sum(axis=-1, keepdims=True)
    seen = total > 0
    safe = jnp.where(seen, total, 1)
    out = jnp.einsum("bhts,bshd->bthd", p / safe, repeated[1])
    lse = jnp.where(seen, top + jnp.log(safe), -jnp.inf)[..., 0].transpose(0, 2, 1)
    return out, lse


def loss(attend, seed=3):
    """A scalar that uses both outputs; lse of blind queries is left out, as it is -inf."""

    def value(q, k, v, suppress):
        out, lse = attend(q=q, k=k, v=v, suppress=suppress)
        rng = np.random.default_rng(seed)
        a = jnp.asarray(rng.normal(size=out.shape), out.dtype)
        b = jnp.asarray(rng.normal(size=lse.shape), out.dtype)
        finite = jnp.where(lse == -jnp.inf, jnp.zeros_like(lse), lse)
        return (a * out).sum() + (b * jnp.sin(finite)).sum()

    return value


def operands_of(case: Case):
    return [case.arrays[name] for name in ("q", "k", "v", "suppress")]


def gradients(attend, operands):
    """Of q, k, v and every log_keep."""
    grads = jax.jit(jax.grad(loss(attend), (0, 1, 2, 3), allow_int=True))(*operands)
    return *grads[:3], *(one.log_keep for one in grads[3])


def values_and_gradients(attend, operands):
    """(out, lse) and the gradients, in one program."""

    def both(q, k, v, suppress):
        grads = jax.grad(loss(attend), (0, 1, 2, 3), allow_int=True)(q, k, v, suppress)
        kept = tuple(one.log_keep for one in grads[3])
        return attend(q=q, k=k, v=v, suppress=suppress), (*grads[:3], *kept)

    return jax.jit(both)(*operands)


CASES = {
    "plain": {},
    "softcap_window": {"softcap": 2.0, "window": 9, "seed": 1},
    "left_padding": {"padding": "left", "window": 30, "suppressions": 1},
    "any_order": {"padding": "any", "suppressions": 2, "softcap": 3.0, "T": 130},
    "cross": {"T": 67, "S": 150, "suppressions": 1, "G": 1},
    "one_query": {"T": 1, "S": 40, "K": 1},
    "one_key": {"T": 20, "S": 1, "suppressions": 1},
}


@pytest.mark.core
@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_of_dense_attention(name):
    case = make_case(**CASES[name])
    with jax.numpy_rank_promotion("allow"):
        expected, expected_grads = values_and_gradients(partial(dense, case), operands_of(case))
    found, grads = values_and_gradients(case, operands_of(case))
    assert found[0].dtype == found[1].dtype == jnp.float32
    for x, y in zip(found, expected, strict=True):
        np.testing.assert_allclose(x, y, atol=3e-6, rtol=1e-5)
    for x, y in zip(grads, expected_grads, strict=True):
        assert np.isfinite(x).all()
        np.testing.assert_allclose(x, y, atol=1e-5 * float(jnp.abs(y).max() + 1))


@hypothesis.settings(max_examples=5, deadline=None, derandomize=True)
@hypothesis.given(st.data())
def test_any_shape(data):
    draw = data.draw
    case = make_case(
        seed=draw(st.integers(0, 99)), B=draw(st.integers(1, 3)), T=draw(st.integers(1, 140)),
        S=draw(st.integers(1, 140)), K=draw(st.integers(1, 2)), G=draw(st.integers(1, 3)),
        hd=draw(st.sampled_from([1, 5, 16])), window=draw(st.sampled_from([None, 1, 20])),
        softcap=draw(st.sampled_from([None, 1.0])), suppressions=draw(st.integers(0, 2)),
        padding=draw(st.sampled_from(["right", "left", "any"])),
    )  # fmt: skip
    with jax.numpy_rank_promotion("allow"):
        expected = jax.jit(lambda: dense(case))()
    for x, y in zip(jax.jit(lambda: case())(), expected, strict=True):
        np.testing.assert_allclose(x, y, atol=5e-6, rtol=1e-5)


def test_finite_differences_in_float64():
    with jax.enable_x64(True):
        case = make_case(
            B=2, T=66, K=1, G=2, hd=3, softcap=2.0, suppressions=1, padding="any",
            dtype=np.float64, keep_dtype=np.float64,
        )  # fmt: skip
        names = ("q", "k", "v", "suppress")
        value = jax.jit(loss(case))
        found, grads = values_and_gradients(case, operands_of(case))
        assert {x.dtype for x in (*found, *grads)} == {jnp.dtype("float64")}
        rng = np.random.default_rng(0)
        for n in range(4):
            tangents = [np.zeros(x.shape) for x in grads]
            tangents[n] = rng.normal(size=grads[n].shape)

            def at(step, tangents=tangents):
                q, k, v, (one,) = operands_of(case)
                q, k, v = (x + step * t for x, t in zip((q, k, v), tangents, strict=False))
                return float(value(q, k, v, (one._replace(
                    log_keep=one.log_keep + step * tangents[3]
                ),)))  # fmt: skip

            step = 1e-5
            numeric = (at(step) - at(-step)) / (2 * step)
            exact = float((grads[n] * tangents[n]).sum())
            assert abs(exact) > 1e-3
            assert abs(numeric - exact) <= 1e-6 * max(1.0, abs(exact)), names[n]


def test_bfloat16_inputs_give_float32_results():
    case = make_case(dtype=jnp.bfloat16, suppressions=1)
    (out, lse), grads = values_and_gradients(case, operands_of(case))
    assert out.dtype == lse.dtype == jnp.float32
    wide = {name: case.arrays[name].astype(jnp.float32) for name in "qkv"}
    with jax.numpy_rank_promotion("allow"):
        expected = dense(case, **wide)
    # Scores of bfloat16 operands are exact in float32; only the weights are rounded (2^-9).
    np.testing.assert_allclose(lse, expected[1], atol=1e-5)
    np.testing.assert_allclose(out, expected[0], atol=2**-8 * float(jnp.abs(wide["v"]).max()))
    assert [x.dtype for x in grads] == [jnp.bfloat16] * 3 + [jnp.float32]


@pytest.mark.core
def test_a_query_without_keys_gives_zero_and_finite_gradients():
    case = make_case(suppressions=1)
    queries = jnp.ones_like(case.arrays["suppress"][0].queries).at[:, 50:].set(False)
    all_heads = jnp.ones(6, bool)
    lost = Suppression(queries, all_heads, jnp.full((2, 70), -jnp.inf))
    case.arrays["suppress"] = (lost,)
    (out, lse), grads = values_and_gradients(case, operands_of(case))
    assert (out[:, :50] == 0).all() and (lse[:, :50] == -jnp.inf).all()
    assert np.isfinite(lse[0, 50:]).all()
    assert all(np.isfinite(x).all() for x in grads)
    assert (grads[0][:, :50] == 0).all() and (grads[3] == 0).all()

    def careless(q):  # exp(lse) under a square root: the cotangent of a blind query is NaN
        out, lse = case(q=q)
        return (out.sum(axis=-1) * jnp.sqrt(jnp.exp(lse))).sum()

    assert np.isfinite(jax.jit(jax.grad(careless))(case.arrays["q"])).all()


@pytest.mark.core
@pytest.mark.parametrize("softcap", [None, 2.0])
def test_a_suppression_of_nothing_has_the_bits_of_none(softcap):
    case = make_case(T=150, softcap=softcap)
    everywhere = jnp.ones((2, 150), bool), jnp.ones(6, bool)
    nothing = Suppression(*everywhere, jnp.zeros((2, 150)))
    unsuppressed = jax.jit(lambda: case())()
    same = jax.jit(lambda s: case(suppress=(s,)))(nothing)
    for x, y in zip(unsuppressed, same, strict=True):
        assert (x == y).all()
    if softcap is not None:  # the longer chain of operations; one pair of compilations will do
        plain = gradients(case, operands_of(case))
        with_nothing = gradients(case, [*operands_of(case)[:3], (nothing,)])
        for x, y in zip(plain, with_nothing[:3], strict=True):
            assert (x == y).all()
    # Keys from 100 on are lost: earlier queries keep their bits, later ones do not.
    late = Suppression(*everywhere, jnp.zeros((2, 150)).at[:, 100:].set(-jnp.inf))
    out, lse = jax.jit(lambda s: case(suppress=(s,)))(late)
    assert (out[:, :100] == unsuppressed[0][:, :100]).all()
    assert (lse[:, :100] == unsuppressed[1][:, :100]).all()
    assert (out[0, 101:] != unsuppressed[0][0, 101:]).any(axis=(1, 2)).all()


@pytest.mark.core
def test_a_row_does_not_depend_on_its_neighbours():
    case = make_case(B=3, T=200, window=40, suppressions=1)
    other = make_case(seed=9, B=3, T=200, window=70, suppressions=1, padding="any")
    attend = jax.jit(fused_attention, static_argnames=("scale", "softcap"))

    def rows(order, arrays, others):
        return jax.tree.map(
            lambda x, y: x if x.ndim == 1 else jnp.stack([(x, y)[s][r] for s, r in order]),
            arrays, others,
        )  # fmt: skip

    def heads_of(arrays):
        return (arrays["suppress"][0]._replace(heads=case.arrays["suppress"][0].heads),)

    other.arrays["suppress"] = heads_of(other.arrays)
    alone = attend(**case.arrays, scale=0.3)
    mixed = attend(**rows([(1, 0), (1, 2), (0, 1)], case.arrays, other.arrays), scale=0.3)
    for x, y in zip(alone, mixed, strict=True):
        assert (x[1] == y[2]).all()


def test_two_groups_of_keys_merge_by_lse():
    case = make_case(T=90, suppressions=1, softcap=4.0)
    cut = 33

    def keys(part):
        (one,) = case.arrays["suppress"]
        sliced = {name: case.arrays[name][:, part] for name in ("k", "v", "key_positions")}
        return sliced | {"suppress": (one._replace(log_keep=one.log_keep[:, part]),)}

    def merged(**changes):
        def group(part):
            arrays = keys(part)
            for name in set(changes) & {"k", "v"}:
                arrays[name] = changes[name][:, part]
            if "q" in changes:
                arrays["q"] = changes["q"]
            return case(**arrays)

        (o1, l1), (o2, l2) = group(slice(None, cut)), group(slice(cut, None))
        total = jnp.logaddexp(l1, l2)
        finite = jnp.where(total == -jnp.inf, jnp.zeros_like(total), total)
        return o1 * jnp.exp(l1 - finite)[..., None] + o2 * jnp.exp(l2 - finite)[..., None], total

    def value_and_grads(attend):
        def square(q, k, v):
            out, lse = attend(q=q, k=k, v=v)
            return jnp.square(out).sum(), (out, lse)

        grads, values = jax.jit(jax.grad(square, (0, 1, 2), has_aux=True))(
            *operands_of(case)[:3]
        )
        return *values, *grads

    for x, y in zip(value_and_grads(merged), value_and_grads(case), strict=True):
        np.testing.assert_allclose(x, y, atol=2e-5, rtol=1e-5)


def test_vmap_over_strengths_scan_over_layers_and_pmap():
    case = make_case(suppressions=1)
    (one,) = case.arrays["suppress"]
    strengths = jnp.asarray([0.0, 0.5, 2.0])
    finite = one._replace(log_keep=jnp.maximum(one.log_keep, -5.0))

    def value(q, strength):
        kept = finite._replace(log_keep=finite.log_keep * strength)
        return loss(case)(q, case.arrays["k"], case.arrays["v"], (kept,))

    both = jax.value_and_grad(value, (0, 1))
    q = case.arrays["q"]
    solo = jax.jit(both)
    looped = [solo(q, s) for s in strengths]
    mapped = jax.jit(jax.vmap(both, (None, 0)))(q, strengths)
    per_row = jax.jit(jax.vmap(both))(jnp.stack([q, q, q]), strengths)
    _, scanned = jax.jit(lambda q: jax.lax.scan(lambda c, s: (c, both(q, s)), None, strengths))(q)
    spread = jax.pmap(both, in_axes=(None, 0), devices=jax.devices()[:1])(q, strengths[1:2])
    for n, expected in enumerate(looped):
        for found in (mapped, per_row, scanned):
            found = jax.tree.map(lambda x, n=n: x[n], found)
            jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=2e-5), found, expected)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x[0], y, atol=2e-5), spread, looped[1])
    assert float(jnp.abs(looped[0][1][1])) > 1e-3  # the gradient at strength zero


@pytest.mark.skipif(jax.device_count() < 8, reason="needs eight devices, fake ones will do")
def test_rows_spread_over_eight_devices():
    case = make_case(B=8, T=130, window=60, suppressions=1)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    by_row = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    spread = jax.tree.map(
        lambda x: jax.device_put(x, by_row if x.ndim > 1 else everywhere), case.arrays
    )
    attend = jax.jit(partial(fused_attention, scale=case.scale))
    found = attend(**spread)
    assert found[0].sharding.is_equivalent_to(by_row, 4)
    for x, y in zip(found, attend(**case.arrays), strict=True):
        np.testing.assert_allclose(x, y, atol=2e-6, rtol=1e-5)


def shapes(T, H=9, K=3, hd=64):
    return [
        jax.ShapeDtypeStruct(shape, dtype)
        for shape, dtype in [
            ((1, T, H, hd), jnp.float32), ((1, T, K, hd), jnp.float32),
            ((1, T, K, hd), jnp.float32), ((1, T), jnp.int32),
        ]
    ]  # fmt: skip


def _attend(q, k, v, positions):
    return fused_attention(
        q, k, v, lower=jnp.zeros_like(positions), upper=positions, key_positions=positions,
        scale=0.125,
    )[0]  # fmt: skip


def _attend_and_grad(q, k, v, positions):
    return jax.value_and_grad(lambda *x: _attend(*x, positions).sum(), (0, 1, 2))(q, k, v)


@pytest.mark.core
@pytest.mark.parametrize(("function", "most"), [(_attend, 16), (_attend_and_grad, 24)])
def test_temporary_memory_grows_with_length_not_its_square(function, most):
    def temporary(length):
        compiled = jax.jit(function).lower(*shapes(length)).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    at_2048, at_4096 = temporary(2048), temporary(4096)
    assert at_2048 < most * 2**20
    assert at_4096 <= 2.2 * at_2048


@pytest.mark.core
def test_blocks_that_no_row_can_see_are_not_visited():
    T = 1024
    positions = jnp.arange(T, dtype=jnp.int32)[None]
    q, k = jnp.zeros((1, T, 9, 4)), jnp.zeros((1, T, 3, 4))
    sizes = fused_blocks.Sizes.of(q, k)
    assert (sizes.bq, sizes.bk) == (256, 256)

    def visited(lower, upper, key_positions):
        queries, _ = fused_blocks.make_blocks(
            sizes, k, k, lower, upper, key_positions, ()
        )
        return [
            sorted(map(int, order[:count]))
            for order, count in zip(queries.order, queries.count, strict=True)
        ]

    zeros = jnp.zeros_like(positions)
    assert visited(zeros, positions, positions) == [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3]]
    window = jnp.maximum(positions - 99, 0)
    assert visited(window, positions, positions) == [[0], [0, 1], [1, 2], [2, 3]]
    # Invalid tokens widen nothing: here only the first 300 exist.
    exists = positions < 300
    upper = jnp.where(exists, positions, -1)
    keys = jnp.where(exists, positions, NOWHERE)
    assert visited(zeros, upper, keys) == [[0], [0, 1], [], []]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"k": np.zeros((2, 70, 4, 8), np.float32)}, "k"),
        ({"upper": np.zeros((2, 71), np.int32)}, "upper"),
        ({"suppress": (Suppression(*(np.zeros((2, 70)),) * 3),)}, "suppress[0].heads"),
    ],
)
def test_operands_that_do_not_fit_are_refused_by_name(changes, named):
    case = make_case()
    with pytest.raises(UserError) as caught:
        case(**changes)
    assert named in str(caught.value)
