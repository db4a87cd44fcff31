"""Load several builds of ragfast into one process and call each of them by the current public names.

Only this module knows which public names and arguments changed between builds.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import importlib
import inspect
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np

NOT_BUILT = (".ci", ".github", "CHANGELOG.md", "CONTRIBUTING.md", "Makefile", "benchmarks", "docs", "examples", "tests")
"""Files and folders that do not change what is built."""

PLACES = ("", "runtime", "marginal", "index", "index.filters", "index.readers", "sources", "rag", "levels", "threads")
"""Modules of ragfast in which a function is looked for, in this order. A build need not have all of them."""

OLD_FUNCTIONS = {"segment_logsumexp": "keyed_logsumexp"}
OLD_ARGUMENTS = {
    "group_by": "group",
    "exclude_groups": "exclude",
    "max_per_group": "at_most",
    "n_best": "top_b",
    "n_segments": "n_keys",
}
ALIGNED = "-falign-functions=64"
"""Compiler flags of both builds. Without them a change of one function moves all that follow it, and an unchanged loop
that then crosses a 64-byte line was seen to take 6 % longer."""


class BuildError(Exception):
    """A build that cannot be made or loaded; the message says why."""


@dataclasses.dataclass(eq=False)
class Build:
    """One loaded build of ragfast: the folder it came from and its modules."""

    folder: Path
    modules: dict[str, ModuleType] = dataclasses.field(default_factory=dict)
    _active: ClassVar[Build | None] = None

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Make ``import ragfast`` mean this build. Functions that import a module at their first call need it too."""
        if Build._active is self:  # its modules are in place, with those that it has imported since
            yield
            return
        before, Build._active = Build._active, self
        outer, finders = _loaded(), sys.meta_path[:]
        _replace(outer, self.modules)
        # The finder of an editable install would answer for this folder as well.
        sys.meta_path[:] = [finder for finder in finders if "editable" not in type(finder).__module__]
        try:
            yield
        finally:
            self.modules = _loaded()
            _replace(self.modules, outer)
            sys.meta_path[:] = finders
            Build._active = before

    def find(self, name: str) -> Any:
        """Return the public function or class of this name, wherever this build has it."""
        name, *attributes = name.split(".")
        for wanted in filter(None, (name, OLD_FUNCTIONS.get(name))):
            for place in PLACES:
                with self.active(), contextlib.suppress(ModuleNotFoundError):
                    found = getattr(importlib.import_module(f"ragfast.{place}".rstrip(".")), wanted, None)
                    if callable(found):
                        return functools.reduce(getattr, attributes, found)
        raise BuildError(f"{self.folder}: this build has no {name}")

    def bind(self, function: str | Callable[..., Any], *args: Any, **options: Any) -> Callable[[], Any]:
        """Return a call without arguments. Options that this build names otherwise are passed by its names."""
        found = self.find(function) if isinstance(function, str) else function
        if not OLD_ARGUMENTS.keys().isdisjoint(options):
            known = inspect.signature(found).parameters
            options = {name if name in known else OLD_ARGUMENTS.get(name, name): x for name, x in options.items()}
        return functools.partial(found, *args, **options)

    def call(self, function: str | Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Call a function at once, as :meth:`bind` would."""
        return self.bind(function, *args, **options)()

    def extensions(self) -> list[Path]:
        """Return the files of the extension modules that this build has loaded."""
        files = (getattr(module, "__file__", None) or "" for module in self.modules.values())
        return [Path(file).resolve() for file in files if file.endswith(tuple(EXTENSION_SUFFIXES))]


def _loaded() -> dict[str, ModuleType]:
    return {name: module for name, module in list(sys.modules.items()) if name.partition(".")[0] == "ragfast"}


def _replace(old: dict[str, ModuleType], new: dict[str, ModuleType]) -> None:
    for name in old:
        del sys.modules[name]
    sys.modules.update(new)


def load(folder: str | Path) -> Build:
    """Import the ragfast that is installed in this folder, beside any other that is loaded already.

    Raises
    ------
    BuildError
        The folder holds no ragfast, or the import found another one.
    """
    build = Build(Path(folder).resolve())
    sys.path.insert(0, str(build.folder))
    importlib.invalidate_caches()
    try:
        with build.active():
            package = importlib.import_module("ragfast")
    except ModuleNotFoundError as error:
        raise BuildError(f"{folder}: must hold an installed ragfast ({error})") from error
    finally:
        sys.path.remove(str(build.folder))
    files = [Path(package.__file__ or "").resolve(), *build.extensions()]
    outside = [file for file in files if build.folder not in file.parents]
    if outside or len(files) == 1:
        raise BuildError(f"{folder}: must hold ragfast with its extension module; loaded {outside or files}")
    return build


def check_separate(first: Build, second: Build) -> None:
    """Raise BuildError if the two builds share a library, and so would time and change the same code."""
    shared = {*first.extensions()} & {*second.extensions()}
    before = [build.call("get_num_threads") for build in (first, second)]
    first.call("set_num_threads", before[1] + 1)
    changed = second.call("get_num_threads") != before[1] or first.call("get_num_threads") != before[1] + 1
    first.call("set_num_threads", before[0])
    if shared or changed:
        raise BuildError(f"{first.folder} and {second.folder} share a library{''.join(f' {file}' for file in shared)}")


def digest(result: Any) -> str:
    """Return a digest of the bits of a result: of arrays, numbers, Hits, NLL, indexes, and tuples of these.

    All NaNs count as one value: which of its operands' payloads an addition keeps is up to the compiler.
    """
    state = hashlib.blake2b(digest_size=12)
    _update(state, result)
    return state.hexdigest()


def _update(state: Any, x: Any) -> None:
    if hasattr(x, "scores") and hasattr(x, "logprobs"):
        x = (x.scores, x.ids, x.logprobs)
    elif hasattr(x, "vectors") and hasattr(x, "ids"):
        x = (x.ids, x.vectors, x.metadata)
    elif dataclasses.is_dataclass(x):
        x = tuple(getattr(x, field.name) for field in dataclasses.fields(x))
    if isinstance(x, (tuple, list)):
        state.update(f"{len(x)} values".encode())
        for value in x:
            _update(state, value)
    elif isinstance(x, (np.ndarray, np.generic)) and x.dtype.kind != "O":
        a = np.array(x, order="C")
        if a.dtype.kind == "f":
            a[np.isnan(a)] = np.nan
        state.update(f"{type(x).__name__} {a.dtype} {a.shape}".encode() + a.tobytes())
    elif isinstance(x, dict):
        _update(state, [value for name in sorted(x) for value in (name, x[name])])
    else:
        state.update(repr(x.tolist() if isinstance(x, np.ndarray) else x).encode())


# ---- building revisions


def git(*arguments: str, **environment: str) -> bytes:
    """Return what git prints."""
    done = subprocess.run(["git", *arguments], capture_output=True, env=os.environ | environment, check=False)
    if done.returncode != 0:
        raise BuildError(f"git {' '.join(arguments)}: {done.stderr.decode().strip()}")
    return done.stdout


def tree_of(revision: str | None) -> str:
    """Return the hash of the sources of a revision, or of the working tree, untracked files included."""
    if revision is not None:
        return git("rev-parse", "--verify", f"{revision}^{{tree}}").decode().strip()
    with tempfile.TemporaryDirectory() as folder:  # an index of its own leaves the user's as it is
        index = {"GIT_INDEX_FILE": str(Path(folder) / "index")}
        git("read-tree", "HEAD", **index)
        git("add", "--all", **index)
        return git("write-tree", **index).decode().strip()


def built(revision: str | None, under: Path) -> Path:
    """Return the folder in which this revision is installed, after building it if need be."""
    if revision is not None and (Path(revision) / "ragfast").is_dir():
        return Path(revision)
    tree = tree_of(revision)
    entries = git("ls-tree", "--full-tree", tree).decode().splitlines()
    compiled = [entry for entry in entries if entry.partition("\t")[2] not in NOT_BUILT]
    flags = f"{os.environ.get('CFLAGS', '')} {ALIGNED}".strip()
    settings = [sys.version, os.environ.get("CC", ""), flags]
    folder = under / hashlib.sha256("\n".join([*compiled, *settings]).encode()).hexdigest()[:12]
    site, done = folder / "site", folder / "built"
    if not done.exists():
        print(f"building {revision or 'the working tree'} in {folder}", file=sys.stderr, flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        with tarfile.open(fileobj=io.BytesIO(git("archive", "--format=tar", tree))) as archive:
            archive.extractall(folder / "source", filter="data")
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "-q", "--no-deps"]
        command = [*pip, "--no-build-isolation", "--target", str(site), str(folder / "source")]
        if subprocess.run(command, env=os.environ | {"CFLAGS": flags}, check=False).returncode != 0:
            raise BuildError(f"{revision or 'the working tree'} does not build in {folder}")
        done.touch()
    return site
