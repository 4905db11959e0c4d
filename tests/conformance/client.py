#!/usr/bin/env python3
"""The client under test of the public tuf-conformance suite: its command line around axlebox's own `TufClient`.

Every decision about trust is `TufClient`'s. Here is only what a bundle does not need: fetching over
HTTP, and keeping metadata between two runs. Exit status 0 where all went well, 1 where anything was
refused. See README.md.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import BinaryIO
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import ProxyHandler, build_opener

from tuf.api.exceptions import LengthOrHashMismatchError
from tuf.api.metadata import MetaFile, TargetFile

from axlebox.firmware_bundle.container import MAX_CONTAINER_BYTES
from axlebox.firmware_bundle.disk import replace_durable
from axlebox.firmware_bundle.errors import AxleboxError, Damaged, Malformed
from axlebox.firmware_bundle.tuf_client import MAX_METADATA_BYTES, TufClient

MAX_NEW_ROOTS = 256
"""New roots followed in one run: a server that never runs out of them must not hold us for ever."""
SECONDS_OF_SILENCE = 10
"""How long a server may say nothing."""

# The suite's server is on loopback: a proxy named in the environment has no business with it.
_open_url = build_opener(ProxyHandler({})).open


class Updater:
    """One run of section 5 of the TUF specification, with trusted metadata kept in `folder`."""

    def __init__(self, folder: Path, metadata_url: str) -> None:
        self.now = datetime.now(UTC)  # 5.1: one time for the whole run
        self.folder = folder
        self._fetch = partial(_read_url, metadata_url, at_most=MAX_METADATA_BYTES)
        self.client = TufClient(_read_file(folder / "root.json", MAX_METADATA_BYTES))

    def refresh(self) -> None:
        """Bring all four top-level roles up to date; each file that is trusted is kept at once."""
        client = self.client
        self._follow_roots()
        self._follow_timestamp()
        assert client.timestamp is not None
        # The file kept from before counts as seen even where it is not the one wanted now (5.5.5).
        seen = partial(client.update_snapshot, cached=True)
        self._follow("snapshot.json", client.timestamp.signed.snapshot_meta, seen, client.update_snapshot)
        assert client.snapshot is not None
        self._follow("targets.json", client.snapshot.signed.meta.get("targets.json"), client.update_targets)

    def _follow_roots(self) -> None:
        for _ in range(MAX_NEW_ROOTS):
            try:
                data = self._fetch(f"{self.client.root.signed.version + 1}.root.json")
            except HTTPError as error:
                if error.code != 404:
                    raise
                break
            self.client.update_root(data)
            replace_durable(self.folder / "root.json", data)
        # Only the last root's time counts: an expired one leads to its successor (5.3.10).
        self.client.check_expiry(self.now)

    def _follow_timestamp(self) -> None:
        self._held("timestamp.json", self.client.update_timestamp)
        held = self.client.timestamp
        data = self._fetch("timestamp.json")
        self.client.update_timestamp(data)
        self.client.check_expiry(self.now)
        if self.client.timestamp is not held:
            replace_durable(self.folder / "timestamp.json", data)

    def _follow(self, name: str, pinned: MetaFile | None, *checks: Callable[[bytes], object]) -> None:
        """The file kept from before where it is still the one pinned, else the one that the server has."""
        if pinned is None:
            raise Malformed(f"no signed file names {name}")
        if self._held(name, *checks):
            self.client.check_expiry(self.now)
            return
        data = self._fetch(f"{pinned.version}.{name}" if self.client.root.signed.consistent_snapshot else name)
        checks[-1](data)
        self.client.check_expiry(self.now)
        replace_durable(self.folder / name, data)

    def _held(self, name: str, *checks: Callable[[bytes], object]) -> bool:
        """Whether the file kept from before passes; after a rotation of keys (5.3.11) it may not, and is ignored."""
        try:
            data = _read_file(self.folder / name, MAX_METADATA_BYTES)
            for check in checks:
                check(data)
        except (AxleboxError, FileNotFoundError):
            return False
        return True


def init(folder: Path, root: Path) -> None:
    """Trust `root` from now on."""
    data = _read_file(root, MAX_METADATA_BYTES)
    TufClient(data)
    replace_durable(folder / "root.json", data)


def download(updater: Updater, name: str, base_url: str, folder: Path) -> None:
    """Store the artifact `name` in `folder`, unless it is there already (5.7)."""
    targets, root = updater.client.targets, updater.client.root
    assert targets is not None
    target = targets.signed.targets.get(name)
    if target is None:
        raise Malformed(f"targets.json does not list {name}")
    # One plain file name for any name of an artifact, `..` and a/b/c included.
    path = folder / f"artifact-{quote(name, safe='')}"
    with contextlib.suppress(AxleboxError, FileNotFoundError):
        _check_artifact(target, _read_file(path, MAX_CONTAINER_BYTES))
        return
    above, slash, last = name.rpartition("/")
    if root.signed.consistent_snapshot:
        last = f"{next(iter(target.hashes.values()))}.{last}"
    data = _read_url(base_url, above + slash + last, min(target.length, MAX_CONTAINER_BYTES))
    _check_artifact(target, data)
    replace_durable(path, data)


def _check_artifact(target: TargetFile, data: bytes) -> None:
    try:
        target.verify_length_and_hashes(data)
    except LengthOrHashMismatchError as error:
        raise Damaged(f"{target.path} differs from what was signed") from error


def _read_file(path: Path, at_most: int) -> bytes:
    with open(path, "rb") as file:
        return _read(file, path.name, at_most)


def _read_url(base: str, name: str, at_most: int) -> bytes:
    with _open_url(f"{base.rstrip('/')}/{quote(name)}", timeout=SECONDS_OF_SILENCE) as answer:
        return _read(answer, name, at_most)


def _read(source: BinaryIO, name: str, at_most: int) -> bytes:
    data = source.read(at_most + 1)
    if len(data) > at_most:
        raise Malformed(f"{name} has more than the {at_most} bytes that are allowed")
    return data


def main() -> int:
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--metadata-dir", type=Path, required=True)
    words.add_argument("--metadata-url")
    words.add_argument("--target-name")
    words.add_argument("--target-base-url")
    words.add_argument("--target-dir", type=Path)
    commands = words.add_subparsers(dest="command", required=True)
    commands.add_parser("init").add_argument("root", type=Path)
    commands.add_parser("refresh")
    commands.add_parser("download")
    given = words.parse_args()
    try:
        if given.command == "init":
            init(given.metadata_dir, given.root)
            return 0
        updater = Updater(given.metadata_dir, given.metadata_url)
        updater.refresh()
        if given.command == "download":
            download(updater, given.target_name, given.target_base_url, given.target_dir)
    except (AxleboxError, OSError, HTTPException) as error:
        print(f"client.py {given.command}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
