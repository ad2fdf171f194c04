"""What the command line says before it begins."""

from __future__ import annotations

import pytest

from fusestep import __main__, info


def test_a_missing_package_is_told_before_anything_is_computed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    version = info.metadata.version

    def without_matplotlib(package: str) -> str:
        if package == "matplotlib":
            raise info.metadata.PackageNotFoundError(package)
        return "1.0" if package in ("scikit-learn", "tqdm") else version(package)

    monkeypatch.setattr(info.metadata, "version", without_matplotlib)
    monkeypatch.setattr(__main__, "_run", lambda arguments: pytest.fail("it began"))
    for command in ("demo", "plot"):
        monkeypatch.setattr("sys.argv", ["fusestep", command, *(["step"] * (command == "plot"))])
        assert __main__.main() == 1
        assert capsys.readouterr().err == (
            f"error: {command} needs matplotlib: pip install matplotlib\n"
        )
