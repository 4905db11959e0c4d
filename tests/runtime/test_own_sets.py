"""Feature sets that other packages bring: which are found, when they are loaded, and what is refused."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from axlebox.firmware_bundle.errors import Malformed, PreflightFailed
from axlebox.firmware_bundle.manifest import Contract, DetectorSpec, FeatureSet, Kind
from axlebox.runtime import features, machine, own_sets, snapshots
from axlebox.runtime.detector import Detector, Monitor
from axlebox.runtime.outcomes import Origin
from axlebox.runtime.readings import Reading
from axlebox.runtime.version import VERSION

RATE = """
from axlebox.runtime.features import Plain
class Rate(Plain):
    names = ("change",)
    remembered = ("before",)
    before = None
    def update(self, reading, deviation, warming):
        change = 0.0 if self.before is None else reading.value - self.before
        self.before = reading.value
        return (change,)
"""
Install = Callable[..., str]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Put a package with one module and one entry point into a folder of its own on the path; its module's name."""
    numbers = itertools.count()

    def function(source: str = RATE, entry: str = "rate-1", attribute: str = "Rate", package: str = "fleet") -> str:
        module = f"sets_{tmp_path.name[-20:]}_{next(numbers)}".replace("-", "_")
        folder = tmp_path / module
        about = folder / f"{package}-0.1.0.dist-info"
        about.mkdir(parents=True)
        (folder / f"{module}.py").write_text(source)
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 0.1.0\n")
        (about / "entry_points.txt").write_text(f"[axlebox.features]\n{entry} = {module}:{attribute}\n")
        monkeypatch.syspath_prepend(folder)
        return module

    machine.this_runtime.cache_clear()
    yield function
    machine.this_runtime.cache_clear()


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("rate-1", ("rate", 1)),
        ("my.own-set_2-17", ("my.own-set_2", 17)),
        *((name, None) for name in ("rate", "rate-0", "rate-01", "-1", "rate-1-", "a b-1", "rate-x", f"{'a' * 63}-1")),
    ],
)
def test_an_entry_is_named_by_set_and_version(name: str, found: tuple[str, int] | None) -> None:
    assert own_sets.parse(name) == found


def test_a_set_of_an_installed_package_is_known_at_once_and_loaded_when_it_is_asked_for(install: Install) -> None:
    module = install()
    assert features.known_sets() == features.KNOWN_SETS | {("rate", 1)}
    assert ("rate", 1) in machine.this_runtime().feature_sets
    assert module not in sys.modules
    found = features.find(FeatureSet("rate", 1))
    assert found.__module__ == module and found.names == ("change",)


def test_what_is_no_entry_of_a_set_is_not_one(install: Install) -> None:
    install(entry="rate")
    assert features.known_sets() == features.KNOWN_SETS
    with pytest.raises(Malformed, match="rate 1 is unknown"):
        features.find(FeatureSet("rate", 1))


@pytest.mark.parametrize("entry", ["value-1", "streaming-1", "value-2", "streaming-9"])
def test_the_runtime_s_own_sets_cannot_be_replaced_and_their_names_are_not_for_others(
    install: Install, entry: str
) -> None:
    install(entry=entry)
    assert features.known_sets() == features.KNOWN_SETS
    assert features.find(FeatureSet("value", 1)) is features.Value
    name, version = entry.split("-")
    if int(version) > 1:
        with pytest.raises(Malformed, match="unknown"):
            features.find(FeatureSet(name, int(version)))


def test_two_packages_with_one_set_are_no_matter_of_order(install: Install) -> None:
    install(package="fleet")
    install(package="depot")
    with pytest.raises(PreflightFailed, match=r"rate 1 comes from depot 0\.1\.0 and fleet 0\.1\.0. DO: remove one"):
        features.find(FeatureSet("rate", 1))


