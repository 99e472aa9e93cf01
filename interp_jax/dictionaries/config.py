"""The static part of a dictionary: what is built, and the shape of every array it holds."""

from __future__ import annotations

import dataclasses
from typing import Literal, get_args

from interp_jax.runtime.errors import UserError

Activation = Literal["relu", "topk", "batch_topk", "jumprelu", "gated"]
CodeNorm = Literal["crosscoder", "sae", "mixed", "none", "decoupled"]
MagnitudeScale = Literal["exp", "softplus"]

# Stored integer ids of crosscoder checkpoints.
CODE_NORM_IDS: dict[CodeNorm, int] = {
    "crosscoder": 1,
    "sae": 2,
    "mixed": 3,
    "none": 4,
    "decoupled": 5,
}


@dataclasses.dataclass(frozen=True)
class DictionaryConfig:
    """What a dictionary is made of; equal configs share compiled programs.

    Axis letters: B rows (tokens), M inputs (models or layers), D width, F latents.

    Attributes:
        width: D, of each input.
        latents: F.
        inputs: M, how many activations are stacked. At 1 there is no axis M: x is [..., D].
        activation: `batch_topk` keeps the k*B largest scaled values of a batch while training and
            those above a threshold afterwards; `topk` keeps k per row.
        code_norm: how the scaled code f*s is made from the code f. Per latent: `crosscoder` the
            sum over outputs of the decoder row's norm; `sae` the norm of the whole row; `mixed`
            the weighted sum of both; `none` 1; `decoupled` one factor, mask and threshold per
            output, the code then being [..., O, F].
        mixed_sae: weight of the `sae` term under `mixed`.
        mixed_crosscoder: weight of the `crosscoder` term under `mixed`.
        outputs: how many activations are reconstructed; None: as many as `inputs`.
        width_out: their width; None: `width`.
        encoder_inputs: the inputs that the encoder reads; None: all.
        centred: the decoder bias is subtracted from the input before the encoder.
        skip: a linear map from the (normalised) input is added to the output (transcoders).
        prefixes: nested sizes of a Matryoshka dictionary, rising, the last one F.
        normaliser: inputs are shifted and scaled by stored statistics, outputs back again.
        magnitude: how a gated dictionary makes its positive scale from the stored one.
        gain: the code is multiplied by a stored factor per latent, in a gated dictionary before
            the magnitude's bias is added.
        matmul_dtype: dtype of matrix factors; sums are float32 always.
    """

    width: int
    latents: int
    inputs: int = 1
    activation: Activation = "batch_topk"
    code_norm: CodeNorm = "none"
    mixed_sae: float = 1.0
    mixed_crosscoder: float = 0.1
    outputs: int | None = None
    width_out: int | None = None
    encoder_inputs: tuple[int, ...] | None = None
    centred: bool = False
    skip: bool = False
    prefixes: tuple[int, ...] = ()
    normaliser: bool = False
    magnitude: MagnitudeScale = "exp"
    gain: bool = False
    matmul_dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self):
        for name, allowed in (
            ("activation", Activation),
            ("code_norm", CodeNorm),
            ("magnitude", MagnitudeScale),
        ):
            self._need(
                getattr(self, name) in get_args(allowed),
                f"{name} {getattr(self, name)!r}",
                f"one of {', '.join(get_args(allowed))}",
            )
        for name in ("width", "latents", "inputs", "outs", "out_width"):
            self._need(getattr(self, name) > 0, f"{name} {getattr(self, name)}", "a number above 0")
        read = self.read_inputs
        self._need(
            bool(read) and len(set(read)) == len(read) and set(read) <= set(range(self.inputs)),
            f"encoder_inputs {read}",
            f"different numbers from 0 to {self.inputs - 1}",
        )
        self._need(
            not self.centred or (len(read) <= self.outs and self.out_width == self.width),
            "centred with outputs unlike the inputs",
            "an output of the same width for every input",
        )
        self._need(
            not self.prefixes
            or (
                self.prefixes[-1] == self.latents
                and self.prefixes[0] > 0
                and all(a < b for a, b in zip(self.prefixes, self.prefixes[1:], strict=False))
            ),
            f"prefixes {self.prefixes}",
            f"rising sizes that end with {self.latents}",
        )
        self._need(
            self.code_norm != "decoupled" or self.activation in ("batch_topk", "relu"),
            f"code_norm decoupled with {self.activation}",
            "activation batch_topk or relu",
        )
        self._need(
            not self.gain or self.activation in ("relu", "gated"),
            f"gain with {self.activation}",
            "activation relu or gated",
        )

    def _need(self, holds: bool, found: str, expected: str) -> None:
        if not holds:
            raise UserError(found=found, expected=expected, do="change the dictionary's config")

    @property
    def outs(self) -> int:
        """O, the number of reconstructed activations."""
        return self.inputs if self.outputs is None else self.outputs

    @property
    def out_width(self) -> int:
        """Width of each reconstructed activation."""
        return self.width if self.width_out is None else self.width_out

    @property
    def read_inputs(self) -> tuple[int, ...]:
        """The inputs that the encoder reads."""
        return tuple(range(self.inputs)) if self.encoder_inputs is None else self.encoder_inputs

    @property
    def decoupled(self) -> bool:
        """Whether the code has an axis of outputs."""
        return self.code_norm == "decoupled" and self.activation == "batch_topk"


