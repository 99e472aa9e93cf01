"""The sampler against transformers' warpers, against a sort, and against adversarial rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interp_jax.generation import sampler
from interp_jax.generation.sampler import filtered_probabilities, row_uniforms, sample
from interp_jax.generation.sampling_params import SamplingParams
from interp_jax.runtime.errors import UserError

LAST = np.nextafter(np.float32(1), np.float32(0))
WIDE = 6400  # more than the candidate blocks hold, so that both routes exist

probabilities_of = jax.jit(filtered_probabilities)
sample_jit = jax.jit(sample)


def normal(seed, shape, scale=3.0):
    return np.random.default_rng(seed).normal(size=shape, scale=scale).astype(np.float32)


def peaked(seed, rows, vocabulary=WIDE):
    """Rows as a language model gives them: a nucleus of a few tokens, far above a long tail."""
    logits = normal(seed, (rows, vocabulary), 1.0)
    high = np.random.default_rng(seed + 1).integers(0, vocabulary, (rows, 12))
    np.put_along_axis(logits, high, 9 + normal(seed + 2, (rows, 12), 1.5), axis=1)
    return logits


def sorted_reference(logits, temperature=1.0, top_p=None, top_k=None, min_p=None):
    """The distribution by sorting, in float64; ties at the nucleus' edge by token id."""
    z = logits.astype(np.float64) / np.float64(np.float32(temperature))
    mass = np.exp(z - z.max())
    if top_k:
        kth = np.sort(logits)[::-1][min(top_k, len(logits)) - 1]
        mass = np.where(logits >= kth, mass, 0)
    if top_p is not None and top_p < 1:
        order = np.argsort(-mass, kind="stable")
        cumulative = np.cumsum(mass[order])
        need = np.float64(np.float32(top_p)) * cumulative[-1]
        mass[order[int((cumulative < need).sum()) + 1 :]] = 0
    if min_p:
        mass = np.where(mass >= np.float64(np.float32(min_p)), mass, 0)
    return mass / mass.sum()


SETTINGS = [
    dict(),
    dict(temperature=0.6, top_p=0.95),
    dict(temperature=1.3, top_p=0.5),
    dict(top_k=7),
    dict(min_p=0.05),
    dict(temperature=0.8, top_k=40, top_p=0.9),
    dict(temperature=1.5, top_p=0.97, min_p=0.02),
    dict(temperature=0.7, top_k=30, top_p=0.9, min_p=0.1, repetition_penalty=1.4),
]


@pytest.mark.parity
@pytest.mark.parametrize("options", SETTINGS, ids=str)
def test_distribution_is_that_of_transformers(options):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    logits = np.concatenate([normal(0, (6, 700)), normal(1, (4, 700), 0.5), normal(2, (2, 700), 9)])
    history = np.random.default_rng(3).integers(0, 700, (len(logits), 90))
    seen = np.zeros(logits.shape, bool)
    np.put_along_axis(seen, history, True, axis=1)

    # The list and its order come from transformers itself.
    config = transformers.GenerationConfig(do_sample=True, **({"top_k": 0} | options))
    network = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(n_layer=1, n_head=1, n_embd=4, vocab_size=700)
    )
    warpers = network._get_logits_processor(config, input_ids_seq_length=90, device="cpu")
    scores = warpers(torch.tensor(history), torch.tensor(logits, dtype=torch.float64))
    expected = torch.softmax(scores, dim=-1).numpy()

    ours = probabilities_of(logits, SamplingParams.make(**options), seen=seen)
    np.testing.assert_array_equal(np.asarray(ours) > 0, expected > 0)
    np.testing.assert_allclose(ours, expected, atol=1e-6)


