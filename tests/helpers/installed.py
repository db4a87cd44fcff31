"""A copy of the installed ragfast, to be loaded beside the one that the tests import."""

from __future__ import annotations

import shutil
from pathlib import Path

import ragfast
from ragfast._core import _kernels


def copy_of_installed(site: Path) -> Path:
    """Copy the package from wherever it is: an editable install has the extension module in another folder."""
    for folder in ragfast.__path__:
        shutil.copytree(folder, site / "ragfast", dirs_exist_ok=True)
    extension = Path(_kernels.__file__)
    shutil.copy(extension, site / "ragfast" / "_core" / extension.name)
    return site
