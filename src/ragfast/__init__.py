"""Exact top-k retrieval and log-sum-exp marginalization for Retrieval-Augmented Generation (Lewis et al. 2020).

The names here are what most users need. Everything else is imported from its package: ``ragfast.index``,
``ragfast.marginal``, ``ragfast.rag``, ``ragfast.torch``, ``ragfast.runtime``. A name loads its module when it is first
used, so that ``import ragfast`` stays cheap.
"""

from ragfast import runtime
from ragfast._core import lazy

__version__ = "0.1.0"

__all__, __getattr__, __dir__ = lazy.exports(__name__, __file__)

runtime.set_isa_from_environment()
runtime.set_num_threads(runtime.default_num_threads())
