"""Dictionaries in a network, however it is run: scanned, swept, on eight devices, at strength 0."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from interp_jax.dictionaries.config import axis_letters
from interp_jax.dictionaries.dictionary import Dictionary
from interp_jax.interventions import reads, verbs
from interp_jax.interventions.dictionary import (
    ablate_latent,
    clamp_latent,
    read_latents,
    splice,
    steer_latent,
)
from interp_jax.interventions.where import Where
from interp_jax.models.stack import Stack
from interp_jax.runtime.mesh import make_mesh, named_sharding
from tests.interventions.contract import (
    batch_of,
    close,
    forward,
    network,
    noise,
    quick_forward,
    same_bits,
)
from tests.interventions.small_dictionaries import F, each, own, seen, small


def test_what_is_costly_leaves_the_scan_and_what_is_cheap_stays():
    d, net = each()[0], network("llama", "scanned")
    whole = splice("resid_post[1]", d, error=False)(net)
    few = clamp_latent("resid_post[1]", d, [1, 2], 0.5)(net)
    assert not any(isinstance(s, Stack) for s in whole.segments)  # one layer on either side
    assert [isinstance(s, Stack) for s in few.segments] == [True]
    second = np.eye(3, dtype=np.float32)[1]
    everywhere = splice("resid_post", d, error=False, layer_weights=second)(net)
    assert [isinstance(s, Stack) for s in everywhere.segments] == [True]
    run = lambda net: quick_forward(net, batch_of("llama"))[0]
    close(run(whole), run(everywhere))


def test_a_dictionary_for_each_layer_in_a_scan_equals_one_after_the_other():
    three = [own("jumprelu", seed) for seed in range(3)]
    stacked = jax.tree.map(lambda *a: jnp.stack(a), *three)
    latents = np.asarray([[1, 2], [3, 4], [5, 6]])
    value = noise(3, 2, tag="each")
    together = verbs.compose(
        splice("resid_post", stacked, error=False, per_layer=True, where=Where(positions=[2])),
        clamp_latent("resid_mid", stacked, latents, value, per_layer=True),
    )
    one_by_one = verbs.compose(*(
        verbs.compose(
            splice(f"resid_post[{i}]", d, error=False, where=Where(positions=[2])),
            clamp_latent(f"resid_mid[{i}]", d, latents[i], value[i]),
        )
        for i, d in enumerate(three)
    ))  # fmt: skip
    net = together(network("llama", "scanned"))
    assert isinstance(net.segments[0], Stack)
    close(quick_forward(net, batch_of("llama"))[0],
          quick_forward(one_by_one(network("llama")), batch_of("llama"))[0])


def test_a_transcoder_in_a_scan_equals_one_in_blocks():
    t = own("relu", skip=True, centred=False, code_norm="none")
    edit = verbs.compose(
        splice("mlp_out", t, error=False, reads="mlp_in", strength=0.5),
        clamp_latent("mlp_out[1]", t, [1, 2], 0.5, reads="mlp_in"),
    )
    scanned, blocks = edit(network("llama", "scanned")), edit(network("llama"))
    assert [isinstance(s, Stack) for s in scanned.segments] == [True]
    close(quick_forward(scanned, batch_of("llama")), quick_forward(blocks, batch_of("llama")))


def test_strength_zero_is_the_base_to_the_bit():
    """With the package's own dictionaries; the contract's cases bring a simpler one."""
    zero = np.float32(0.0)
    edits = []
    for i, d in enumerate(each()):
        site, put = f"resid_post[{i}]", Where(positions=[1, -1])
        edits += [
            splice(site, d, error=False, strength=zero, where=put),
            clamp_latent(site, d, [3, 4], 5.0, strength=zero),
            steer_latent(site, d, [5, 6], zero),
            ablate_latent(site, d, np.arange(F) < 5, strength=zero),
        ]
    idle = verbs.compose(*edits)(small(5))
    logits, tape = forward(idle, batch_of("llama"))
    same_bits(logits, forward(small(5), batch_of("llama"))[0])
    assert len(tape) == 20 and all(np.all(rows > 0) for rows in tape.values())


def test_a_sweep_over_latents_and_values_compiles_once(compile_counter):
    d = each()[2]
    net, batch = small(1), batch_of("llama")

    @jax.jit
    def sweep(latents, values):
        def one(latent, value):
            edit = clamp_latent("resid_post[0]", d, latent, value, units="scaled")
            look = verbs.read("resid_post[0]", name="x")
            return verbs.compose(edit, look)(net)(batch, logits_at="none")[1]["x"][0]

        return jax.vmap(one)(latents, values)

    latents = jnp.asarray([3, 11, 20], jnp.int32)
    with compile_counter() as counter:
        many = sweep(latents, jnp.asarray([1.0, 2.0, 3.0]))
        sweep(latents[::-1], jnp.asarray([0.0, 5.0, 3.0]))
    assert counter.count_of("sweep") == 1
    for i, (latent, value) in enumerate(((3, 1.0), (11, 2.0), (20, 3.0))):
        edit = clamp_latent("resid_post[0]", d, latent, np.float32(value), units="scaled")
        close(many[i], seen(edit, verbs.read("resid_post[0]", name="x"))["x"][0])


def test_latents_cut_over_eight_devices_equal_one():
    d = each()[2]
    mesh = make_mesh("data:2,model:4")
    cut = Dictionary(
        d.config,
        {
            name: jax.device_put(array, named_sharding(axis_letters(name)[: array.ndim], mesh))
            for name, array in d.arrays().items()
        },
    )
    assert cut.array("encoder").sharding.spec[0] == "model"
    edits = lambda d: verbs.compose(
        splice("resid_post[0]", d, error=False, where=Where(positions=[2])),
        clamp_latent("resid_post[0]", d, [[1, 2], [3, 4], [5, 6], [-1, 8]], 1.0),
        read_latents("resid_post[0]", d, name="top", reduce=reads.TopK(3)),
    )
    close(seen(edits(cut)), seen(edits(d)))
