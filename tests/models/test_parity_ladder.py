"""The ladder: tiny random models of every family against transformers, embedding to logits.

Each rung: the embedding, the stream after every block, the final norm, the logits. Full and
ragged batches, both padding sides, cached and not, unrolled and scanned, both attention paths;
that the layouts and the paths agree with each other in every mixture is tested elsewhere.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from interp_jax.interventions.placing import compose
from interp_jax.interventions.verbs import read
from interp_jax.models.batch import Batch
from interp_jax.models.config import Rope, parameter_shapes
from interp_jax.models.decoder import build_decoder
from interp_jax.models.families import config_from_hf
from interp_jax.models.stack import Stack
from interp_jax.runtime.errors import UserError
from interp_jax.testing.tiny import tiny_hf_config
from tests.models.reference import (
    CASES,
    DEEP,
    FORWARD,
    LENGTH,
    LENGTHS,
    QUICK,
    observed,
    padding,
    reference,
    run_reference,
    tokens_of,
)

pytestmark = pytest.mark.parity

TOLERANCE = 1e-4
RUNGS = ("embed", "resid_post", "final_norm")


def network_of(case, layout, path):
    ref = reference(case)
    return dataclasses.replace(build_decoder(ref.config, ref.params, layout), path=path)


@functools.cache
def expected(case, side):
    """(logits, hidden states: embedding, after each block but the last, final norm)."""
    out = run_reference(
        reference(case).model, tokens_of(case), padding(side), output_hidden_states=True
    )
    return out.logits.numpy(), [h.numpy() for h in out.hidden_states]


def difference(ours, theirs, valid):
    return float(np.abs(np.asarray(ours) - theirs)[valid].max())


def climb(case, side, logits, tape, record_property):
    """max |difference| over the rows' own tokens on every rung."""
    valid, (theirs, hidden) = padding(side), expected(case, side)
    assert theirs[valid].std() >= 1.0
    rungs = {"embedding": difference(tape["embed"], hidden[0], valid)}
    for layer, stream in enumerate(hidden[1:-1]):
        rungs[f"block {layer}"] = difference(tape["resid_post"][layer], stream, valid)
    rungs["final norm"] = difference(tape["final_norm"], hidden[-1], valid)
    rungs["logits"] = difference(logits, theirs, valid)
    record_property(f"{case}/rungs", max(rungs.values()))
    record_property(f"{case}/logits", rungs["logits"])
    assert max(rungs.values()) <= TOLERANCE, rungs


@pytest.mark.parametrize("case", CASES)
def test_unrolled_with_reference_attention(case, record_property):
    for side in ("none", "right"):
        climb(case, side, *observed(case, side), record_property)


@pytest.mark.parametrize("case", [DEEP if case == "gemma3" else case for case in CASES])
def test_scanned_with_fused_attention(case, record_property):
    network = network_of(case, "scanned", "fused")
    assert network.layout == "scanned"
    left_over = sum(not isinstance(segment, Stack) for segment in network.segments)
    assert left_over == network.config.n_layers % len(network.config.pattern)
    batch = Batch.make(tokens_of(case), padding("left"))
    logits, tape = FORWARD(compose(*map(read, RUNGS))(network), batch)
    climb(case, "left", logits, tape, record_property)


@functools.partial(
    jax.jit, static_argnames=("fresh", "logits_at"), compiler_options=QUICK
)
def extend(network, batch, cache, *, fresh, logits_at):
    logits, _, cache = network.extend(batch, cache, logits_at=logits_at, fresh=fresh)
    return logits, cache


@pytest.mark.parametrize(
    ("case", "layout", "path"),
    [
        ("llama", "scanned", "reference"),
        ("mistral", "unrolled", "fused"),
        ("qwen2", "scanned", "reference"),
        ("qwen3", "scanned", "fused"),
        ("gemma", "unrolled", "auto"),
        ("gemma2", "scanned", "fused"),
        ("gemma3", "unrolled", "fused"),
        ("smollm", "unrolled", "auto"),
    ],
)
def test_cached(case, layout, path, record_property):
    """A ragged prefill, then token by token; against one uncached forward of the reference."""
    network = network_of(case, layout, path)
    tokens, logits = tokens_of(case), expected(case, "none")[0]
    # Rows start with 8, 3 and 1 tokens, so that the window slides over old keys and new ones.
    first = np.asarray([8, 3, 1])
    width = int(first.max())
    valid = np.arange(width)[None, :] < first[:, None]
    cache = network.empty_cache(len(first), LENGTH)
    ours, cache = extend(
        network, Batch.make(tokens[:, :width], valid), cache, fresh=True, logits_at="all"
    )
    worst = difference(ours, logits[:, :width], valid)
    rows = np.arange(len(first))
    for step in range(LENGTH - width):
        at = first + step
        batch = Batch.make(tokens[rows, at][:, None], start=cache.next_position)
        ours, cache = extend(network, batch, cache, fresh=False, logits_at="last")
        worst = max(worst, float(np.abs(np.asarray(ours[:, 0]) - logits[rows, at]).max()))
    record_property(f"{case}/cached", worst)
    assert worst <= TOLERANCE


