"""What the benchmarks share: what else the machine did meanwhile, and what it is."""

from __future__ import annotations

import json
import os
import pathlib
import platform
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))  # run without installing

import jax

QUIET = 0.1
"""Share of the cores that others may take in a round that counts."""


def busy_seconds() -> tuple[float, float]:
    """CPU seconds so far: of the whole machine (0 where it does not say), of this process."""
    own, stat = os.times(), pathlib.Path("/proc/stat")
    if not stat.exists():
        return 0.0, own.user + own.system
    user, nice, system, _, _, irq, soft = map(int, stat.read_text().split()[1:8])
    ticks = os.sysconf("SC_CLK_TCK")
    return (user + nice + system + irq + soft) / ticks, own.user + own.system


def timed(function) -> tuple[object, float, float]:
    """What a call returns, its seconds, and the share of the cores that others took meanwhile."""
    everyone, own = busy_seconds()
    start = time.perf_counter()
    result = function()
    seconds = time.perf_counter() - start
    after, own_after = busy_seconds()
    others = max(0.0, (after - everyone) - (own_after - own))
    return result, seconds, others / (seconds * (os.cpu_count() or 1))


def rate(function) -> tuple[float, float]:
    """Tokens per second of a call that returns its tokens, and what others took meanwhile."""
    tokens, seconds, others = timed(function)
    return tokens / seconds, others


def wait_until_quiet(deadline: float) -> None:
    """Until the others take less than 5 % of the cores for two seconds, or the deadline."""
    while time.monotonic() < deadline:
        if timed(lambda: time.sleep(2))[2] < QUIET / 2:
            return


def keep(rows: list[dict], path: str | os.PathLike | None) -> None:
    """Writes the rows of a benchmark as JSON, whole or not at all; to nowhere without a path."""
    if path is None:
        return
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(rows, indent=1) + "\n")
    partial.replace(path)
    print(f"wrote {path}")


def versions() -> dict[str, str]:
    """Library versions of this run, of those that it uses."""
    found = {"python": platform.python_version(), "jax": jax.__version__}
    for name in ("torch", "transformers"):
        if name in sys.modules:
            found[name] = sys.modules[name].__version__
    return found


def processor() -> str:
    """The CPU's or accelerator's generic name, with the number of cores of a CPU."""
    if jax.default_backend() != "cpu":
        return jax.devices()[0].device_kind
    info = pathlib.Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} cores"
