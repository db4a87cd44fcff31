"""The server of the Model Context Protocol, asked by the package's own client: in memory, and over stdin and stdout."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ragfast

anyio = pytest.importorskip("anyio")
mcp = pytest.importorskip("mcp", reason="mcp is not installed: `make test-all` has it")

# The server of both tests: a dozen lines that need no model. The second also prints where it may not.
SERVER = """
import numpy as np
import ragfast
from ragfast.rag.mcp import build_server, serve
from ragfast.rag.tool import SearchTool

WORDS = ("paris", "rome")


def encode(texts):
    print("on its way to stderr")
    return [[float(text.lower().count(word)) for word in WORDS] for text in texts]


tool = SearchTool(
    ragfast.rag.DenseRetriever(encode), np.eye(2), ["Paris is in France.", "Rome is in Italy."], k=1, titles=["P", "R"]
)
if __name__ == "__main__":
    serve(tool)
"""


@pytest.fixture(scope="module")
def server() -> Any:
    names: dict[str, Any] = {"__name__": "server"}
    exec(SERVER, names)
    return names["build_server"](names["tool"], instructions="Ask.")


def ask(server: Any, method: str, *arguments: Any) -> Any:
    async def main() -> Any:
        async with mcp.Client(server) as client:
            return await getattr(client, method)(*arguments)

    return anyio.run(main)


def test_what_fails_is_the_operators_to_read(caplog: pytest.LogCaptureFixture) -> None:
    """As of a retriever's filter that no longer fits: the session goes on, and names no column."""
    from ragfast.rag.mcp import build_server
    from ragfast.rag.tool import SearchTool

    index = ragfast.FlatIndex(2)
    of_a = ragfast.rag.DenseRetriever(lambda texts: np.ones((len(texts), 2)), filter=ragfast.column("secret") == "a")
    late = build_server(SearchTool(of_a, index, ["text"]))
    index.add(np.eye(2, dtype=np.float32), metadata={"secret": [1, 2]})

    async def main() -> None:
        async with mcp.Client(late) as client:
            for _ in range(2):
                result = await client.call_tool("search", {"query": "x"})
                assert result.is_error
                assert result.content[0].text == "the search failed; the server's log says why"
                with pytest.raises(mcp.MCPError, match=r"^the search failed; the server's log says why$"):
                    await client.read_resource("ragfast://documents/0")

    anyio.run(main)
    assert caplog.text.count("column 'secret' holds int64") >= 4


def test_lists_the_tool(server: Any) -> None:
    (tool,) = ask(server, "list_tools").tools
    assert tool.name == "search"
    assert tool.input_schema["required"] == ["query"]
    assert tool.output_schema["required"] == ["results"]
    assert tool.annotations.read_only_hint


def test_calls_the_tool(server: Any) -> None:
    result = ask(server, "call_tool", "search", {"query": "Rome?", "k": 2})
    assert not result.is_error
    assert [found["id"] for found in result.structured_content["results"]] == [1, 0]
    assert result.structured_content["results"][0]["text"] == "Rome is in Italy."
    assert json.loads(result.content[0].text) == result.structured_content


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "query: expected a string, but the argument is missing"),
        ({"query": ""}, 'query: expected a string that is not empty, got ""'),
        ({"query": "Rome", "k": 21}, "k: expected an integer from 1 to 20, got 21"),
        ({"query": "Rome", "lang": "it"}, 'arguments: expected query and k, got also "lang"'),
    ],
)
def test_wrong_arguments_are_for_the_model_to_read(server: Any, arguments: dict[str, Any], message: str) -> None:
    result = ask(server, "call_tool", "search", arguments)
    assert result.is_error
    assert result.content[0].text == message
    assert result.structured_content is None


def test_documents_are_resources(server: Any) -> None:
    (template,) = ask(server, "list_resource_templates").resource_templates
    assert template.uri_template == "ragfast://documents/{id}"
    assert ask(server, "list_resources").resources == []
    (contents,) = ask(server, "read_resource", "ragfast://documents/1").contents
    assert contents.text == "Rome is in Italy."


