"""Fixtures that the tests of ragfast.marginal share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import ragfast


@pytest.fixture(params=[np.float32, np.float64], ids=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> type[Any]:
    chosen: type[Any] = request.param
    return chosen


@pytest.fixture
def threads() -> Iterator[None]:
    """Restores the number of threads."""
    before = ragfast.get_num_threads()
    yield
    ragfast.set_num_threads(before)
