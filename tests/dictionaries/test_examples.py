"""Examples per latent: held to a plain loop over everything, in any order, in any parts."""

import dataclasses
import itertools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from interp_jax.dictionaries import examples as ex
from interp_jax.dictionaries.examples_file import load_examples, save_examples
from interp_jax.dictionaries.examples_keep import mixed
from interp_jax.runtime import keys
from interp_jax.runtime.errors import UserError

pytestmark = pytest.mark.core

F, T = 7, 12
PLAN = ex.ExamplePlan(top=3, per_band=2, before=2, after=1)
KEY = keys.root_key(3)
SETTINGS = hypothesis.settings(max_examples=25, deadline=None, database=None)


def make(seed, rows, documents=None, sparse=0.3, coarse=False):
    """Random rows: code [B, T, F], tokens and documents [B, T] with padding at the end."""
    draw = np.random.default_rng(seed)
    values = np.exp(draw.normal(0, 1.5, (rows, T, F))).astype(np.float32)
    values = np.ceil(values) if coarse else values  # many are equal
    code = np.where(draw.random((rows, T, F)) < sparse, values, 0).astype(np.float32)
    code[..., 0] = 0  # never active
    tokens = draw.integers(0, 50, (rows, T)).astype(np.int32)
    cut = draw.integers(1, T, (rows, 1))
    names = draw.integers(0, documents or 10**6, (rows, 2))
    docs = np.where(np.arange(T) < cut, names[:, :1], names[:, 1:])
    docs[:, T - 1] = -1
    return code, tokens, docs


def run(batches, plan=PLAN, maxima=None):
    collection = ex.start(F, KEY, plan, maxima)
    for code, tokens, docs in batches:
        collection = ex.collect(collection, code, tokens, docs)
    return collection


def passages(batches):
    """(latent, value, document, tokens, activations) of every passage, by a plain loop."""
    found = []
    for code, tokens, docs in batches:
        for row, latent in itertools.product(range(len(tokens)), range(F)):
            for document in {int(d) for d in docs[row] if d >= 0}:
                inside = [t for t in range(T) if docs[row, t] == document]
                values = [code[row, t, latent] for t in inside]
                if max(values) <= 0:
                    continue
                peak = inside[int(np.argmax(values))]
                window = range(peak - PLAN.before, peak + PLAN.after + 1)
                found.append((
                    latent, code[row, peak, latent], document,
                    [tokens[row, t] if t in inside else -1 for t in window],
                    [code[row, t, latent] if t in inside else 0.0 for t in window],
                    ex.document_ids(tokens[row, inside][None])[0, 0],
                ))
    return found


def equal(a: ex.Examples, b: ex.Examples):
    for field in dataclasses.fields(ex.Examples):
        one, two = getattr(a, field.name), getattr(b, field.name)
        if isinstance(one, ex.Shown):
            for part in dataclasses.fields(ex.Shown):
                np.testing.assert_array_equal(getattr(one, part.name), getattr(two, part.name))
        elif field.name == "mean":
            np.testing.assert_allclose(one, two, rtol=1e-12)
        else:
            np.testing.assert_array_equal(one, two)


def best_of_documents(entries, order, count):
    entries = sorted(entries, key=order)
    kept, seen = [], set()
    for entry in entries:
        if entry[2] not in seen and len(kept) < count:
            kept.append(entry)
            seen.add(entry[2])
    return kept


def check_shown(shown, place, kept):
    value, document = shown.value[place], shown.document[place]
    assert [float(v) for v in value if v > 0] == [float(e[1]) for e in kept]
    assert [int(d) for d in document if d >= 0] == [e[2] for e in kept]
    for n, entry in enumerate(kept):
        assert shown.tokens[place][n].tolist() == entry[3]
        np.testing.assert_array_equal(shown.activations[place][n], np.float32(entry[4]))
    assert (shown.tokens[place][len(kept):] == -1).all()
    assert (shown.activations[place][len(kept):] == 0).all()


def draw_of(collection, entry):
    latent, value, document, _, _, content = entry
    return int(mixed(collection.seed, latent, document, content, np.float32(value).view(np.uint32)))


