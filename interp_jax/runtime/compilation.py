"""What is compiled, how often, and what it will cost; and the cache of compiled programs."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import platform
import time
from collections.abc import Callable
from typing import Any

import jax

_EXECUTABLE = "/jax/core/compile/backend_compile_duration"
_CACHE_HIT = "/jax/compilation_cache/cache_hits"


class CompileCounter:
    """Counts the programs JAX builds inside a `with` block, from JAX's own monitoring events.

    A program fetched from the persistent cache counts like one compiled afresh (JAX sends the
    same event around both), so a count does not depend on the state of that cache. Small
    programs behind eager operations count too: warm them up before, or ask `count_of`.

    Attributes:
        names: the function name of each program, in order.
        seconds: time spent building or fetching them.
        cache_hits: how many of them came from the persistent cache.
    """

    def __init__(self):
        self.names: list[str] = []
        self.seconds = 0.0
        self.cache_hits = 0

    @property
    def count(self) -> int:
        """The number of programs built or fetched so far."""
        return len(self.names)

    def count_of(self, name: str) -> int:
        """How many of them are jitted functions whose `__name__` is `name`."""
        return sum(found in (name, f"jit({name})", f"pmap({name})") for found in self.names)

    def __enter__(self) -> CompileCounter:
        jax.monitoring.register_event_duration_secs_listener(self._duration)
        jax.monitoring.register_event_listener(self._event)
        return self

    def __exit__(self, *_: object) -> None:
        jax.monitoring.unregister_event_duration_listener(self._duration)
        jax.monitoring.unregister_event_listener(self._event)

    def __str__(self) -> str:
        return f"{self.count} programs ({self.cache_hits} from the cache) in {self.seconds:.1f} s"

    def _duration(self, event: str, duration: float, **details: Any) -> None:
        if event == _EXECUTABLE:
            self.names.append(str(details.get("fun_name", "")))
            self.seconds += duration

    def _event(self, event: str, **_: Any) -> None:
        self.cache_hits += event == _CACHE_HIT


def enable_compilation_cache(
    folder: str | os.PathLike, *, min_seconds: float = 1.0
) -> pathlib.Path:
    """Keeps compiled programs between runs, in a folder per kind of machine inside `folder`.

    Whoever can write there can run code as you: share it only with people you trust.

    Args:
        folder: made when missing.
        min_seconds: programs that compile faster are not kept.

    Returns:
        The folder used.
    """
    from jax.experimental.compilation_cache import compilation_cache

    used = pathlib.Path(folder).expanduser().absolute()
    used = used / f"{jax.default_backend()}-{platform.machine()}"
    used.mkdir(parents=True, exist_ok=True)
    jax.config.update("jax_compilation_cache_dir", str(used))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", min_seconds)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    compilation_cache.reset_cache()  # JAX decides once whether it has a cache
    return used


@dataclasses.dataclass(frozen=True)
class Plan:
    """What one compiled call costs, per device.

    Attributes:
        argument_bytes, output_bytes: arrays going in and coming out.
        temporary_bytes: scratch memory while it runs.
        aliased_bytes: outputs that reuse a donated argument.
        code_bytes: the program itself.
        flops: floating-point operations, as the compiler counts them (a loop's body once); None
            where the backend does not say.
        bytes_accessed: memory read and written, likewise.
        compile_seconds: time to trace, lower and compile.
    """

    argument_bytes: int
    output_bytes: int
    temporary_bytes: int
    aliased_bytes: int
    code_bytes: int
    flops: float | None
    bytes_accessed: float | None
    compile_seconds: float

    @property
    def peak_bytes(self) -> int:
        """Bytes held at once at most: arguments, outputs and temporaries less what is shared."""
        return self.argument_bytes + self.output_bytes + self.temporary_bytes - self.aliased_bytes

    def __str__(self) -> str:
        mebi = 2**20
        flops = "unknown" if self.flops is None else f"{self.flops:.3g}"
        return (
            f"arguments {self.argument_bytes / mebi:.1f} MiB, outputs "
            f"{self.output_bytes / mebi:.1f} MiB, temporaries {self.temporary_bytes / mebi:.1f} "
            f"MiB, together {self.peak_bytes / mebi:.1f} MiB; {flops} flops; compiled in "
            f"{self.compile_seconds:.1f} s"
        )


def plan(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Plan:
    """Lowers and compiles `function` for these arguments, without running it.

    Args:
        function: jitted, or a plain function (jitted here).
        args, kwargs: arrays or `jax.ShapeDtypeStruct`s, as the call would have them.
    """
    started = time.perf_counter()
    jitted = function if hasattr(function, "lower") else jax.jit(function)
    compiled = jitted.lower(*args, **kwargs).compile()
    seconds = time.perf_counter() - started
    memory = compiled.memory_analysis()
    cost = compiled.cost_analysis() or {}
    return Plan(
        argument_bytes=memory.argument_size_in_bytes,
        output_bytes=memory.output_size_in_bytes,
        temporary_bytes=memory.temp_size_in_bytes,
        aliased_bytes=memory.alias_size_in_bytes,
        code_bytes=memory.generated_code_size_in_bytes,
        flops=cost.get("flops"),
        bytes_accessed=cost.get("bytes accessed"),
        compile_seconds=seconds,
    )
