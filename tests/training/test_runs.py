"""Run folders: what comes with them is not believed."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import pytest
import skops.io

from axlebox.firmware_bundle.errors import Damaged
from axlebox.training.runs import load_forests


def test_a_forest_file_that_names_a_command_runs_nothing(tmp_path: Path) -> None:
    """Read as a pickle would be, either of these runs a command."""
    ran = tmp_path / "ran"
    for number, hostile in enumerate((functools.partial(os.system, f"touch {ran}"), [Command(str(ran))])):
        path = tmp_path / f"{number}.skops"
        skops.io.dump(hostile, path)
        with pytest.raises(Damaged, match="which a forest does not"):
            load_forests(path)
    assert not ran.exists()


class Command:
    """What a pickle calls while it is read."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {self.path}",)
