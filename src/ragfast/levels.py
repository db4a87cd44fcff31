"""Instruction-set levels: which there are, which one is in use. RAGFAST_ISA forces one at import."""

from __future__ import annotations

import os

from ragfast import _kernels


def isa() -> str:
    """The level in use, such as ``"avx512"``: the highest that this CPU runs, unless one was set."""
    return _kernels.isa()


def available_isas() -> list[str]:
    """The levels that this build has and this CPU and operating system run, ascending."""
    return _kernels.available_isas()


def set_isa(name: str) -> None:
    """Uses a level, for the whole process. Results of retrieval have the same bits at each.

    ValueError, with the list of what there is, for a level that is unknown or not available here.
    """
    if name not in available_isas():
        known = "this CPU or operating system lacks" if name in _kernels.known_isas() else "this build does not know"
        raise ValueError(f"isa: expected one of {', '.join(available_isas())}; {known} {name!r}")
    _kernels.set_isa(name)


def set_isa_from_environment() -> None:
    """Applies RAGFAST_ISA, once, at import: a misspelt level must not quietly measure or test another one."""
    wanted = os.environ.get("RAGFAST_ISA")
    if wanted:
        try:
            set_isa(wanted)
        except ValueError as error:
            raise ImportError(f"RAGFAST_ISA={wanted}: {error}") from None
