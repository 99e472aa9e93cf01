"""Cross-entropy and KL recovered where the answer is known."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from interp_jax.dictionaries.build import sae
from interp_jax.dictionaries.config import DictionaryConfig
from interp_jax.dictionaries.dictionary import Dictionary
from interp_jax.dictionaries.recovered import recovered, recovered_sums, site_mean
from interp_jax.interventions import verbs
from interp_jax.interventions.dictionary import splice
from interp_jax.interventions.where import Where
from interp_jax.models.batch import Batch
from interp_jax.models.decoder import build_decoder
from interp_jax.runtime.errors import UserError
from interp_jax.testing.tiny import random_parameters, tiny_config

CONFIG = tiny_config("llama", n_layers=2)
D, SITE = CONFIG.width, "resid_post[0]"
NETWORK = build_decoder(CONFIG, random_parameters(CONFIG, 0))
LATER = Where(exclude=Where(positions=[0]))


def linear(decoder, bias) -> Dictionary:
    """relu(x) and relu(-x) in the code, so that any linear map is a dictionary."""
    eye = jnp.eye(D)
    arrays = {
        "encoder": jnp.concatenate([eye, -eye]),
        "decoder": jnp.concatenate([decoder, -decoder]),
        "encoder_bias": jnp.zeros(2 * D),
        "decoder_bias": bias[None],
    }
    return Dictionary(DictionaryConfig(width=D, latents=2 * D, activation="relu"), arrays)


EXACT = linear(jnp.eye(D), jnp.zeros(D))
ZERO = linear(jnp.zeros((D, D)), jnp.zeros(D))


def batches(seed: int = 0, rows: int = 4, width: int = 12) -> Batch:
    """Ragged, padded on the left."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, CONFIG.vocab_size, (rows, width)).astype(np.int32)
    lengths = np.asarray([12, 7, 9, 2])[:rows]
    valid = np.arange(width)[None, :] >= width - lengths[:, None]
    return Batch.make(tokens, valid)


def put(dictionary: Dictionary, **options):
    return splice(SITE, dictionary, error=False, **options)


def test_identity_recovers_all_and_nothing_recovers_none():
    perfect = recovered(NETWORK, batches(), put(EXACT, where=LATER))
    np.testing.assert_allclose(perfect["ce_recovered"], 1, atol=1e-5)
    np.testing.assert_allclose(perfect["kl_recovered"], 1, atol=1e-5)
    none = recovered(NETWORK, batches(), put(ZERO, where=LATER))
    np.testing.assert_allclose(none["ce_recovered"], 0, atol=1e-5)
    np.testing.assert_allclose(none["kl_recovered"], 0, atol=1e-5)
    assert none["baseline"] == "zero" and none["tokens"] == 26
    # A random network predicts nothing well, so the gap is small, but it is there.
    assert abs(none["ce_ablated"] - none["ce_base"]) > 1e-3
    assert none["kl_ablated"] > 0.01


def test_the_mean_is_the_baseline_that_knows_the_mean():
    mean = site_mean(NETWORK, [batches(), batches(1)], SITE, LATER)
    look = jax.jit(lambda net, batch: net(batch, logits_at="none")[1])
    read = verbs.read(SITE, where=LATER, name="x")(NETWORK)
    tape, other = look(read, batches()), look(read, batches(1))
    valid = np.array(batches().unpack(batches().valid))
    first = valid.argmax(1)
    valid[np.arange(4), first] = False
    kept = np.concatenate([np.asarray(t["x"][0])[valid] for t in (tape, other)])
    np.testing.assert_allclose(mean, kept.mean(0), atol=1e-5)
    flat = put(linear(jnp.zeros((D, D)), jnp.asarray(mean)), where=LATER)
    found = recovered(NETWORK, batches(), flat, baseline="mean", mean=mean)
    np.testing.assert_allclose(found["ce_recovered"], 0, atol=1e-5)
    np.testing.assert_allclose(found["kl_recovered"], 0, atol=1e-5)
    assert recovered(NETWORK, batches(), flat)["kl_recovered"] != found["kl_recovered"]


