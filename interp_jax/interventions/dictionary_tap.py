"""What every use of a dictionary in a network shares: where it reads, where it writes, its latents.

A dictionary is known here by what it does (`SparseDictionary`), not by its class. Its arrays are
leaves of the intervention, so they may be traced, mapped and differentiated; they are not looked
at for NaNs, since that would bring gigabytes to the host.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, Protocol

import jax
import jax.numpy as jnp

from interp_jax.interventions.edits import row_factor, static
from interp_jax.interventions.placing import place, tap_names
from interp_jax.interventions.where import EVERYWHERE, Where
from interp_jax.models.config import ModelConfig
from interp_jax.models.decoder import Decoder
from interp_jax.models.sites import SITES, Site
from interp_jax.models.taps import Context, Record, Tap, tap_class, touched
from interp_jax.runtime.errors import UserError

#: `code`: the code f, which the decoder takes. `scaled`: f * s, which dashboards show.
CodeUnits = Literal["code", "scaled"]


class SparseDictionary(Protocol):
    """A pytree that encodes and decodes; `interp_jax.dictionaries.dictionary.Dictionary` is one.

    Attributes:
        config: has `width`, `inputs` and `read_inputs` of the encoder; `out_width`, `outs`,
            `skip` and `decoupled` (one code for each output) of the decoder; and `latents`.
        per_latent: the code of a latent depends on its own pre-activation alone.
    """

    config: Any
    per_latent: bool

    def encode(self, x: jax.Array) -> jax.Array:
        """[..., D] (or [..., M, D]) -> [..., F] (or [..., O, F])."""

    def decode(self, code: jax.Array, x: jax.Array) -> jax.Array:
        """The reconstruction [..., D] (or [..., O, D]), with biases and any skip path."""

    def narrowed(self, latents: jax.Array) -> SparseDictionary:
        """The dictionary of int32 [P] of the latents."""

    def scale(self) -> jax.Array:
        """s [F] (or [O, F]): the scaled code is f * s."""

    def written_rows(self, output: int) -> jax.Array:
        """[F, D]: what a unit of each latent's code adds to an output."""


@tap_class
class Hold(Tap):
    """Keeps the value of its site for a tap later in the same block; counts nothing."""

    def visit(self, value: jax.Array, context: Context, record: Record) -> jax.Array:
        """Holds the value, which goes on unchanged."""
        record.held[self.name] = value
        return value


@tap_class
class DictionaryTap(Tap):
    """A dictionary at a site.

    Attributes:
        dictionary: its arrays are leaves.
        where: which tokens.
        per_layer: every array of the dictionary, and every operand but strengths, leads with an
            axis over the site's layers.
        output: which reconstructed activation is meant, for a dictionary that has several.
    """

    dictionary: Any = None
    where: Where = EVERYWHERE
    per_layer: bool = static(False)
    output: int | None = static(None)

    def here(self, context: Context) -> SparseDictionary:
        """The dictionary of the layer that is being visited."""
        return at_layer(self.dictionary, self.per_layer, context)

    @property
    def out(self) -> int:
        """The output meant, 0 where there is but one."""
        return self.output or 0

    def require_encodable(self, network: Decoder, site: Site) -> None:
        """Raises UserError unless the encoder reads one activation and it is that of `site`."""
        config = self.dictionary.config
        if len(config.read_inputs) != 1 or (config.skip and config.inputs > 1):
            raise UserError(
                found=f"a dictionary that reads {config.inputs} activations at once, for {site}",
                expected="an encoder of one activation (config.encoder_inputs)",
                do="only steer_latent works here; or encode outside and use add or replace",
            )
        require_width(network.config, site, config.width, "reads")

    def require_output(self, network: Decoder, site: Site) -> None:
        """Raises UserError unless one output is meant and its width is that of `site`."""
        config = self.dictionary.config
        if (self.output is None and config.outs > 1) or not 0 <= self.out < config.outs:
            raise UserError(
                found=f"output {self.output} of a dictionary that reconstructs {config.outs}",
                expected=f"one of 0 to {config.outs - 1}", do="say which with output=",
            )
        require_width(network.config, site, config.out_width, "writes")


def at_layer(tree: Any, per_layer: bool, context: Context) -> Any:
    """Arrays of the layer that is being visited, where they lead with an axis over layers."""
    return jax.tree.map(lambda a: jnp.asarray(a)[context.slot], tree) if per_layer else tree


