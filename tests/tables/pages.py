"""The Python in pages for readers, and running it as it stands there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def blocks(page: str) -> list[str]:
    """Every block of Python of a page of the repository, in order."""
    text = (ROOT / page).read_text("utf-8")
    return re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def run(block: str, page: str, names: dict[str, Any]) -> None:
    """Runs a block, which finds its names there and leaves them there."""
    exec(compile(block, page, "exec"), names)
