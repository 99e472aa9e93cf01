"""Joining other processes, and the banner."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import jax
import pytest

from interp_jax.runtime import devices
from interp_jax.runtime.devices import banner, cluster, setup
from interp_jax.runtime.errors import UserError
from interp_jax.runtime.mesh import make_mesh

pytestmark = pytest.mark.core


@pytest.mark.parametrize(
    ("environment", "kind"),
    [
        ({}, None),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, None),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, "TPU pod"),
        ({"MEGASCALE_COORDINATOR_ADDRESS": "a"}, "TPU pod"),
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "1"}, "Slurm"),
        ({"SLURM_NTASKS": "4"}, None),  # a shell inside an allocation
        ({"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, None),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "Open MPI"),
    ],
)
def test_clusters_are_told_from_the_environment(environment, kind):
    assert cluster(environment) == kind


def test_who_is_joined(monkeypatch):
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *args: calls.append(args))
    monkeypatch.setattr(devices, "cluster", lambda: None)
    setup()
    assert calls == []
    setup(coordinator_address="host:1", num_processes=2, process_id=1)
    monkeypatch.setattr(devices, "cluster", lambda: "Slurm")
    setup()
    setup(skip_distributed=True)
    assert calls == [("host:1", 2, 1), ()]


@pytest.mark.parametrize(
    "flags",
    [
        {"coordinator_address": "host:1"},
        {"num_processes": 2, "process_id": 0},
        {"coordinator_address": "host:1", "num_processes": 2, "process_id": 2},
    ],
)
def test_flags_that_do_not_fit_are_refused(flags):
    with pytest.raises(UserError, match="give the three flags to every process"):
        setup(**flags)


def test_too_late_is_refused():
    jax.devices()
    with pytest.raises(UserError, match="before anything uses a device"):
        setup(coordinator_address="localhost:1", num_processes=1, process_id=0)


def test_the_banner_says_what_runs():
    text = banner(
        "Thought anchors", mesh=make_mesh("data:4,model:2"), sizes={"rollouts": 64}, writes="runs/x"
    )
    for part in (
        "Thought anchors",
        jax.__version__,
        "8 x cpu",
        "data 4, model 2",
        "rollouts 64",
        "runs/x",
        "process 0 of 1",
    ):
        assert part in text


TWO = """
import sys
from interp_jax.runtime.devices import make_mesh, setup
from interp_jax.runtime.process import is_writer
from interp_jax.runtime.spread import spread
from interp_jax.runtime.workdir import Workdir
rank = int(sys.argv[2])
setup(coordinator_address=sys.argv[1], num_processes=2, process_id=rank)
import jax, numpy as np
assert jax.process_count() == 2 and is_writer() == (rank == 0)
place = Workdir(sys.argv[3], {"seed": 0})
place.write_text(f"from-{rank}", "x")
out = spread(lambda x, w: x * w, make_mesh("data:-1"))(
    np.arange(4, dtype=np.float32), np.float32(2)
)
local = {shard.index[0].start or 0: shard.data.tolist() for shard in out.addressable_shards}
print(sorted(local.items()), flush=True)
"""


def test_two_real_processes(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", TWO, address, str(rank), str(tmp_path / "run")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for rank in range(2)
    ]
    try:
        ended = [process.communicate(timeout=90) for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0, 0], ended
    assert [out.splitlines()[-1] for out, _ in ended] == [
        "[(0, [0.0]), (1, [2.0])]",
        "[(2, [4.0]), (3, [6.0])]",
    ]
    assert sorted(os.listdir(tmp_path / "run")) == ["config.json", "from-0"]