def require_width(config: ModelConfig, site: Site, width: int, verb: str) -> None:
    """Raises UserError unless a token's value at `site`, heads side by side, has `width` numbers.

    Raises:
        UserError: another width, heads named, or a site without a value for each token.
    """
    sizes = {
        "BTD": config.width, "BTF": config.mlp_width, "BTV": config.vocab_size,
        "BTHd": config.n_heads * config.head_dim, "BTKd": config.n_kv_heads * config.head_dim,
    }  # fmt: skip
    here = sizes.get(site.axes) if site.name in SITES and site.heads is None else None
    if here != width:
        raise UserError(
            found=f"a dictionary that {verb} activations of width {width}, at {site}",
            expected="a site with one value for each token and no heads named"
            if here is None else f"width {here}",
            do="use the site and the network that the dictionary was trained on",
        )  # fmt: skip


def flat(value: jax.Array) -> jax.Array:
    """[B, T, ...] -> [B, T, W]; heads stand side by side."""
    return value.reshape(*value.shape[:2], -1)


def encoder_input(dictionary: SparseDictionary, value: jax.Array) -> jax.Array:
    """[..., D], or [..., M, D] with zeros for inputs that the encoder does not read."""
    config = dictionary.config
    if config.inputs == 1:
        return value
    empty = jnp.zeros((*value.shape[:-1], config.inputs, value.shape[-1]), value.dtype)
    return empty.at[..., config.read_inputs[0], :].set(value)


def whole_code(dictionary: SparseDictionary, x: jax.Array, output: int) -> jax.Array:
    """The code [..., F] of `encoder_input`; when decoupled, that of the output."""
    code = dictionary.encode(x)
    return code[..., output, :] if dictionary.config.decoupled else code


def reconstruction(dictionary: SparseDictionary, x: jax.Array, output: int, shift=None):
    """decode(encode(x) + shift) [..., D] at one output; `shift` broadcasts against [..., F]."""
    code = dictionary.encode(x)
    if shift is not None:
        code = code + (shift[..., None, :] if dictionary.config.decoupled else shift)
    out = dictionary.decode(code, x)
    return out if dictionary.config.outs == 1 else out[..., output, :]


@tap_class
class DictionaryEdit(DictionaryTap):
    """A dictionary that changes what is at its site.

    Attributes:
        strength: [] or [B]; 0 leaves the base, 1 is the full edit.
        layer_weights: [number of layers of the site] or None; see `place`.
        reads: the site that the encoder reads, earlier in the same block; None: the same site.
        held: under which name that value is held; filled in when it is placed.
    """

    strength: jax.Array | float = 1.0
    layer_weights: jax.Array | None = None
    reads: Site | None = static(None)
    held: str | None = static(None)

    @property
    def encodes(self) -> bool:
        """Whether the edit needs the code of what it reads."""
        return True

    def __call__(self, network: Decoder) -> Decoder:
        """Places the edit.

        Raises:
            UserError: a site that the network or the dictionary does not have; see `place`.
        """
        source = self.site if self.reads is None else self.reads
        self.require_output(network, self.site)
        if self.encodes:
            self.require_encodable(network, source)
            if self.reads is None and self.dictionary.config.skip:
                raise UserError(
                    found=f"a dictionary with a skip path that reads what it writes, {self.site}",
                    expected="the site of its input", do="say which with reads=, e.g. mlp_in",
                )
        if self.reads is None:
            return place(network, self, self.layer_weights)
        require_earlier(source, self.site)
        before = set(tap_names(network))
        # With this name, `detach` of the edit takes it out as well.
        network = place(network, Hold(f"{self.name}#in", source))
        (held,) = set(tap_names(network)) - before
        return place(network, dataclasses.replace(self, held=held), self.layer_weights)

    def visit(self, value: jax.Array, context: Context, record: Record) -> jax.Array:
        """Edits the value where the clause says, and counts those tokens there."""
        mask = self.narrow(self.where(context.batch), context)
        touched(self.name, mask, context.gate, record)
        amount = row_factor(self.strength, context.gate, value.dtype) * mask.astype(value.dtype)
        source = flat(value if self.held is None else record.held[self.held])
        edited = self.edit(flat(value), source, amount[..., None], context)
        return edited.reshape(value.shape)

    def narrow(self, mask: jax.Array, context: Context) -> jax.Array:
        """Leaves out tokens that an operand says nothing about."""
        return mask

    def edit(self, value, source, amount, context: Context) -> jax.Array:
        """The edit itself: value and source [B, T, W], amount [B, T, 1]."""
        raise NotImplementedError


def require_earlier(source: Site, site: Site) -> None:
    """Raises UserError unless `source` comes before `site` in the same blocks."""
    order = list(SITES)
    layered = source.layered and site.layered and source.layers == site.layers
    if not layered or order.index(source.name) >= order.index(site.name):
        raise UserError(
            found=f"a dictionary that reads {source} and writes {site}",
            expected="a site that comes earlier in the same block",
            do="read for example mlp_in and write mlp_out",
        )
