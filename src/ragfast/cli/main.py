"""The command line: ``ragfast index`` and ``ragfast bench``; also ``python -m ragfast``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import ragfast
from ragfast.cli import bench, index
from ragfast.cli.common import exit_status

DESCRIPTION = """\
Exact retrieval and marginalization for Retrieval-Augmented Generation.

`index` builds an index directory from files of embeddings, describes one, or verifies one.

`bench` measures the library beside every other one that is installed (`make bench` installs them)."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: 0, or 2 with one line on stderr that says what is wrong."""
    arguments = sys.argv[1:] if arguments is None else arguments
    return exit_status(lambda: _run(arguments))


def _run(arguments: Sequence[str]) -> int:
    if arguments[:1] == ["bench"]:  # its options are those of ragfast-bench
        return bench.run(arguments[1:])
    parser = argparse.ArgumentParser(
        prog="ragfast", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"ragfast {ragfast.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="command", title="commands")
    index.add_arguments(
        commands.add_parser(
            "index",
            help=index.SUMMARY,
            description="An index directory is what FlatIndex.open reads. Building takes little memory.",
        )
    )
    commands.add_parser("bench", help=bench.SUMMARY, add_help=False)
    chosen = parser.parse_args(arguments)
    if chosen.command is None:
        parser.print_help()
        return 0
    return index.run(chosen)