def test_documents_outside_the_retrievers_filter_are_not_there() -> None:
    from ragfast.rag.mcp import build_server
    from ragfast.rag.tool import SearchTool

    names = ["a/1 ü", "b/1", "7"]
    index = ragfast.FlatIndex.from_vectors(np.eye(3, dtype=np.float32), names, metadata={"tenant": ["a", "b", "a"]})
    retriever = ragfast.rag.DenseRetriever(
        lambda texts: np.ones((len(texts), 3)), filter=ragfast.column("tenant") == "a"
    )
    tool = SearchTool(retriever, index, dict(zip(names, ["one", "two", "three"], strict=True)), filter_by=["tenant"])
    server = build_server(tool)
    everything = {"query": "?", "k": 9, "filter": {"tenant": ["a", "b"]}}
    found = ask(server, "call_tool", "search", everything).structured_content["results"]
    assert [result["id"] for result in found] == ["a/1 ü", "7"]
    found = ask(server, "call_tool", "search", {"query": "?", "filter": {"tenant": "b"}})
    assert (found.is_error, found.structured_content) == (False, {"results": []})
    found = ask(server, "call_tool", "search", {"query": "?", "filter": {"tenant": 3}})
    assert found.content[0].text.startswith("filter: column 'tenant' holds str: expected a str")
    for uri, text in (("a%2F1%20%C3%BC", "one"), ("7", "three")):
        (contents,) = ask(server, "read_resource", f"ragfast://documents/{uri}").contents
        assert contents.text == text

    async def refused(uri: str) -> str:
        async with mcp.Client(server) as client:
            with pytest.raises(mcp.MCPError) as caught:
                await client.read_resource(f"ragfast://documents/{uri}")
        return str(caught.value)

    for uri in ("b%2F1", "b%2F2"):
        assert anyio.run(refused, uri) == f"documents: no entry for document id {uri.replace('%2F', '/')!r}"


@pytest.mark.parametrize(
    ("method", "arguments", "message"),
    [
        ("call_tool", ("find", {"query": "Rome"}), "unknown tool 'find'; there is 'search'"),
        ("read_resource", ("ragfast://documents/2",), "no entry for document id 2"),
        ("read_resource", ("ragfast://documents/one",), "unknown resource"),
    ],
)
def test_what_is_not_there_is_an_error_of_the_protocol(
    server: Any, method: str, arguments: tuple[Any, ...], message: str
) -> None:
    async def main() -> None:
        async with mcp.Client(server) as client:
            with pytest.raises(mcp.MCPError, match=message):
                await getattr(client, method)(*arguments)

    anyio.run(main)


def test_calls_are_made_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tokenizer that two threads use at once raises."""
    names: dict[str, Any] = {"__name__": "server"}
    exec(SERVER, names)
    tool, encode = names["tool"], names["encode"]
    running, most, done = [0], [0], []

    def slow(texts: Any) -> Any:
        running[0] += 1
        most[0] = max(most[0], running[0])
        time.sleep(0.02)
        running[0] -= 1
        return encode(texts)

    monkeypatch.setattr(tool.retriever, "encode", slow)

    async def main() -> None:
        async with mcp.Client(names["build_server"](tool)) as client, anyio.create_task_group() as calls:
            for _ in range(4):
                calls.start_soon(call, client)

    async def call(client: Any) -> None:
        done.append((await client.call_tool("search", {"query": "Rome"})).structured_content["results"][0]["id"])

    anyio.run(main)
    assert (done, most) == ([1] * 4, [1])


def test_over_stdin_and_stdout(tmp_path: Path) -> None:
    """The bytes themselves: each line of stdout is the protocol's, though the encoder prints."""
    script = tmp_path / "server.py"
    script.write_text(SERVER)
    messages = [
        {
            "id": 1,
            "method": "initialize",
            "params": {
                "protocolVersion": "2025-06-18",
                "capabilities": {},
                "clientInfo": {"name": "test", "version": "0"},
            },
        },
        {"method": "notifications/initialized"},
        {"id": 2, "method": "tools/call", "params": {"name": "search", "arguments": {"query": "Rome"}}},
    ]
    process = subprocess.Popen(
        [sys.executable, str(script)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        answers = []
        for message in messages:  # in turns, as a client does: at the end of stdin the server goes
            process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
            process.stdin.flush()
            if "id" in message:
                answers.append(json.loads(process.stdout.readline()))
        rest, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
    assert [answer["id"] for answer in answers] == [1, 2]
    assert answers[0]["result"]["serverInfo"]["name"] == "ragfast"
    assert answers[1]["result"]["structuredContent"]["results"][0]["title"] == "R"
    assert rest == ""
    assert "on its way to stderr" in stderr
    assert process.returncode == 0