@pytest.mark.parametrize("with_maxima", [False, True])
@pytest.mark.parametrize("documents", [None, 9])
@pytest.mark.parametrize("coarse", [False, True])
def test_against_a_plain_loop(with_maxima, documents, coarse):
    batches = [
        make(seed, rows, documents, coarse=coarse) for seed, rows in enumerate((5, 9, 1, 14))
    ]
    everything = passages(batches)
    codes = np.concatenate([np.where(d[..., None] >= 0, c, 0) for c, _, d in batches])
    flat = codes.reshape(-1, F)
    maxima = flat.max(0) if with_maxima else None
    collection = run(batches, maxima=maxima)
    found = ex.finish(collection)
    assert found.tokens == sum((d >= 0).sum() for _, _, d in batches)
    np.testing.assert_array_equal(found.active, (flat > 0).sum(0))
    np.testing.assert_allclose(found.density, (flat > 0).sum(0) / found.tokens)
    np.testing.assert_array_equal(found.largest, flat.max(0))
    means = [flat[:, f][flat[:, f] > 0].mean(dtype=np.float64) for f in range(1, F)]
    np.testing.assert_allclose(found.mean[1:], means, rtol=1e-6)
    assert np.isnan(found.mean[0]) and np.isnan(found.band_low[0]).all()
    for f in range(1, F):
        counts, _ = np.histogram(flat[:, f][flat[:, f] > 0].astype(np.float64), found.edges)
        np.testing.assert_array_equal(found.histogram[f], counts)
        own = [e for e in everything if e[0] == f]
        draw = lambda e: draw_of(collection, e)
        strongest = lambda e: (-e[1], draw_of(collection, e))
        check_shown(found.top, f, best_of_documents(own, strongest, PLAN.top))
        if with_maxima:
            cuts = np.float64(maxima[f]) * np.asarray([0.95, 0.75, 0.5, 0.25])
            np.testing.assert_allclose(found.band_low[f], [*cuts, 0])
        for q in range(PLAN.bands):
            low, high = found.band_low[f, q], found.band_high[f, q]
            inside = [e for e in own if low <= np.float64(e[1]) < high]
            check_shown(found.bands, (f, q), best_of_documents(inside, draw, PLAN.per_band))
    assert (found.band_low[1:, 0] <= found.largest[1:]).all()
    if not with_maxima:
        assert (found.largest[1:] < found.band_high[1:, 0]).all()
        np.testing.assert_allclose(found.band_high[1:, 0] / found.band_low[1:, 0], 2**0.5)
        np.testing.assert_array_equal(found.band_low[1:, -1], 0)


@SETTINGS
@hypothesis.given(
    st.integers(0, 10**6), st.integers(1, 12), st.lists(st.integers(1, 11), max_size=3),
    st.sampled_from([None, 6]), st.booleans(), st.booleans(),
    st.randoms(use_true_random=False),
)
def test_order_and_parts_do_not_count(seed, rows, cuts, documents, with_maxima, coarse, chance):
    whole = make(seed, rows, documents, coarse=coarse)
    maxima = whole[0].reshape(-1, F).max(0) if with_maxima else None
    want = ex.finish(run([whole], maxima=maxima))
    bounds = [0, *sorted({c for c in cuts if c < rows}), rows]
    parts = [tuple(a[i:j] for a in whole) for i, j in itertools.pairwise(bounds)]
    chance.shuffle(parts)
    equal(want, ex.finish(run(parts, maxima=maxima)))
    # Each part collected alone, then merged.
    alone = [run([part], maxima=maxima) for part in parts]
    merged = alone[0]
    for other in alone[1:]:
        merged = ex.merge(merged, other)
    equal(want, ex.finish(merged))


def test_the_forms_of_a_code_agree():
    code, tokens, docs = make(1, 6)
    want = ex.finish(run([(code, tokens, docs)]))
    equal(want, ex.finish(run([(jnp.asarray(code), tokens, docs)])))
    values, indices = jax.lax.top_k(jnp.asarray(code), F)
    equal(want, ex.finish(run([((indices, values), jnp.asarray(tokens), docs)])))


def test_the_sample_is_uniform_over_passages():
    # 40 documents of equal value and 4 places: each is kept with chance 1/10.
    code = np.zeros((40, T, F), np.float32)
    code[:, 3, 1:] = 1.0
    tokens = np.tile(np.arange(T, dtype=np.int32), (40, 1))
    plan = dataclasses.replace(PLAN, per_band=4)
    times = np.zeros(40)
    for seed in range(60):
        collection = ex.start(F, keys.root_key(seed), plan)
        found = ex.finish(ex.collect(collection, code, tokens, np.arange(40)))
        np.add.at(times, found.bands.document[1:, 0].reshape(-1), 1)
    assert times.sum() == 60 * (F - 1) * 4
    expected = times.sum() / 40
    # Chi-square with 39 degrees of freedom: 73 is exceeded once in a thousand times.
    assert ((times - expected) ** 2 / expected).sum() < 73


