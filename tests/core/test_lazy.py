"""Names that load their module when they are used: each is there, and importing ragfast loads none of them."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from ragfast._core import lazy

PACKAGES = ["ragfast", "ragfast.index", "ragfast.marginal", "ragfast.rag"]


@pytest.mark.parametrize("name", PACKAGES)
def test_every_public_name_is_there(name: str) -> None:
    package = importlib.import_module(name)
    assert package.__all__ == sorted(package.__all__)
    assert len(package.__all__) >= 8
    for public in package.__all__:
        assert getattr(package, public).__name__ == public
        assert vars(package)[public] is getattr(package, public)
    assert set(package.__all__) <= set(dir(package))
    with pytest.raises(AttributeError, match=f"module '{name}' has no attribute 'nothing'"):
        _ = package.nothing


def test_importing_loads_neither_the_index_nor_the_models() -> None:
    code = (
        "import sys, ragfast\n"
        "packages = ('ragfast.index', 'ragfast.marginal', 'ragfast.rag')\n"
        "print([name for name in sys.modules if name.startswith(packages)])\n"
        "assert ragfast.rag.methods is sys.modules['ragfast.rag.methods']\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_missing_stub_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImportError, match=r"__init__\.pyi is missing; keep the \*\.pyi files"):
        lazy.exports("ragfast", str(tmp_path / "__init__.py"))
