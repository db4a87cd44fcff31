"""``ragfast bench``: hands over to the distribution ragfast-bench, where it is installed."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence

SUMMARY = "measure the library beside every other one that is installed (needs ragfast-bench)"


def run(arguments: Sequence[str]) -> int:
    """Run the benchmarks with these arguments and return their exit status; 2 where ragfast-bench is not installed."""
    if importlib.util.find_spec("ragfast_bench") is None:
        print(
            "ragfast: the benchmarks are a distribution of their own, ragfast-bench, which is not installed: "
            "type `make bench` in a checkout, or `pip install ./benchmarks`",
            file=sys.stderr,
        )
        return 2
    from ragfast_bench import cli

    return cli.main(arguments)
