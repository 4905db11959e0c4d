from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from axlebox.firmware_bundle.errors import UsageError
from axlebox.runtime.readings import LineReader, Reading
from axlebox.training.simulate import FAULTS, Fleet, make_readings, simulate

CALM = Fleet(vehicles=2, bearings=4, days=7, faults=0)


def test_the_same_seed_gives_the_same_readings_and_another_seed_does_not() -> None:
    first, again, other = (make_readings(Fleet(days=3, seed=seed))[2] for seed in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_siblings_of_one_vehicle_follow_each_other_more_than_those_of_another() -> None:
    _, sensors, values, _ = make_readings(CALM)
    correlation = np.corrcoef(values.T)
    assert [name[:3] for name in sensors] == ["T01"] * 4 + ["T02"] * 4
    assert correlation[:4, :4].min() > correlation[:4, 4:].max()


def test_days_are_warmer_than_nights() -> None:
    times, _, values, _ = make_readings(CALM)
    hours = (times % 86400) / 3600
    assert values[(hours > 12) & (hours < 18)].mean() > values[hours < 5].mean() + 10


def test_each_fault_changes_its_sensor_in_its_time_and_nothing_else() -> None:
    calm = make_readings(Fleet(days=10, faults=0))[2]
    times, sensors, faulty, labels = make_readings(Fleet(days=10, faults=0))[:2] + make_readings(Fleet(days=10))[2:]
    assert {label.fault for label in labels} == set(FAULTS)
    before = times < min(label.start for label in labels)
    untouched = [number for number, name in enumerate(sensors) if name not in {label.sensor for label in labels}]
    assert untouched and np.array_equal(calm[:, untouched], faulty[:, untouched])
    assert np.array_equal(calm[before], faulty[before])
    for label in labels:
        column = faulty[(times >= label.start) & (times <= label.end), sensors.index(label.sensor)]
        if label.fault == "stuck":
            assert len(set(column.tolist())) == 1 and len(column) > 1
        if label.fault == "spike":
            around = faulty[(times >= label.start - 600) & (times <= label.end + 600), sensors.index(label.sensor)]
            assert column[0] > np.median(around) + 40


def test_the_files_are_readings_and_labels(tmp_path: Path) -> None:
    count, labels = simulate(tmp_path / "out.csv", Fleet(vehicles=1, bearings=2, days=2, faults=3))
    reader = LineReader("x")
    items = reader.read((tmp_path / "out.csv").read_bytes().splitlines())
    assert len(items) == count and all(isinstance(item, Reading) for item in items)
    with (tmp_path / "out.labels.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["sensor"] for row in rows] == [label.sensor for label in labels] and len(rows) == 3


def test_more_faults_than_there_is_time_for_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="too few for 6 faults"):
        simulate(tmp_path / "out.csv", Fleet(days=1, period_s=43200))
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_exists_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "out.labels.csv").write_text("mine")
    with pytest.raises(UsageError, match="nothing was written"):
        simulate(tmp_path / "out.csv", Fleet(days=1))
    assert not (tmp_path / "out.csv").exists() and (tmp_path / "out.labels.csv").read_text() == "mine"


def test_the_simulated_year_has_seasons_idle_days_and_steps_of_the_sensor() -> None:
    times, _, values, _ = make_readings(Fleet(vehicles=1, bearings=8, days=364, faults=0, start_day=0))
    months = values.reshape(13, -1).mean(axis=1)
    assert months[6] > months[0] + 15 and np.array_equal(values * 4, np.round(values * 4))
    swings = np.ptp(values.mean(axis=1).reshape(364, -1), axis=1)
    assert 10 < (swings < swings.max() * 0.6).sum() < 60
    winter = make_readings(Fleet(vehicles=1, bearings=8, days=30, faults=0, start_day=182))
    assert winter[0][0] == times[0] + 182 * 86400 and winter[2].mean() > values[: 30 * 288].mean() + 15


def test_bearings_of_one_vehicle_differ_by_their_own_level_and_rise() -> None:
    _, _, values, _ = make_readings(Fleet(vehicles=1, bearings=8, days=60, faults=0))
    assert 0.2 < np.median(values, axis=0).std() < 4 and 0.2 < np.quantile(values, 0.98, axis=0).std() < 4


def test_a_vehicle_is_the_same_among_many_others() -> None:
    alone, among = (make_readings(Fleet(vehicles=count, days=3, faults=0))[2] for count in (1, 5))
    assert np.array_equal(alone, among[:, :4])
