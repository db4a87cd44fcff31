"""Public names that load their module when they are first used (PEP 562), listed once, in the stub of their package."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable
from typing import Any

_IMPORT = re.compile(r"^from (\S+) import (?:\(([^)]*)\)|(.*))", re.M)


def exports(package: str, file: str) -> tuple[list[str], Callable[[str], Any], Callable[[], list[str]]]:
    """Return ``__all__``, ``__getattr__`` and ``__dir__`` of a package, from the imports of ``__init__.pyi`` beside it.

    Parameters
    ----------
    package : str
        Its ``__name__``.
    file : str
        Its ``__file__``.
    """
    stub = file.removesuffix("c") + "i"  # of .py or .pyc
    try:
        with open(stub, encoding="utf-8") as names:
            imports = _IMPORT.findall(names.read())
    except FileNotFoundError:
        raise ImportError(
            f"{stub} is missing; keep the *.pyi files of ragfast (PyInstaller: --collect-data ragfast)"
        ) from None
    module_of = {name: module for module, *names in imports for name in re.findall(r"(\w+) as ", "".join(names))}
    namespace = vars(sys.modules[package])

    def load(name: str) -> Any:
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        if module_of[name] == package:  # a submodule
            return importlib.import_module(f"{package}.{name}")
        namespace[name] = getattr(importlib.import_module(module_of[name]), name)
        return namespace[name]

    public = sorted(name for name, module in module_of.items() if module != package)
    return public, load, lambda: sorted({*namespace, *module_of})
