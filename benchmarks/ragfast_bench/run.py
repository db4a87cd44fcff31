"""The command: settings in; tasks measured one after another, shown as they end; the run saved, drawn and summed up."""

from __future__ import annotations

import contextlib
import datetime
import importlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import ragfast
from ragfast_bench import (
    build,
    data,
    decode_step,
    grid,
    latency,
    loss,
    machine,
    memory,
    page,
    rag,
    report,
    search,
    small_calls,
    table,
    verdicts,
)
from ragfast_bench.results import BenchError, Machine, Run, Task, load, replace, save
from ragfast_bench.search_peers import library_versions
from ragfast_bench.sections import Section, Settings
from ragfast_bench.timing import limit_threads, pin, usable_cpus

SECTIONS: dict[str, Section] = {
    section.NAME: section for section in (search, grid, latency, build, loss, decode_step, small_calls, rag, memory)
}
TITLES = {name: section.TITLE for name, section in SECTIONS.items()}
OF_VECTORS = ("search", "latency", "build")
"""The sections that say something of the user's own vectors."""
FEWEST = 1000
"""Documents, of the smallest data set that is not the user's."""


@dataclass(frozen=True)
class Options:
    """What the command line sets beside the settings of the sections."""

    sections: tuple[str, ...]  # empty: all that the settings allow
    isa: str | None
    pinned: bool
    json: Path
    page: Path
    markdown: Path | None
    source: Path | None  # a saved run to show again, instead of measuring
    command: str


class Progressing:
    """The bar at the bottom of a terminal; elsewhere one line a task."""

    def __init__(self, console: Console, total: int) -> None:
        self._console = console
        self._bar = Progress(
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.description}", markup=False),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=total)

    def __enter__(self) -> Progressing:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def say(self, text: str) -> None:
        self._bar.update(self._task, description=text)

    def total_of(self, done: int, remaining: int) -> None:
        """Sections plan for the most; once one is over, what it did not need is known."""
        self._bar.update(self._task, completed=done, total=done + remaining)

    def finish(self, task: Task) -> None:
        self._console.print(table.task_table(task))
        self._bar.advance(self._task)


def run_bench(settings: Settings, options: Options) -> int:
    """Returns the exit status: 1 where a result of ours was wrong, 130 after an interrupt. The results are saved after
    each task, so that whatever ends the run costs only the task that was being measured."""
    console = Console(highlight=False)
    check_paths(options)
    if options.source:
        show_again(options.source, options, console)
        return 0
    names, left_out = check(settings, options)
    if options.isa:
        ragfast.runtime.set_isa(options.isa)
    start = time.perf_counter()
    tasks: list[Task] = []
    ended = 0
    with Progressing(console, sum(SECTIONS[name].planned(settings) for name in names)) as progress:
        progress.say("loading the peers")
        pinned = pin(settings.threads) if options.pinned else ()
        load_libraries()
        limit_threads(settings.threads)
        progress.say("measuring what this machine can do")
        of_machine = machine.measure(settings.threads, pinned, settings.pick(1.0, 2.0, 4.0))
        console.print(table.machine_lines(of_machine))

        def so_far() -> Run:
            return Run(
                date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
                ragfast=ragfast.__version__,
                command=options.command,
                seconds=round(time.perf_counter() - start, 1),
                machine=of_machine,
                libraries=library_versions(),
                tasks=tuple(tasks),
                left_out=dict(left_out),
            )

        try:
            for task in measured(names, settings, of_machine, progress, left_out):
                tasks.append(task)
                save(so_far(), options.json)
                progress.finish(task)
        except KeyboardInterrupt:
            left_out["the rest"], ended = "the run was interrupted", 130
        except SystemExit:  # by which rich says that nobody reads what is printed
            left_out["the rest"], ended, console = "nobody read what was printed", 1, Console(quiet=True)
    if not tasks:
        reasons = "; ".join(dict.fromkeys(left_out.values())) or "nothing was asked for"
        raise BenchError(f"nothing was measured: {reasons}")
    run = so_far()
    save(run, options.json)
    show(run, options, console)
    wrong = any(result.ours and verdicts.is_wrong(result) for task in tasks for result in task.results)
    return ended or int(wrong)


