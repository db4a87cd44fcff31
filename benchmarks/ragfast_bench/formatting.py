"""How figures are written: digits, units, ratios, shares."""

from __future__ import annotations

import math
from collections.abc import Iterable


def number(value: float) -> str:
    """Three digits that count, or all digits before the point."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    digits = 2 - math.floor(math.log10(abs(value)) + 1e-9)
    return f"{value:.1e}" if digits > 5 else f"{value:,.{max(0, digits)}f}"


def short(value: float) -> str:
    """The same without zeros behind the point."""
    written = number(value)
    return written.rstrip("0").rstrip(".") if "." in written and "e" not in written else written


def times(ratio: float) -> str:
    """A ratio in as many digits as a run can repeat."""
    return f"{ratio:,.0f}" if ratio >= 10 else f"{ratio:.1f}" if ratio >= 2 else f"{ratio:.2f}"


def percent(part: float) -> str:
    return f"{100 * part:.0f} %" if part >= 0.01 else f"{100 * part:.2g} %"


def time_unit(seconds: Iterable[float]) -> tuple[str, float]:
    """The unit that suits most of these, and how many of it a second has."""
    found = sorted(seconds)
    middle = found[len(found) // 2] if found else 1.0
    return ("s", 1.0) if middle >= 1 else ("ms", 1e3) if middle >= 1e-3 else ("\u00b5s", 1e6)


def duration(seconds: float) -> str:
    unit, scale = time_unit([seconds])
    return f"{number(seconds * scale)} {unit}"


def size(n_bytes: float) -> str:
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= scale:
            return f"{short(n_bytes / scale)} {unit}"
    return f"{short(n_bytes)} B"


def measured(name: str, value: float) -> str:
    """A measure with its unit, by what its name says."""
    if name.startswith("p") and name[1:].isdigit():
        return duration(value)
    if name in ("rate", "served"):
        return f"{short(value)}/s"
    if "bytes per second" in name:
        return f"{size(value)}/s"
    if "bytes" in name:
        return size(value)
    return f"{value:,.0f}" if value == round(value) else number(value)
