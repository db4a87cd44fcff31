"""Folders of files that take long to make: kept between runs, checked before use, replaced whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ragfast_demo.packages import DemoError

MANIFEST = "manifest.json"


def cache_folder() -> Path:
    """Return $RAGFAST_CACHE, or `ragfast` in the user's cache folder of this platform."""
    if chosen := os.environ.get("RAGFAST_CACHE"):
        return Path(chosen).expanduser()
    import platformdirs  # a requirement of ragfast-demo, which the tests of files and records do without

    return Path(platformdirs.user_cache_dir("ragfast", appauthor=False))


def cached(name: str, settings: Mapping[str, Any], build: Callable[[Path], None]) -> Path:
    """The folder `name` in the cache, holding what `build` wrote into the empty folder it was given.

    `settings` is everything the files depend on, as JSON has it. A folder made with other settings, or whose files are
    not those that were written, is named on stderr and made again. It is made beside its place and moved there when it
    is complete, so an interrupted run leaves the cache as it was, and of two runs at once the last one's stays.

    Raises DemoError where the cache cannot be written.
    """
    place = cache_folder() / name
    if place.exists():
        trouble = _trouble(place, settings)
        if trouble is None:
            return place
        print(f"ragfast: {place}: {trouble}; making it again", file=sys.stderr)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=place.parent) as scratch:
            fresh = Path(scratch) / name
            fresh.mkdir()
            build(fresh)
            files = {path.name: _sha256(path) for path in sorted(fresh.iterdir())}
            manifest = {"settings": dict(settings), "sha256": files}
            (fresh / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
            if place.exists():
                os.replace(place, Path(scratch) / "before")
            os.replace(fresh, place)
    except OSError as error:
        raise DemoError(
            f"cannot write the cache folder {place.parent} ({error}); RAGFAST_CACHE names another"
        ) from error
    return place


def is_whole(name: str, settings: Mapping[str, Any]) -> bool:
    """Whether :func:`cached` would find the folder and use it."""
    return _trouble(cache_folder() / name, settings) is None


def _trouble(place: Path, settings: Mapping[str, Any]) -> str | None:
    """Why the folder cannot be used, or None."""
    try:
        manifest = json.loads((place / MANIFEST).read_text(encoding="utf-8"))
        made_with, files = manifest["settings"], manifest["sha256"].items()
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"corrupted, {MANIFEST} is missing or unreadable"
    if made_with != settings:
        changed = [key for key in {**made_with, **settings} if made_with.get(key) != settings.get(key)]
        return f"stale, {', '.join(changed)} changed"
    for file, expected in files:
        try:
            if _sha256(place / file) != expected:
                return f"corrupted, {file} is not what was written"
        except OSError:
            return f"corrupted, {file} is missing or unreadable"
    return None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
