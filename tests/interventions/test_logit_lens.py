"""The logit lens: its last layer is the network, and each reduction has its closed form."""

import numpy as np
import pytest

from interp_jax.interventions import verbs
from interp_jax.interventions.logit_lens import logit_lens
from interp_jax.runtime.errors import UserError
from tests.interventions.contract import LENGTHS, batch_of, forward, network


@pytest.mark.parametrize("layout", ["unrolled", "scanned"])
def test_the_last_layer_is_the_network(layout):
    net, batch = network("gemma", layout), batch_of("gemma", left=True)
    lens = logit_lens(net, batch, keep_logits=True)
    logits = np.asarray(forward(net, batch)[0])
    assert lens.logits.shape == (5, 4, 10, 29) and lens.tokens.shape == (5, 4, 10, 5)
    for row, length in enumerate(LENGTHS):
        last, own = lens.logits[-1, row, -length:], logits[row, -length:]
        np.testing.assert_allclose(last, own, atol=1e-5 * np.abs(logits).max())
        assert np.all(np.abs(lens.kl[-1, row, -length:]) < 1e-5)
        assert np.all(lens.kl[0, row, -length:] > 1e-3)
        # Reductions of the logits that were kept, by the book.
        log_p = lens.logits - np.log(np.exp(lens.logits).sum(-1, keepdims=True))
        mine, final = log_p[:, row, -length:], log_p[-1, row, -length:]
        kl = (np.exp(final) * (final - mine)).sum(-1)
        np.testing.assert_allclose(lens.kl[:, row, -length:], kl, atol=1e-5)
        entropy = -(np.exp(mine) * mine).sum(-1)
        np.testing.assert_allclose(lens.entropy[:, row, -length:], entropy, atol=1e-5)
        np.testing.assert_array_equal(lens.tokens[:, row, -length:, 0], mine.argmax(-1))
        np.testing.assert_allclose(
            lens.log_probs[:, row, -length:, 0], mine.max(-1), atol=1e-5
        )


def test_layers_and_columns_are_chosen_and_edits_act():
    net, batch = network("llama"), batch_of("llama")
    whole = logit_lens(net, batch)
    some = logit_lens(net, batch, layers=(2, 0), columns=[3, -7], k=2)
    assert some.logits is None and some.layers == (2, 0) and some.tokens.shape == (2, 4, 2, 2)
    np.testing.assert_array_equal(some.tokens[0, :, 0], whole.tokens[2, :, 3, :2])
    np.testing.assert_allclose(some.kl[1], whole.kl[0][:, [3, 3]], atol=1e-6)
    steered = verbs.add("resid_post[1]", np.linspace(-9, 9, 16, dtype=np.float32))(net)
    edited = logit_lens(steered, batch)
    np.testing.assert_array_equal(edited.tokens[0], whole.tokens[0])
    assert not np.array_equal(edited.tokens[1], whole.tokens[1])
    for wrong in ({"layers": (3,)}, {"columns": [10]}, {"columns": [0.5]}):
        with pytest.raises(UserError):
            logit_lens(net, batch, **wrong)
