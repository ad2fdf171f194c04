"""docs/rows.md: its Python runs as it stands there, block after block."""

from __future__ import annotations

from typing import Any

from tables import pages

PAGE = "docs/rows.md"


def test_blocks_run_one_after_the_other_as_pasted() -> None:
    blocks = pages.blocks(PAGE)
    assert len(blocks) == (pages.ROOT / PAGE).read_text("utf-8").count("```") // 2 == 4
    names: dict[str, Any] = {}
    for block in blocks:
        pages.run(block, PAGE, names)
    assert names["opt"].steps_applied == 1
