"""Patching: exact cells against a plain loop, estimates against slopes and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from interp_jax.interventions import verbs
from interp_jax.interventions.patching import attribution_patching, patching_sweep
from interp_jax.interventions.where import Where
from interp_jax.models.decoder import build_decoder
from interp_jax.runtime.errors import UserError
from tests.interventions.contract import (
    CONFIGS,
    batch_of,
    network,
    padded,
    parameters,
    token_rows,
)

SITES = ("resid_post", "mlp_out", "head_out.heads[1]")
POSITIONS = (0, 2, 3)


def score(logits):
    """The last column's logit difference, over rows."""
    return jnp.mean(logits[:, 3, 5] - logits[:, 3, 6])


@pytest.fixture
def runs():
    rows = [row[:4] for row in token_rows(CONFIGS["llama"])[:2]]
    other = [row.copy() for row in rows]
    for row in other:
        row[1] = (row[1] + 3) % 31
    return padded(rows, width=4), padded(other, width=4)


def patched_score(net, corrupted, site: str, layer: int, position: int, source, strength=1.0):
    """One cell, without compilation: replace, run, score."""
    whole = site.replace(".", f"[{layer}].") if "." in site else f"{site}[{layer}]"
    edit = verbs.replace(
        whole, source[layer, :, position], where=Where(positions=[position]), strength=strength
    )
    return float(score(edit(net)(corrupted)[0]))


def sources(net, clean):
    look = verbs.compose(*(verbs.read(site.split(".")[0], name=site) for site in SITES))
    return look(net)(clean)[1]


def test_every_cell_equals_a_plain_loop_of_replacements(runs, compile_counter):
    clean, corrupted = runs
    net, plain = network("llama", "scanned"), network("llama")
    patching_sweep(net, score, corrupted, clean, sites=SITES, positions=POSITIONS, chunk=4)
    with compile_counter() as counter:
        result = patching_sweep(
            net, score, clean, corrupted, sites=SITES, positions=(3, 0, 2), chunk=4
        )
    assert counter.count_of("_run_cells") == counter.count_of("_slopes") == 0  # cells are data
    assert result.exact.shape == result.estimate.shape == (3, 3, 3)
    start = float(score(plain(corrupted)[0]))
    np.testing.assert_allclose(result.corrupted, start, atol=1e-6)
    np.testing.assert_allclose(result.clean, float(score(plain(clean)[0])), atol=1e-6)
    source = sources(plain, clean)
    for n, site in enumerate(SITES):
        for layer in range(3):
            for p, position in enumerate(result.positions):
                expected = patched_score(plain, corrupted, site, layer, position, source[site])
                np.testing.assert_allclose(
                    result.exact[n, layer, p], expected - start, atol=4e-6
                )
    # The last token's last stream decides everything, and earlier tokens' last MLP nothing.
    np.testing.assert_allclose(result.recovered[0, 2, 0], 1.0, atol=1e-5)
    assert not np.any(result.exact[1, 2, 1:]) and not np.any(result.estimate[1, 2, 1:])
    assert np.all(np.abs(result.exact[0, :, 0]) > 1e-4)


def test_the_estimate_becomes_exact_as_the_runs_draw_near():
    """exact - estimate falls as the square of the distance between the two runs."""
    config = CONFIGS["llama"]
    clean, corrupted = (padded([np.asarray([2, token, 4, 7])], width=4) for token in (1, 0))
    with jax.enable_x64(True):
        errors, sizes = [], []
        for eps in (1e-2, 1e-3):
            params = dict(parameters(config, "float64"))
            table = params["embed.table"]
            near = table[0] + eps * jnp.linspace(-1.0, 1.0, 16, dtype=table.dtype)
            net = build_decoder(config, params | {"embed.table": table.at[1].set(near)}, "scanned")
            result = patching_sweep(net, score, clean, corrupted, sites=SITES)
            errors.append(np.abs(result.exact - result.estimate).max())
            sizes.append(np.abs(result.exact).max())
    assert sizes[1] > 0.05 * sizes[0] > 1e-6
    assert errors[1] < 2e-2 * errors[0] and errors[0] < sizes[0]


def test_the_estimate_equals_the_slope_along_the_patch(runs):
    clean, corrupted = runs
    with jax.enable_x64(True):
        plain = network("llama", "unrolled", "float64")
        result = attribution_patching(
            network("llama", "scanned", "float64"), score, clean, corrupted, sites=SITES,
            positions=POSITIONS,
        )  # fmt: skip
        assert result.exact is None
        source = sources(plain, clean)
        for n, site in enumerate(SITES):
            for layer, p in ((0, 1), (2, 2)):
                ends = [
                    patched_score(
                        plain, corrupted, site, layer, POSITIONS[p], source[site], strength
                    )
                    for strength in (1e-4, -1e-4)
                ]
                slope = (ends[0] - ends[1]) / 2e-4
                np.testing.assert_allclose(
                    result.estimate[n, layer, p], slope, rtol=1e-6, atol=1e-9
                )


def test_what_cannot_be_patched_is_refused(runs):
    clean, corrupted = runs
    net = network("llama", "scanned")
    for sites in (("embed",), ("attn_weights",), ("resid_post[1]", "mlp_out[2]")):
        with pytest.raises(UserError):
            attribution_patching(net, score, clean, corrupted, sites=sites)
    with pytest.raises(UserError, match="aligned"):
        attribution_patching(net, score, clean, batch_of("llama"))
    with pytest.raises(UserError, match="positions"):
        attribution_patching(net, score, clean, corrupted, positions=(4,))
    with pytest.raises(UserError, match="scalar"):
        attribution_patching(net, lambda logits: logits[:, 0, 0], clean, corrupted)
