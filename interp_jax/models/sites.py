"""Sites: the addresses of activations, and what other libraries call them.

Axis letters: B batch, T tokens, S keys, H heads, K key-value heads, D width,
F MLP width, V vocabulary. Layers count from 0. `resid_post[l]` is the stream
after block l.
"""

from __future__ import annotations

import dataclasses
import re

from interp_jax.runtime.errors import UserError


@dataclasses.dataclass(frozen=True)
class SiteKind:
    """What a site name stands for.

    Attributes:
        axes: axis letters of the value there, in order.
        layered: whether every block has one.
        meaning: one line.
        hf, transformer_lens, nnsight, saelens: its name there (`{l}` is the
            layer), or "-" where there is none.
    """

    axes: str
    layered: bool
    meaning: str
    hf: str
    transformer_lens: str
    nnsight: str
    saelens: str


def _kind(axes, layered, meaning, hf, tl, nn, sae) -> SiteKind:
    return SiteKind(axes, layered, meaning, hf, tl, nn, sae)


_L = "model.layers.{l}"
_POST = "; with post-norms "
SITES: dict[str, SiteKind] = {
    "embed": _kind(
        "BTD", False, "token embedding, after any scaling",
        "model.embed_tokens output", "hook_embed", "model.embed_tokens.output", "hook_embed",
    ),
    "resid_pre": _kind(
        "BTD", True, "the stream entering the block",
        _L + " input", "blocks.{l}.hook_resid_pre", _L + ".input", "blocks.{l}.hook_resid_pre",
    ),
    "attn_in": _kind(
        "BTD", True, "attention input, after norm and gain",
        _L + ".input_layernorm output", "-", _L + ".input_layernorm.output", "-",
    ),
    "attn_q": _kind(
        "BTHd", True, "queries, after their norm and rotation, before the query scale",
        "apply_rotary_pos_emb output [0]", "blocks.{l}.attn.hook_rot_q", "-", "-",
    ),
    "attn_k": _kind(
        "BTKd", True, "keys, after their norm and rotation",
        "apply_rotary_pos_emb output [1]", "blocks.{l}.attn.hook_rot_k", "-", "-",
    ),
    "attn_v": _kind(
        "BTKd", True, "values", _L + ".self_attn.v_proj output", "blocks.{l}.attn.hook_v",
        _L + ".self_attn.v_proj.output", "blocks.{l}.attn.hook_v",
    ),
    "attn_scores": _kind(
        "BHTS", True, "scaled and capped scores, before the mask (0 where not visible)",
        "softmax input in eager_attention_forward (masked)",
        "blocks.{l}.attn.hook_attn_scores (masked)", "-", "-",
    ),
    "attn_weights": _kind(
        "BHTS", True, "softmax of the scores",
        _L + ".self_attn output [1] (eager attention)", "blocks.{l}.attn.hook_pattern",
        _L + ".self_attn.output[1] (eager attention)", "-",
    ),
    "head_out": _kind(
        "BTHd", True, "each head's mix of values, before the output projection",
        _L + ".self_attn.o_proj input", "blocks.{l}.attn.hook_z",
        _L + ".self_attn.o_proj.input", "blocks.{l}.attn.hook_z",
    ),
    "attn_out": _kind(
        "BTD", True, "what attention adds to the stream, after any post-norm",
        _L + ".self_attn output [0]" + _POST + _L + ".post_attention_layernorm output",
        "blocks.{l}.hook_attn_out",
        _L + ".self_attn.output[0]" + _POST + _L + ".post_attention_layernorm.output",
        "blocks.{l}.hook_attn_out",
    ),
    "resid_mid": _kind(
        "BTD", True, "the stream between attention and MLP",
        _L + ".post_attention_layernorm input" + _POST + _L + ".pre_feedforward_layernorm input",
        "blocks.{l}.hook_resid_mid",
        _L + ".post_attention_layernorm.input" + _POST + _L + ".pre_feedforward_layernorm.input",
        "blocks.{l}.hook_resid_mid",
    ),
    "mlp_in": _kind(
        "BTD", True, "MLP input, after norm and gain",
        _L + ".mlp input", "-", _L + ".mlp.input", "-",
    ),
    "mlp_hidden": _kind(
        "BTF", True, "act(gate) x up",
        _L + ".mlp.down_proj input", "blocks.{l}.mlp.hook_post",
        _L + ".mlp.down_proj.input", "blocks.{l}.mlp.hook_post",
    ),
    "mlp_out": _kind(
        "BTD", True, "what the MLP adds to the stream, after any post-norm",
        _L + ".mlp output" + _POST + _L + ".post_feedforward_layernorm output",
        "blocks.{l}.hook_mlp_out",
        _L + ".mlp.output" + _POST + _L + ".post_feedforward_layernorm.output",
        "blocks.{l}.hook_mlp_out",
    ),
    "resid_post": _kind(
        "BTD", True, "the stream leaving the block",
        _L + " output", "blocks.{l}.hook_resid_post", _L + ".output",
        "blocks.{l}.hook_resid_post",
    ),
    "final_norm": _kind(
        "BTD", False, "the stream after the last norm and gain",
        "model.norm output", "-", "model.norm.output", "-",
    ),
    "logits": _kind(
        "BTV", False, "logits, after any cap", "output.logits (lm_head output is not capped)",
        "the returned logits", "output.logits", "-",
    ),
}

