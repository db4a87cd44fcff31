"""What the command lines of the library, the demo and the benchmarks share."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Callable


def exit_status(command: Callable[[], int]) -> int:
    """Run a command and return its exit status; 130 after Ctrl-C, 141 where the reader of stdout has gone."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal may have ASCII only
    try:
        status = command()
        sys.stdout.flush()  # here, where BrokenPipeError is caught
        return status
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # as in `ragfast ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more when it ends
        return 141


def at_least_one(text: str) -> int:
    """Return the whole number of 1 or more in an argument: a `type` of argparse."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of 1 or more, got {text!r}")
    return value
