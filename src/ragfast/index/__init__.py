"""Documents held for exact retrieval, that change while they are searched and outlive the process.

`flat` has the index. It holds a `snapshot`, one version, all of whose reading is there: tuples of `segment`, with
`selection` of the rows that a search may find. `writing` makes the next snapshot from the one before, `persistence` and
`building` the files. The others are what those hold: `codes`, `names` and `columns` of `strings`, `filters`, `taken`.
"""

from ragfast.index.flat import FlatIndex, Hits, SearchStats, Snapshot

__all__ = ["FlatIndex", "Hits", "SearchStats", "Snapshot"]
