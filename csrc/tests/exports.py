"""Checks the symbols of the libraries against the headers: the shared library exports the public functions and nothing
else, and the static one defines no global name that does not begin with ragfast_.

    python exports.py DIRECTORY     which holds libragfast.a and, on an ELF system, libragfast.so
"""

import re
import subprocess
import sys
from pathlib import Path

INCLUDE = Path(__file__).parents[1] / "include" / "ragfast"


def symbols(library: Path, *options: str) -> set[str]:
    output = subprocess.run(
        ["nm", *options, "--defined-only", library], check=True, capture_output=True, text=True
    ).stdout
    return {line.split()[2] for line in output.splitlines() if len(line.split()) == 3}


def main(directory: Path) -> None:
    headers = {path.name: re.sub(r"/\*.*?\*/", "", path.read_text(), flags=re.S) for path in INCLUDE.glob("*.h")}
    declared = {
        name for text in headers.values() for name in re.findall(r"^RAGFAST_(?:API|EXPORT) [^;(]*?(\w+)\(", text, re.M)
    }
    every = {name for text in headers.values() for name in re.findall(r"\b(ragfast_\w+)\(", text)}
    if every != declared or len(declared) < 30:
        sys.exit(f"declared without RAGFAST_API, or too few declarations: {sorted(every ^ declared)}")
    private = {name for name in symbols(directory / "libragfast.a", "-g") if not name.startswith("ragfast_")}
    if private:
        sys.exit(f"the static library defines names of others: {sorted(private)}")
    shared = directory / "libragfast.so"
    if not shared.exists():
        print(f"no {shared} here: its exports were not compared with the headers")
        return
    exported = symbols(shared, "-D")
    if exported != declared:
        extra, missing = sorted(exported - declared), sorted(declared - exported)
        sys.exit(f"exported, but not declared: {extra}; declared, but not exported: {missing}")
    numbers = dict(re.findall(r"define RAGFAST_VERSION_(\w+) (\d+)", headers["version.h"]))
    name = f"libragfast.so.{numbers['MAJOR']}" + (f".{numbers['MINOR']}" if numbers["MAJOR"] == "0" else "")
    if f"[{name}]" not in subprocess.run(["readelf", "-d", shared], check=True, capture_output=True, text=True).stdout:
        sys.exit(f"the shared library's name is not {name}")
    print(f"{len(exported)} functions are exported, as the headers declare, by {name}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
