"""The contract of interventions: every verb, on two tiny networks, held to every promise.

Here: bits at strength zero, touched tokens, raggedness, layouts, plain against compiled, cached
generation, detaching. `test_contract_transforms` has what JAX's own transforms must leave alone.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from interp_jax.interventions import verbs
from interp_jax.interventions.placing import detach, tap_names
from interp_jax.interventions.where import Where
from interp_jax.models.batch import Batch
from interp_jax.models.decoder import Decoder
from interp_jax.models.sites import SITES, Site
from tests.interventions.contract import (
    CONFIGS,
    LENGTHS,
    PROMPTS,
    QUICK,
    ROWS,
    batch_of,
    close,
    forward,
    network,
    own,
    padded,
    plain_forward,
    quick_forward,
    same_bits,
    token_rows,
)
from tests.interventions.contract_cases import (
    BUNDLES,
    CASES,
    EVERY,
    KEYS,
    expected_counts,
    positions,
    some_layers,
    splits,
    zeroed,
)

# Each case alone where the promise hangs on the program that the compiler makes of it; several
# in one network where it hangs on the arithmetic.
cases = pytest.mark.parametrize("case", CASES)
bundles = pytest.mark.parametrize("case", BUNDLES)
SCANNED = ("reads", "add", "replace", "project_out", "suppress_fused", "lora_by_row", "composed")
bundles_on_both = pytest.mark.parametrize(
    ("case", "name", "layout"),
    [(case, "llama", "unrolled") for case in BUNDLES]
    + [(case, "gemma", "scanned") for case in BUNDLES],
)
programs = pytest.mark.parametrize(
    ("case", "name", "layout"),
    [(case, "gemma", "unrolled") for case in CASES]
    + [(case, "gemma", "scanned") for case in SCANNED]
    + [(case, "llama", layout) for layout in ("unrolled", "scanned") for case in BUNDLES]
    + [
        (case, "gemma3", layout)
        for layout in ("unrolled", "scanned")
        for case in ("bundle_one", "bundle_two")
    ],
)


@functools.cache
def base(name: str, layout: str, dtype: str = "float32", path: str = "auto"):
    """Logits of the network before anything is placed in it."""
    net = dataclasses.replace(network(name, layout, dtype), path=path)
    return jax.device_get(forward(net, batch_of(name))[0])


@functools.cache
def edited(case: str, name: str, layout: str):
    """(logits, tape) at full strength."""
    return jax.device_get(forward(EVERY[case].edited(name, layout), batch_of(name)))


def bits_kept(case: str, name: str, layout: str, dtype: str) -> None:
    one, config = EVERY[case], CONFIGS[name]
    idle = one.edited(name, layout, dtype, **zeroed(one, config))
    bare = detach(idle)
    # Where a stack had to be split for the edit, the base in the same layout is split as well.
    split = layout == "scanned" and splits(case)
    assert split == (len(bare.segments) != len(network(name, layout, dtype).segments))
    expected = forward(bare, batch_of(name))[0] if split else base(name, layout, dtype, one.path)
    logits, tape = forward(idle, batch_of(name))
    same_bits(logits, expected)
    if case.endswith("reads"):
        return
    # The edit is in the program all the same: it counts, and at full strength it changes much.
    assert all(np.sum(tape[key]) > 0 for key in expected_counts(one, config))
    full = one.edited(name, layout, dtype)
    assert not np.allclose(forward(full, batch_of(name))[0], logits, atol=1e-3)


@programs
def test_strength_zero_has_the_bases_bits(case, name, layout):
    bits_kept(case, name, layout, "float32")


@pytest.mark.parametrize(
    ("case", "name", "layout"),
    [(case, "llama", "unrolled") for case in BUNDLES] + [("bundle_two", "gemma", "scanned")],
)
def test_strength_zero_has_the_bases_bits_with_bfloat16_weights(case, name, layout):
    bits_kept(case, name, layout, "bfloat16")


@bundles
def test_strength_zero_has_the_bases_bits_as_a_user_compiles_it(case):
    one, batch = BUNDLES[case], batch_of("llama")
    idle = one.edited("llama", "unrolled", **zeroed(one, CONFIGS["llama"]))
    same_bits(plain_forward(idle, batch)[0], plain_forward(detach(idle), batch)[0])


@programs
def test_touched_tokens_are_counted_where_the_edit_happens(case, name, layout):
    one, config = EVERY[case], CONFIGS[name]
    _, tape = edited(case, name, layout)
    counted = {key: rows for key, rows in tape.items() if key.startswith("touched/")}
    same_bits(counted, expected_counts(one, config))
    # Taken out of the tree, nothing is counted, and the tree is the base's again.
    net = one.edited(name, layout)
    bare = detach(net)
    assert tap_names(net) and not tap_names(bare)
    assert forward(bare, batch_of(name))[1] == {}


@pytest.mark.parametrize("name", ["llama", "gemma"])
@cases
def test_detaching_gives_back_the_original_leaves(case, name):
    one = CASES[case]
    for layout in ("unrolled", "scanned"):
        start = dataclasses.replace(network(name, layout), path=one.path)
        bare = detach(one.edited(name, layout))
        if len(bare.segments) == len(start.segments):
            assert jax.tree.structure(bare) == jax.tree.structure(start)
            leaves = zip(jax.tree.leaves(bare), jax.tree.leaves(start), strict=True)
            assert all(ours is theirs for ours, theirs in leaves)
        else:  # a split stack holds slices of them
            same_bits(bare.parameters(), start.parameters())


@pytest.mark.parametrize("case", [name for name, case in CASES.items() if case.probe])
def test_only_the_asked_tokens_are_touched(case):
    one, name, first = CASES[case], "llama", some_layers(CONFIGS["llama"])[0]
    look = verbs.read(Site(one.probe, (first,)), name="look")
    start = look(dataclasses.replace(network(name), path=one.path))
    run = jax.jit(lambda net, batch: net(batch)[1]["look"][0], compiler_options=QUICK)
    before = run(start, batch_of(name))
    after = run(look(one.edited(name, "unrolled")), batch_of(name))
    changed = np.abs(np.asarray(after - before))
    tokens = 2 if SITES[one.probe].axes == "BHTS" else 1
    changed = changed.max(axis=tuple(a for a in range(1, changed.ndim) if a != tokens))
    for row, length in enumerate(LENGTHS):
        asked = positions(length, length)[id(one.where)]
        assert set(np.flatnonzero(changed[row] > 1e-6)) == asked


@pytest.mark.parametrize(
    ("case", "name"), [(c, "gemma") for c in CASES] + [(c, "llama") for c in BUNDLES]
)
def test_a_row_does_not_know_its_neighbours_its_slot_or_its_padding(case, name):
    one, config, layout = EVERY[case], CONFIGS[name], "unrolled"
    rows, values = token_rows(config), one.values(config)
    logits, tape = edited(case, name, layout)
    others = token_rows(config, seed=4)
    mixed = [rows[0], others[1], rows[2], others[3]]
    seen, taped = forward(one.edited(name, layout), padded(mixed))
    for row in (0, 2):
        same_bits(own(seen, row, LENGTHS[row]), own(logits, row, LENGTHS[row]))
        assert all(a[row] == tape[k][row] for k, a in taped.items() if k.startswith("touched/"))

    slots = [2, 0, 3, 1]
    moved = {key: np.asarray(values[key])[slots] for key in one.rows}
    seen, _ = forward(one.edited(name, layout, **moved), padded([rows[s] for s in slots]))
    for slot, row in enumerate(slots):
        same_bits(own(seen, slot, LENGTHS[row]), own(logits, row, LENGTHS[row]))

    # The other side, and rubbish in the padding: even ids that no vocabulary has.
    seen, taped = forward(one.edited(name, layout), padded(rows, left=True, fill=-7))
    for row, length in enumerate(LENGTHS):
        same_bits(np.asarray(seen)[row, -length:], own(logits, row, length))
    same_bits({k: v for k, v in taped.items() if "touched" in k},
              {k: v for k, v in tape.items() if "touched" in k})


@bundles
def test_a_row_has_the_same_numbers_alone_and_in_another_bucket(case):
    one, name, row = BUNDLES[case], "llama", 1
    config = CONFIGS[name]
    values = one.values(config)
    mine = {key: np.asarray(values[key])[row : row + 1] for key in one.rows}
    alone = padded([token_rows(config)[row]], width=13)
    seen, _ = quick_forward(one.edited(name, "unrolled", **mine), alone)
    close(own(seen, 0, LENGTHS[row]), own(edited(case, name, "unrolled")[0], row, LENGTHS[row]))


@pytest.mark.parametrize(
    ("case", "name"),
    [(case, "gemma") for case in SCANNED]
    + [(case, "llama") for case in BUNDLES]
    + [(case, "gemma3") for case in ("bundle_one", "bundle_two")],
)
def test_unrolled_equals_scanned(case, name):
    close(edited(case, name, "unrolled"), edited(case, name, "scanned"))


@bundles
def test_compiled_equals_plain(case):
    plain = BUNDLES[case].edited("llama", "unrolled")(batch_of("llama"))
    close(edited(case, "llama", "unrolled"), plain)


def generate(net: Decoder, prompts: Batch, tokens: jax.Array, valid: jax.Array):
    """Forced tokens through a cache: a prefill, then one token at a time in a compiled loop.

    Args:
        tokens, valid: [steps, B].

    Returns:
        logits of the prompt [B, T, V] and of each step [steps, B, V], and the counts summed.
    """
    cache = net.empty_cache(ROWS, 12)
    first, tape, cache = net.extend(prompts, cache, logits_at="all", fresh=True)

    def step(cache, item):
        token, here = item
        batch = Batch.make(
            token[:, None], here[:, None], start=cache.next_position, lengths=cache.lengths,
            packed=True,
        )  # fmt: skip
        logits, tape, cache = net.extend(batch, cache)
        return cache, (logits[:, 0], {k: v for k, v in tape.items() if v.dtype == jnp.int32})

    _, (later, counts) = jax.lax.scan(step, cache, (tokens, valid))
    return first, later, {k: tape[k] + jnp.sum(v, axis=0) for k, v in counts.items()}


@bundles_on_both
def test_cached_generation_equals_forward(case, name, layout):
    one, config = EVERY[case], CONFIGS[name]
    net, rows = one.edited(name, layout), token_rows(config)
    steps = max(n - p for n, p in zip(LENGTHS, PROMPTS, strict=True))
    tokens, valid = np.zeros((steps, ROWS), np.int32), np.zeros((steps, ROWS), bool)
    for row, (tail, prompt) in enumerate(zip(rows, PROMPTS, strict=True)):
        tokens[: len(tail) - prompt, row] = tail[prompt:]
        valid[: len(tail) - prompt, row] = True
    prompts = [row[:prompt] for row, prompt in zip(rows, PROMPTS, strict=True)]
    compiled = jax.jit(generate, compiler_options=QUICK)
    first, later, counts = compiled(net, padded(prompts, width=5), tokens, valid)
    logits, tape = forward(net, padded(rows, lengths=np.asarray(PROMPTS, np.int32)))
    for row, (length, prompt) in enumerate(zip(LENGTHS, PROMPTS, strict=True)):
        whole = np.concatenate([first[row, :prompt], later[: length - prompt, row]])
        close(whole, own(logits, row, length))
    same_bits(counts, {key: tape[key] for key in counts})
    same_bits(
        {k: v for k, v in counts.items() if k.startswith("touched/")},
        expected_counts(one, config, PROMPTS),
    )


@pytest.mark.core
def test_full_strength_is_exact():
    vector = np.linspace(-1, 1, 16, dtype=np.float32)
    put = verbs.replace("resid_post[1]", vector, where=Where(positions=[1]))
    gone = verbs.scale("mlp_out[1]", 0.0, where=Where(positions=[1]))
    both = verbs.compose(
        gone, verbs.read("mlp_out[1]", name="out"), put, verbs.read("resid_post[1]", name="stream")
    )
    _, tape = forward(both(network("llama", "scanned")), batch_of("llama"))
    np.testing.assert_array_equal(tape["stream"][0, :, 1], np.broadcast_to(vector, (ROWS, 16)))
    assert not np.any(tape["out"][0, :, 1]) and np.any(tape["out"][0, :, 2])


@pytest.mark.core
@pytest.mark.parametrize("path", ["reference", "fused"])
def test_a_hard_suppression_takes_all_weight_and_counts_who_loses_everything(path):
    net = dataclasses.replace(network("llama"), path=path)
    everything = verbs.suppress_attention(
        Where(spans=[[0, 3]]), layers=(0,), where=Where(spans=[[1, 4]])
    )
    _, tape = forward(
        verbs.compose(everything, verbs.read("head_out[0]", name="heads"))(net), batch_of("llama")
    )
    # Queries 1 and 2 see nothing but suppressed keys, query 3 still sees itself.
    assert not np.any(tape["heads"][0, :, 1:3]) and np.all(np.any(tape["heads"][0, :, 3], axis=-1))
    np.testing.assert_array_equal(tape["keyless"], np.full(ROWS, 2 * 4, np.int32))
    np.testing.assert_array_equal(tape["touched/suppress_attention"], np.full(ROWS, 3, np.int32))


@pytest.mark.core
def test_suppressed_keys_weigh_nothing_and_the_rest_is_renormalised():
    hide = verbs.suppress_attention(KEYS, layers=(1,), heads=(2,))
    look = verbs.compose(hide, verbs.read("attn_weights[1]", name="weights"))
    _, tape = forward(look(network("llama")), batch_of("llama"))
    weights = tape["weights"][0]
    assert not np.any(weights[:, 2, :, 1:3]) and np.all(weights[:, 1, 3, 1:3] > 0)
    for row, length in enumerate(LENGTHS):
        np.testing.assert_allclose(weights[row, :, :length].sum(-1), 1.0, rtol=1e-6)