@pytest.mark.parity
def test_ties_differ_from_transformers_in_token_ids_only():
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    logits = np.round(normal(4, (8, 300), 2.0))  # few distinct values, as coarse weights give
    for options, warper in (
        (dict(top_p=0.8), transformers.TopPLogitsWarper(0.8)),
        (dict(top_k=9), transformers.TopKLogitsWarper(9)),
    ):
        scores = warper(None, torch.tensor(logits, dtype=torch.float64))
        expected = torch.softmax(scores, dim=-1).numpy()
        ours = np.asarray(probabilities_of(logits, SamplingParams.make(**options)))
        np.testing.assert_allclose(np.sort(ours), np.sort(expected), atol=1e-6)
        if "top_k" in options:
            np.testing.assert_allclose(ours, expected, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    scale=st.sampled_from([0.01, 1.0, 5.0, 40.0]),
    coarse=st.booleans(),
    temperature=st.sampled_from([0.3, 1.0, 2.0]),
    top_p=st.integers(1, 64).map(lambda n: n / 64),
    top_k=st.integers(0, 40),
    min_p=st.sampled_from([0.0, 0.001, 0.1, 0.5, 1.0]),
)
def test_kept_set_is_that_of_a_sort(seed, scale, coarse, temperature, top_p, top_k, min_p):
    logits = normal(seed, (1, 33), scale)
    if coarse:
        logits = np.round(logits / scale) * np.float32(scale)
    arrays = {"top_p": top_p, "top_k": top_k, "min_p": min_p}
    # Per row, so that every example runs the same program.
    params = SamplingParams.make(temperature, **{k: np.asarray([v]) for k, v in arrays.items()})
    ours = np.asarray(probabilities_of(logits, params))[0]
    expected = sorted_reference(logits[0], temperature, top_p, top_k, min_p)
    assert (ours > 0).any()
    if (ours > 0).sum() == (expected > 0).sum():
        np.testing.assert_allclose(ours, expected, atol=1e-6)
        return
    # Only where a boundary is met within rounding may the sets differ. Without rounding they
    # lie between those for slightly smaller and slightly greater values.
    tight = sorted_reference(logits[0], temperature, top_p * (1 - 2e-6), top_k, min_p * (1 + 1e-5))
    loose_p = min(top_p * (1 + 2e-6), 1.0)
    loose = sorted_reference(logits[0], temperature, loose_p, top_k, min_p * (1 - 1e-5))
    assert (tight > 0).sum() <= (ours > 0).sum() <= (loose > 0).sum()
    assert (tight > 0).sum() != (loose > 0).sum()


def test_nucleus_ties_come_in_by_token_id():
    logits = np.zeros((1, 200), np.float32)
    logits[0, 150] = 1.0
    # Mass e + 199: half of it needs the top token and ceil(98.1) of the others.
    kept = np.asarray(probabilities_of(logits, SamplingParams.make(top_p=0.5)))[0] > 0
    count = int(np.ceil((np.e + 199) / 2 - np.e))
    np.testing.assert_array_equal(np.flatnonzero(kept), [*range(count), 150])


@pytest.mark.parametrize(
    "options", [dict(), dict(top_p=0.9), dict(top_k=3), dict(min_p=0.2)], ids=str
)
def test_sweeping_the_uniform_gives_the_distribution(options):
    points = 1 << 16
    logits = normal(5, (1, 150), 2.0)
    params = SamplingParams.make(**options)
    uniforms = (np.arange(points, dtype=np.float32) + np.float32(0.5)) / np.float32(points)
    tokens = np.asarray(
        jax.jit(jax.vmap(lambda u: sample(jnp.asarray(logits), params, u[None]).token[0]))(uniforms)
    )
    assert (np.diff(tokens) >= 0).all()  # the inverse of a cumulative sum in the order of ids
    expected = np.asarray(probabilities_of(logits, params))[0]
    counts = np.bincount(tokens, minlength=150)
    assert not counts[expected == 0].any()
    # A bin of width p holds p * points grid points, give or take one.
    assert np.abs(counts - expected * points).max() <= 1 + 1e-6 * points


def test_chi_square_of_keyed_draws():
    draws = 20_000
    logits = normal(6, (1, 24), 1.5)
    params = SamplingParams.make(0.9, top_p=0.9)
    keys = jax.random.split(jax.random.key(0), draws)
    uniforms = row_uniforms(keys, jnp.arange(draws, dtype=jnp.int32))
    assert float(uniforms.min()) >= 0 and float(uniforms.max()) < 1
    tokens = sample_jit(np.broadcast_to(logits, (draws, 24)), params, uniforms).token
    expected = np.asarray(probabilities_of(logits, params))[0] * draws
    observed = np.bincount(np.asarray(tokens), minlength=24)
    kept = expected > 0
    assert not observed[~kept].any()
    statistic = ((observed - expected)[kept] ** 2 / expected[kept]).sum()
    degrees = kept.sum() - 1
    assert statistic < degrees + 5 * np.sqrt(2 * degrees)


