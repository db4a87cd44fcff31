# The public names of ragfast.index, for type checkers and for _core/lazy.py.
from ragfast.index import readers as readers
from ragfast.index.filters import Predicate as Predicate, column as column
from ragfast.index.flat import FlatIndex as FlatIndex
from ragfast.index.selection import Filter as Filter
from ragfast.index.snapshot import Hits as Hits, SearchStats as SearchStats, Snapshot as Snapshot
from ragfast.index.storage import IndexFormatError as IndexFormatError
