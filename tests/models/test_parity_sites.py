"""Every site of every family holds what the translation table says it holds elsewhere.

The table's Hugging Face column is executed: a hook goes where it points.
"""

import functools

import numpy as np
import pytest

from interp_jax.models.sites import SITES
from tests.models.reference import (
    CASES,
    capture,
    hooked_by,
    observed,
    padding,
    reference,
    tokens_of,
)

pytestmark = pytest.mark.parity

RELATIVE = 1e-5  # of the site's largest magnitude
PATCHED = {"attn_q", "attn_k", "attn_scores"}  # values inside a function, where no hook reaches


@functools.cache
def captured(case, side):
    return capture(reference(case), tokens_of(case), padding(side))


def asked(site, side, tape):
    """bool, broadcastable to the value: the tokens, or pairs of tokens, that are compared."""
    valid = padding(side)
    axes = SITES[site].axes
    if axes == "BHTS":
        return valid[:, None, :, None] & valid[:, None, None, :]
    return valid.reshape(*valid.shape, *(1,) * (len(axes) - 2))


@pytest.mark.parametrize("side", ["none", "right"])
@pytest.mark.parametrize("case", CASES)
def test_every_site_is_what_it_is_in_the_reference(case, side, record_property):
    (out, theirs), (_, tape) = captured(case, side), observed(case, side)
    theirs = {**theirs, "logits": out.logits.numpy()}
    assert set(theirs) == set(SITES)
    apart = {}
    for site in SITES:
        ours, other = np.asarray(tape[site]), theirs[site]
        own = asked(site, side, tape)
        if site == "attn_scores":
            # Theirs are masked; ours are 0 where a key is not visible.
            seen = other > -1e30
            assert (ours[np.broadcast_to(own, seen.shape) & ~seen] == 0).all()
            own = own & seen
        assert ours.shape == other.shape, site
        own = np.broadcast_to(own, ours.shape)
        assert np.abs(other[own]).max() > 0.05, site
        apart[site] = float(np.abs(ours - other)[own].max() / np.abs(other[own]).max())
    record_property(f"{case}/sites", max(apart.values()))
    assert max(apart.values()) <= RELATIVE, apart


def test_the_table_points_somewhere_for_every_site():
    for site in SITES:
        found = hooked_by(site, False), hooked_by(site, True)
        assert (found == (None, None)) == (site in PATCHED | {"logits"}), site


@pytest.mark.parametrize("case", ["llama", "gemma2"])
def test_sites_differ_from_their_neighbours(case):
    """So that a value taken one step too early or late could not pass."""
    _, theirs = captured(case, "none")
    for one, two in (
        ("resid_pre", "attn_in"), ("attn_in", "attn_out"), ("resid_pre", "resid_mid"),
        ("attn_out", "resid_mid"), ("resid_mid", "mlp_in"), ("mlp_in", "mlp_out"),
        ("resid_mid", "resid_post"), ("mlp_out", "resid_post"), ("attn_v", "attn_k"),
        ("attn_q", "head_out"), ("attn_scores", "attn_weights"),
    ):  # fmt: skip
        assert np.abs(theirs[one][1] - theirs[two][1]).max() > 0.1, (one, two)
