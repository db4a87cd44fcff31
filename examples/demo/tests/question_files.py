"""Files of questions and records, as JSON lines, for the tests of evaluation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ragfast_demo import records


def write(path: Path, *lines: Any) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def line(question: str, *answers: str, **given: Any) -> records.Line:
    return records.Line(question, list(answers), given)