def adversarial(vocabulary):
    one_sure = np.full(vocabulary, -200.0)
    one_sure[vocabulary - 2] = 0
    only_last = np.full(vocabulary, -np.inf)
    only_last[-1] = -3.0
    forbidden_ends = np.zeros(vocabulary)
    forbidden_ends[[0, 1, -2, -1]] = -np.inf
    comb = np.where(np.arange(vocabulary) % 3 == 1, 0.0, -np.inf)
    staircase = -np.linspace(0, 60, vocabulary)
    huge = np.where(np.arange(vocabulary) % 2 == 0, 3e38, -3e38)
    signed_zeros = np.where(np.arange(vocabulary) % 2 == 0, 0.0, -0.0)
    rows = [one_sure, only_last, forbidden_ends, comb, staircase, huge, signed_zeros]
    return np.stack([*rows, np.zeros(vocabulary)]).astype(np.float32)


@pytest.mark.parametrize(
    ("vocabulary", "options"),
    [(67, options) for options in SETTINGS[:5]] + [(WIDE, SETTINGS[5]), (WIDE, SETTINGS[6])],
    ids=str,
)
def test_a_filtered_token_never_comes_out(vocabulary, options):
    logits = adversarial(vocabulary)
    params = SamplingParams.make(**options)
    probabilities = np.asarray(probabilities_of(logits, params))
    assert np.isfinite(probabilities).all()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    ends = [0.0, 1e-45, 1e-9, 0.25, 0.5, 0.9999, LAST]
    for u in ends:
        drawn = sample_jit(logits, params, np.full(len(logits), u, np.float32))
        chance = np.take_along_axis(probabilities, np.asarray(drawn.token)[:, None], axis=1)[:, 0]
        assert (chance > 0).all(), (u, drawn.token)
        np.testing.assert_allclose(drawn.log_prob, np.log(chance), atol=2e-5)
    # The ends of the uniform are the first and the last token that passed.
    first = sample_jit(logits, params, np.zeros(len(logits), np.float32)).token
    assert (probabilities[np.arange(len(logits)), first] > 0).all()


def test_rows_without_a_finite_logit_give_token_zero():
    logits = np.full((2, 70), -np.inf, np.float32)
    logits[1, 5] = 0
    for options in (dict(), dict(temperature=0.0), dict(top_p=0.9), dict(top_k=3, min_p=0.1)):
        drawn = sample_jit(logits, SamplingParams.make(**options), np.full(2, 0.5, np.float32))
        np.testing.assert_array_equal(drawn.token, [0, 5])
        np.testing.assert_array_equal(drawn.log_prob, [-np.inf, 0])


def test_greedy_takes_the_lowest_id_among_equals():
    logits = np.round(normal(7, (16, 300), 1.0))
    logits[3] = -1.0
    drawn = sample_jit(
        logits, SamplingParams.make(0, with_model_log_prob=True), np.zeros(16, np.float32)
    )
    np.testing.assert_array_equal(drawn.token, logits.argmax(axis=1))
    np.testing.assert_array_equal(drawn.log_prob, np.zeros(16))
    expected = np.asarray(jax.nn.log_softmax(logits, axis=1)).max(axis=1)
    np.testing.assert_allclose(drawn.model_log_prob, expected, atol=1e-5)


def test_log_probs_under_both_distributions():
    logits = normal(8, (5, 400))
    seen = np.random.default_rng(9).random((5, 400)) < 0.5
    params = SamplingParams.make(0.5, top_p=0.9, repetition_penalty=1.3, with_model_log_prob=True)
    drawn = sample_jit(logits, params, np.linspace(0, 0.99, 5, dtype=np.float32), seen=seen)
    token = np.asarray(drawn.token)[:, None]
    ours = np.take_along_axis(np.asarray(probabilities_of(logits, params, seen=seen)), token, 1)
    np.testing.assert_allclose(drawn.log_prob, np.log(ours[:, 0]), atol=1e-5)
    raw = np.take_along_axis(np.asarray(jax.nn.log_softmax(logits, axis=1)), token, 1)
    np.testing.assert_allclose(drawn.model_log_prob, raw[:, 0], atol=1e-5)
    assert sample_jit(logits, SamplingParams.make(), np.zeros(5, np.float32)).model_log_prob is None


