"""The peers of `dictionaries_harvest.py`: activations to disk first, then training from there.

Reads a line, does one round, prints its seconds; the first two lines printed are the versions and
"ready". A round runs transformers on the next rows of tokens up to the layer that is read (no
later layer, no head), writes float32 activations to a file, one for each model; then reads rows
back in random order and takes training steps.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch
import transformers
from dictionaries_peer import STEPS

CHUNK = 8  # rows of tokens that the models run on at once


class Round:
    """Models, tokens and a trainer."""

    def __init__(self, kind: str, folder: Path, layer: int, sizes: list[int], steps: int):
        width, latents, rows, k = sizes
        transformers.logging.set_verbosity_error()
        torch.set_num_threads(os.cpu_count() or 1)
        self.models = []
        for _ in range(2 if kind == "crosscoder" else 1):
            model = transformers.AutoModelForCausalLM.from_pretrained(
                folder / "model", dtype=torch.float32, attn_implementation="sdpa"
            ).eval().model
            model.layers = model.layers[: layer + 1]
            model.norm = torch.nn.Identity()
            self.models.append(model)
        self.tokens = torch.from_numpy(np.load(folder / "tokens.npy").astype(np.int64))
        self.folder, self.rows, self.steps = folder, rows, steps
        self.x = torch.empty(rows, len(self.models), width)
        batch = self.x[:, 0] if kind != "crosscoder" else self.x
        self.train = STEPS[kind](width, latents, rows, k, batch)
        self.at, self.order = 0, np.random.default_rng(0)

    def __call__(self) -> dict[str, float]:
        """Seconds of writing the cache, and of training from it."""
        start = time.perf_counter()
        total, length = self.steps * self.rows, self.tokens.shape[1]
        files = [
            np.memmap(self.folder / f"{n}.bin", np.float32, "w+", shape=(total, self.x.shape[2]))
            for n in range(len(self.models))
        ]
        for done in range(0, total, CHUNK * length):
            some = self.tokens[self.at : self.at + CHUNK]
            self.at += CHUNK
            for model, file in zip(self.models, files, strict=True):
                with torch.inference_mode():
                    found = model(input_ids=some, use_cache=False).last_hidden_state
                file[done : done + CHUNK * length] = found.reshape(-1, found.shape[-1]).numpy()
        for file in files:
            file.flush()
        middle = time.perf_counter()
        order = self.order.permutation(total)
        for step in range(self.steps):
            chosen = order[step * self.rows : (step + 1) * self.rows]
            for n, file in enumerate(files):
                self.x[:, n] = torch.from_numpy(file[chosen])
            self.train()
        end = time.perf_counter()
        return {"harvest": middle - start, "train": end - middle}


def main() -> None:
    """Builds the peer that the arguments name and serves rounds."""
    kind, folder, layer, steps, *sizes = sys.argv[1:]
    torch.manual_seed(0)
    round_ = Round(kind, Path(folder), int(layer), [int(n) for n in sizes], int(steps))
    found = {"torch": torch.__version__, "transformers": transformers.__version__}
    print(json.dumps(found), flush=True)
    round_()
    print("ready", flush=True)
    for _ in sys.stdin:
        parts = round_()
        print(f"{kind}: {parts}", file=sys.stderr)
        print(sum(parts.values()), flush=True)


if __name__ == "__main__":
    main()
