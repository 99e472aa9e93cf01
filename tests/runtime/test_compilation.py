"""Compilations are counted from JAX's events; plans agree with closed forms."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from interp_jax.runtime.compilation import enable_compilation_cache, plan

pytestmark = pytest.mark.core


def test_each_shape_is_one_compilation(compile_counter):
    @jax.jit
    def doubled(x):
        return x + x

    one, two = jnp.ones(3), jnp.ones(4)
    with compile_counter() as counter:
        for x in (one, two, one, two):
            doubled(x)
    assert counter.count == counter.count_of("doubled") == 2
    assert counter.seconds > 0
    with compile_counter() as after:
        doubled(one)
    assert after.count == 0
    assert counter.count == 2  # it listens inside its block only


def test_a_program_from_the_cache_counts(compile_counter, tmp_path):
    x = jnp.ones(5)

    def build():
        # A new function object each time, so nothing but the persistent cache can know it.
        def tripled(x):
            return x + x + x

        with compile_counter() as counter:
            jax.jit(tripled)(x)
        return counter

    before = {
        name: getattr(jax.config, name)
        for name in (
            "jax_compilation_cache_dir",
            "jax_persistent_cache_min_compile_time_secs",
            "jax_persistent_cache_min_entry_size_bytes",
        )
    }
    try:
        used = enable_compilation_cache(tmp_path, min_seconds=0.0)
        first, second = build(), build()
        assert list(used.iterdir())
    finally:
        from jax.experimental.compilation_cache import compilation_cache

        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
    assert (first.count_of("tripled"), first.cache_hits) == (1, 0)
    assert (second.count_of("tripled"), second.cache_hits) == (1, 1)


def test_a_plan_runs_nothing_and_counts_bytes_and_flops():
    shape = jax.ShapeDtypeStruct((64, 32), jnp.float32)
    other = jax.ShapeDtypeStruct((32, 16), jnp.float32)
    ran = []

    def product(a, b):
        jax.debug.callback(lambda: ran.append(1))
        return a @ b

    found = plan(product, shape, other)
    assert found.argument_bytes == 4 * (64 * 32 + 32 * 16)
    assert found.output_bytes == 4 * 64 * 16
    assert found.flops == pytest.approx(2 * 64 * 32 * 16, rel=0.05)
    assert found.peak_bytes >= found.argument_bytes + found.output_bytes
    assert not ran
    assert "MiB" in str(found)


def test_a_donated_argument_is_not_counted_twice():
    shape = jax.ShapeDtypeStruct((128, 128), jnp.float32)
    found = plan(jax.jit(lambda x: x + x, donate_argnums=0), shape)
    assert found.aliased_bytes == 4 * 128 * 128
    assert found.peak_bytes < 2 * 4 * 128 * 128 + 1024