def show_again(source: Path, options: Options, console: Console) -> None:
    run = load(source)
    try:
        for task in run.tasks:
            console.print(table.task_table(task))
        show(run, options, console)
    except (TypeError, AttributeError, ValueError, ZeroDivisionError) as error:  # fields of other types than they have
        raise BenchError(f"{source}: not a run as --json writes it ({type(error).__name__}: {error})") from error


def measured(
    names: Sequence[str], settings: Settings, of_machine: Machine, progress: Progressing, left_out: dict[str, str]
) -> Iterator[Task]:
    """The tasks of these sections. A section that fails costs only what it had not measured yet."""
    done = 0
    for i, name in enumerate(names):
        section = SECTIONS[name]
        progress.say(section.TITLE)
        try:
            for task in section.measure(settings, of_machine, progress.say, left_out.__setitem__):
                done += 1
                yield task
        except BenchError as error:
            left_out[f"the rest of section {name}"] = str(error)
        except Exception as error:  # of whatever kind: the other sections must not pay for it
            left_out[f"the rest of section {name}"] = f"{type(error).__name__}: {error}"
        progress.total_of(done, sum(SECTIONS[other].planned(settings) for other in names[i + 1 :]))


def load_libraries() -> None:
    """Those whose pools of threads have to exist before they can be limited."""
    for module in ("torch", "faiss", "scipy.special", "sklearn", "usearch.index"):
        with contextlib.suppress(ImportError):
            importlib.import_module(module)


def check(settings: Settings, options: Options) -> tuple[list[str], dict[str, str]]:
    """The sections to measure, in order, and why others are not. Raises BenchError for what cannot be done, before
    minutes are spent."""
    if unknown := [name for name in options.sections if name not in SECTIONS]:
        raise BenchError(f"--sections: no {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
    asked = options.sections or (OF_VECTORS if settings.vectors else tuple(SECTIONS))
    wanted = [name for name in SECTIONS if name in asked]
    check_peers(settings)
    if unknown := [name for name in settings.data if name not in data.all_names()]:
        raise BenchError(f"--data: no {', '.join(unknown)}; there are {', '.join(data.all_names())}")
    if (cpus := usable_cpus()) and settings.threads > len(cpus):
        raise BenchError(f"--threads {settings.threads}: this process may use {len(cpus)} CPUs")
    n, where = FEWEST, "the smallest data sets hold"
    if settings.vectors or settings.queries:
        n, where = data.check_yours(settings.vectors, settings.queries), f"{settings.vectors} holds"
    if settings.k > n and {*OF_VECTORS, grid.NAME} & {*wanted}:
        raise BenchError(f"--k {settings.k}: {where} {n:,} documents")
    names = [name for name in wanted if SECTIONS[name].planned(settings)]
    return names, {name: f"not in a {settings.size} run" for name in wanted if name not in names}


def check_peers(settings: Settings) -> None:
    """A misspelt name would otherwise be a run without peers."""
    known = [library.name for library in library_versions()]
    for name in settings.peers or ():
        if not name.casefold().startswith(tuple(library.casefold() for library in known)):
            raise BenchError(f"--peers: {name!r} is none; their names begin with {', '.join(known)}")


def check_paths(options: Options) -> None:
    written = [path for path in (None if options.source else options.json, options.page, options.markdown) if path]
    for path in written:
        if path.is_dir() or not os.access(path if path.exists() else path.resolve().parent, os.W_OK):
            raise BenchError(f"cannot write {path}: expected a file in a folder that exists and may be written")
    all_paths = [path.resolve() for path in (*written, options.source) if path]
    if len({*all_paths}) < len(all_paths):
        raise BenchError("--json, --page, --markdown and --from: expected a file of its own for each")


def show(run: Run, options: Options, console: Console) -> None:
    """The summary, and the files with their paths last."""
    written = {} if options.source else {"results": options.json}
    if options.markdown:
        replace(options.markdown, report.markdown(run, TITLES))
        written["report"] = options.markdown
    replace(options.page, page.page(run, TITLES))
    written["page"] = options.page
    console.print(table.summary(run, TITLES))
    for what, path in written.items():
        console.print(f"{what}: {path.resolve()}", soft_wrap=True, markup=False)
