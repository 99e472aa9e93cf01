"""One step of fine-tuning, compiled: gradients of several small batches, then an update."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from interp_jax.finetuning.config import FinetuneConfig
from interp_jax.finetuning.loss import summed_loss
from interp_jax.finetuning.optimiser import learning_rate, optimiser_of
from interp_jax.interventions.lora import LoRA, lora
from interp_jax.models.decoder import Decoder
from interp_jax.models.remat import with_remat
from interp_jax.models.token_rows import TokenRows
from interp_jax.runtime import keys
from interp_jax.runtime.errors import UserError
from interp_jax.runtime.mesh import named_sharding


@partial(
    jax.tree_util.register_dataclass, data_fields=["values", "optimiser", "step"], meta_fields=[]
)
@dataclasses.dataclass(frozen=True)
class TrainState:
    """What training changes. A pytree.

    Attributes:
        values: float32 master weights: of the adapter (`LoRA.trainable`), or of the whole network
            (a `Decoder`).
        optimiser: optax state.
        step: int32 [], finished steps.
    """

    values: Any
    optimiser: optax.OptState
    step: jax.Array


class Training:
    """The programs of a run.

    Args:
        config: every choice.
        network: what is fine-tuned, without anything placed in it.
        mesh: batches are cut along its `data` axis. Weights stay where `load(mesh=...)` put them;
            those on one device are copied to all. None: the default device.

    Raises:
        UserError: a batch that the devices do not divide, or unknown projections or layers.
    """

    def __init__(self, config: FinetuneConfig, network: Decoder, mesh: Mesh | None = None):
        self.config, self.mesh = config, mesh
        shards = 1 if mesh is None else mesh.shape.get("data", 1)
        if config.batch_size % shards or config.batch_size % jax.process_count():
            raise UserError(
                found=f"batches of {config.batch_size} rows on {shards} devices in "
                f"{jax.process_count()} processes",
                expected="rows that they divide", do="change --batch_size",
            )
        self._everywhere = None if mesh is None else NamedSharding(mesh, PartitionSpec())
        self.network = network if mesh is None else jax.tree.map(self._on_mesh, network)
        self.adapter: LoRA | None = None
        if config.method == "lora":
            self.adapter = lora(
                network.config, keys.fold(keys.root_key(config.seed), "lora"), rank=config.rank,
                alpha=config.alpha, rs=config.rslora, targets=config.targets,
                layers=config.layers or None,
            )
            self.adapter(network)  # refuses layers that the network lacks
        self._optimiser = optimiser_of(config)
        # The values are the only weights of a full run that are held; LoRA has a frozen network.
        self._dtypes = jax.tree.map(lambda leaf: leaf.dtype, self.network)
        self._jitted = jax.jit(self._step, donate_argnums=0)

    def first_state(self) -> TrainState:
        """The state before the first step. Its arrays are its own: a step may consume them."""
        start = self.network if self.adapter is None else self.adapter.trainable()
        values = jax.tree.map(lambda leaf: jnp.array(leaf, jnp.float32, copy=True), start)
        state = TrainState(values, self._optimiser.init(values), jnp.zeros((), jnp.int32))
        return state if self.mesh is None else jax.tree.map(self._on_mesh, state)

    def trained(self, values: Any) -> Decoder:
        """The network with these values: the adapter placed, or the weights in their dtypes."""
        return self._with(values, None if self.adapter is None else self.network)

    def __call__(self, state: TrainState, rows: TokenRows, mask: np.ndarray):
        """One step. `state` is donated: use what comes back.

        Args:
            state: before.
            rows: [accumulate, B, T], this process's part.
            mask: bool, of their shape: what is learnt.

        Returns:
            the state after, and `loss` (nats per learnt token of the whole step), `tokens`
            (learnt), `gradient_norm` (before the clip) and `learning_rate`, float32 [] each.
        """
        placed = jax.tree.map(self._place, (rows, mask))
        return self._jitted(state, None if self.adapter is None else self.network, *placed)

    def _with(self, values: Any, frozen: Decoder | None) -> Decoder:
        if frozen is None:
            return jax.tree.map(lambda leaf, dtype: leaf.astype(dtype), values, self._dtypes)
        assert self.adapter is not None
        return self.adapter.with_trainable(values)(frozen)

    def _step(self, state: TrainState, frozen: Decoder | None, rows: TokenRows, mask: jax.Array):
        count = jnp.sum(mask, dtype=jnp.int32).astype(jnp.float32)

        def of(values, part):
            rows, mask = part
            network = self._with(values, frozen)
            # The mean is over all tokens of the step, so how rows are split changes nothing.
            summed = summed_loss(with_remat(network) if self.config.remat else network, rows, mask)
            return summed / count

        def add(carry, part):
            one = jax.value_and_grad(of)(state.values, part)
            return jax.tree.map(jnp.add, carry, one), None

        zeros = (jnp.zeros((), jnp.float32), jax.tree.map(jnp.zeros_like, state.values))
        (loss, gradient), _ = jax.lax.scan(add, zeros, (rows, mask))
        # optax counts in integers beside floats.
        with jax.numpy_dtype_promotion("standard"):
            updates, after = self._optimiser.update(gradient, state.optimiser, state.values)
            values = optax.apply_updates(state.values, updates)
        norm = jnp.sqrt(sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(gradient)))
        metrics = {
            "loss": loss,
            "tokens": count,
            "gradient_norm": norm,
            "learning_rate": learning_rate(self.config)(state.step),
        }
        return TrainState(values, after, state.step + 1), metrics

    def _place(self, rows: np.ndarray) -> jax.Array:
        if self.mesh is None:
            return jnp.asarray(rows)
        sharding = named_sharding("LBT", self.mesh)
        return jax.make_array_from_process_local_data(sharding, np.asarray(rows))

    def _on_mesh(self, leaf: Any) -> jax.Array:
        assert self.mesh is not None
        there = isinstance(leaf, jax.Array) and leaf.sharding.device_set == set(
            self.mesh.devices.flat
        )
        return leaf if there else jax.device_put(leaf, self._everywhere)
