"""What the vehicle's packages load, and by which name the repository's modules are imported."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from importlib.util import find_spec
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDERS = {"export", "firmware_bundle", "runtime", "training"}

VEHICLE = {"click", "cryptography", "msgspec", "numpy", "onnxruntime", "securesystemslib", "tuf"}
"""All that the two packages of the vehicle may import beside the standard library."""

EXTRAS = {"cantools", "paho-mqtt", "prometheus-client", "python-can"}
"""What drivers load that are installed on request; `with_requirements` adds what those need."""

_LOAD = """
import sys
before = set(sys.modules)
import importlib, json
for name in sys.argv[1:]:
    importlib.import_module(name)
files = {name: getattr(sys.modules[name], "__file__", None) for name in set(sys.modules) - before}
print(json.dumps(sorted(name for name, file in files.items() if file)))
"""


def modules_of(package: str) -> list[str]:
    """Every module of an installed package, the package itself included."""
    spec = find_spec(package)
    assert spec is not None
    (folder,) = spec.submodule_search_locations or ()
    files = sorted(path.relative_to(folder).with_suffix("").parts for path in Path(folder).rglob("*.py"))
    return [package, *(".".join((package, *parts)) for parts in files if parts[-1] != "__init__")]


def loaded_by(*modules: str) -> set[str]:
    """The modules that came in from files with these ones, in a clean interpreter."""
    done = subprocess.run([sys.executable, "-c", _LOAD, *modules], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


def plain(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


TOKENS = {"python-pkcs11", "asn1crypto"}
"""What securesystemslib loads beside itself where the workstation's extra `pkcs11` is installed."""


def with_requirements(distributions: set[str]) -> set[str]:
    """Distributions and all that they require themselves, without extras."""
    found: set[str] = set()
    waiting = {plain(name) for name in distributions}
    while waiting:
        name = waiting.pop()
        found.add(name)
        try:
            lines = requires(name) or []
        except PackageNotFoundError:
            continue  # required on other platforms only
        for line in lines:
            requirement, _, marker = line.partition(";")
            match = re.match(r"[A-Za-z0-9._-]+", requirement)
            assert match, line
            if "extra" not in marker and plain(match[0]) not in found:
                waiting.add(plain(match[0]))
    return found


def foreign(modules: set[str]) -> dict[str, set[str]]:
    """Top-level names of modules that are neither the standard library's nor ours, with their distributions."""
    tops = {name.partition(".")[0] for name in modules} - set(sys.stdlib_module_names) - {"axlebox"}
    owners = packages_distributions()
    return {top: {plain(owner) for owner in owners.get(top, [])} for top in tops}


@pytest.fixture(scope="module")
def vehicle_modules() -> list[str]:
    return [*modules_of("axlebox.firmware_bundle"), *modules_of("axlebox.runtime")]


def test_the_vehicles_modules_load_only_what_the_design_lists(vehicle_modules: list[str]) -> None:
    assert {"axlebox.runtime.run_command", "axlebox.firmware_bundle.trust"} <= set(vehicle_modules)
    allowed = with_requirements(VEHICLE | EXTRAS)
    found = foreign(loaded_by(*vehicle_modules))
    assert {top: owners for top, owners in found.items() if not owners & (allowed | TOKENS)} == {}
    # All of the list is needed: what nobody imports should be taken off it.
    assert VEHICLE - {owner for owners in found.values() for owner in owners} == set()


def test_the_allowed_list_does_not_reach_the_workstations_packages() -> None:
    assert (
        with_requirements(VEHICLE) & {"scikit-learn", "pandas", "onnx", "skl2onnx", "kedro", "scipy", "pyarrow"}
        == set()
    )


def test_firmware_bundle_loads_msgspec_and_in_its_trust_modules_tuf() -> None:
    every = modules_of("axlebox.firmware_bundle")
    without_trust = [name for name in every if name.rpartition(".")[2] not in ("trust", "tuf_client", "vehicle_key")]
    # msgspec itself looks for typing_extensions, and does without it.
    assert set(foreign(loaded_by(*without_trust))) - {"typing_extensions"} == {"msgspec"}
    allowed = with_requirements({"msgspec", "tuf", "securesystemslib", "cryptography"})
    found = foreign(loaded_by(*every))
    assert {top: owners for top, owners in found.items() if not owners & (allowed | TOKENS)} == {}


def test_firmware_bundle_imports_nothing_of_the_other_packages() -> None:
    loaded = loaded_by(*modules_of("axlebox.firmware_bundle"))
    assert {name for name in loaded if name.startswith("axlebox.")} == set(modules_of("axlebox.firmware_bundle"))


def test_runtime_imports_nothing_of_the_workstation() -> None:
    loaded = loaded_by(*modules_of("axlebox.runtime"))
    assert {name.split(".")[1] for name in loaded if name.startswith("axlebox.")} == {"firmware_bundle", "runtime"}


def test_runtime_loads_no_trust_module_until_a_bundle_is_verified() -> None:
    loaded = loaded_by(*modules_of("axlebox.runtime"))
    assert {"tuf", "securesystemslib", "cryptography"} & {name.partition(".")[0] for name in loaded} == set()


# -- names ----------------------------------------------------------------------------------------


def python_files() -> list[Path]:
    folders = [*sorted(FOLDERS), "tests", "scripts"]
    return [path for folder in folders for path in sorted((REPOSITORY / folder).rglob("*.py"))]


def bare_imports(source: str) -> list[int]:
    """Lines that import a folder of the repository by its bare name, absolutely."""
    found = []
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module or ""]
        if any(name.partition(".")[0] in FOLDERS for name in names):
            found.append(node.lineno)
    return found


def test_bare_imports_are_found() -> None:
    bad = "import runtime\nfrom export.cli import main\nimport os, training.x\n"
    source = bad + "import axlebox.runtime\nfrom . import export\nfrom runtime_of_others import x\n"
    assert bare_imports(source) == [1, 2, 3]


def test_every_import_in_the_repository_is_of_axlebox() -> None:
    """`import runtime` at the repository's root would load a second copy of each module."""
    files = python_files()
    assert Path(__file__).resolve() in files
    assert {str(path): lines for path in files if (lines := bare_imports(path.read_text("utf-8")))} == {}


def test_there_is_no_second_copy_of_a_module() -> None:
    assert FOLDERS & set(sys.modules) == set()
