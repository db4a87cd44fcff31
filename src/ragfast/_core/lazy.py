"""Public names that load their module when they are first used (PEP 562)."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Collection, Mapping
from typing import Any


def exports(
    package: str, names_of: Mapping[str, str], submodules: Collection[str] = ()
) -> tuple[list[str], Callable[[str], Any], Callable[[], list[str]]]:
    """Return ``__all__``, ``__getattr__`` and ``__dir__`` of a package.

    Parameters
    ----------
    package : str
        Its dotted name.
    names_of : mapping of str to str
        For each module below `package` the public names that it defines, separated by spaces.
    submodules : collection of str
        Submodules that are attributes of the package as well.
    """
    module_of = {name: module for module, names in names_of.items() for name in names.split()}
    public = sorted(module_of)
    namespace = vars(sys.modules[package])

    def getattribute(name: str) -> Any:
        if name in module_of:
            namespace[name] = getattr(importlib.import_module(f"{package}.{module_of[name]}"), name)
            return namespace[name]
        if name in submodules:
            return importlib.import_module(f"{package}.{name}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return public, getattribute, lambda: sorted({*namespace, *public, *submodules})
