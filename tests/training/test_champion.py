from __future__ import annotations

from pathlib import Path

import pytest

from axlebox.firmware_bundle.errors import Malformed, UsageError
from axlebox.training.champion import champion, promote, read_promotions
from axlebox.training.workspace import find_workspace


def test_a_person_promotes_a_run_and_the_earlier_champions_stay_on_record(copied: Path) -> None:
    workspace = find_workspace(copied)
    run = (copied / "runs/latest").read_text().strip()
    assert champion(workspace) is None
    promote(workspace, run, "first release")
    promote(workspace, run, "again")
    assert champion(workspace) == run
    assert [one.reason for one in read_promotions(workspace)] == ["first release", "again"]


def test_what_is_no_run_is_not_promoted_and_a_damaged_record_is_named(copied: Path) -> None:
    workspace = find_workspace(copied)
    with pytest.raises(UsageError, match="there is no run abc"):
        promote(workspace, "abc", "")
    assert not workspace.champions.exists()
    workspace.champions.write_text("{}\n")
    with pytest.raises(Malformed, match=r"champions\.jsonl"):
        champion(workspace)
