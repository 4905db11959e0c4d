"""A release on trial under a clock that the test turns: what is noted, and when it is confirmed."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from axlebox.firmware_bundle.receipts import read
from axlebox.firmware_bundle.slots import Release
from axlebox.firmware_bundle.state import TRIES
from axlebox.firmware_bundle.trial import Starter
from axlebox.firmware_bundle.vehicle import Identity, Occasion, Vehicle
from axlebox.firmware_bundle.vehicle_key import read_public
from axlebox.runtime import probation
from axlebox.runtime.config import Confirm
from axlebox.runtime.probation import LIVED_S, Probation

NOW = datetime(2026, 4, 1, tzinfo=UTC)
BOOT = "this boot"
DEADLINE_S = 60
"""Only a confirmation that hangs takes this long."""
RULE = Confirm(after_s=600, after_readings=100)
BEGAN = 1000.0
"""The clock at the start."""


class Trial:
    """A vehicle whose daemon has just started a release."""

    def __init__(self, world: Any, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.world = world
        self.vehicle = Vehicle.provision(data, world.root(), Identity("T204", "rail-box-a"))
        self.said: list[str] = []
        self.calls = 0
        monkeypatch.setattr(probation.subprocess, "Popen", self._counted(subprocess.Popen))
        world.install(self.vehicle, world.bundle(1))

    def _counted(self, really: Any) -> Callable[..., Any]:
        def call(*words: Any, **how: Any) -> Any:
            self.calls += 1
            return really(*words, **how)

        return call

    def start(self, rule: Confirm = RULE) -> Release:
        starter = Starter(self.vehicle, BOOT, self.world.runtime, lambda slot: "20/20")
        release = starter.start(Occasion(NOW, self.said.append))
        self.probation = Probation(starter, release, rule, self.said.append, BEGAN)
        return release

    def tick(self, after_s: float, scored: int = 0) -> None:
        self.probation.tick(BEGAN + after_s, scored)

    def settle(self, after_s: float, scored: int) -> None:
        """Tick at one moment until the confirmation that runs has ended."""
        stop = threading.Event()
        for _ in range(DEADLINE_S * 100):
            self.tick(after_s, scored)
            if self.probation._confirming is None:
                return
            stop.wait(0.01)
        pytest.fail("the confirmation never ended")

    @property
    def young(self) -> bool:
        """Whether the start still counts as one that may die early."""
        return self.vehicle.state().started is not None

    def confirmations(self) -> list[int]:
        """Exit codes of the confirmations that the vehicle's receipts tell of."""
        entries = read(self.vehicle.data, read_public(self.vehicle.data))
        return [one.code for one in entries if one.action == "confirm"]


