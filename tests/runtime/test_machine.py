"""The fingerprint of a runtime and its machine: a proof holds for them and for no others."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from axlebox.runtime import machine
from axlebox.runtime.machine import processor, this_runtime
from axlebox.runtime.version import VERSION

INTEL = """\
processor\t: 0
vendor_id\t: GenuineIntel
cpu family\t: 6
model\t\t: 85
model name\t: A Processor
stepping\t: 7
cpu MHz\t\t: 2500.000
flags\t\t: fpu avx avx2
bogomips\t: 5000.00

processor\t: 1
vendor_id\t: GenuineIntel
"""
ARM = """\
processor\t: 0
BogoMIPS\t: 48.00
Features\t: fp asimd
CPU implementer\t: 0x41
CPU part\t: 0xd08
"""


@pytest.fixture
def cpuinfo(tmp_path: Path) -> Path:
    return tmp_path / "cpuinfo"


def told(cpuinfo: Path, text: str) -> str:
    cpuinfo.write_text(text)
    return processor(cpuinfo)


@pytest.mark.parametrize(
    ("text", "old", "new"),
    [
        (INTEL, "avx avx2", "avx"),
        (INTEL, "A Processor", "Another Processor"),
        (INTEL, "stepping\t: 7", "stepping\t: 8"),
        (ARM, "fp asimd", "fp asimd sve"),
        (ARM, "0xd08", "0xd0b"),
    ],
)
def test_another_processor_has_another_fingerprint(cpuinfo: Path, text: str, old: str, new: str) -> None:
    before = told(cpuinfo, text)
    assert len(before) == 16 and int(before, 16) >= 0
    assert told(cpuinfo, text.replace(old, new)) != before


@pytest.mark.parametrize(("old", "new"), [("2500.000", "1200.000"), ("5000.00", "4999.00"), ("processor\t: 1", "")])
def test_what_changes_by_itself_does_not_count(cpuinfo: Path, old: str, new: str) -> None:
    assert told(cpuinfo, INTEL.replace(old, new)) == told(cpuinfo, INTEL)


def test_where_a_sandbox_hides_it_the_processor_is_unknown(cpuinfo: Path) -> None:
    assert processor(cpuinfo) == "unknown"
    assert processor(Path("/dev/null")) == "unknown"
    assert told(cpuinfo, "nothing that is known\n") == "unknown"


def test_it_is_read_in_bounds() -> None:
    assert processor(Path("/dev/zero")) == "unknown"


def test_the_fingerprint_names_what_a_proof_depends_on(monkeypatch: pytest.MonkeyPatch, cpuinfo: Path) -> None:
    cpuinfo.write_text(ARM)
    monkeypatch.setattr(machine, "_CPUINFO", cpuinfo)
    runtime = this_runtime.__wrapped__()
    assert runtime.version == VERSION
    for part in (VERSION, "onnxruntime ", "numpy ", platform.machine(), processor(cpuinfo)):
        assert part in runtime.fingerprint
