"""``ragfast index``: builds an index directory from files of embeddings, describes one, or verifies one."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

from ragfast.index import FlatIndex, readers

SUMMARY = "build an index directory from files of embeddings, or look at one"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="action", title="actions", required=True)
    build = actions.add_parser("build", help="write an index of the vectors in files, one after the other")
    build.add_argument("index", type=Path, metavar="INDEX", help="the directory, which is made")
    build.add_argument("files", type=Path, nargs="+", metavar="FILE", help=".npy, .safetensors, .parquet or .arrow")
    build.add_argument("--vectors", metavar="NAME", help='column or tensor of the vectors (columns: "embedding")')
    build.add_argument("--ids", metavar="NAME", help="column of the ids; for .npy and .safetensors a .npy file of them")
    build.add_argument("--metadata", nargs="+", metavar="NAME", help="columns to keep, to filter by")
    build.add_argument("--metric", choices=("ip", "cosine", "l2"), default="ip", help="(default: %(default)s)")
    build.add_argument(
        "--dtype", choices=("float32", "float16", "bfloat16"), default="float32", help="kept so (default: %(default)s)"
    )
    build.add_argument("--scan", choices=("auto", "float32", "int8"), default="auto", help="(default: %(default)s)")
    for name, help in (("info", "say what an index holds"), ("verify", "read every byte and compare its checksum")):
        actions.add_parser(name, help=help).add_argument("index", type=Path, metavar="INDEX")


def run(chosen: argparse.Namespace) -> int:
    try:
        if chosen.action == "build":
            index = FlatIndex.build(
                chosen.index, _source(chosen), dtype=chosen.dtype, metric=chosen.metric, scan=chosen.scan
            )
        else:
            index = FlatIndex.open(chosen.index)
        if chosen.action == "verify":
            index.verify()
        print(index)
        for name, kind in index.columns.items():
            print(f"  {name}: {kind}")
        if chosen.action == "verify":
            print("every file is as it was written")
    except (OSError, ImportError, TypeError, ValueError) as error:
        print(f"ragfast: {error}", file=sys.stderr)
        return 2
    return 0


def _source(chosen: argparse.Namespace) -> Any:
    """Blocks of the files, read by what their names end in."""
    kinds = {path.suffix for path in chosen.files}
    if len(kinds) > 1:
        raise ValueError(f"expected files of one kind, got {', '.join(sorted(kinds))}")
    kind = kinds.pop()
    if kind in (".npy", ".safetensors"):
        ids = None if chosen.ids is None else np.load(chosen.ids, mmap_mode="r", allow_pickle=False)
        if chosen.metadata:
            raise ValueError(f"--metadata: columns of Parquet or Arrow files; {kind} files have none")
        if kind == ".npy":
            return readers.npy(chosen.files, ids=ids)
        return readers.safetensors(chosen.files, chosen.vectors, ids=ids)
    if kind not in (".parquet", ".arrow"):
        raise ValueError(f"{chosen.files[0]}: expected a .npy, .safetensors, .parquet or .arrow file")
    names = {"vectors": chosen.vectors or "embedding", "ids": chosen.ids, "metadata": tuple(chosen.metadata or ())}
    if kind == ".parquet":
        return readers.parquet(chosen.files, **names)
    if len(chosen.files) > 1:
        raise ValueError(f"expected one .arrow file, got {len(chosen.files)}")
    return readers.arrow(chosen.files[0], **names)
