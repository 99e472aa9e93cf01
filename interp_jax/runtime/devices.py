"""Starting up: joining other processes, and saying what this run runs on."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from importlib import metadata
from typing import Any

import jax
from jax.sharding import Mesh

from interp_jax.runtime.errors import UserError
from interp_jax.runtime.mesh import make_mesh as make_mesh
from interp_jax.runtime.spread import spread as spread
from interp_jax.version import __version__


def setup(
    *,
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    skip_distributed: bool = False,
) -> None:
    """Joins the other processes of this run, if there are any. Scripts call it first.

    Explicit flags win. Without them a cluster that JAX can find its way in by itself (a TPU pod,
    Slurm, Open MPI) is joined with no arguments; on one machine nothing happens. Calling it
    again does nothing.

    Args:
        coordinator_address: `host:port` of process 0.
        num_processes: how many processes there are.
        process_id: which one this is, from 0.
        skip_distributed: join nobody, whatever the environment says.

    Raises:
        UserError: only some of the three flags are given, they do not fit together, JAX has
            woken its devices already, or the others cannot be reached.
    """
    if not jax.config.jax_threefry_partitionable:
        raise UserError(
            found="jax_threefry_partitionable switched off",
            expected="it on, so that a draw does not depend on the number of devices",
            do="remove the switch (JAX_THREEFRY_PARTITIONABLE)",
        )
    if skip_distributed or jax.distributed.is_initialized():
        return
    flags = (coordinator_address, num_processes, process_id)
    if any(flag is not None for flag in flags):
        if any(flag is None for flag in flags) or not 0 <= process_id < num_processes:
            raise UserError(
                found=f"coordinator_address={coordinator_address}, "
                f"num_processes={num_processes}, process_id={process_id}",
                expected="all three, with process_id from 0 to num_processes - 1",
                do="give the three flags to every process, or none of them",
            )
        arguments: tuple[Any, ...] = flags
    elif cluster() is not None:
        arguments = ()
    else:
        return
    try:
        jax.distributed.initialize(*arguments)
    except (RuntimeError, ValueError) as error:
        raise UserError(
            found=f"no way to join the other processes ({str(error).splitlines()[0]})",
            expected=f"a coordinator ({coordinator_address or cluster()})",
            do="call setup before anything uses a device, check the address, or skip with "
            "skip_distributed",
        ) from error


def cluster(environment: Mapping[str, str] = os.environ) -> str | None:
    """The kind of multi-process environment that this process was started in, or None."""

    def several(name: str) -> bool:
        value = environment.get(name, "")
        return value.isdigit() and int(value) > 1

    if "MEGASCALE_COORDINATOR_ADDRESS" in environment or (
        len(environment.get("TPU_WORKER_HOSTNAMES", "").split(",")) > 1
    ):
        return "TPU pod"
    # A shell inside an allocation has the job's variables too: only a started task has a rank.
    if several("SLURM_NTASKS") and "SLURM_PROCID" in environment:
        return "Slurm"
    if several("OMPI_COMM_WORLD_SIZE"):
        return "Open MPI"
    return None


def banner(
    title: str,
    *,
    mesh: Mesh | None = None,
    sizes: Mapping[str, Any] | None = None,
    writes: str | os.PathLike | None = None,
) -> str:
    """One paragraph that lets a reader catch a wrong run in ten seconds.

    Args:
        title: what is run.
        mesh: the mesh, if there is one.
        sizes: what to say about sizes, e.g. `{"parameters": "135 M", "rollouts": 640}`.
        writes: where the result will be.
    """
    devices = jax.devices()
    kinds = {device.device_kind for device in devices}
    lines = [
        title,
        f"  versions  interp_jax {__version__}, "
        + ", ".join(f"{name} {_version(name)}" for name in ("jax", "jaxlib", "penzai", "flax"))
        + f", Python {platform.python_version()}",
        f"  devices   {len(devices)} x {', '.join(sorted(kinds))} ({devices[0].platform}), "
        f"process {jax.process_index()} of {jax.process_count()}, {os.cpu_count()} host cores",
        f"  numbers   matmul precision {jax.config.jax_default_matmul_precision or 'default'}, "
        f"XLA flags {os.environ.get('XLA_FLAGS') or 'none'}",
    ]
    if mesh is not None:
        axes = ", ".join(f"{name} {size}" for name, size in mesh.shape.items())
        lines.append(f"  mesh      {axes}")
    if sizes:
        listed = ", ".join(f"{name} {value}" for name, value in sizes.items())
        lines.append(f"  sizes     {listed}")
    if writes is not None:
        lines.append(f"  writes    {os.fspath(writes)}")
    return "\n".join(lines)


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "absent"
