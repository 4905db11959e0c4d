"""Feature sets of one's own in training: the same rows as on the vehicle, and the code that they come from in RUN."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest

from axlebox.export.golden import golden_readings
from axlebox.firmware_bundle.errors import Malformed, PreflightFailed, UsageError
from axlebox.firmware_bundle.manifest import Contract, DetectorSpec, FeatureSet, Kind, Sensor
from axlebox.runtime import features, own_sets
from axlebox.runtime.detector import Detector, Monitor
from axlebox.runtime.readings import Reading
from axlebox.runtime.statuses import WARMING
from axlebox.training import steps
from axlebox.training.fit import fit_detector, make_rows
from axlebox.training.frames import to_readings
from axlebox.training.parameters import BundleParameters, FeatureParameters, Parameters
from axlebox.training.provenance import code_revision
from axlebox.training.series import UNKNOWN, silent
from axlebox.training.workspace import Workspace, find_workspace, init_workspace

CONTRACT = Contract(
    {"t": Kind(period_s=60.0)},
    {name: Sensor("t", "bogie", offset) for name, offset in (("a", 0.0), ("b", 1.5), ("c", 0))},
)


class Rate(features.Plain):
    names: ClassVar[tuple[str, ...]] = ("change", "beside", "warming")
    defaults: ClassVar[dict[str, float]] = {"sibling_fresh_s": 90.0}
    before: float | None = None

    def update(self, reading: Reading, deviation: float | None, warming: bool) -> tuple[float, ...]:
        change = 0.0 if self.before is None else reading.value - self.before
        self.before = reading.value
        return (change, -99.0 if deviation is None else deviation, float(warming))


class Lone(Rate):
    defaults: ClassVar[dict[str, float]] = {}


class Keeps(Lone):
    def restart(self) -> bool:
        return True


@pytest.fixture
def offered() -> Iterator[Callable[[type], Parameters]]:
    """Parameters of a training with a class as its feature set."""

    def function(found: type, warmup: int = 0, **constants: float) -> Parameters:
        own_sets.offer({("rate", 1): lambda: found})
        chosen = FeatureParameters(warmup, constants)
        return Parameters(BundleParameters("x"), "rate-1", chosen)

    yield function
    own_sets.offer({})


def eventful() -> pd.DataFrame:
    """Three siblings in turn; a long gap of all of them, and one of them is replaced."""
    random = np.random.default_rng(3)
    rows = [
        (60.0 * step + (40_000.0 if step >= 200 else 0.0) + number, name, round(40 + 5 * random.normal(), 2))
        for step in range(400)
        for number, name in enumerate("abc")
    ]
    frame = pd.DataFrame(rows, columns=["time", "sensor", "value"])
    return frame.assign(era=((frame["sensor"] == "b") & (frame.index > 900)).astype(int))


def rows_on_the_vehicle(frame: pd.DataFrame, spec: DetectorSpec) -> list[list[float]]:
    """What the model of a box would be given of a stream, past the warm-ups, in order of arrival."""
    seen: list[list[float]] = []

    def score(rows: Any) -> Any:
        seen.extend(rows.tolist())
        return np.zeros(len(rows)), np.zeros(len(rows), dtype=np.bool_)

    monitor = Monitor(CONTRACT, {"t": Detector(spec, score)}, UNKNOWN)
    statuses = [one.status for one in monitor.process(to_readings(frame)) if one.score is not None]
    return [row for row, status in zip(seen, statuses, strict=True) if status != WARMING]


@pytest.mark.parametrize("found", [Rate, Lone, Keeps])
@pytest.mark.parametrize("warmup", [0, 7])
def test_training_makes_the_rows_that_the_vehicle_makes(offered: Any, found: type, warmup: int) -> None:
    """Over gaps, replaced sensors and siblings, in order of arrival."""
    frame, parameters = eventful(), offered(found, warmup)
    (made,) = make_rows(frame, CONTRACT, parameters, silent)
    expected = rows_on_the_vehicle(frame, made.spec)
    assert made.rows.tolist() == expected
    # 3 sensors before the gap, 3 after it unless it changes nothing, and the one that was replaced.
    assert len(frame) - len(expected) == warmup * (4 if found is Keeps else 7)
    assert {row[2] for row in expected} == {0.0}
    assert ({row[1] for row in expected} != {-99.0}) == (found is Rate)


def test_one_threshold_flags_the_share_that_was_asked_for_and_events_are_flags(offered: Any) -> None:
    parameters = offered(Rate, 1)
    (made,) = make_rows(eventful(), CONTRACT, parameters, silent)
    fitted = fit_detector(made, parameters)
    assert fitted.spec.events is None and fitted.spec.warmup == 1
    assert (fitted.forest.predict(made.rows) == -1).mean() == pytest.approx(0.05, abs=0.005)


def test_constants_are_the_set_s_unless_parameters_say_otherwise(offered: Any) -> None:
    (made,) = make_rows(eventful(), CONTRACT, offered(Rate), silent)
    assert made.spec.features.constants == {"sibling_fresh_s": 90.0}
    (made,) = make_rows(eventful(), CONTRACT, offered(Rate, sibling_fresh_s=0.5), silent)
    assert made.spec.features.constants == {"sibling_fresh_s": 0.5}
    assert set(made.rows[:, 1]) == {-99.0}  # siblings report a second apart
    with pytest.raises(Malformed, match="takes sibling_fresh_s, found sibling_fresh_s, siblings"):
        make_rows(eventful(), CONTRACT, offered(Rate, siblings=0.5), silent)


@pytest.mark.parametrize(
    ("row", "said"),
    [((1.0,), "3 names .change, beside, warming., and made a row of 1"), ((1.0, float("nan"), 0.0), "not finite")],
)
def test_rows_that_are_not_what_the_set_says_are_refused(offered: Any, row: tuple[float, ...], said: str) -> None:
    class Wrong(Rate):
        def update(self, reading: Reading, deviation: float | None, warming: bool) -> tuple[float, ...]:
            return row

    with pytest.raises(Malformed, match=f"feature set rate 1 .*{said}"):
        make_rows(eventful(), CONTRACT, offered(Wrong), silent)


def test_the_golden_readings_of_a_set_with_state_are_a_stretch_that_ends_with_a_fault(offered: Any) -> None:
    parameters, frame = offered(Rate, 5), eventful()
    fitted = fit_detector(*make_rows(frame, CONTRACT, parameters, silent), parameters)
    seen = steps.predict({fitted.spec.model: fitted.forest}, [fitted.spec], CONTRACT, frame)
    readings = golden_readings(seen, fitted.spec, CONTRACT)
    stretch, fault = readings[:-12], readings[-12:]
    assert [(one.time, one.sensor) for one in stretch] == list(
        frame[["time", "sensor"]][-200:].itertuples(index=False, name=None)
    )
    assert min(one.value for one in fault) > frame["value"].max() + 20
    assert np.diff([one.time for one in fault]).tolist() == [60.0] * 11


# -- the workspace --------------------------------------------------------------------------------


def declared(workspace: Workspace, line: str) -> Workspace:
    settings = workspace.root / "pyproject.toml"
    table = f'[project.entry-points."{own_sets.GROUP}"]'
    settings.write_text(settings.read_text().replace(table, f"{table}\n{line}"))
    return find_workspace(workspace.root / "conf")


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Workspace]:
    path = list(sys.path)
    yield init_workspace(tmp_path / f"fleet-{tmp_path.name}", with_pipelines=True)
    sys.path[:] = path
    own_sets.offer({})


def test_a_workspace_s_sets_are_known_inside_it_without_being_installed(made: Workspace, tmp_path: Path) -> None:
    package = made.own_package
    assert package is not None
    (package / "features.py").write_text("from axlebox.runtime.features import Value\n\nclass Mine(Value):\n    pass\n")
    declared(made, f'mine-2 = "{package.name}.features:Mine"')
    assert package.name not in sys.modules
    found = features.find(FeatureSet("mine", 2))
    assert Path(str(sys.modules[found.__module__].__file__)) == package / "features.py"
    find_workspace(init_workspace(tmp_path / "another").root)
    assert features.known_sets() == features.KNOWN_SETS


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('rate = "fleet.features:Rate"', "feature set rate: entries are like rate-1"),
        ("rate-1 = 5", "feature set rate-1: entries are like"),
        ('value-2 = "fleet.features:Rate"', "feature set value-2: axlebox has one of this name"),
        ("rate-1", "is not readable"),
    ],
)
def test_an_entry_that_cannot_be_one_is_refused(made: Workspace, line: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        declared(made, line)


def test_a_set_whose_module_is_not_there_is_named(made: Workspace) -> None:
    declared(made, 'rate-1 = "nowhere_at_all:Rate"')
    with pytest.raises(PreflightFailed, match="feature set rate 1 cannot be loaded: ModuleNotFoundError"):
        features.find(FeatureSet("rate", 1))


def test_every_module_of_the_package_is_in_the_source_that_a_run_is_named_by_and_nothing_else(made: Workspace) -> None:
    package = made.own_package
    assert package is not None
    before = code_revision(made.root).source_sha256
    (made.root / "tests/test_more.py").write_text("1\n")
    (made.root / "src/notes.py").write_text("1\n")
    (package / "notes.txt").write_text("1\n")
    assert code_revision(made.root).source_sha256 == before
    seen = {before}
    for name in ("pipelines/weekly/nodes.py", "features.py", "pipelines/weekly.py"):
        (package / name).parent.mkdir(exist_ok=True)
        (package / name).write_text("x = 1\n")
        seen.add(code_revision(made.root).source_sha256)
    assert len(seen) == 4


def test_a_thin_workspace_s_source_is_axlebox_s_alone(tmp_path: Path) -> None:
    workspace = init_workspace(tmp_path / "fleet")
    (workspace.root / "axlebox.training").mkdir()  # what `kedro pipeline create` once made there
    (workspace.root / "axlebox.training/x.py").write_text("1\n")
    folders = {
        name: Path(str(sys.modules[f"axlebox.{name}"].__file__)).parent for name in ("firmware_bundle", "runtime")
    }
    folders |= {name: Path(str(sys.modules[f"axlebox.{name}"].__file__)).parent for name in ("training", "export")}
    digest = hashlib.sha256()
    for name, folder in folders.items():
        for path in sorted(folder.rglob("*.py")):
            digest.update(f"{name}/{path.relative_to(folder)}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    assert code_revision(workspace.root).source_sha256 == digest.hexdigest()


def test_the_source_of_another_package_s_set_is_in_it_too(
    made: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "path" / "sets_of_somebody"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "helper.py").write_text("x = 1\n")
    (package / "sets.py").write_text("from axlebox.runtime.features import Value\n\nclass Rate(Value):\n    pass\n")
    monkeypatch.syspath_prepend(package.parent)
    declared(made, 'rate-1 = "sets_of_somebody.sets:Rate"')
    used = [FeatureSet("rate", 1)]
    seen = {code_revision(made.root).source_sha256, code_revision(made.root, used).source_sha256}
    (package / "helper.py").write_text("x = 2\n")
    seen.add(code_revision(made.root, used).source_sha256)
    assert len(seen) == 3
    assert code_revision(made.root, [FeatureSet("value", 1)]) == code_revision(made.root)


# -- init -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("folder", "package"), [("My Fleet", "my_fleet"), ("24-trains", "fleet_24_trains"), ("---", "fleet")]
)
def test_the_package_has_the_folder_s_name(tmp_path: Path, folder: str, package: str) -> None:
    workspace = init_workspace(tmp_path / folder, with_pipelines=True)
    assert workspace.own_package == workspace.root / "src" / package
    assert find_workspace(workspace.root) == workspace
    for path in workspace.root.rglob("*"):
        assert "@" not in path.name and path.suffix != ".in" and path.name != "PACKAGE"
        assert not path.is_file() or not re.search("@[A-Z_]+@", path.read_text()), path
    assert not list(workspace.root.glob("__init__.py"))


@pytest.mark.parametrize("name", ["json", "numpy", "axlebox", "class", "antigravity"])
def test_a_package_that_would_hide_another_is_refused_and_nothing_is_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=f"cannot be called {name}: .* DO: rename DIR"):
        init_workspace(tmp_path / name, with_pipelines=True)
    assert list(tmp_path.iterdir()) == []
    assert init_workspace(tmp_path / name).own_package is None  # a thin one has none


def test_both_kinds_of_workspace_are_of_one_format(tmp_path: Path) -> None:
    thin, own = init_workspace(tmp_path / "thin").root, init_workspace(tmp_path / "own", with_pipelines=True).root

    def formats(root: Path) -> list[str]:
        return [line for line in (root / "pyproject.toml").read_text().splitlines() if line.startswith("format")]

    assert formats(thin) == formats(own) and len(formats(own)) == 1
    assert {path.relative_to(thin) for path in thin.rglob("*")} <= {path.relative_to(own) for path in own.rglob("*")}
