"""The peers of the dictionaries benchmark, in a process and an environment of their own.

Reads a line, does one training step, prints its seconds; the first two lines printed are the
versions and "ready". Started by `dictionaries.py`.
"""

from __future__ import annotations

import json
import os
import sys
import time
import warnings

import torch

warnings.simplefilter("ignore")


def dictionary_learning(width: int, latents: int, rows: int, k: int, x=None):
    """One step of its BatchTopK trainer, on what is in `x` (random rows, by default)."""
    from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer

    trainer = BatchTopKTrainer(
        steps=100_000, activation_dim=width, dict_size=latents, k=k, layer=0, lm_name="none",
        lr=1e-4, device="cpu", seed=0,
    )
    x = torch.randn(rows, width) if x is None else x
    number = iter(range(10**9))
    return lambda: trainer.update(next(number), x)


def crosscoder(width: int, latents: int, rows: int, k: int, x=None, inputs: int = 2):
    """A BatchTopK crosscoder as it is commonly written in torch: dense, with a flat `topk`."""
    decoder = torch.randn(latents, inputs, width)
    decoder /= decoder.norm(dim=-1, keepdim=True)
    encoder = decoder.permute(1, 2, 0).clone()
    params = [encoder, torch.zeros(latents), decoder, torch.zeros(inputs, width)]
    for p in params:
        p.requires_grad_(True)
    optimiser = torch.optim.Adam(params, lr=1e-4)
    x = torch.randn(rows, inputs, width) if x is None else x

    def step():
        encoder, encoder_bias, decoder, decoder_bias = params
        code = torch.relu(torch.einsum("bmd,mdf->bf", x, encoder) + encoder_bias)
        with torch.no_grad():
            scaled = (code * decoder.norm(dim=-1).sum(-1)).flatten()
            top = torch.topk(scaled, k * rows, sorted=False).indices
            mask = torch.zeros_like(scaled).scatter_(0, top, 1.0).reshape(code.shape)
        out = torch.einsum("bf,fmd->bmd", code * mask, decoder) + decoder_bias
        loss = (x - out).norm(dim=-1).mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        optimiser.step()

    return step


STEPS = {"dictionary_learning": dictionary_learning, "crosscoder": crosscoder}


def main() -> None:
    """Builds the peer that the arguments name and serves steps."""
    kind, *sizes = sys.argv[1:]
    torch.manual_seed(0)
    torch.set_num_threads(os.cpu_count() or 1)
    step = STEPS[kind](*map(int, sizes))
    versions = {"torch": torch.__version__}
    if kind == "dictionary_learning":
        from importlib.metadata import version

        versions["dictionary_learning"] = version("dictionary-learning")
    print(json.dumps(versions), flush=True)
    step()
    print("ready", flush=True)
    for _ in sys.stdin:
        begin = time.perf_counter()
        step()
        print(time.perf_counter() - begin, flush=True)


if __name__ == "__main__":
    main()