def test_with_the_error_term_it_is_the_base():
    kept = splice(SITE, sae(D, 8, jax.random.key(0), activation="relu"))
    found = recovered(NETWORK, batches(), kept)
    assert found["ce_spliced"] == found["ce_base"] and found["kl_spliced"] == 0
    assert found["ce_recovered"] == 1 and found["kl_recovered"] == 1


@jax.jit
def plain(some, batch):
    """Logits of the three networks."""
    edits = {
        "base": verbs.compose(), "spliced": some, "ablated": verbs.scale(SITE, 0.0, where=LATER),
    }  # fmt: skip
    return {name: edit(NETWORK)(batch)[0] for name, edit in edits.items()}


def test_sums_are_those_of_plain_logits_and_do_not_depend_on_batching():
    some = put(sae(D, 2 * D, jax.random.key(0), activation="relu"), where=LATER)
    one, two = batches(), batches(1, width=80)
    both = recovered(NETWORK, [one, two], some)
    totals = np.zeros(6)
    for batch in (one, two):
        logits = {
            name: np.asarray(jax.nn.log_softmax(values), np.float64)
            for name, values in plain(some, batch).items()
        }
        tokens = np.asarray(batch.unpack(batch.tokens))
        valid = np.asarray(batch.unpack(batch.valid))
        for row, column in zip(*np.nonzero(valid[:, :-1]), strict=True):
            at = {name: value[row, column] for name, value in logits.items()}
            following = tokens[row, column + 1]
            entropy = [-at[name][following] for name in ("base", "spliced", "ablated")]
            kl = [
                np.sum(np.exp(at["base"]) * (at["base"] - at[name]))
                for name in ("spliced", "ablated")
            ]
            totals += [1, *entropy, *kl]
    assert both["tokens"] == totals[0]
    names = ("ce_base", "ce_spliced", "ce_ablated", "kl_spliced", "kl_ablated")
    np.testing.assert_allclose([both[n] for n in names], totals[1:] / totals[0], rtol=2e-5)
    _, base, spliced, ablated, *kl = totals
    np.testing.assert_allclose(
        both["ce_recovered"], (ablated - spliced) / (ablated - base), rtol=1e-3
    )
    np.testing.assert_allclose(both["kl_recovered"], 1 - kl[0] / kl[1], rtol=1e-4)


def test_only_the_predictions_asked_for_count():
    some = put(ZERO, where=LATER)
    found = recovered(NETWORK, batches(), some, predicting=Where(positions=[0, 8]))
    assert found["tokens"] == 5  # four firsts, and the ninth of the longest


def test_refusals():
    some = put(ZERO, where=LATER)
    with pytest.raises(UserError, match="'mean' without a mean"):
        recovered(NETWORK, batches(), some, baseline="mean")
    with pytest.raises(UserError, match="'zero' with a mean"):
        recovered(NETWORK, batches(), some, mean=jnp.zeros(D))
    with pytest.raises(UserError, match="splice:resid_post"):
        recovered(NETWORK, batches(), put(ZERO, where=Where(positions=[40])))
    with pytest.raises(UserError, match="no batches"):
        recovered(NETWORK, [], some)
    with pytest.raises(UserError, match="no predicted token"):
        recovered(NETWORK, Batch.make(jnp.ones((2, 1), jnp.int32)), put(ZERO))
    late = verbs.scale("logits", 0.5)
    with pytest.raises(UserError, match="beyond the last block"):
        recovered_sums(late(NETWORK), batches(), some, verbs.scale(SITE, 0.0))
    with pytest.raises(UserError, match="one layer"):
        site_mean(NETWORK, batches(), "resid_post")
    with pytest.raises(UserError, match="no token"):
        site_mean(NETWORK, batches(), SITE, Where(positions=[40]))
