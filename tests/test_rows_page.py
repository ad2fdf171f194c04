"""docs/rows.md: its Python runs as it stands there, block after block."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

PAGE = (Path(__file__).parents[1] / "docs" / "rows.md").read_text("utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def test_blocks_run_one_after_the_other_as_pasted() -> None:
    assert len(BLOCKS) == PAGE.count("```") // 2 == 4
    names: dict[str, Any] = {}
    for block in BLOCKS:
        exec(compile(block, "rows.md", "exec"), names)
    assert names["opt"].steps_applied == 1
