"""One case for each verb of the contract test.

A case builds its intervention from a dictionary of values. So the same values can be leaves of
a network that is passed to `jit`, mapped by `vmap`, or differentiated.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from interp_jax.interventions import dictionary, reads, verbs
from interp_jax.interventions.dictionary_reads import TopLatents
from interp_jax.interventions.lora import Adapter, LoRA
from interp_jax.interventions.where import Where
from interp_jax.models.config import ModelConfig, parameter_shapes
from interp_jax.models.sites import Site
from tests.interventions.contract import CONFIGS, LENGTHS, ROWS, network, noise
from tests.interventions.plain_dictionary import plain_dictionary

Values = dict[str, Any]
SPANS = np.asarray([[0, 2], [2, 5], [5, 9]], np.int32)
SOME = Where(positions=[1, -1])  # the second token and the last one
LATE = Where(spans=[[2, 99]])
KEYS = Where(spans=[[1, 3]])


def some_layers(config: ModelConfig) -> tuple[int, ...]:
    """Layers of both kinds, in the scanned part and in the remainder."""
    return {3: (0, 2), 5: (0, 3, 4), 13: (0, 5, 7, 12)}[config.n_layers]


def positions(length: int, prompt: int) -> dict[Where, set[int]]:
    """What each clause above means for a row, told without the library."""
    return {
        id(SOME): {1, prompt - 1} & set(range(length)),
        id(LATE): set(range(2, length)),
        id(KEYS): {1, 2} & set(range(length)),
    }


@dataclasses.dataclass(frozen=True)
class Case:
    """An intervention under test.

    Attributes:
        values: config -> its values; `strength` and `layer_weights` where it has them.
        build: (config, values) -> the intervention.
        where: the clause of its counted tokens; None where they are counted otherwise.
        counts: (config, row's length, prompt) -> tape name -> touched tokens of the row.
        probe: a site that shows the edit, by layer; None for none.
        rows: names of values whose leading axis is the batch.
        path: attention path of the network.
    """

    values: Callable[[ModelConfig], Values]
    build: Callable[[ModelConfig, Values], Any]
    counts: Callable[[ModelConfig, int, int], dict[str, int]]
    probe: str | None = None
    where: Where = SOME
    rows: tuple[str, ...] = ()
    path: str = "auto"

    def edited(self, name: str, layout: str, dtype: str = "float32", **changed):
        """The network of a config with the intervention in place, values changed by name."""
        config = CONFIGS[name]
        net = dataclasses.replace(network(name, layout, dtype), path=self.path)
        return self.build(config, self.values(config) | changed)(net)


def _site(config: ModelConfig, name: str) -> Site:
    return Site(name, some_layers(config))


def _counts(*names: str, where: Where = SOME, layers=some_layers):
    """The same clause at each of `names`, in each of the layers."""

    def counts(config, length, prompt):
        tokens = len(positions(length, prompt)[id(where)])
        times = len(layers(config)) if callable(layers) else layers
        return {f"{name}": times * tokens for name in names}

    return counts


def _weights(config: ModelConfig) -> np.ndarray:
    return np.linspace(1.0, 0.5, len(some_layers(config)), dtype=np.float32)


def _vector_case(verb, name: str, axis: str, *, label: str, rows=(), where=SOME, **extra) -> Case:
    """A case of one edit; `extra` gives further values by config."""

    def values(config):
        size = getattr(config, axis)
        return {
            "vector": noise(ROWS, size, tag=label) if "vector" in rows else noise(size, tag=label),
            "strength": np.asarray([0.7, 0.4, 1.2, 0.9], np.float32)
            if "strength" in rows else np.float32(0.6),
            "layer_weights": _weights(config),
            **{key: make(config) for key, make in extra.items()},
        }

    def build(config, v):
        return verb(_site(config, name), **v, where=where, name=label)

    return Case(values, build, _counts(label, where=where), probe=name, rows=rows, where=where)


def _adapters(config: ModelConfig, v: Values, choice=None) -> LoRA:
    layers = some_layers(config)
    made = {
        target: Adapter(
            name=f"lora/{target}", site=Site(f"proj_{target}", layers),
            a=v[f"{target}/a"], b=v[f"{target}/b"], scale=v["scale"], choice=choice, where=LATE,
            strength=v["strength"], layer_weights=v["layer_weights"],
        )
        for target in ("q", "down")
    }  # fmt: skip
    return LoRA(made, 2)


def _lora_values(stack: tuple[int, ...]):
    def values(config):
        shapes, layers = parameter_shapes(config), (len(some_layers(config)), *stack)
        made: Values = {"strength": np.float32(0.8), "layer_weights": _weights(config)}
        made["scale"] = np.linspace(0.5, 1.5, 3, dtype=np.float32) if stack else np.float32(0.5)
        for target in ("q", "down"):
            inputs, outputs = shapes[f"layers.0.{target}.weight"]
            made[f"{target}/a"] = 0.3 * noise(*layers, inputs, 2, tag=target)
            made[f"{target}/b"] = 0.3 * noise(*layers, 2, outputs, tag=target)
        return made

    return values


def _reads(config: ModelConfig, v: Values):
    at = lambda name: _site(config, name)
    return verbs.compose(
        verbs.read(at("resid_post"), where=SOME, name="as_is"),
        verbs.read(at("attn_out"), where=SOME, reduce=reads.Last(), name="last"),
        verbs.read(at("mlp_out"), where=SOME, reduce=reads.Mean(), name="mean"),
        verbs.read(at("mlp_hidden"), where=SOME, reduce=reads.SpanMeans(SPANS), name="spans"),
        verbs.read(
            Site("head_out", some_layers(config), (0,)), where=SOME, reduce=reads.Norm(),
            name="norm",
        ),
        verbs.read(
            at("resid_mid"), where=SOME, reduce=reads.Projection(v["directions"]), name="project"
        ),
        verbs.read("logits", where=SOME, reduce=reads.TopK(3), name="top_k"),
    )  # fmt: skip


def _reads_counts(config, length, prompt):
    tokens, layers = len(positions(length, prompt)[id(SOME)]), len(some_layers(config))
    names = ("as_is", "last", "mean", "spans", "norm", "project")
    return {name: layers * tokens for name in names} | {"top_k": tokens}


def _attention_reads(config: ModelConfig, v: Values):
    return verbs.compose(
        verbs.read(_site(config, "attn_weights"), where=SOME, name="matrix"),
        verbs.read(
            _site(config, "attn_weights"), reduce=reads.SpanMeans(SPANS), where=LATE, name="means"
        ),
        verbs.read(_site(config, "attn_scores"), where=SOME, name="scores"),
    )


def _attention_reads_counts(config, length, prompt):
    here, layers = positions(length, prompt), len(some_layers(config))
    some, late = len(here[id(SOME)]), len(here[id(LATE)])
    return {"matrix": layers * some, "scores": layers * some, "means": layers * late}


def _heads_values(config):
    size = config.head_dim
    return {
        "query": noise(config.n_heads, size, tag="q"), "key": noise(size, tag="k"),
        "value": noise(size, tag="v"), "strength": np.float32(0.6),
        "layer_weights": _weights(config),
    }  # fmt: skip


def _heads(config, v):
    common = {"where": SOME, "strength": v["strength"], "layer_weights": v["layer_weights"]}
    at = lambda name, heads=None: Site(name, some_layers(config), heads)
    return verbs.compose(
        verbs.add(at("attn_q", (1,)), v["query"], name="q", **common),
        verbs.replace(at("attn_k", (0,)), v["key"], name="k", **common),
        verbs.add(at("attn_v"), v["value"], name="v", **common),
    )


def _suppress(config, v):
    return verbs.suppress_attention(
        KEYS, layers=some_layers(config), heads=(0,), where=LATE, name="suppress",
        strength=v["strength"], layer_weights=v["layer_weights"],
    )  # fmt: skip


def _suppress_values(config):
    strength = np.asarray([0.7, 0.4, 0.95, 0.9], np.float32)
    return {"strength": strength, "layer_weights": _weights(config)}


def _once(config, v):
    return verbs.compose(
        verbs.add("embed", v["embed"], strength=v["strength"], where=SOME, name="embed"),
        verbs.scale("final_norm", v["factor"], strength=v["strength"], where=SOME, name="final"),
        verbs.replace("logits", v["logits"], strength=v["strength"], where=SOME, name="logits"),
    )


def _once_values(config):
    return {
        "embed": noise(config.width, tag="embed"), "logits": noise(config.vocab_size, tag="out"),
        "factor": np.float32(0.3), "strength": np.float32(0.7),
    }  # fmt: skip


def _composed(config, v):
    common = {"strength": v["strength"], "layer_weights": v["layer_weights"]}
    return verbs.compose(
        verbs.add(_site(config, "resid_post"), v["vector"], where=SOME, name="add", **common),
        verbs.read(_site(config, "resid_post"), where=SOME, name="between"),
        verbs.project_out(
            _site(config, "resid_post"), v["vector2"], where=LATE, name="project", **common
        ),
        _suppress(config, v),
        verbs.scale(
            _site(config, "attn_weights"), v["factor"], where=LATE, keys=KEYS, name="weights",
            **common,
        ),
        _adapters(config, v),
        verbs.read(_site(config, "resid_post"), where=SOME, name="after"),
    )  # fmt: skip


def _composed_values(config):
    return _lora_values(())(config) | {
        "vector": noise(config.width, tag="one"), "vector2": noise(config.width, tag="two"),
        "factor": np.float32(0.3),
    }  # fmt: skip


def _composed_counts(config, length, prompt):
    here, layers = positions(length, prompt), len(some_layers(config))
    some, late = layers * len(here[id(SOME)]), layers * len(here[id(LATE)])
    return {
        "add": some, "between": some, "after": some, "project": late, "suppress": late,
        "weights": late, "lora/q": late, "lora/down": late,
    }  # fmt: skip


def _ablated(config, v):
    heads = {layer: (layer % 2,) for layer in some_layers(config)}
    return verbs.ablate_heads(heads, strength=v["strength"], where=SOME)


def _ablated_counts(config, length, prompt):
    tokens = len(positions(length, prompt)[id(SOME)])
    return {f"ablate_heads/{layer}": tokens for layer in some_layers(config)}


def _per_position_values(config):
    return {
        "vector": noise(ROWS, 4, config.width, tag="positions"), "strength": np.float32(0.5),
        "layer_weights": _weights(config),
    }  # fmt: skip


def _per_position_counts(config, length, prompt):
    late = positions(length, prompt)[id(LATE)] & set(range(4))
    return {"positions": len(some_layers(config)) * len(late)}


F = 12  # latents of the dictionaries below
LATENTS = np.asarray([[2, 7, -1], [0, 3, 4], [11, 1, 5], [6, -1, 9]], np.int32)  # per row; -1: none


def _splice(config, v):
    return dictionary.splice(
        _site(config, "resid_post"), plain_dictionary(config.width, F), error=True, where=SOME,
        name="splice", **v,
    )  # fmt: skip


def _latents(config, v):
    common = {"strength": v["strength"], "layer_weights": v["layer_weights"], "where": SOME}
    one, two = (plain_dictionary(config.width, F, tag=tag) for tag in "ab")
    gone = np.arange(F) % 3 == 0
    return verbs.compose(
        dictionary.steer_latent(
            _site(config, "resid_post"), one, [1, 8], amount=v["amount"], units="unit",
            name="steer", **common,
        ),
        dictionary.clamp_latent(
            _site(config, "resid_post"), two, v.get("choice", LATENTS), v["value"],
            units="scaled", name="clamp", **common,
        ),
        dictionary.ablate_latent(_site(config, "attn_out"), one, gone, name="ablate", **common),
    )  # fmt: skip


def _latents_values(config):
    return {
        "amount": np.asarray([1.5, -2.0], np.float32), "value": noise(ROWS, 3, tag="clamp"),
        "choice": LATENTS, "strength": np.asarray([0.7, 0.4, 1.2, 0.9], np.float32),
        "layer_weights": _weights(config),
    }  # fmt: skip


def _transcoder(config, v):
    return dictionary.splice(
        _site(config, "mlp_out"), plain_dictionary(config.width, F, tag="t"), reads="mlp_in",
        error=False, where=LATE, name="transcoder", **v,
    )  # fmt: skip


def _latent_reads(config, v):
    own = plain_dictionary(config.width, F, tag="r")
    at = lambda name: _site(config, name)
    return verbs.compose(
        dictionary.read_latents(at("resid_mid"), own, reduce=reads.TopK(3), where=SOME, name="top"),
        dictionary.read_latents(
            at("resid_pre"), own, latents=[4, 2], units="scaled", where=SOME, name="chosen"
        ),
        dictionary.read_latents("final_norm", own, reduce=TopLatents(2), where=SOME, name="mean"),
    )


def _latent_reads_counts(config, length, prompt):
    tokens, layers = len(positions(length, prompt)[id(SOME)]), len(some_layers(config))
    return {"top": layers * tokens, "chosen": layers * tokens, "mean": tokens}


CHOICE = np.asarray([2, 0, 1, 2], np.int32)
LORA_COUNTS = _counts("lora/q", "lora/down", where=LATE)
CASES: dict[str, Case] = {
    "reads": Case(
        lambda c: {"directions": noise(2, c.width, tag="directions")}, _reads, _reads_counts
    ),
    "attention_reads": Case(lambda c: {}, _attention_reads, _attention_reads_counts),
    "add": _vector_case(
        verbs.add, "resid_post", "width", label="add", rows=("vector", "strength")
    ),
    "add_by_position": Case(
        _per_position_values,
        lambda c, v: verbs.add(_site(c, "resid_mid"), **v, where=LATE, name="positions"),
        _per_position_counts, rows=("vector",), where=LATE,
    ),
    "replace": _vector_case(verbs.replace, "attn_out", "width", label="replace"),
    "project_out": _vector_case(
        verbs.project_out, "resid_pre", "width", label="project_out", where=LATE
    ),
    "set_component": _vector_case(
        verbs.set_component, "mlp_out", "width", label="set", rows=("target",),
        target=lambda c: np.asarray([1.0, -2.0, 3.0, 0.5], np.float32),
    ),
    "scale": Case(
        lambda c: {
            "factor": np.float32(0.2), "strength": np.float32(0.7), "layer_weights": _weights(c)
        },
        lambda c, v: verbs.scale(_site(c, "resid_mid"), **v, where=SOME, name="scale"),
        _counts("scale"), probe="resid_mid",
    ),
    "scale_weights": Case(
        lambda c: {
            "factor": np.float32(0.2), "strength": np.float32(0.7), "layer_weights": _weights(c)
        },
        lambda c, v: verbs.scale(
            _site(c, "attn_weights"), **v, where=LATE, keys=KEYS, name="scale_weights"
        ),
        _counts("scale_weights", where=LATE), probe="attn_weights", where=LATE,
    ),
    "heads": Case(_heads_values, _heads, _counts("q", "k", "v"), probe="attn_q"),
    "ablate_heads": Case(
        lambda c: {"strength": np.float32(0.8)}, _ablated, _ablated_counts, probe="head_out"
    ),
    "suppress": Case(
        _suppress_values, _suppress, _counts("suppress", where=LATE), probe="attn_weights",
        where=LATE, rows=("strength",), path="reference",
    ),
    "suppress_fused": Case(
        _suppress_values, _suppress, _counts("suppress", where=LATE), where=LATE,
        rows=("strength",), path="fused",
    ),
    "lora": Case(
        _lora_values(()), _adapters, LORA_COUNTS, probe="attn_q", where=LATE,
    ),
    "lora_by_row": Case(
        lambda c: _lora_values((3,))(c) | {"choice": CHOICE},
        lambda c, v: _adapters(c, v, v.get("choice", CHOICE)), LORA_COUNTS, probe="attn_q",
        where=LATE, rows=("choice",),
    ),
    "splice": Case(
        lambda c: {
            "strength": np.float32(0.7), "layer_weights": _weights(c),
            "delta": 0.5 * noise(F, tag="delta"),
        },
        _splice, _counts("splice"), probe="resid_post",
    ),
    "latents": Case(
        _latents_values, _latents, _counts("steer", "clamp", "ablate"), probe="resid_post",
        rows=("choice", "value", "strength"),
    ),
    "transcoder": Case(
        lambda c: {
            "strength": np.float32(0.7), "layer_weights": _weights(c),
            "delta": 2 * noise(ROWS, F, tag="delta rows"),
        },
        _transcoder, _counts("transcoder", where=LATE), probe="mlp_out", where=LATE,
        rows=("delta",),
    ),
    "latent_reads": Case(lambda c: {}, _latent_reads, _latent_reads_counts),
    "once": Case(_once_values, _once, _counts("embed", "final", "logits", layers=1)),
    "composed": Case(_composed_values, _composed, _composed_counts),
}  # fmt: skip


def bundled(*names: str, path: str = "auto") -> Case:
    """Several cases in one network, for what takes long to compile. Values are `case/value`."""
    own = lambda values, name: {
        key.removeprefix(name + "/"): v for key, v in values.items() if key.startswith(name + "/")
    }

    def values(config):
        return {f"{n}/{k}": v for n in names for k, v in CASES[n].values(config).items()}

    def build(config, v):
        return verbs.compose(*(CASES[n].build(config, own(v, n)) for n in names))

    def counts(config, length, prompt):
        every = [CASES[n].counts(config, length, prompt) for n in names]
        return {key: rows for counted in every for key, rows in counted.items()}

    rows = tuple(f"{n}/{key}" for n in names for key in CASES[n].rows)
    return Case(values, build, counts, rows=rows, path=path)


# Between them they hold every verb: `composed` has those that no other case of a bundle has.
BUNDLES: dict[str, Case] = {
    "bundle_one": bundled(
        "reads", "add", "replace", "heads", "set_component", "lora_by_row", "suppress"
    ),
    "bundle_two": bundled(
        "composed", "scale", "once", "ablate_heads", "add_by_position", "attention_reads"
    ),
    "bundle_three": bundled("suppress_fused", "project_out", "lora", path="fused"),
    "bundle_four": bundled("latent_reads", "splice", "transcoder", "latents"),
}
EVERY = CASES | BUNDLES


def splits(case: str) -> bool:
    """Whether the case edits attention or encodes much, so that its layers leave a stack."""
    return case in ("attention_reads", "scale_weights", "composed", "bundle_two", "bundle_four")


def zeroed(case: Case, config: ModelConfig) -> Values:
    """The values at strength zero: those that change, by name."""
    values = case.values(config).items()
    return {key: np.zeros_like(v) for key, v in values if key.split("/")[-1] == "strength"}


def expected_counts(case: Case, config: ModelConfig, prompts=LENGTHS) -> dict[str, np.ndarray]:
    """Tape name -> int32 [B], told without the library."""
    rows = [case.counts(config, n, p) for n, p in zip(LENGTHS, prompts, strict=True)]
    return {
        f"touched/{name}": np.asarray([row[name] for row in rows], np.int32) for name in rows[0]
    }


def floating(values: Values) -> dict[str, jax.Array]:
    """The values that have a gradient, in float64."""
    return {k: jnp.asarray(v, jnp.float64) for k, v in values.items() if not k.endswith("choice")}
