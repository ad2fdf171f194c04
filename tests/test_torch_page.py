"""docs/torch.md: its Python runs as it stands there, and natively."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tables import pages

torch = pytest.importorskip("torch")
native = pytest.importorskip("fusestep.torch")

PAGE = "docs/torch.md"


def test_blocks_run_one_after_the_other_as_pasted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    blocks = pages.blocks(PAGE)
    assert len(blocks) > 2
    for block in blocks:
        pages.run(block, PAGE, names)
    assert names["opt"]._engine._strangers == []


@pytest.mark.parametrize("name", native.__all__)
def test_every_class_is_named(name: str) -> None:
    assert f"`{name}`" in (pages.ROOT / PAGE).read_text("utf-8")
