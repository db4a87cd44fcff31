"""Embeddings where they lie, read block by block for :meth:`ragfast.FlatIndex.build`: memory for a block is all that is
needed, whatever the files' size.

:func:`npy` needs NumPy only, :func:`safetensors` the extra ``safetensors``, and :func:`parquet`, :func:`arrow` and
:func:`dataset` (Hugging Face) the extra ``arrow``. Anything else is a generator of :class:`Block` away.
"""

from ragfast.index.readers.block import Block, Source
from ragfast.index.readers.files import npy
from ragfast.index.readers.tables import arrow, dataset, parquet
from ragfast.index.readers.tensors import safetensors

__all__ = ["Block", "Source", "arrow", "dataset", "npy", "parquet", "safetensors"]
