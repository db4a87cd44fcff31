"""Pictures of RAG models and of what they did (extra ``plots``: matplotlib; imported by name alone).

Every function returns a matplotlib Figure, made without pyplot: nothing opens, no global setting changes, and a server
may draw too. ``figure.savefig`` writes it, :func:`save` the same bytes each time. Text is as it stands: no ``$`` starts
a formula, spaces and line breaks of tokens are shown, and a character that no chosen font has is a box; with
``matplotlib.rcParams["font.family"] = ["DejaVu Sans", "Noto Sans CJK JP"]``, for instance, Japanese has its own.
"""

from __future__ import annotations

try:
    from ragfast.rag.plots.gaps import score_gap
    from ragfast.rag.plots.models import architecture
    from ragfast.rag.plots.posteriors import posterior_entropy, posterior_heatmap, token_entropy
    from ragfast.rag.plots.style import save
except ModuleNotFoundError as error:
    raise ImportError(f"ragfast.rag.plots needs {error.name}: pip install 'ragfast-kernels[plots]'") from error

__all__ = ["architecture", "posterior_entropy", "posterior_heatmap", "save", "score_gap", "token_entropy"]
