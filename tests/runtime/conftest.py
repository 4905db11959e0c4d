"""A vehicle's program called in this process, on a vehicle and a stick in a test's own folder."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from axlebox.runtime.cli import main


class Ended:
    """How a command ended, and what it said."""

    def __init__(self, code: object, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    def json(self) -> Any:
        """What it said, as the one JSON object that it must be."""
        return json.loads(self.out)

    @property
    def words(self) -> str:
        """The words of the screen, however its lines were wrapped."""
        return " ".join(self.out.split())


Run = Callable[..., Ended]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """axleboxd in this process, on the vehicle in tmp_path/data; nobody sits at the terminal."""
    monkeypatch.setenv("AXLEBOX_DATA", str(tmp_path / "data"))

    def program(*words: str | Path) -> Ended:
        monkeypatch.setattr(sys, "argv", ["axleboxd", *map(str, words)])
        with open(os.devnull) as nobody, monkeypatch.context() as patch:
            patch.setattr(sys, "stdin", nobody)
            with pytest.raises(SystemExit) as ended:
                main()
        captured = capfd.readouterr()
        # However a command ends: words for people in lines, failures in one line, no traceback.
        assert "Traceback" not in captured.err
        assert captured.err.count("\n") <= 1
        return Ended(ended.value.code or 0, captured.out, captured.err)

    return program


@pytest.fixture
def trust(world: Any, tmp_path: Path) -> Path:
    path = tmp_path / "root.json"
    path.write_bytes(world.root())
    return path


@pytest.fixture
def vehicle(run: Run, trust: Path, tmp_path: Path) -> Path:
    """The data folder of a provisioned vehicle, TRAIN-204 on hardware edge-1."""
    assert run("provision", "--trust", trust, "--vehicle", "TRAIN-204", "--hardware", "edge-1").code == 0
    return tmp_path / "data"


@pytest.fixture
def stick(world: Any, tmp_path: Path) -> Callable[..., Path]:
    """Writes a bundle of the world to the stick and returns its path."""
    (tmp_path / "stick").mkdir()

    def write(version: int = 1, **how: Any) -> Path:
        path = tmp_path / "stick" / f"bearing-temp-{version}.axb"
        path.write_bytes(world.bundle(version, **how))
        return path

    return write
