"""These tests need the extra `bench`; `make test-all` has it. Without it each file shows as skipped."""

from __future__ import annotations

import without_extra

# The tests of a peer ask for that peer themselves.
pytest_pycollect_makemodule = without_extra.needs(
    "bench", ("rich", "jinja2", "matplotlib", "psutil", "threadpoolctl"), __file__
)