@pytest.mark.parametrize(
    "options",
    [dict(top_k=20), dict(top_k=20, top_p=0.8), dict(top_p=0.9, min_p=0.01)],
    ids=str,
)
def test_candidate_blocks_and_whole_rows_draw_the_same(monkeypatch, options):
    # Peaked rows fit the candidate blocks, flat ones do not; odd places, so that both mix.
    logits = peaked(10, 7)
    logits[[1, 4, 5]] = normal(11, (3, WIDE), 0.3)
    uniforms = np.linspace(0.01, 0.99, 7, dtype=np.float32)
    params = SamplingParams.make(**options)
    quick = sample_jit(logits, params, uniforms)
    monkeypatch.setattr(sampler, "CANDIDATE_BLOCKS", 10**6)
    whole = jax.jit(lambda *operands: sample(*operands))(logits, params, uniforms)
    np.testing.assert_array_equal(quick.token, whole.token)
    np.testing.assert_allclose(quick.log_prob, whole.log_prob, atol=1e-5)
    expected = np.stack([sorted_reference(row, **options) for row in logits])
    chance = np.take_along_axis(expected, np.asarray(quick.token)[:, None], axis=1)[:, 0]
    np.testing.assert_allclose(quick.log_prob, np.log(chance), atol=1e-5)


def test_a_row_has_the_same_bits_in_any_slot_and_company():
    logits = peaked(12, 9)
    logits[::3] = normal(13, (3, WIDE), 0.3)
    keys = jax.random.split(jax.random.key(3), 9)
    steps = jnp.arange(9, dtype=jnp.int32)
    params = SamplingParams.make(np.linspace(0.5, 1.5, 9), top_p=np.linspace(0.5, 0.99, 9))
    reference = sample_jit(logits, params, row_uniforms(keys, steps))
    order = np.random.default_rng(14).permutation(9)
    moved = jax.tree.map(lambda leaf: leaf if leaf.ndim == 0 else leaf[order], params)
    other = sample_jit(logits[order], moved, row_uniforms(keys[order], steps[order]))
    np.testing.assert_array_equal(other.token, reference.token[order])
    np.testing.assert_array_equal(other.log_prob, reference.log_prob[order])
    # Other neighbours: one row stays, the others become flat, or peaked.
    for company in (np.zeros_like(logits), peaked(15, 9)):
        company = company.copy()
        company[4] = logits[4]
        alone = sample_jit(company, params, row_uniforms(keys, steps))
        assert alone.token[4] == reference.token[4]
        assert alone.log_prob[4] == reference.log_prob[4]


def test_vmap_draws_what_a_loop_draws():
    logits = jnp.asarray(normal(16, (3, 2, 150)))
    uniforms = jnp.linspace(0, 0.99, 6, dtype=jnp.float32).reshape(3, 2)
    params = SamplingParams.make(0.7, top_k=20, top_p=0.9, min_p=0.01)
    plain = [sample_jit(a, params, u).token for a, u in zip(logits, uniforms, strict=True)]
    mapped = jax.jit(jax.vmap(lambda a, u: sample(a, params, u).token))(logits, uniforms)
    np.testing.assert_array_equal(mapped, np.stack(plain))


def test_a_sweep_over_values_compiles_once(compile_counter):
    logits = jnp.asarray(normal(17, (4, 131)))
    uniforms = jnp.asarray(np.linspace(0, 0.99, 4, dtype=np.float32))
    sweep = [
        SamplingParams.make(t, top_p=p, top_k=k, min_p=m)
        for t, p, k, m in [(0.5, 0.9, 5, 0.1), (1.0, 0.5, 9, 0.2), (2.0, 0.99, 100, 0.01)]
    ]
    step = jax.jit(lambda *operands: sample(*operands))
    with compile_counter() as counter:
        for params in sweep:
            step(logits, params, uniforms)
    assert counter.count == 1


@pytest.mark.parametrize(
    "options",
    [
        dict(temperature=-1.0),
        dict(temperature=float("nan")),
        dict(temperature=[0.0, 1.0]),
        dict(top_p=0.0),
        dict(top_p=1.5),
        dict(top_k=-1),
        dict(top_k=2.5),
        dict(min_p=-0.1),
        dict(repetition_penalty=0.0),
        dict(top_p="0.9"),
    ],
    ids=str,
)
def test_bad_values_are_refused(options):
    with pytest.raises(UserError):
        SamplingParams.make(**options)


def test_bad_operands_are_refused():
    logits, uniforms = np.zeros((2, 9), np.float32), np.zeros(2, np.float32)
    params = SamplingParams.make()
    for bad in (
        lambda: sample(logits.astype(np.float16), params, uniforms),
        lambda: sample(logits[0], params, uniforms),
        lambda: sample(logits, params, uniforms[:1]),
        lambda: sample(logits, SamplingParams.make(np.ones(3)), uniforms),
        lambda: sample(logits, SamplingParams.make(repetition_penalty=2.0), uniforms),
    ):
        with pytest.raises(UserError):
            bad()
