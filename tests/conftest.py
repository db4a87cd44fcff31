"""Fixtures of many tests, the proof that a complete run took every level that this CPU has, and runs in two parts.

`--write-passed FILE` notes which tests passed; a later run with `--skip-passed FILE` leaves these out. So the tests of
the extras can follow those with NumPy alone without repeating them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cpu_levels
import hypothesis
import pytest
from logit_types import MOST_ULPS

from ragfast import runtime
from ragfast._core import _kernels

pytest.register_assert_rewrite("code_cases", "nll_cases")  # helpers whose asserts are those of many tests

# The level is part of the test's parameters, not of the example: a fixture that lasts for all examples is meant.
# Derandomized, a commit has one verdict; what new examples find is looked for with `--hypothesis-profile=explore`.
hypothesis.settings.register_profile(
    "ragfast",
    deadline=None,
    derandomize=True,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
hypothesis.settings.register_profile(
    "explore", hypothesis.settings.get_profile("ragfast"), derandomize=False, print_blob=True
)
hypothesis.settings.load_profile("ragfast")

TESTS = Path(__file__).parent
LEVELS_RUN = pytest.StashKey[dict[str, int]]()
COMPLETE = pytest.StashKey[bool]()


@pytest.fixture(params=_kernels.known_isas())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs the test once at each level of the build; one that this CPU lacks is a visible skip."""
    level: str = request.param
    if level not in runtime.available_isas():
        pytest.skip(f"this CPU or operating system lacks {level}")
    before = runtime.isa()
    runtime.set_isa(level)
    yield level
    assert runtime.isa() == level, "the test left another level behind"
    runtime.set_isa(before)


@pytest.fixture(params=list(MOST_ULPS))
def kind(request: pytest.FixtureRequest) -> str:
    """A type of logits; bfloat16 where ml_dtypes brings it to NumPy."""
    if request.param == "bfloat16":
        pytest.importorskip("ml_dtypes")
    chosen: str = request.param
    return chosen


@pytest.fixture(params=[False, True], ids=["sequence", "token"])
def by_token(request: pytest.FixtureRequest) -> bool:
    """Which of a pair of functions: RAG-Sequence's, then RAG-Token's."""
    chosen: bool = request.param
    return chosen


@pytest.fixture(params=["sequence", "token"])
def variant(request: pytest.FixtureRequest) -> str:
    """by_token, as a name."""
    chosen: str = request.param
    return chosen


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("ragfast")
    group.addoption("--write-passed", type=Path, metavar="FILE", help="write the ids of the tests that pass there")
    group.addoption("--skip-passed", type=Path, metavar="FILE", help="deselect the tests whose ids are there")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if file := config.getoption("skip_passed"):
        passed = set(file.read_text().splitlines())
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid in passed])
        items[:] = [item for item in items if item.nodeid not in passed]


def pytest_configure(config: pytest.Config) -> None:
    config.stash[LEVELS_RUN] = dict.fromkeys(_kernels.known_isas(), 0)
    config.stash[COMPLETE] = TESTS in [Path(argument).resolve() for argument in config.args]


def pytest_deselected(items: list[pytest.Item]) -> None:
    if items:
        items[0].config.stash[COMPLETE] = False


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    if "isa" in getattr(item, "fixturenames", ()):
        # What is in use, not what was asked for.
        item.config.stash[LEVELS_RUN][runtime.isa()] += 1
    return (yield)


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist: each worker counts its own tests
def pytest_testnodedown(node: Any) -> None:
    output = getattr(node, "workeroutput", {})
    for level, n in output.get("levels_run", {}).items():
        node.config.stash[LEVELS_RUN][level] += n
    node.config.stash[COMPLETE] &= output.get("complete", False)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """No level may go untested in silence, whatever went wrong in the build."""
    config = session.config
    if (file := config.getoption("write_passed")) and not hasattr(config, "workeroutput"):
        reports = config.pluginmanager.get_plugin("terminalreporter").getreports("passed")
        file.write_text("".join(f"{report.nodeid}\n" for report in reports if report.when == "call"))
    if hasattr(config, "workeroutput"):
        config.workeroutput["levels_run"] = config.stash[LEVELS_RUN]
        config.workeroutput["complete"] = config.stash[COMPLETE]
    elif config.stash[COMPLETE] and session.exitstatus == pytest.ExitCode.OK and untested_levels(config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def untested_levels(config: pytest.Config) -> str:
    """What is wrong with the counts, or nothing."""
    implied = cpu_levels.implied_levels()
    expected = runtime.available_isas() if implied is None else implied
    counts = [config.stash[LEVELS_RUN].get(level, 0) for level in expected]
    return "" if min(counts) == max(counts) > 0 else f"FAILED: expected as many at each of {', '.join(expected)}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    counts = ", ".join(f"{level} {n}" for level, n in config.stash[LEVELS_RUN].items())
    terminalreporter.write_line(f"tests run at each instruction-set level: {counts}")
    if config.stash[COMPLETE] and (wrong := untested_levels(config)):
        terminalreporter.write_line(wrong)
