"""How parameters lie on a mesh: one table from parameter names to axis letters."""

from __future__ import annotations

import jax

from interp_jax.models.placing import ShardingFor
from interp_jax.runtime.mesh import partition_spec

# Last part of a parameter's name -> axis letters of its dimensions (see `runtime.mesh.LETTERS`;
# H and K stand for heads x head_dim: cut between heads while the mesh axis divides their number).
LETTERS: dict[str, str] = {
    "embed.table": "VD",
    "head.weight": "DV",
    "q.weight": "DH", "k.weight": "DK", "v.weight": "DK", "o.weight": "HD",
    "q.bias": "H", "k.bias": "K", "v.bias": "K", "o.bias": "D",
    "gate.weight": "DF", "up.weight": "DF", "down.weight": "FD",
    "gate.bias": "F", "up.bias": "F", "down.bias": "D",
}  # fmt: skip


def parameter_sharding(mesh: jax.sharding.Mesh) -> ShardingFor:
    """Where each parameter lives on `mesh`; norms are whole on every device.

    A dimension that its mesh axis does not divide is left whole.
    """

    def place(name: str, shape: tuple[int, ...]) -> jax.sharding.NamedSharding:
        letters = LETTERS.get(".".join(name.split(".")[-2:]), "")
        spec = list(partition_spec(letters, mesh))
        for axis, (cut, size) in enumerate(zip(spec, shape, strict=False)):
            if cut is not None and size % mesh.shape[cut]:
                spec[axis] = None
        return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec))

    return place