def test_equal_texts_are_one_document():
    code, tokens, _ = make(2, 3, sparse=2.0)
    code, tokens = np.tile(code, (4, 1, 1)), np.tile(tokens, (4, 1))
    found = ex.finish(ex.collect(ex.start(F, KEY, PLAN), code, tokens))
    for f in range(1, F):
        held = found.top.document[f][found.top.document[f] >= 0]
        assert len(held) == len(set(held)) == 3
    assert found.tokens == 12 * T


def test_tokens_that_do_not_count_are_context():
    code = np.zeros((1, T, F), np.float32)
    code[0, 0, 1], code[0, 1, 1] = 9.0, 2.0
    tokens = np.arange(T, dtype=np.int32)[None]
    counted = np.arange(T)[None] > 0
    found = ex.finish(ex.collect(ex.start(F, KEY, PLAN), code, tokens, None, counted))
    assert found.active[1] == 1 and found.largest[1] == 2.0 and found.tokens == T - 1
    assert found.top.tokens[1, 0].tolist() == [-1, 0, 1, 2]
    assert found.top.activations[1, 0].tolist() == [0, 0, 2, 0]


def test_document_ids_follow_the_text():
    eos, tokens = 9, np.array([[1, 2, 9, 1, 2, 9, 3, 0], [7, 1, 2, 9, 2, 1, 9, 0]])
    valid = np.ones(tokens.shape, bool)
    valid[:, -1] = False
    ids = ex.document_ids(tokens, valid, ends=eos)
    assert (ids[:, -1] == -1).all() and (ids[:, :-1] >= 0).all()
    assert len({*ids[0, :3]}) == 1 and ids[0, 0] == ids[0, 3] == ids[0, 5]
    assert len({ids[0, 0], ids[0, 6], ids[1, 0], ids[1, 4]}) == 4
    # Padding on the other side, and the length of the row, change nothing.
    left = ex.document_ids(np.array([[0, 1, 2, 9]]), np.array([[False, True, True, True]]))
    assert left[0, 1] == ids[0, 0]
    begun = ex.document_ids(np.array([[7, 1, 7, 1]]), starts=7)
    assert begun[0, 0] == begun[0, 2] == begun[0, 3]


def test_nothing_collected_is_no_example():
    found = ex.finish(ex.start(F, KEY, PLAN))
    assert found.tokens == 0 and (found.density == 0).all() and np.isnan(found.mean).all()
    assert (found.top.document == -1).all() and (found.bands.value == 0).all()


def test_going_on_after_finish():
    first, second = make(1, 4), make(2, 5)
    collection = run([first])
    ex.finish(collection)
    equal(ex.finish(run([first, second])), ex.finish(ex.collect(collection, *second)))


def test_examples_come_back_from_disk(tmp_path):
    want = ex.collect_examples([make(0, 4), make(1, 3)], F, KEY, PLAN)
    path = save_examples(tmp_path / "new" / "examples.npz", want)
    equal(want, load_examples(path))
    np.savez(tmp_path / "other.npz", tokens=np.zeros(1))
    with pytest.raises(UserError, match=r"other.npz with tokens.*version 1"):
        load_examples(tmp_path / "other.npz")


@pytest.mark.parametrize(
    "change, found",
    [
        (lambda c, t, d: (c[:, :, :3], t, d), r"a code \(2, 12, 3\)"),
        (lambda c, t, d: ((np.zeros((2, 3, 1), int), np.zeros((2, 3, 1))), t, d), "indices"),
        (lambda c, t, d: ((np.full((2, T, 1), F), np.ones((2, T, 1))), t, d), "latents from 7"),
        (lambda c, t, d: ((np.ones((2, T, 2), int), np.ones((2, T, 2))), t, d), "latent 1 twice"),
        (lambda c, t, d: (np.full_like(c, np.nan), t, d), "not a finite number"),
        (lambda c, t, d: (jnp.full(c.shape, jnp.nan), t, d), "not a finite number"),
        (lambda c, t, d: (c, t[0], d), "tokens of shape"),
        (lambda c, t, d: (c, t, d[:1]), "documents of shape"),
        (lambda c, t, d: (c, t, d.astype(float)), "documents of shape .* float64"),
        (lambda c, t, d: (c, t, d, np.ones(3, bool)), "counted of shape"),
    ],
)
def test_what_does_not_fit_is_refused(change, found):
    with pytest.raises(UserError, match=found):
        ex.collect(ex.start(F, KEY, PLAN), *change(*make(0, 2)))


def test_plans_and_merges_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match="falling fractions"):
        ex.ExamplePlan(fractions=(0.2, 0.5))
    with pytest.raises(UserError, match="maxima of shape"):
        ex.start(F, KEY, PLAN, np.ones(3))
    with pytest.raises(UserError, match="same for both"):
        ex.merge(ex.start(F, KEY, PLAN), ex.start(F, keys.root_key(4), PLAN))
