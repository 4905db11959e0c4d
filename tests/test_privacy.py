"""With an empty HOME and no helpful variables: nothing appears there, and no connection leaves the machine."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

LOCAL = re.compile(r"AF_UNIX|AF_NETLINK|inet_addr\(\"127\.|\"::1\"")


@pytest.fixture
def watched(tmp_path: Path) -> Any:
    """Run a program under strace; returns its addresses outside this machine."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    if subprocess.run([strace, "-o", "/dev/null", "true"], capture_output=True, check=False).returncode:
        pytest.skip("strace may not trace here")

    def function(program: Any, *words: object, cwd: Path, code: int = 0) -> list[str]:
        log = tmp_path / "network.log"
        traced = type(program)(
            (
                strace,
                "-f",
                "--seccomp-bpf",
                "-qq",
                "-e",
                "trace=connect,sendto,sendmsg",
                "-o",
                str(log),
                *program.command,
            ),
            program.environment,
        )
        done = traced(*words, cwd=cwd)
        assert done.returncode == code, done.stderr
        return [line for line in log.read_text().splitlines() if "sa_family=" in line and not LOCAL.search(line)]

    return function


def test_the_watch_sees_a_connection_that_is_tried(watched: Any, axlebox: Any, tmp_path: Path) -> None:
    """192.0.2.0/24 is kept for documentation (RFC 5737); the socket does not wait for an answer."""
    code = (
        "import socket\ns = socket.socket()\ns.setblocking(False)\n"
        "try: s.connect(('192.0.2.1', 9))\nexcept OSError: pass\n"
    )
    program = type(axlebox)(("python3", "-c", code), axlebox.environment)
    assert len(watched(program, cwd=tmp_path)) == 1


def test_the_workstation_is_silent(watched: Any, axlebox: Any, exported: Path, tmp_path: Path) -> None:
    """Every step of the demo, in an environment of its own."""
    fleet = tmp_path / "fleet"
    for words in (
        ("init", fleet),
        ("simulate", tmp_path / "readings.csv", "--days", 2, "--faults", 1),
        ("ingest", exported.parent / "readings.csv"),
        ("train",),
        ("runs",),
        ("runs", "reindex"),
        ("keys", "init", "--single"),
        ("export",),
        ("verify", "dist/fleet-1.axb"),
        ("inspect", "dist/fleet-1.axb"),
        ("score", "dist/fleet-1.axb", exported.parent / "readings.csv", "-o", "scored.csv"),
    ):
        assert watched(axlebox, *words, cwd=fleet if fleet.exists() else tmp_path) == [], words
    assert list(Path(axlebox.environment["HOME"]).rglob("*")) == []


def test_the_vehicle_is_silent(watched: Any, axleboxd: Any, exported: Path, tmp_path: Path) -> None:
    data = tmp_path / "vehicle"
    run = exported / "runs" / (exported / "runs/latest").read_text().strip()
    for words in (
        ("provision", "--trust", exported / "trust/root.json", "--vehicle", "T1", "--hardware", "a"),
        ("install", exported / "dist/fleet-1.axb", "--yes"),
        ("selftest",),
        ("run", "--source", f"file:{run / 'held_out.csv'}"),
        ("confirm",),
        ("status",),
    ):
        ends_with = 40 if words == ("status",) else 0  # the daemon has ended with its file
        assert watched(axleboxd, *words, "--data", data, cwd=tmp_path, code=ends_with) == [], words
    assert list(Path(axleboxd.environment["HOME"]).rglob("*")) == []