@pytest.fixture
def trial(world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trial:
    return Trial(world, tmp_path / "data", monkeypatch)


# -- a start that lives ---------------------------------------------------------------------------


def test_nothing_is_noted_before_the_first_minute_is_over(trial: Trial) -> None:
    trial.start()
    generation = trial.vehicle.state().generation
    trial.tick(0)
    trial.tick(LIVED_S - 0.1)
    assert trial.young
    assert trial.vehicle.state().generation == generation
    trial.tick(LIVED_S)
    assert not trial.young


def test_tries_that_were_spent_come_back_when_a_start_lives(trial: Trial) -> None:
    trial.start()
    trial.start()
    assert trial.vehicle.state().tries == TRIES - 1
    trial.tick(LIVED_S)
    assert trial.vehicle.state().tries == TRIES


def test_it_is_noted_once(trial: Trial) -> None:
    trial.start()
    trial.tick(LIVED_S)
    generation = trial.vehicle.state().generation
    for minute in range(2, 9):
        trial.tick(minute * LIVED_S)
    assert trial.vehicle.state().generation == generation


def test_while_another_command_holds_the_vehicle_it_is_tried_again_a_minute_later(trial: Trial) -> None:
    trial.start()
    with trial.vehicle.locked():
        trial.tick(LIVED_S)
    trial.tick(2 * LIVED_S - 0.1)
    assert trial.young
    trial.tick(2 * LIVED_S)
    assert not trial.young


def test_an_orderly_end_before_that_counts_as_lived(trial: Trial) -> None:
    trial.start()
    trial.probation.lived()
    assert not trial.young


def test_a_record_that_is_damaged_meanwhile_does_not_end_the_daemon(trial: Trial) -> None:
    trial.start()
    kept = {name: (trial.vehicle.data / name).read_bytes() for name in ("state.0", "state.1")}
    for name in kept:
        (trial.vehicle.data / name).write_bytes(b"worn flash")
    trial.tick(LIVED_S)
    trial.probation.lived()
    for name, content in kept.items():
        (trial.vehicle.data / name).write_bytes(content)
    trial.tick(2 * LIVED_S)
    assert not trial.young


# -- a release that is confirmed ------------------------------------------------------------------


def test_it_is_confirmed_once_after_its_time_and_its_readings(trial: Trial) -> None:
    digest = trial.start().digest
    trial.tick(RULE.after_s - 0.1, 10_000)
    trial.tick(RULE.after_s, RULE.after_readings - 1)
    assert trial.calls == 0
    trial.settle(RULE.after_s, RULE.after_readings)
    state = trial.vehicle.state()
    assert (state.active, state.trial, state.floor) == (digest, None, 1)
    assert trial.said == ["bearing-temp 1 is confirmed: it has run well for long enough"]
    for hour in range(1, 5):
        trial.settle(3600.0 * hour, 100_000)
    assert (trial.calls, trial.confirmations()) == (1, [0])


def test_a_parked_vehicle_stays_on_trial(trial: Trial) -> None:
    trial.start()
    for hour in range(100):
        trial.tick(3600.0 * hour, 0)
    assert trial.vehicle.state().trial is not None
    assert trial.calls == 0


def test_where_the_configuration_says_no_only_a_person_confirms(trial: Trial) -> None:
    trial.start(Confirm(automatic=False, after_s=60, after_readings=1))
    for hour in range(1, 100):
        trial.tick(3600.0 * hour, 100_000)
    assert not trial.young
    assert trial.vehicle.state().trial is not None
    assert trial.calls == 0


def test_a_release_that_is_not_on_trial_is_left_alone(trial: Trial) -> None:
    trial.world.confirm(trial.vehicle)
    trial.start()
    generation = trial.vehicle.state().generation
    for hour in range(100):
        trial.tick(3600.0 * hour, 100_000)
    trial.probation.lived()
    assert (trial.calls, trial.vehicle.state().generation) == (0, generation)


def test_one_that_a_person_confirmed_meanwhile_is_left_alone(trial: Trial) -> None:
    """Else a refusal would be written every ten minutes, for as long as the daemon runs."""
    trial.start()
    trial.world.confirm(trial.vehicle)
    for hour in range(1, 5):
        trial.settle(3600.0 * hour, 100_000)
    assert (trial.calls, trial.said, trial.confirmations()) == (0, [], [0])


def test_a_refused_confirmation_is_told_and_tried_again_later(trial: Trial) -> None:
    """Another release was put on trial, and is not what has run well."""
    trial.start()
    trial.world.install(trial.vehicle, trial.world.bundle(2))
    other = trial.vehicle.state().trial or ""
    trial.settle(RULE.after_s, RULE.after_readings)
    assert trial.vehicle.state().trial == other
    assert trial.said == [
        "bearing-temp 1 could not be confirmed: "
        f"axleboxd: another release ({other[:8]}) is on trial; nothing was confirmed"
    ]
    trial.tick(2 * RULE.after_s - 0.1, 100_000)
    assert trial.calls == 1
    trial.settle(2 * RULE.after_s, 100_000)
    assert (trial.calls, trial.confirmations()) == (2, [2, 2])


def test_a_confirmation_that_cannot_even_be_started_is_told_and_tried_again_later(
    trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_process_left(*words: Any, **how: Any) -> Any:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    trial.start()
    with monkeypatch.context() as patch:
        patch.setattr(probation.subprocess, "Popen", no_process_left)
        trial.tick(RULE.after_s, 100)
    assert trial.said == ["bearing-temp 1 could not be confirmed: Resource temporarily unavailable"]
    trial.tick(RULE.after_s + 1, 100)
    assert trial.calls == 0
    trial.settle(2 * RULE.after_s, 100)
    assert trial.confirmations() == [0]