# Projections that adapters attach to: (input, output) pairs inside a block.
PROJECTIONS = ("q", "k", "v", "o", "gate", "up", "down")

_TEXT = re.compile(r"([a-z_]+)(?:\[([\d,\s]*)\])?(?:\.heads\[([\d,\s]*)\])?")


@dataclasses.dataclass(frozen=True)
class Site:
    """The typed address of an activation.

    Attributes:
        name: a key of `SITES`, or `proj_q` ... `proj_down` for adapters.
        layers: which layers, from 0; None means all of them.
        heads: which heads, for sites with a head axis; None means all.

    Raises:
        UserError: an unknown name, layers on a site that has none, heads on a
            site without a head axis, or a negative number.
    """

    name: str
    layers: tuple[int, ...] | None = None
    heads: tuple[int, ...] | None = None

    def __post_init__(self):
        if isinstance(self.layers, int):
            object.__setattr__(self, "layers", (self.layers,))
        elif self.layers is not None:
            object.__setattr__(self, "layers", tuple(int(l) for l in self.layers))
        if self.heads is not None:
            heads = (self.heads,) if isinstance(self.heads, int) else self.heads
            object.__setattr__(self, "heads", tuple(int(h) for h in heads))
        adapter = self.name.startswith("proj_") and self.name[5:] in PROJECTIONS
        if self.name not in SITES and not adapter:
            raise UserError(
                found=f"site {self.name!r}",
                expected="one of " + ", ".join(SITES),
                do="see interp_jax.models.sites.SITES for what each one is",
            )
        if self.layers is not None and not self.layered:
            raise UserError(
                found=f"layers {self.layers} on site {self.name!r}",
                expected="no layers, since the network has this site once",
                do="leave `layers` out",
            )
        if self.heads is not None and "H" not in self.axes and "K" not in self.axes:
            raise UserError(
                found=f"heads {self.heads} on site {self.name!r}",
                expected="a site with a head axis",
                do="use attn_q, attn_k, attn_v, attn_scores, attn_weights or head_out",
            )
        for number in (self.layers or ()) + (self.heads or ()):
            if number < 0:
                raise UserError(
                    found=f"{number} in site {self}", expected="layers and heads from 0",
                    do="count from the front",
                )
        if self.layers is not None and len(set(self.layers)) != len(self.layers):
            raise UserError(
                found=f"layers {self.layers}", expected="each layer once", do="drop the repeats"
            )

    @property
    def layered(self) -> bool:
        """Whether every block has this site."""
        return self.name not in SITES or SITES[self.name].layered

    @property
    def axes(self) -> str:
        """Axis letters of the value, for example `BTD`."""
        return SITES[self.name].axes if self.name in SITES else "BTD"

    @classmethod
    def parse(cls, text: str) -> Site:
        """Reads `resid_post[3,5]` or `head_out[4].heads[0,2]`; `str` writes it back."""
        match = _TEXT.fullmatch(text.strip())
        if match is None:
            raise UserError(
                found=f"site text {text!r}",
                expected="name, name[layers] or name[layers].heads[heads]",
                do="write for example resid_post[3,5]",
            )
        name, layers, heads = match.groups()
        return cls(name, _numbers(layers), _numbers(heads))

    def __str__(self) -> str:
        text = self.name
        if self.layers is not None:
            text += f"[{','.join(map(str, self.layers))}]"
        if self.heads is not None:
            text += f".heads[{','.join(map(str, self.heads))}]"
        return text


def _numbers(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    return tuple(int(part) for part in text.split(",") if part.strip())
