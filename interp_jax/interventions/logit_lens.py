"""The logit lens (nostalgebraist 2020): what each layer would say if it were the last.

The stream after every block goes through the final norm and the head. Only one layer's logits
exist at a time, and only their reduction leaves the device.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from interp_jax.interventions.reads import Read
from interp_jax.interventions.run import token_columns
from interp_jax.models.batch import Batch
from interp_jax.models.decoder import Decoder
from interp_jax.models.sites import Site


@dataclasses.dataclass(frozen=True)
class LogitLens:
    """What each layer predicts, at each column of the caller's tokens.

    Attributes:
        layers: L layer numbers.
        tokens: int32 [L, B, P, k], the most likely next tokens, best first.
        log_probs: float32 [L, B, P, k], of those.
        kl: float32 [L, B, P], nats from the network's own output to this layer's,
            KL(output || layer); about 0 at the last layer.
        entropy: float32 [L, B, P], nats.
        logits: float32 [L, B, P, V], or None unless asked for.
    """

    layers: tuple[int, ...]
    tokens: np.ndarray
    log_probs: np.ndarray
    kl: np.ndarray
    entropy: np.ndarray
    logits: np.ndarray | None


def logit_lens(
    network: Decoder,
    batch: Batch,
    *,
    layers: Sequence[int] | None = None,
    columns=None,
    k: int = 5,
    keep_logits: bool = False,
) -> LogitLens:
    """Reads every layer through the final norm and the head.

    Interventions in the network act; those at `final_norm` and `logits` act on the network's
    own output only.

    Args:
        layers: which; None for all.
        columns: int [P] or [B, P], columns of the caller's layout; None for all T.
        k: how many tokens to name.
        keep_logits: also bring [L, B, P, V] to the host.

    Raises:
        UserError: a layer or a column that is not there.
    """
    chosen = tuple(range(network.config.n_layers)) if layers is None else tuple(layers)
    columns = np.arange(batch.tokens.shape[1]) if columns is None else columns
    columns = token_columns(batch, columns)
    site = Site("resid_post", chosen)
    found = jax.device_get(_lens(network, batch, columns, site, k, keep_logits))
    return LogitLens(chosen, **found)


@partial(jax.jit, static_argnames=("site", "k", "keep_logits"))
def _lens(network, batch, columns, site: Site, k: int, keep_logits: bool):
    logits, tape = Read("logit_lens", site)(network)(batch, logits_at=columns)
    output = jax.nn.log_softmax(logits, axis=-1)
    streams = jnp.take_along_axis(tape["logit_lens"], columns[None, :, :, None], axis=2)

    def one(stream):
        logits = network.unembed(stream)
        log_probs = jax.nn.log_softmax(logits, axis=-1)
        top, tokens = jax.lax.top_k(log_probs, k)
        return {
            "tokens": tokens.astype(jnp.int32),
            "log_probs": top,
            "kl": jnp.sum(jnp.exp(output) * (output - log_probs), axis=-1),
            "entropy": -jnp.sum(jnp.exp(log_probs) * log_probs, axis=-1),
            "logits": logits if keep_logits else None,
        }

    return jax.lax.map(one, streams)
