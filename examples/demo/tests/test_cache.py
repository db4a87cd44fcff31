"""The cache: used when whole, made again when not, and never half written."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from ragfast_demo.cache import MANIFEST, cache_folder, cached
from ragfast_demo.packages import DemoError

SETTINGS = {"corpus": "one", "dtype": "float32"}


class Builder:
    """Writes two files and counts how often it was asked to."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, folder: Path) -> None:
        self.calls += 1
        (folder / "array").write_bytes(bytes(range(256)))
        (folder / "words").write_text("text", encoding="utf-8")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RAGFAST_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_second_run_uses_what_the_first_one_made(capsys: pytest.CaptureFixture[str]) -> None:
    build = Builder()
    first, second = cached("thing", SETTINGS, build), cached("thing", SETTINGS, build)
    assert build.calls == 1
    assert first == second
    assert (first / "array").read_bytes() == bytes(range(256))
    assert capsys.readouterr().err == ""


def flip_a_bit(place: Path) -> None:
    content = bytearray((place / "array").read_bytes())
    content[100] ^= 1
    (place / "array").write_bytes(content)


def drop_a_manifest_key(place: Path) -> None:
    manifest = json.loads((place / MANIFEST).read_text())
    del manifest["sha256"]
    (place / MANIFEST).write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("damage", "blamed"),
    [
        (flip_a_bit, "array"),
        (lambda place: (place / "array").write_bytes(b""), "array"),
        (lambda place: (place / "words").unlink(), "words"),
        (lambda place: (place / MANIFEST).unlink(), MANIFEST),
        (lambda place: (place / MANIFEST).write_text("{"), MANIFEST),
        (lambda place: (place / MANIFEST).write_text("[]"), MANIFEST),
        (drop_a_manifest_key, MANIFEST),
    ],
)
def test_damage_is_named_and_repaired(
    damage: Callable[[Path], None], blamed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    build = Builder()
    place = cached("thing", SETTINGS, build)
    damage(place)
    assert cached("thing", SETTINGS, build) == place
    message = capsys.readouterr().err
    assert build.calls == 2
    assert (place / "array").read_bytes() == bytes(range(256))
    assert message.count("\n") == 1
    assert "corrupted" in message
    assert blamed in message
    assert str(place) in message
    cached("thing", SETTINGS, build)
    assert build.calls == 2
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("settings", [{"corpus": "two", "dtype": "float32"}, {"corpus": "one"}])
def test_other_settings_make_it_stale(settings: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    build = Builder()
    cached("thing", SETTINGS, build)
    cached("thing", settings, build)
    (changed,) = {key for key in SETTINGS if SETTINGS[key] != settings.get(key)}
    assert build.calls == 2
    assert f"stale, {changed} changed" in capsys.readouterr().err


def test_an_interrupted_build_leaves_the_cache_as_it_was(folder: Path) -> None:
    def interrupted(place: Path) -> None:
        (place / "array").write_bytes(b"half")
        raise KeyboardInterrupt

    place = cached("thing", SETTINGS, Builder())
    with pytest.raises(KeyboardInterrupt):
        cached("thing", {"corpus": "two"}, interrupted)
    assert (place / "array").read_bytes() == bytes(range(256))
    assert [path.name for path in folder.iterdir()] == ["thing"]


def test_what_cannot_be_written_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("RAGFAST_CACHE", str(tmp_path / "file"))
    with pytest.raises(DemoError, match="RAGFAST_CACHE"):
        cached("thing", SETTINGS, Builder())


def test_where_the_cache_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("RAGFAST_CACHE")
    pytest.importorskip("platformdirs")
    assert "ragfast" in cache_folder().parts
    if sys.platform == "linux":
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
        assert cache_folder() == tmp_path / "xdg" / "ragfast"
        monkeypatch.delenv("XDG_CACHE_HOME")
        assert cache_folder() == Path.home() / ".cache" / "ragfast"
