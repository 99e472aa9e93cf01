"""How `interp_jax` is installed: what it needs, and why it needs it."""

import pathlib
import runpy

from setuptools import find_packages, setup

HERE = pathlib.Path(__file__).parent
VERSION = runpy.run_path(str(HERE / "interp_jax" / "version.py"))["__version__"]
README = HERE / "README.md"

REQUIRED = [
    "jax>=0.10.2,<0.13",  # everything runs on it; 0.10.2 and 0.12.0 are the tested ends
    "flax>=0.12.8",  # NNX modules for the networks we train
    "optax>=0.2.5",  # optimisers
    "orbax-checkpoint>=0.11",  # train state on disk: step-numbered, keep-N, asynchronous
    "penzai>=0.2.5",  # the networks we study are Penzai trees
    "treescope>=0.1.9",  # an edited network is shown readably in a notebook
    "numpy>=2.0",  # host arrays
    "chex>=0.1.90",  # tree comparisons that name the leaf
    "absl-py>=2.1",  # flags and app.run in scripts
    "tokenizers>=0.21",  # tokenizer.json, without transformers
    "safetensors>=0.5",  # weights in and out
    "huggingface_hub>=0.30",  # a hub id brings config, tokenizer and weights
    "gguf>=0.17",  # GGUF reading; the default model is one
    "jinja2>=3.1.4",  # chat templates (in its sandbox) and reports
    "tqdm>=4.66",  # progress bars
    "tensorboardX>=2.6",  # a TensorBoard writer without TensorFlow
]

DEMO = [
    # exact: the demo's problem is named as (generator, seed, index), and another release may
    # draw another problem from the same three
    "reasoning-gym==0.1.25",
    # reads LaTeX answers and decides whether two of them are equal
    "math-verify[antlr4_13_2]>=0.8",
]

DATA = [
    "datasets>=3.0",  # chat data and corpora from the hub, streamed
    "pyarrow>=15",  # local parquet files
]

PARITY = [
    "torch>=2.6",  # the reference implementation runs on it (tests only, never the package)
    "transformers>=4.56",  # the reference implementation
    "accelerate>=1.0",  # transformers wants it to read a GGUF
]

ENDPOINTS = ["openai>=1.60"]  # judges behind an OpenAI-compatible endpoint

DEV = [
    "pytest>=8.3",
    "pytest-xdist>=3.6",  # files of tests side by side, one on each core
    "pytest-timeout>=2.3",  # a hung test is a failed test
    "hypothesis>=6.100",  # property tests
    "ruff>=0.9",  # lint
    "selenium>=4.20",  # reports are clicked in a headless browser
    "nbclient>=0.10",  # notebooks are run from top to bottom
    "nbformat>=5.10",
    "ipykernel>=6.29",
    "matplotlib>=3.9",  # figures in notebooks
    *ENDPOINTS,  # the judge is tested through the real client, against a local server
    *DATA,  # parquet files and data sets are tested as their libraries write and read them
]

setup(
    name="interp_jax",
    version=VERSION,
    description="Language-model interpretability in JAX: interventions that are pure functions.",
    long_description=README.read_text(encoding="utf-8") if README.exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=find_packages(include=["interp_jax", "interp_jax.*"]),
    package_data={
        "interp_jax": ["py.typed"],
        "": ["*.html", "*.css", "*.js", "*.jinja", "*.json", "*.jsonl"],
    },
    install_requires=REQUIRED,
    extras_require={
        "demo": DEMO,
        "data": DATA,
        "parity": PARITY,
        "endpoints": ENDPOINTS,
        "cuda": ["jax[cuda13]"],
        "tpu": ["jax[tpu]"],
        "dev": DEV,
    },
    classifiers=[
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
)
