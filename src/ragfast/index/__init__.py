"""Documents held for exact retrieval, that change while they are searched and outlive the process.

`flat` has the index. It holds a `snapshot`, one version, all of whose reading is there: tuples of `segment`, with
`selection` of the rows that a search may find. `writing` makes the next snapshot from the one before, `persistence` and
`building` the files. The others are what those hold: `quantizer`, `names` and `columns` of `strings`, `filters`,
`id_set`. `one_shot` searches plain arrays; `storage` writes files, `readers` read vectors from those of others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ragfast._core import lazy

if TYPE_CHECKING:
    from ragfast.index.filters import Predicate as Predicate, column as column
    from ragfast.index.flat import FlatIndex as FlatIndex
    from ragfast.index.selection import Filter as Filter
    from ragfast.index.snapshot import Hits as Hits, SearchStats as SearchStats, Snapshot as Snapshot
    from ragfast.index.storage import IndexFormatError as IndexFormatError

__all__, __getattr__, __dir__ = lazy.exports(
    __name__,
    {
        "filters": "Predicate column",
        "flat": "FlatIndex",
        "selection": "Filter",
        "snapshot": "Hits SearchStats Snapshot",
        "storage": "IndexFormatError",
    },
    ("readers",),
)
