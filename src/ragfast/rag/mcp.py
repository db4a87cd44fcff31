"""A server of the Model Context Protocol around a :class:`ragfast.rag.tool.SearchTool` (the extra ``mcp``)."""

from __future__ import annotations

import json
import logging
import re
from typing import Any
from urllib.parse import unquote

import anyio
import anyio.to_thread

try:
    import mcp_types as types
    from mcp.server import Server
    from mcp.server.stdio import stdio_server
    from mcp.shared.exceptions import MCPError
except ImportError as error:
    raise ImportError("ragfast.rag.mcp needs the mcp package: pip install 'ragfast-kernels[mcp]'") from error

import ragfast
from ragfast.rag.tool import SearchTool

__all__ = ["build_server", "serve"]

DOCUMENT = "ragfast://documents/{id}"
FAILED = "the search failed; the server's log says why"
logger = logging.getLogger(__name__)


def build_server(tool: SearchTool, *, name: str = "ragfast", instructions: str | None = None) -> Any:
    """An ``mcp.server.Server`` that offers the tool, and each document as the resource ragfast://documents/{id},
    where an id that is a string is percent-encoded. What the retriever's own filter hides is neither found nor read.

    Arguments are checked by the tool itself; what is wrong with them comes back as the tool's result, marked as an
    error, for the model to read. What else fails is logged, and the session goes on: the model is told no more than
    that it failed. An unknown tool or resource is an error of the protocol. Calls are made one at a time, in a thread
    beside the one that serves: tokenizers cannot be shared by threads.

    >>> import anyio, mcp, numpy as np, ragfast
    >>> from ragfast.rag.mcp import build_server
    >>> from ragfast.rag.tool import SearchTool
    >>> encoder = ragfast.rag.DenseRetriever(lambda texts: [[float(len(text))] for text in texts])
    >>> tool = SearchTool(encoder, np.array([[0.5], [0.25]]), ["Paris is in France.", "Rome."], k=1)
    >>> async def main():
    ...     async with mcp.Client(build_server(tool)) as client:
    ...         return await client.call_tool("search", {"query": "four"})
    >>> anyio.run(main).structured_content
    {'results': [{'id': 0, 'score': 2.0, 'probability': 1.0, 'text': 'Paris is in France.'}]}
    """
    one_at_a_time = anyio.Semaphore(1)

    async def list_tools(_: Any, params: Any) -> Any:
        described = types.Tool(
            name=tool.name,
            description=tool.description,
            input_schema=tool.parameters,
            output_schema=tool.output_schema,
            annotations=types.ToolAnnotations(read_only_hint=True, idempotent_hint=True, open_world_hint=False),
        )
        return types.ListToolsResult(tools=[described])

    async def call_tool(_: Any, params: Any) -> Any:
        if params.name != tool.name:
            raise MCPError(types.INVALID_PARAMS, f"unknown tool {params.name!r}; there is {tool.name!r}")
        try:
            async with one_at_a_time:
                found = await anyio.to_thread.run_sync(tool.call, params.arguments or {})
        except ValueError as error:
            return types.CallToolResult(content=[types.TextContent(text=str(error))], is_error=True)
        except Exception:
            logger.exception("%s failed", tool.name)
            return types.CallToolResult(content=[types.TextContent(text=FAILED)], is_error=True)
        text = json.dumps(found, ensure_ascii=False)  # for clients that know no structured content
        return types.CallToolResult(content=[types.TextContent(text=text)], structured_content=found)

    async def list_resources(_: Any, params: Any) -> Any:
        return types.ListResourcesResult(resources=[])  # too many to list: a search gives their ids

    async def list_templates(_: Any, params: Any) -> Any:
        template = types.ResourceTemplate(
            uri_template=DOCUMENT,
            name="document",
            description=f"The text of a document, by the id that {tool.name} gives.",
            mime_type="text/plain",
        )
        return types.ListResourceTemplatesResult(resource_templates=[template])

    async def read_resource(_: Any, params: Any) -> Any:
        uri = str(params.uri)
        of_strings = tool.output_schema["properties"]["results"]["items"]["properties"]["id"]["type"] == "string"
        id_form = "([^/?#]+)" if of_strings else "([0-9]{1,18})"
        match = re.fullmatch(re.escape(DOCUMENT).replace(r"\{id\}", id_form), uri)
        try:
            if match is None:
                raise ValueError(f"unknown resource {uri!r}; there is {DOCUMENT}")
            text = tool.document(unquote(match[1]) if of_strings else int(match[1]))
        except ValueError as error:
            raise MCPError(types.INVALID_PARAMS, str(error)) from error
        except Exception:
            logger.exception("a document could not be read")
            raise MCPError(types.INTERNAL_ERROR, FAILED) from None
        contents = types.TextResourceContents(uri=uri, mime_type="text/plain", text=text)
        return types.ReadResourceResult(contents=[contents])

    return Server(
        name,
        version=ragfast.__version__,
        instructions=instructions,
        on_list_tools=list_tools,
        on_call_tool=call_tool,
        on_list_resources=list_resources,
        on_list_resource_templates=list_templates,
        on_read_resource=read_resource,
    )


def serve(tool: SearchTool, *, name: str = "ragfast", instructions: str | None = None) -> None:
    """Serves the tool over stdin and stdout until stdin ends, as clients start their servers.

    stdout is the protocol's: what the process prints while it serves goes to stderr; print nothing before.
    """
    server = build_server(tool, name=name, instructions=instructions)

    async def run() -> None:
        async with stdio_server() as (read, write):
            await server.run(read, write, server.create_initialization_options())

    anyio.run(run)
