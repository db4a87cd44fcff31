"""Sources with named columns: Parquet and Arrow, by the extra ``arrow`` (pyarrow). Nothing is copied where Arrow's
memory can be looked at as it lies."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ragfast._core import arrays
from ragfast.index.readers.block import ROWS, Block, Paths, Source, path_list, refuse_type, rounded_floats, same_dim

__all__ = ["arrow", "dataset", "parquet"]


_FEW = 64
"""Rows of a chunk below which it is copied together with others: a shuffled dataset comes row by row."""


class Columns(NamedTuple):
    """Which columns are what."""

    vectors: str
    ids: str | None
    metadata: tuple[str, ...]
    rounded: bool

    @property
    def names(self) -> list[str]:
        return list(dict.fromkeys([self.vectors, *([] if self.ids is None else [self.ids]), *self.metadata]))


def _pyarrow() -> Any:
    try:
        import pyarrow
    except ImportError as error:
        raise ImportError("Parquet and Arrow sources need pyarrow: pip install 'ragfast-kernels[arrow]'") from error
    return pyarrow


def parquet(
    paths: Paths,
    vectors: str = "embedding",
    *,
    ids: str | None = None,
    metadata: Sequence[str] = (),
    rows: int = ROWS,
    rounded: bool = False,
) -> Source:
    """Documents of a Parquet file, or of several one after the other.

    vectors names the column of vectors, lists of float32 or float16 of one length; ids a column of integers or strings;
    metadata columns of integers, floating-point numbers, booleans or strings. Other columns are not read. A block has
    `rows` rows or fewer. A null string stays None and a null floating-point number becomes NaN; any other null is
    refused. rounded=True rounds vectors of float64 to float32.

    FileNotFoundError for a path that is not there; ImportError without pyarrow; ValueError, with the row, for nulls and
    for lists of different lengths, and for columns that are not there; TypeError for columns of another type.

    >>> import tempfile
    >>> import numpy as np, pyarrow as pa, pyarrow.parquet
    >>> from ragfast.index import readers
    >>> vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(6, dtype=np.float32)), 2)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     pa.parquet.write_table(pa.table({"embedding": vectors, "key": ["a", "b", "c"]}), f"{folder}/docs.parquet")
    ...     for block in readers.parquet(f"{folder}/docs.parquet", ids="key", rows=2):
    ...         print(block.vectors.tolist(), block.ids.tolist())
    [[0.0, 1.0], [2.0, 3.0]] ['a', 'b']
    [[4.0, 5.0]] ['c']
    """
    _pyarrow()
    import pyarrow.parquet

    columns = Columns(vectors, ids, tuple(metadata), rounded)
    rows = arrays.positive_int(rows, "rows")
    files = path_list(paths)
    n_docs, dim = 0, None
    for path in files:
        with _open(path, pyarrow.parquet.ParquetFile, "Parquet") as file:
            found = check_schema(file.schema_arrow, columns, str(path))
            n_docs += file.metadata.num_rows
        dim = dim if found is None else same_dim(dim, found, str(path))

    def batches() -> Iterator[tuple[str, Iterable[Any]]]:
        for path in files:
            # Buffered, or whole column chunks would be read at once, and a chunk may be all of a file.
            options = {"pre_buffer": False, "buffer_size": 2**20}
            with _open(path, partial(pyarrow.parquet.ParquetFile, **options), "Parquet") as file:
                yield str(path), _named(path, file.iter_batches(batch_size=rows, columns=columns.names))

    return Source(partial(blocks_of, batches, columns, rows), n_docs, dim)


def arrow(
    table: Any,
    vectors: str = "embedding",
    *,
    ids: str | None = None,
    metadata: Sequence[str] = (),
    rows: int = ROWS,
    rounded: bool = False,
) -> Source:
    """Documents of Arrow: a Table, a RecordBatch, a RecordBatchReader or other iterable of batches, or the path of a
    file in the IPC format (Feather) or stream format, which is mapped.

    Everything else is as in :func:`parquet`. Readers and iterables can be read once.

    >>> import numpy as np, pyarrow as pa
    >>> from ragfast.index import readers
    >>> vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(6, dtype=np.float32)), 2)
    >>> source = readers.arrow(pa.table({"embedding": vectors, "year": [1999, 2004, 1951]}), metadata=["year"])
    >>> source.n_docs, source.dim, [block.metadata["year"].tolist() for block in source]
    (3, 2, [[1999, 2004, 1951]])
    """
    pa = _pyarrow()
    columns = Columns(vectors, ids, tuple(metadata), rounded)
    rows = arrays.positive_int(rows, "rows")
    where, n_docs, dim = "table", None, None
    if isinstance(table, (str, Path)):
        (path,) = path_list(table)
        where = str(path)
        with open(path, "rb") as head:
            is_file = head.read(6) == b"ARROW1"  # the format of files, rather than that of streams
        with _open(path, partial(_open_ipc, is_file=is_file), "Arrow IPC") as file:
            dim = check_schema(file.schema, columns, where)
        if is_file:
            import pyarrow.dataset

            n_docs = pyarrow.dataset.dataset(where, format="ipc").count_rows()

        def batches() -> Iterator[tuple[str, Iterable[Any]]]:
            with _open(path, partial(_open_ipc, is_file=is_file), "Arrow IPC") as file:
                yield where, _named(path, map(file.get_batch, range(file.num_record_batches)) if is_file else file)
    else:
        if isinstance(table, pa.RecordBatch):
            table = pa.Table.from_batches([table])
        if isinstance(table, pa.Table):
            n_docs = table.num_rows
        if isinstance(table, (pa.Table, pa.RecordBatchReader)):
            dim = check_schema(table.schema, columns, where)
        elif not hasattr(table, "__iter__"):
            raise TypeError(f"table: expected an Arrow table, batches or a path, got {type(table).__name__}")

        def batches() -> Iterator[tuple[str, Iterable[Any]]]:
            yield where, (table.to_batches(max_chunksize=rows) if isinstance(table, pa.Table) else table)

    return Source(partial(blocks_of, batches, columns, rows), n_docs, dim)


def dataset(
    data: Any,
    vectors: str = "embedding",
    *,
    ids: str | None = None,
    metadata: Sequence[str] = (),
    rows: int = ROWS,
    rounded: bool = False,
) -> Source:
    """Documents of a Hugging Face dataset (one split of it), in its order as select, shuffle and sort left it, or of an
    iterable one.

    Everything else is as in :func:`parquet`. The values are read as Arrow has them, whatever format the dataset is set
    to. An iterable dataset infers types where its features are not known: Python's numbers come as float64.

    ``dataset(datasets.load_dataset("parquet", data_files="docs.parquet", split="train"), ids="key")``
    """
    _pyarrow()
    if not all(hasattr(data, name) for name in ("with_format", "iter", "select_columns")):
        hint = "; pass one of its splits" if isinstance(data, dict) else ""
        raise TypeError(f"data: expected a dataset of Hugging Face, got {type(data).__name__}{hint}")
    columns = Columns(vectors, ids, tuple(metadata), rounded)
    rows = arrays.positive_int(rows, "rows")
    n_docs: int | None = getattr(data, "num_rows", None)
    dim: int | None = None
    if data.features is not None:
        dim = check_schema(data.features.arrow_schema, columns, "dataset")

    def batches() -> Iterator[tuple[str, Iterable[Any]]]:
        chosen = data if data.features is None else data.select_columns(columns.names)
        yield "dataset", chosen.with_format("arrow").iter(batch_size=rows)

    return Source(partial(blocks_of, batches, columns, rows), n_docs, dim)


def _open(path: Path, opener: Callable[[Path], Any], kind: str) -> Any:
    pa = _pyarrow()
    try:
        return opener(path)
    except (pa.ArrowInvalid, OSError) as error:
        if isinstance(error, (FileNotFoundError, PermissionError)):
            raise
        raise ValueError(f"{path}: not a {kind} file that can be read: {error}") from error


def _named(path: Path, batches: Iterable[Any]) -> Iterator[Any]:
    """The batches of a file, which errors on the way name."""
    pa = _pyarrow()
    try:
        yield from batches
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path}: cannot be read to its end: {error}") from error


def _open_ipc(path: Path, is_file: bool) -> Any:
    import pyarrow.ipc

    source = pyarrow.memory_map(str(path))
    return pyarrow.ipc.open_file(source) if is_file else pyarrow.ipc.open_stream(source)


def check_schema(schema: Any, columns: Columns, where: str) -> int | None:
    """Raises for columns that are not there or of another type; D where the schema says it."""
    pa = _pyarrow()
    for name in columns.names:
        if schema.names.count(name) != 1:
            no = "no" if name not in schema.names else "more than one"
            raise ValueError(f"{where}: {no} column {name!r}; there are {', '.join(map(repr, schema.names)) or 'none'}")
    at = f"{where}: column {columns.vectors!r}"
    kind = schema.field(columns.vectors).type
    while isinstance(kind, pa.BaseExtensionType):  # of which the storage is lists
        kind = kind.storage_type
    fixed = pa.types.is_fixed_size_list(kind)
    if not (fixed or pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        raise TypeError(f"{at}: expected lists of float32 or float16, got {kind}")
    if kind.value_type not in (pa.float32(), pa.float16()):
        refuse_type(str(kind), kind.value_type == pa.float64(), at, columns.rounded)
    return kind.list_size if fixed else None


def blocks_of(
    batches: Callable[[], Iterator[tuple[str, Iterable[Any]]]], columns: Columns, rows: int
) -> Iterator[Block]:
    """Blocks of at most `rows` rows of batches, which come with what errors call the place they are from."""
    pa = _pyarrow()
    dim: int | None = None
    for where, some in batches():
        first = 0  # row of this place, for errors
        for batch in some:
            if not isinstance(batch, (pa.RecordBatch, pa.Table)):
                raise TypeError(f"{where}: expected batches of Arrow, got {type(batch).__name__}")
            check_schema(batch.schema, columns, where)
            table = pa.Table.from_batches([batch]) if isinstance(batch, pa.RecordBatch) else batch
            table = table.select(columns.names)
            if max(column.num_chunks for column in table.columns) > 1 + table.num_rows // _FEW:
                table = table.combine_chunks()
            for part in table.to_batches(max_chunksize=rows):
                if part.num_rows:
                    vectors = _vectors(part.column(columns.vectors), columns, first, dim, where)
                    dim = vectors.shape[1]
                    yield Block(
                        vectors,
                        None if columns.ids is None else _ids(part.column(columns.ids), columns.ids, first, where),
                        {name: _values(part.column(name), name, first, where) for name in columns.metadata} or None,
                    )
                first += part.num_rows


def _refuse_nulls(column: Any, name: str, first: int, where: str) -> None:
    if column.null_count:
        row = first + int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
        raise ValueError(f"{where}: column {name!r}: row {row} is null")


def _vectors(column: Any, columns: Columns, first: int, dim: int | None, where: str) -> NDArray[Any]:
    pa = _pyarrow()
    while isinstance(column, pa.ExtensionArray):
        column = column.storage
    _refuse_nulls(column, columns.vectors, first, where)
    at = f"{where}: column {columns.vectors!r}"
    if pa.types.is_fixed_size_list(column.type):
        dim = same_dim(dim, column.type.list_size, at)
    else:
        lengths = np.diff(column.offsets.to_numpy())
        dim = int(lengths[0]) if dim is None else dim
        same_dim(None, dim, at)
        other = np.flatnonzero(lengths != dim)
        if other.size:
            row = other[0]
            raise ValueError(f"{at}: row {first + row} has {lengths[row]} values where others have {dim}")
    values = column.flatten()  # of this part of the column alone
    if values.null_count:
        place = int(np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False))[0])
        raise ValueError(f"{at}: row {first + place // dim} holds a null")
    return rounded_floats(values.to_numpy(), at, columns.rounded).reshape(-1, dim)  # type: ignore[no-any-return]  # of pyarrow


def _ids(column: Any, name: str, first: int, where: str) -> NDArray[Any]:
    pa = _pyarrow()
    _refuse_nulls(column, name, first, where)
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_integer(column.type):
        return column.cast(pa.int64()).to_numpy()  # type: ignore[no-any-return]  # of pyarrow
    return _texts(column, name, where, "integers or strings for ids")


def _values(column: Any, name: str, first: int, where: str) -> NDArray[Any]:
    pa = _pyarrow()
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_floating(column.type):
        return column.cast(pa.float64()).to_numpy(zero_copy_only=False)  # type: ignore[no-any-return]  # of pyarrow
    if pa.types.is_integer(column.type) or pa.types.is_boolean(column.type):
        _refuse_nulls(column, name, first, where)
        column = column if pa.types.is_boolean(column.type) else column.cast(pa.int64())
        return column.to_numpy(zero_copy_only=False)  # type: ignore[no-any-return]  # of pyarrow
    return _texts(column, name, where, "integers, floating-point numbers, booleans or strings")


def _texts(column: Any, name: str, where: str, expected: str) -> NDArray[np.object_]:
    pa = _pyarrow()
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        raise TypeError(f"{where}: column {name!r}: expected {expected}, got {column.type}")
    texts = np.empty(len(column), object)
    texts[:] = column.to_pylist()
    return texts
