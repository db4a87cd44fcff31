"""The `isa` fixture, and the proof at the end of a run that it took every level that this CPU has."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from logit_types import MOST_ULPS

import ragfast
from ragfast import _kernels

# The level is part of the test's parameters, not of the example: a fixture that lasts for all examples is meant.
hypothesis.settings.register_profile(
    "ragfast", deadline=None, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
hypothesis.settings.load_profile("ragfast")

TESTS = Path(__file__).parent
LEVELS_RUN = pytest.StashKey[dict[str, int]]()
COMPLETE = pytest.StashKey[bool]()


@pytest.fixture(params=_kernels.known_isas())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs the test once at each level of the build; one that this CPU lacks is a visible skip."""
    level: str = request.param
    if level not in ragfast.available_isas():
        pytest.skip(f"this CPU or operating system lacks {level}")
    before = ragfast.isa()
    ragfast.set_isa(level)
    yield level
    assert ragfast.isa() == level, "the test left another level behind"
    ragfast.set_isa(before)


@pytest.fixture(params=list(MOST_ULPS))
def kind(request: pytest.FixtureRequest) -> str:
    """A type of logits; bfloat16 where ml_dtypes brings it to NumPy."""
    if request.param == "bfloat16":
        pytest.importorskip("ml_dtypes")
    chosen: str = request.param
    return chosen


def pytest_configure(config: pytest.Config) -> None:
    config.stash[LEVELS_RUN] = dict.fromkeys(_kernels.known_isas(), 0)
    config.stash[COMPLETE] = [Path(argument).resolve() for argument in config.args] == [TESTS]


def pytest_deselected(items: list[pytest.Item]) -> None:
    if items:
        items[0].config.stash[COMPLETE] = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """test_every_level_ran looks back on all others."""
    items.sort(key=lambda item: item.name == "test_every_level_ran")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    if "isa" in getattr(item, "fixturenames", ()):
        # What is in use, not what was asked for.
        item.config.stash[LEVELS_RUN][ragfast.isa()] += 1
    return (yield)


@pytest.fixture
def levels_run(request: pytest.FixtureRequest) -> dict[str, int]:
    """How many tests ran at each level so far; skips unless the complete suite runs."""
    if not request.config.stash[COMPLETE]:
        pytest.skip("only part of the suite was asked for")
    return request.config.stash[LEVELS_RUN]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    counts = ", ".join(f"{level} {n}" for level, n in config.stash[LEVELS_RUN].items())
    terminalreporter.write_line(f"tests run at each instruction-set level: {counts}")
