"""Documents held for exact retrieval, that change while they are searched and outlive the process.

`flat` has the index. It holds a `snapshot`, one version, all of whose reading is there: tuples of `segment`, with
`selection` of the rows that a search may find. `writing` makes the next snapshot from the one before, `persistence` and
`building` the files. The others are what those hold: `quantizer`, `names` and `columns` of `strings`, `filters`,
`id_set`. `one_shot` searches plain arrays; `storage` writes files, `readers` read vectors from those of others.
"""

from ragfast._core import lazy

__all__, __getattr__, __dir__ = lazy.exports(__name__, __file__)