@pytest.mark.parametrize(
    ("source", "attribute", "said"),
    [
        ("import nothing_like_this", "Rate", "cannot be loaded: ModuleNotFoundError: No module named 'nothing_like_"),
        ("raise OSError('no sensor')", "Rate", "cannot be loaded: OSError: no sensor"),
        ("def :", "Rate", "cannot be loaded: SyntaxError"),
        (RATE, "Speed", "cannot be loaded: AttributeError"),
        ("Rate = 5", "Rate", "is no feature set: it lacks names, maker, update, restart, state, restore"),
        (
            "from axlebox.runtime.features import Plain\nclass Rate(Plain): pass",
            "Rate",
            "is no feature set: it lacks names. DO",
        ),
    ],
)
def test_a_package_that_is_not_in_order_is_named(install: Install, source: str, attribute: str, said: str) -> None:
    install(source, attribute=attribute)
    with pytest.raises(PreflightFailed, match=rf"feature set rate 1 of fleet 0\.1\.0 {said}"):
        features.find(FeatureSet("rate", 1))


def test_another_version_of_a_package_is_another_fingerprint_so_that_the_self_test_runs_again(
    install: Install, tmp_path: Path
) -> None:
    without = machine.this_runtime().fingerprint
    install()
    machine.this_runtime.cache_clear()
    first = machine.this_runtime().fingerprint
    (about,) = tmp_path.rglob("METADATA")
    about.write_text(about.read_text().replace("0.1.0", "0.1.1"))
    machine.this_runtime.cache_clear()
    assert len({without, first, machine.this_runtime().fingerprint}) == 3
    assert "rate-1 of fleet 0.1.0" in first


def test_what_a_workspace_offers_goes_before_what_is_installed_until_another_offers(install: Install) -> None:
    install()
    own_sets.offer({("rate", 1): lambda: features.Value, ("other", 1): lambda: features.Value})
    try:
        assert features.find(FeatureSet("rate", 1)) is features.Value
        assert ("other", 1) in features.known_sets()
    finally:
        own_sets.offer({})
    assert features.find(FeatureSet("rate", 1)).names == ("change",)
    assert ("other", 1) not in features.known_sets()


# -- Plain ----------------------------------------------------------------------------------------


class Window(features.Plain):
    names = ("mean",)
    defaults = {"length": 3.0}  # noqa: RUF012  as somebody would write it
    remembered = ("_values",)

    def __init__(self, constants: dict[str, float]) -> None:
        super().__init__(constants)
        self._values: list[float] = []

    def update(self, reading: Reading, deviation: float | None, warming: bool) -> tuple[float, ...]:
        self._values = [*self._values, reading.value][-int(self.constants["length"]) :]
        return (sum(self._values) / len(self._values),)


@pytest.mark.parametrize("constants", [{}, {"lenght": 3.0}, {"length": 3.0, "more": 1.0}])
def test_a_set_takes_its_own_constants_and_no_others(constants: dict[str, float]) -> None:
    with pytest.raises(Malformed, match="feature set window takes length, found"):
        Window(constants)
    assert Window({"length": 2.0}).constants == {"length": 2.0}


def rows_of(monitor: Monitor, seen: list[float], readings: list[Reading]) -> list[float]:
    seen.clear()
    monitor.process(readings)
    return list(seen)


def test_what_a_set_remembers_survives_a_snapshot_and_a_replaced_sensor_begins_anew(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(features._SETS, ("window", 1), Window)
    spec = DetectorSpec("t", "m", FeatureSet("window", 1, {"length": 3.0}), 0.5, 1)
    seen: list[float] = []

    def score(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[type-arg]
        seen.extend(rows[:, 0].tolist())
        return np.zeros(len(rows)), np.zeros(len(rows), dtype=np.bool_)

    def monitor() -> Monitor:
        return Monitor(Contract({"t": Kind()}), {"t": Detector(spec, score)}, Origin("x", 1, "0" * 64))

    early = [Reading(60.0 * number, "axle", float(number), number) for number in range(4)]
    late = [Reading(60.0 * number, "axle", float(number), number) for number in range(4, 8)]
    whole = monitor()
    assert rows_of(whole, seen, early) == [0.0, 0.5, 1.0, 2.0]
    snapshot = snapshots.Snapshot("0" * 64, 0, 0, None, whole.state(), VERSION)
    (tmp_path / snapshots.NAME).write_bytes(snapshots.encode(snapshot))
    expected = rows_of(whole, seen, late)
    restored, kept = monitor(), snapshots.read(tmp_path)
    assert kept is not None
    restored.restore(kept.state)
    assert rows_of(restored, seen, late) == expected == [3.0, 4.0, 5.0, 6.0]