def parameter_shapes(config: DictionaryConfig) -> dict[str, tuple[int, ...]]:
    """What is trained. Latent-major: a latent is one contiguous row of `encoder` and `decoder`.

    Returns:
        name -> shape: `encoder` [F, E*D] over the E inputs that are read, `encoder_bias` [F],
        `decoder` [F, O*D], `decoder_bias` [O, D], and where the config asks for them `skip`
        [M*D, O*D], `jump_threshold` [F], `magnitude` [F], `magnitude_bias` [F], `gain` [F].
    """
    latents, out = config.latents, config.outs * config.out_width
    shapes: dict[str, tuple[int, ...]] = {
        "encoder": (latents, len(config.read_inputs) * config.width),
        "encoder_bias": (latents,),
        "decoder": (latents, out),
        "decoder_bias": (config.outs, config.out_width),
    }
    if config.skip:
        shapes["skip"] = (config.inputs * config.width, out)
    if config.activation == "jumprelu":
        shapes["jump_threshold"] = (latents,)
    if config.activation == "gated":
        shapes |= {"magnitude": (latents,), "magnitude_bias": (latents,)}
    if config.gain:
        shapes["gain"] = (latents,)
    return shapes


def count_shapes(config: DictionaryConfig) -> dict[str, tuple[int, ...]]:
    """What is counted: `k` int32 [], `threshold` float32 [] or [O], `silent_tokens` int32 [F]."""
    return {
        "k": (),
        "threshold": (config.outs,) if config.decoupled else (),
        "silent_tokens": (config.latents,),
    }


def statistic_shapes(config: DictionaryConfig) -> dict[str, tuple[int, ...]]:
    """What the normaliser stores, float32: shift and scale of inputs [M, D] and outputs [O, D]."""
    if not config.normaliser:
        return {}
    into, out = (config.inputs, config.width), (config.outs, config.out_width)
    return {"shift_in": into, "scale_in": into, "shift_out": out, "scale_out": out}


def axis_letters(name: str) -> str:
    """Axis letters of an array, for the table that places them on a mesh.

    The latents are the axis worth cutting: optimiser state and memory are cut with them, and one
    sum of partial reconstructions is all that devices exchange.
    """
    if name in ("k", "threshold"):
        return "" if name == "k" else "L"
    if name in ("encoder", "decoder"):
        return "FD"
    if name == "skip":
        return "DD"
    return "LD" if name == "decoder_bias" or name.startswith(("shift_", "scale_")) else "F"
