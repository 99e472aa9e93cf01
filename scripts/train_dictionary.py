"""Train a sparse dictionary on the activations of one or two language models.

The models run and the dictionary trains in one program: text goes in, activations go through a
shuffling ring in memory, and a sparse autoencoder, a transcoder or a crosscoder comes out.

Examples:

  Does it all work here? About a minute; the numbers mean nothing.
    python scripts/train_dictionary.py --workdir=runs/smoke --smoke

  An autoencoder of the stream after block 15, on text of your own.
    python scripts/train_dictionary.py --workdir=runs/sae --layers=15 --data=texts.jsonl \\
        --expansion=16 --k=64 --steps=20000

  A crosscoder between a base model and the chat model trained from it, as in arXiv 2504.02922.
    python scripts/train_dictionary.py --workdir=runs/crosscoder --kind=crosscoder \\
        --model=path/to/base --other_model=path/to/chat --layers=13 --k=100 --lr=1e-4 \\
        --data=web.jsonl,chats.jsonl --ring=host --ring_rows=1000000

  The same of Llama 3, whose base model does not know the tokens of the chat template.
    python scripts/train_dictionary.py --workdir=runs/llama --kind=crosscoder \\
        --model=path/to/base --other_model=path/to/chat --layers=16 --k=100 --lr=1e-4 \\
        --data=web.jsonl,chats.jsonl --replace_tokens=llama3

  A transcoder of an MLP, with a linear map beside it.
    python scripts/train_dictionary.py --workdir=runs/transcoder --kind=transcoder --skip \\
        --site=mlp_in --layers=15 --data=texts.jsonl

  Six dictionaries from one harvest.
    python scripts/train_dictionary.py --workdir=runs/sweep --layers=15 --data=texts.jsonl \\
        --dictionaries="k=32,64,128;seed=0,1"

  From activations on disk, in the layout of the crosscoder paper's code.
    python scripts/train_dictionary.py --workdir=runs/cached --kind=crosscoder \\
        --cache=store/base/web/train/layer_13_out,store/chat/web/train/layer_13_out

  Write such activations, from two models on the same text.
    python scripts/train_dictionary.py --kind=crosscoder --model=path/to/base \\
        --other_model=path/to/chat --layers=13 --data=texts.jsonl --ring_dtype=bfloat16 \\
        --write_cache=store --cache_rows=1000000

  What would it need? Nothing is run.
    python scripts/train_dictionary.py --workdir=runs/sae --layers=15 --plan_only

Text is named with --data: .jsonl, .parquet or .txt files, or folders of them; without it the
docstrings of the Python library are read, which is enough to try things out. Two sources are mixed
row by row, as web text and chats in the paper: --data=web.jsonl,chats.jsonl.

The result is a folder `dictionary` in the workdir, with one folder for each dictionary of a sweep;
result.json holds the measures on rows that were set aside, metrics.jsonl what training said. A run
that was stopped goes on when the same command is given again, and ends with the same numbers.
"""

from __future__ import annotations

from interp_jax.dictionaries.fit_config import FitConfig
from interp_jax.dictionaries.run import chosen_mesh, plan_run, run, store
from interp_jax.generation.language_model import LanguageModel
from interp_jax.runtime.devices import banner, setup
from interp_jax.runtime.flags import define_from_dataclass, read_into_dataclass, run_main
from interp_jax.text.streams import RowStream
from interp_jax.text.streams_mixed import open_streams


def text(config: FitConfig, model: LanguageModel) -> RowStream:
    """Rows of what --data names, by the model's tokenizer and chat template."""
    return open_streams(
        config.data, model.tokenizer, config.context, seed=config.seed,
        text_field=config.text_field, messages_field=config.messages_field,
        template=model.chat_template, pack=config.pack, shuffle=config.document_shuffle,
    )


def main() -> None:
    """Reads the flags, says what will be done, does it, and says where the result is."""
    config = read_into_dataclass(FitConfig)
    setup()
    c = config.resolved()
    models = " + ".join(filter(None, (c.model, c.other_model)))
    sizes = {
        "kind": f"{c.activation} {c.kind}",
        "model": f"{len(c.cache)} caches" if c.cache else models,
        "latents": c.latents or f"{c.expansion} x width",
        "dictionaries": len(c.variants()),
        "steps": c.steps,
        "replaced in the base": ", ".join(c.replace_tokens) or "nothing",
        "rows per step": c.batch_size,
        "ring": f"{c.ring_rows} rows, {c.ring}",
    }
    print(banner("Train dictionaries", mesh=chosen_mesh(c), sizes=sizes, writes=c.workdir))
    if c.plan_only:
        for name, plan in plan_run(c, text).items():
            print(f"{name}: {plan}")
        return
    if c.write_cache is not None:
        for folder in store(c, text):
            print(f"Stored {folder}")
        return
    trained = run(c, text)
    print()
    for line in trained.facts:
        print(line)
    print(f"\nThe dictionary is in {c.workdir}/dictionary, its measures in {c.workdir}/result.json")


if __name__ == "__main__":
    define_from_dataclass(FitConfig)
    run_main(main)
