"""docs/torch.md: its Python runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

PAGE = (Path(__file__).parents[1] / "docs" / "torch.md").read_text()


def test_blocks_run_one_after_the_other_as_pasted() -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 2
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, "torch.md", "exec"), names)
    assert names["opt"]._engine._strangers == []


def test_every_class_is_named() -> None:
    import fusestep.torch

    for name in fusestep.torch.__all__:
        assert re.search(rf"\b{name}\b", PAGE)
