"""What the tests of the engine share: a tiny network, ragged prompts, and a plain way to sample.

`solo` is the engine with one slot and one request; `forced` is one full forward pass over what
was sampled, without a cache. Everything the engine does must agree with these.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from interp_jax.generation.engine import Engine
from interp_jax.generation.requests import Request, Sample
from interp_jax.generation.sampling_params import SamplingParams
from interp_jax.models.batch import Batch
from interp_jax.models.decoder import Decoder, build_decoder
from interp_jax.testing.tiny import random_parameters, tiny_config

WARM = SamplingParams.make(0.8, top_p=0.9, with_model_log_prob=True)
GREEDY = SamplingParams.make(0.0)
WIDTH = 64  # of every forward pass, so that there is one program
ROWS = 9
# With prompts of 9 to 12 tokens every row needs 17 to 24 slots: one bucket, one prompt width.
BUDGETS = [8 + item % 5 for item in range(ROWS)]


@functools.cache
def network(family: str = "llama", layout: str = "unrolled", dtype: str = "float32") -> Decoder:
    """A tiny network with a context that holds every test."""
    over = {"n_layers": 2} if family == "llama" else {}
    config = tiny_config(family, max_context=256, **over)
    return build_decoder(config, random_parameters(config, dtype=dtype), layout)


def prompts(
    count: int = ROWS, seed: int = 0, shortest: int = 9, longest: int = 12
) -> list[np.ndarray]:
    """Token rows of various lengths."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(shortest, longest + 1, count)
    return [rng.integers(3, 101, length).astype(np.int32) for length in lengths]


def requests(rows, budgets=12, seed: int = 0) -> list[Request]:
    """One request for each row; the key depends on (seed, item) only."""
    budgets = [budgets] * len(rows) if isinstance(budgets, int) else budgets
    return [
        Request(row, jax.random.fold_in(jax.random.key(seed), item), int(budget), item=item)
        for item, (row, budget) in enumerate(zip(rows, budgets, strict=True))
    ]


def engine(params=WARM, batch_size: int = 4, net: Decoder | None = None, **options) -> Engine:
    """An engine that always uses all its slots."""
    return Engine(
        network() if net is None else net, params, batch_size=batch_size, all_slots=True, **options
    )


def by_item(running: Engine, asked, prefix=None) -> dict[int, Sample]:
    """Runs the engine; item -> sample, each exactly once."""
    samples = list(running.run(asked, prefix))
    assert sorted(s.item for s in samples) == sorted(r.item for r in asked)
    return {s.item: s for s in samples}


@jax.jit
def _forward(net: Decoder, batch: Batch):
    return net(batch)


def forced(net: Decoder, prompt: np.ndarray, new: np.ndarray):
    """One forward pass over prompt and new tokens.

    Returns:
        (float64 [n, V] logits that made each new token, the tape).
    """
    row = np.concatenate([prompt, new]).astype(np.int32)[:-1]
    tokens, valid = np.zeros((1, WIDTH), np.int32), np.zeros((1, WIDTH), bool)
    tokens[0, : len(row)], valid[0, : len(row)] = row, True
    lengths = jnp.full((1,), len(prompt), jnp.int32)
    logits, tape = _forward(net, Batch.make(tokens, valid, lengths=lengths))
    logits = np.asarray(logits, np.float64)[0, len(prompt) - 1 : len(row)]
    return logits, {name: np.asarray(a) for name, a in tape.items()}


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """float64, over the last axis."""
    top = logits.max(-1, keepdims=True)
    return logits - top - np.log(np.exp(logits - top).sum(-1, keepdims=True))


def same(a: dict[int, Sample], b: dict[int, Sample], tolerance: float = 2e-5) -> None:
    """The same tokens and ends; log-probabilities to a tolerance."""
    assert a.keys() == b.keys()
    for item in a:
        np.testing.assert_array_equal(a[item].tokens, b[item].tokens, err_msg=f"item {item}")
        assert a[item].finish == b[item].finish
        np.testing.assert_allclose(a[item].log_probs, b[item].log_probs, atol=tolerance)
