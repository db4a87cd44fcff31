"""Training of RAG models: losses with gradients, a watch on retrieval collapse, the index made anew. NumPy alone."""

from ragfast.rag.training.collapse import CollapseMonitor, CollapseStatistics, CollapseWarning
from ragfast.rag.training.gradients import Adam, NLLGradients, nll_and_gradients
from ragfast.rag.training.refresh import Refreshed, refresh, refresh_in_background, topk_drift

__all__ = [
    "Adam",
    "CollapseMonitor",
    "CollapseStatistics",
    "CollapseWarning",
    "NLLGradients",
    "Refreshed",
    "nll_and_gradients",
    "refresh",
    "refresh_in_background",
    "topk_drift",
]
