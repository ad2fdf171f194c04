"""What the command line says before it begins."""

from __future__ import annotations

from pathlib import Path

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
    for command, argument in (("demo", "--quick"), ("plot", "step"), ("find-lr", "--demo")):
        monkeypatch.setattr("sys.argv", ["fusestep", command, argument])
        assert __main__.main() == 1
        assert capsys.readouterr().err == (
            f"error: {command} needs matplotlib: pip install matplotlib\n"
        )


def test_find_lr_tells_what_it_found_and_draws_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for package in ("matplotlib", "sklearn", "tqdm"):
        pytest.importorskip(package)
    monkeypatch.setattr("fusestep.tune.digits._EPOCHS", 1)
    picture = tmp_path / "rates.png"
    monkeypatch.setattr("sys.argv", ["fusestep", "find-lr", "--demo", "-o", str(picture)])
    assert __main__.main() == 0
    printed = capsys.readouterr().out
    assert "  suggestion " in printed
    assert printed.count("  with a rate of ") == 3
    assert printed.endswith(f"wrote {picture}\n")
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_find_lr_is_a_demonstration_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["fusestep", "find-lr"])
    with pytest.raises(SystemExit):
        __main__.main()
    assert "required: --demo" in capsys.readouterr().err
