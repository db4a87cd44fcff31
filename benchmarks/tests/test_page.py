"""The page parses, needs nothing from outside, leaves nothing out, and takes names as text."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser

import pytest
import sample
from ragfast_bench import verdicts, wording
from ragfast_bench.page import page
from ragfast_bench.results import Result, Run, Task

VOID = {"meta", "link", "br", "hr", "img", "input"}
HOSTILE = """</script><script>alert(1)</script><img src=x onerror="alert(1)"> $x^{$ & 'q' 検索"""


class Page(HTMLParser):
    """Its text outside styles and scripts, its elements, and whatever would be wrong with it."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.scripts: list[str] = []
        self.wrong: list[str] = []
        self.feed(html)
        self.close()
        self.wrong += [f"{tag} is not closed" for tag in self.open]
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(f"{tag} closes what is not open, at {self.getpos()}")

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)
        elif not self.open or self.open[-1] != "style":
            self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def html() -> str:
    return page(sample.run(), sample.TITLES)


@pytest.fixture(scope="module")
def parsed(html: str) -> Page:
    return Page(html)


def test_every_tag_is_closed(parsed: Page) -> None:
    assert parsed.wrong == []


def test_loads_nothing(html: str, parsed: Page) -> None:
    for tag, attributes in parsed.elements:
        assert "src" not in attributes
        target = attributes.get("href") or attributes.get("xlink:href") or "#"
        assert target.startswith(("#", "data:application/json;base64,")), tag
    assert "@import" not in html
    assert set(re.findall(r"url\((.)", html)) <= {"#"}
    assert re.findall(r"https?://", html) == []


def test_nothing_runs(parsed: Page) -> None:
    assert [script.get("type") for script in parsed.all("script")] == ["application/json"]
    assert [name for _, attributes in parsed.elements for name in attributes if name.startswith("on")] == []