def _ropes(config, change):
    return tuple(dataclasses.replace(k, rope=change(k.rope)) for k in config.pattern)


def switches(config):
    """Name -> the config with that one switch off or turned."""
    turn = lambda **over: dataclasses.replace(config, **over)
    off = {
        "theta": turn(pattern=_ropes(config, lambda r: dataclasses.replace(r, theta=r.theta * 2))),
        "query_scale": turn(query_scale=config.query_scale * 1.5),
        "norm_eps": turn(norm_eps=1e-6),
        "activation": turn(activation="gelu" if config.activation != "gelu" else "silu"),
    }
    kinds = config.pattern
    if any(kind.window for kind in kinds):
        off["window"] = turn(pattern=tuple(dataclasses.replace(k, window=None) for k in kinds))
        off["window width"] = turn(
            pattern=tuple(dataclasses.replace(k, window=k.window and k.window + 1) for k in kinds)
        )
    if len(kinds) > 1:
        off["order of the pattern"] = turn(pattern=kinds[::-1])
        off["length of the pattern"] = turn(pattern=kinds[:-1])
    if len({kind.rope for kind in kinds}) > 1:
        off["two ropes"] = turn(pattern=_ropes(config, lambda _: kinds[0].rope))
    if any(kind.rope.linear_factor != 1 for kind in kinds):
        off["linear scaling"] = turn(pattern=_ropes(config, lambda r: Rope(r.theta)))
    if any(kind.rope.llama3 for kind in kinds):
        off["llama3 scaling"] = turn(pattern=_ropes(config, lambda r: Rope(r.theta)))
    for name, neutral in (
        ("norm_offset", 0.0), ("embed_scale", 1.0), ("attn_softcap", None),
        ("logit_softcap", None), ("qkv_bias", False), ("out_bias", False), ("mlp_bias", False),
        ("qk_norm", False), ("post_norms", False),
    ):  # fmt: skip
        if getattr(config, name) != neutral:
            off[name] = turn(**{name: neutral})
    return off


@pytest.mark.parametrize("case", CASES)
def test_every_switch_shows(case, record_property):
    """Each switch turned alone moves the logits far beyond the tolerance of the ladder."""
    ref, valid = reference(case), padding("none")
    batch, logits = Batch.make(tokens_of(case)), expected(case, "none")[0]
    moved = {}
    for name, config in switches(ref.config).items():
        params = {key: ref.params[key] for key in parameter_shapes(config)}
        # Eagerly: two dozen programs would take longer to compile than to interpret.
        ours, _ = build_decoder(config, params)(batch)
        moved[name] = difference(ours, logits, valid)
    record_property(f"{case}/least switch", min(moved.values()))
    assert min(moved.values()) > 10 * TOLERANCE, moved


def test_together_the_cases_have_every_switch():
    together = {name for case in CASES for name in switches(reference(case).config)}
    assert together == {
        "theta", "query_scale", "norm_eps", "activation", "window", "window width",
        "order of the pattern", "length of the pattern", "two ropes", "linear scaling",
        "llama3 scaling", "norm_offset", "embed_scale", "attn_softcap", "logit_softcap",
        "qkv_bias", "out_bias", "mlp_bias", "qk_norm", "post_norms",
    }  # fmt: skip
    assert {reference(case).config.tied_head for case in CASES} == {True, False}
    assert reference("gemma3").config.n_layers % len(reference("gemma3").config.pattern) == 2
    assert max(LENGTHS) > reference("mistral").config.pattern[0].window


def test_a_score_cap_of_gemma3_is_refused():
    """The reference reads that field and applies no cap: nobody can say what is meant."""
    values = {"model_type": "gemma3_text", **tiny_hf_config("gemma3")}
    with pytest.raises(UserError, match="attn_logit_softcapping=2.0"):
        config_from_hf(values | {"attn_logit_softcapping": 2.0})


@pytest.mark.parametrize("case", ["llama", "gemma2"])
def test_every_parameter_shows(case):
    """No weight is read and then forgotten: each one, changed alone, moves the logits."""
    ref = reference(case)
    batch = Batch.make(tokens_of(case)[:1])
    loss = lambda params: jnp.sum(build_decoder(ref.config, params)(batch)[0] ** 2)
    slope = jax.jit(jax.grad(loss), compiler_options=QUICK)(ref.params)
    still = [name for name, g in slope.items() if float(jnp.max(jnp.abs(g))) < 1e-3]
    assert [name for name in still if not name.endswith("k.bias")] == []
