"""Signatures of functions that pass their keyword options on to other functions."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])


def options_of(*sources: Callable[..., Any], without: Collection[str] = ()) -> Callable[[Function], Function]:
    """Return a decorator that shows, in place of `**options`, the keyword-only parameters of the functions they go to.

    An option then has its default in one function only, and ``help()`` and ``inspect.signature`` still show it. The
    decorated function itself is returned, so that a call costs nothing more.

    Parameters
    ----------
    *sources : callable
        Functions that receive the options.
    without : collection of str
        Options of the sources that the decorated function does not have.
    """

    def decorate(function: Function) -> Function:
        signature = inspect.signature(function)
        own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        known = {*without, *(p.name for p in own)}
        for source in sources:
            for p in inspect.signature(source).parameters.values():
                if p.kind is p.KEYWORD_ONLY and p.name not in known:
                    known.add(p.name)
                    own.append(p)
        function.__signature__ = signature.replace(parameters=own)  # type: ignore[attr-defined]  # inspect reads it
        return function

    return decorate


def refuse_unknown(options: Mapping[str, Any], function: str) -> None:
    """Raise what Python raises for a keyword argument that a function does not have."""
    for name in options:
        raise TypeError(f"{function}() got an unexpected keyword argument {name!r}")