def test_ids_are_there_once_and_references_lead_somewhere(html: str, parsed: Page) -> None:
    ids = [attributes["id"] for _, attributes in parsed.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = re.findall(r'(?:href="|url\()#([^")]+)', html)
    assert set(targets) <= set(ids)


def test_everything_is_there(parsed: Page) -> None:
    run = sample.run()
    for task in run.tasks:
        assert task.name in parsed.text
        for result in task.results:
            assert result.contender in parsed.text
            assert result.note in parsed.text
        for name, reason in task.left_out.items():
            assert name in parsed.text
            assert reason in parsed.text
    for library in run.libraries:
        assert library.name in parsed.text
        assert (library.version or library.reason) in parsed.text
    assert "faiss-cpu 1.15.1" in parsed.text
    for what, reason in run.left_out.items():
        assert what in parsed.text
        assert reason in parsed.text
    assert wording.headline(run, sample.TITLES) in parsed.text
    assert run.machine.processor in parsed.text


def test_losing_cells_are_collected(parsed: Page) -> None:
    after = parsed.text[parsed.text.index("Every comparison that ragfast lost") :]
    after = after[: after.index("How it was measured")]
    assert "wrong sum" in after
    assert "ours is WRONG" in after
    assert "rounded sum" not in after
    lost = [one for one in verdicts.all_comparisons(sample.run()) if one.verdict == "lost"]
    assert len(lost) > 3
    for one in lost:
        assert one.name in after
        assert sample.TITLES[one.task.section] in after


def rows(html: str, name: str) -> list[str]:
    return [line for line in html.splitlines() if line.startswith("<tr") and f">{name}</th>" in line]


def test_verdicts_are_of_exact_peers_alone(html: str) -> None:
    (rounded,), (alike,) = rows(html, "torch rounded"), rows(html, "torch rounded alike")
    assert '<td class="inexact">0.50</td>' in rounded
    assert '<td class="inexact">1.00</td>' in alike
    (compared,) = rows(html, "rounded sum")
    assert '<td class="won">3.0</td>' in compared
    assert "torch rounded (error 1e-02)<" in compared
    (broken, again) = rows(html, "wrong sum")
    assert broken.count("ours is WRONG") == again.count("ours is WRONG") == 1


def test_recall_of_a_peer_that_is_named_as_the_best(html: str) -> None:
    assert all("FAISS default (recall 0.009)" in row for row in rows(html, "near-duplicates, B 1"))


def test_memory_held_and_overloaded_are_told(html: str, parsed: Page) -> None:
    (held,) = rows(html, "random, 100,000 of 768, memory held")
    assert '<td class="won">3.9</td>' in held
    assert "In 1 of these one was overloaded" in parsed.text
    assert "&ldquo;Memory of losses&rdquo;" in html


def test_plots_are_described(parsed: Page) -> None:
    plots = [attributes for attributes in parsed.all("div") if attributes.get("role") == "img"]
    assert len(plots) == len(parsed.all("svg")) > 10
    for plot in plots:
        assert len(plot["aria-label"] or "") > 40
    for title in ("Roofline", "against the size of the batch", "against the number of documents", "ratio to the best"):
        assert any(title in (plot["aria-label"] or "") for plot in plots), title


def test_tables_have_captions_and_heads(parsed: Page) -> None:
    tables = len(parsed.all("table"))
    assert tables >= len(sample.run().tasks)
    assert len(parsed.all("caption")) == len(parsed.all("thead")) == tables
    assert all(cell.get("scope") in ("col", "row") for cell in parsed.all("th"))


def test_the_run_is_in_it(parsed: Page) -> None:
    (embedded,) = parsed.scripts
    link = next(a for a in parsed.all("a") if "download" in a)
    downloaded = base64.b64decode((link["href"] or "").partition("base64,")[2])
    assert json.loads(embedded) == json.loads(downloaded)
    assert len(json.loads(embedded)["tasks"]) == len(sample.run().tasks)


def test_size_and_colours(html: str) -> None:
    assert len(html) < 3_000_000
    assert "prefers-color-scheme: dark" in html
    assert "#0102" not in html  # every colour that stands for a variable was replaced by it
    assert "var(--s0)" in html


def test_same_run_same_page() -> None:
    run = sample.run(tasks=tuple(sample.searches()[:3] + sample.latency() + sample.memory()))
    assert page(run, sample.TITLES) == page(run, sample.TITLES)


def test_hostile_names_are_text() -> None:
    def named(task: Task) -> Task:
        results = tuple(Result(**vars(result) | {"contender": result.contender + HOSTILE}) for result in task.results)
        changed = {"name": HOSTILE + task.name, "data": HOSTILE, "results": results, "left_out": {HOSTILE: HOSTILE}}
        return Task(**vars(task) | changed)

    some = sample.searches()[:3] + sample.grid()[:8] + sample.latency() + sample.losses() + sample.memory()
    run = sample.run(tasks=tuple(map(named, some)), command=HOSTILE, left_out={HOSTILE: HOSTILE})
    html = page(run, sample.TITLES)
    parsed = Page(html)
    assert parsed.wrong == []
    assert parsed.all("img") == []
    assert len(parsed.all("script")) == 1
    assert "<script>alert" not in html
    assert " ".join(HOSTILE.split()) in parsed.text
    assert json.loads(parsed.scripts[0])["command"] == HOSTILE


@pytest.mark.parametrize("run", [sample.run(tasks=(), libraries=()), sample.without_peers()], ids=["empty", "alone"])
def test_nothing_to_compare(run: Run) -> None:
    parsed = Page(page(run, sample.TITLES))
    assert parsed.wrong == []
    assert "compares it with nothing" in parsed.text
    assert ("This run measured nothing" in parsed.text) == (not run.tasks)


def test_odd_tasks() -> None:
    """With no results, of an unknown section, with no shape, with neither time nor measure."""
    tasks = (
        Task("search", "nothing", "", {}, 1, ()),
        Task("new", "unknown", "", {}, 2, (Result("ragfast", True, True),)),
        Task("latency", "no waits", "", {}, 1, (Result("ragfast", True, True, sample.spread(1.0)),)),
        Task("loss", "no floor", "", {}, 1, (Result("ragfast", True, True, sample.spread(0.1)),)),
        Task("grid", "half a shape", "", {"N": 3}, 1, (Result("ragfast", True, True, sample.spread(0.1)),)),
    )
    parsed = Page(page(sample.run(tasks=tasks), sample.TITLES))
    assert parsed.wrong == []
    for task in tasks:
        assert task.name in parsed.text
