"""The installation record: two files that take turns, and what they leave after a power cut."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from msgspec.structs import replace

from axlebox.firmware_bundle.errors import Damaged
from axlebox.firmware_bundle.state import OUTAGES, TRIES, State, read_state, write_state

A, B, C = "a" * 64, "b" * 64, "c" * 64


@pytest.fixture
def two(tmp_path: Path) -> tuple[State, State]:
    """The states of two writes into the data folder: the older in state.1, the newer in state.0."""
    older = write_state(tmp_path, State(active=A))
    return older, write_state(tmp_path, replace(older, trial=B, tries=TRIES))


def test_an_empty_folder_has_the_empty_state(tmp_path: Path) -> None:
    assert read_state(tmp_path) == State()


def test_every_field_is_read_back(tmp_path: Path) -> None:
    full = State(
        generation=4,
        active=A,
        previous=B,
        trial=C,
        tries=2,
        floor=7,
        min_sequence=3,
        root=2,
        time_floor=datetime(2026, 3, 1, 12, 30, tzinfo=UTC),
    )
    assert write_state(tmp_path, full) == replace(full, generation=5) == read_state(tmp_path)


def test_the_two_files_take_turns(tmp_path: Path) -> None:
    state = State()
    seen = []
    for _ in range(4):
        before = {path: path.read_bytes() for path in tmp_path.glob("state.*")}
        state = write_state(tmp_path, state)
        seen += [path.name for path in tmp_path.glob("state.*") if before.get(path) != path.read_bytes()]
    assert seen == ["state.1", "state.0", "state.1", "state.0"]


def test_the_newest_of_both_files_counts(tmp_path: Path, two: tuple[State, State]) -> None:
    assert read_state(tmp_path) == two[1]
    third = write_state(tmp_path, two[1])
    assert read_state(tmp_path) == third


@pytest.mark.parametrize("bit", [1 << number for number in range(8)])
def test_one_flipped_bit_in_a_file_leaves_the_state_of_the_other(
    tmp_path: Path, two: tuple[State, State], bit: int
) -> None:
    for name, left in (("state.0", two[0]), ("state.1", two[1])):
        path = tmp_path / name
        good = path.read_bytes()
        for at in range(len(good)):
            path.write_bytes(good[:at] + bytes((good[at] ^ bit,)) + good[at + 1 :])
            assert read_state(tmp_path) == left, at
        path.write_bytes(good)


def test_a_file_torn_at_any_byte_leaves_the_state_of_the_other(tmp_path: Path, two: tuple[State, State]) -> None:
    newer = tmp_path / "state.0"
    good = newer.read_bytes()
    for length in range(len(good)):
        for torn in (good[:length], good[:length] + bytes(len(good) - length)):
            newer.write_bytes(torn)
            assert read_state(tmp_path) == two[0], length


def test_a_missing_file_leaves_the_state_of_the_other(tmp_path: Path, two: tuple[State, State]) -> None:
    (tmp_path / "state.0").unlink()
    assert read_state(tmp_path) == two[0]


def test_a_huge_file_leaves_the_state_of_the_other(tmp_path: Path, two: tuple[State, State]) -> None:
    (tmp_path / "state.0").write_bytes((tmp_path / "state.0").read_bytes() + bytes(10_000_000))
    assert read_state(tmp_path) == two[0]


def test_after_a_torn_file_the_next_write_replaces_that_file(tmp_path: Path, two: tuple[State, State]) -> None:
    (tmp_path / "state.0").write_bytes(b"")
    following = write_state(tmp_path, read_state(tmp_path))
    (tmp_path / "state.1").unlink()
    assert read_state(tmp_path) == following == replace(two[0], generation=2)


def test_both_files_torn_is_damage_and_never_the_empty_state(tmp_path: Path, two: tuple[State, State]) -> None:
    for path in tmp_path.glob("state.*"):
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(Damaged, match="DO: axleboxd install"):
        read_state(tmp_path)


def test_the_only_file_torn_is_damage(tmp_path: Path) -> None:
    write_state(tmp_path, State(active=A))
    (tmp_path / "state.1").write_bytes(b"")
    with pytest.raises(Damaged):
        read_state(tmp_path)


def test_a_leftover_of_an_interrupted_write_does_not_count(tmp_path: Path, two: tuple[State, State]) -> None:
    (tmp_path / "state.1.part").write_bytes(b"half a st")
    assert read_state(tmp_path) == two[1]
    assert read_state(tmp_path) == replace(write_state(tmp_path, two[1]), generation=2)


@pytest.mark.parametrize(
    ("state", "running"),
    [
        (State(), None),
        (State(active=A), A),
        (State(active=A, previous=B), A),
        (State(active=A, trial=B, tries=TRIES), B),
        (State(active=A, trial=B, tries=1), B),
        (State(trial=B, tries=1), B),
        (State(previous=B), None),
    ],
)
def test_the_release_on_trial_runs_before_the_active_one(state: State, running: str | None) -> None:
    assert state.running == running


def test_the_slots_of_a_state_stand_in_the_order_in_which_a_start_tries_them() -> None:
    assert State().slots() == []
    assert State(active=A, previous=B, trial=C).slots() == [C, A, B]


TRIAL = State(active=A, previous=B).on_trial(C)
FIRST = State().on_trial(A)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (TRIAL.fallen_back(), State(active=A, previous=B)),
        (State(active=A, previous=B).fallen_back(), State(active=B, previous=A)),
        (State(active=A).fallen_back(), None),
        (FIRST.fallen_back(), None),
        (FIRST.on_trial(B), State(previous=A).on_trial(B)),
        (FIRST.on_trial(B).fallen_back(), State(active=A)),
        (FIRST.on_trial(B).on_trial(B), FIRST.on_trial(B)),
        (TRIAL.on_trial("d" * 64), State(active=A, previous=B).on_trial("d" * 64)),
        (TRIAL.without(C), State(active=A, previous=B)),
        (TRIAL.without(A), replace(TRIAL, active=B, previous=None)),
        (TRIAL.without(B), replace(TRIAL, previous=None)),
        (TRIAL.without("d" * 64), TRIAL),
        (FIRST.without(A), State()),
        (FIRST.on_trial(B).without(B), State(active=A)),
    ],
)
def test_transitions(before: State | None, after: State | None) -> None:
    assert before == after


def test_an_unconfirmed_release_that_is_replaced_stays_to_fall_back_to() -> None:
    """Else an upgrade on the first day could leave a vehicle with nothing that runs."""
    second = FIRST.on_trial(B)
    assert second.slots() == [B, A]
    confirmed = second.confirmed(2, 0, 1, datetime(2026, 3, 1, tzinfo=UTC))
    assert (confirmed.active, confirmed.previous) == (B, A)
    dying = replace(second, tries=1, started="a boot")
    assert dying.judged("a boot") == State(active=A)


@pytest.mark.parametrize(("boot", "tries", "outages"), [("same", TRIES - 1, OUTAGES), ("other", TRIES, OUTAGES - 1)])
def test_a_young_end_spends_a_try_in_the_same_boot_and_an_outage_in_another(
    boot: str, tries: int, outages: int
) -> None:
    judged = TRIAL.young("same").judged(boot)
    assert (judged.tries, judged.outages, judged.started, judged.trial) == (tries, outages, None, C)
    assert judged.grown() == TRIAL


def test_a_start_that_lived_is_not_judged() -> None:
    assert TRIAL.young("same").grown().judged("same") == TRIAL
