"""receipts.log: what was done to a vehicle, one signed line each, each naming the digest of the line before.

A line that is changed, removed or put elsewhere breaks the chain. What the daemon writes (`drop`) is
unsigned, since it never loads the trust code; the next signed line covers it. A log that lost its
newest lines, or all of them, looks like a younger one: only whoever noted a later number sees that.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from axlebox.firmware_bundle import disk
from axlebox.firmware_bundle.errors import AxleboxError, BadSignature, Damaged, Malformed
from axlebox.firmware_bundle.manifest import Count, Sha256, decode, encode

LOG, OLD_LOG, SEEN = "receipts.log", "receipts.old.log", "receipts.seen"
MAX_LOG_BYTES = 1024 * 1024
"""A log that has grown to this is set aside; the one that was set aside before it is given up.

A later version may lower it and never raise it: `read` believes no smaller log that was set aside.
"""
MAX_WAITING = 100
"""Receipts that one stick is given beside the one of its own occasion."""
_MAX_SEEN_BYTES = 32
_MAX_REASON_CHARS = 400
_FIRST = "0" * 64

Action = Literal["install", "confirm", "fallback", "sensor", "drop"]
_UNSIGNED: frozenset[Action] = frozenset({"drop"})
"""What the daemon does by itself. Any other line without a signature had it taken away."""


class Receipt(Struct, frozen=True, forbid_unknown_fields=True):
    number: Count
    time: datetime
    clock_trusted: bool
    """False where the clock stands before a time that is surely past."""
    vehicle: str
    hardware: str
    action: Action
    release: str | None
    """Name and version of the release that the action was about, as far as it became known."""
    digest: Sha256 | None
    before: Sha256 | None
    """Digest of the release that would have run before the action, and its name and version."""
    before_release: str | None
    code: int
    """Exit code: 0 for what was done, the refusal's for what was not."""
    reason: str
    user: str
    """Login name of whoever called the command, as far as the box knows."""
    stick: str | None
    """Serial number of the stick, empty where it has none that can be read; None without a stick."""
    previous: Sha256 = _FIRST
    """sha256 of the line before."""


@dataclass(slots=True)
class Draft:
    """A receipt while the action that it is about is under way."""

    action: Action
    time: datetime
    clock_trusted: bool
    vehicle: str
    hardware: str
    before: str | None
    before_release: str | None = None
    user: str = ""
    stick: str | None = None
    release: str | None = None
    digest: str | None = None
    code: int = 0
    reason: str = ""

    def about(self, release: str, digest: str) -> None:
        self.release, self.digest = release, digest

    def refused(self, code: int, reason: str) -> None:
        self.code, self.reason = code, " ".join(reason.split())[:_MAX_REASON_CHARS]

    def write(self, data: Path, signed: bool = True) -> Entry:
        """Append the receipt to the log of a data folder; returns the line."""
        return _append(data, Receipt(number=0, **asdict(self)), signed)


class Entry(Struct, frozen=True, forbid_unknown_fields=True):
    """One line of the log."""

    receipt: Receipt
    signature: str | None
    """The vehicle's, over the receipt's JSON; None where the daemon wrote it."""

    @property
    def id(self) -> str:
        """What two people read to each other, as in AX-7F3K-TRAIN-204-0007: a check of the content, vehicle, number.

        A file name on any stick: letters, digits, dots and dashes.
        """
        check = base64.b32encode(hashlib.sha256(msgspec.json.encode(self)).digest())[:4].decode()
        vehicle = re.sub(r"[^A-Za-z0-9.-]", "-", self.receipt.vehicle)
        return f"AX-{check}-{vehicle}-{self.receipt.number:04d}"

    def document(self) -> bytes:
        """The file that is laid on a stick: the same, for people to read; `read_document` checks it."""
        return encode(self)


def read_document(data: bytes, public: bytes) -> Receipt:
    """The receipt in a file from a stick. Raises BadSignature unless this vehicle signed it, Malformed."""
    entry = decode(data, Entry, "receipt")
    _check_signature(entry, public)
    return entry.receipt


def waiting(data: Path) -> list[Entry]:
    """The newest entries that no stick has seen yet, oldest first, at most MAX_WAITING; worn lines are left out."""
    seen = _seen(data)
    found: list[Entry] = []
    for raw in reversed(_raw_lines(data / LOG)):
        with contextlib.suppress(Malformed):
            entry = decode(raw, Entry, LOG)
            if entry.receipt.number <= seen or len(found) == MAX_WAITING:
                break
            found.append(entry)
    return found[::-1]


def note_seen(data: Path, entry: Entry) -> None:
    """A stick holds this entry and those before it."""
    disk.replace_durable(data / SEEN, b"%d\n" % entry.receipt.number)


def _seen(data: Path) -> int:
    """Number of the last entry that a stick holds; 0 where that is not known, and sticks get some of them twice."""
    with contextlib.suppress(AxleboxError, ValueError):
        return int(disk.read_bounded(data / SEEN, _MAX_SEEN_BYTES)) if (data / SEEN).exists() else 0
    return 0


def latest(data: Path) -> Entry | None:
    """The newest readable entry, unchecked: what `status` shows."""
    for raw in reversed(_raw_lines(data / LOG)):
        with contextlib.suppress(Malformed):
            return decode(raw, Entry, LOG)
    return None


def _append(data: Path, receipt: Receipt, signed: bool) -> Entry:
    """Add a receipt, durably, with its number and the digest of the line before; returns it so."""
    lines = _raw_lines(data / LOG) or _raw_lines(data / OLD_LOG)
    previous = hashlib.sha256(lines[-1]).hexdigest() if lines else _FIRST
    receipt = msgspec.structs.replace(receipt, number=_next_number(lines), previous=previous)
    signature = None
    if signed:
        from axlebox.firmware_bundle.vehicle_key import sign

        signature = sign(data, msgspec.json.encode(receipt))
    entry = Entry(receipt, signature)
    disk.append_line(data / LOG, msgspec.json.encode(entry), MAX_LOG_BYTES, data / OLD_LOG)
    return entry


def _next_number(lines: Sequence[bytes]) -> int:
    """One above the last line's; lines that wore out are counted, else one of them would end all receipts."""
    for behind, raw in enumerate(reversed(lines), 1):
        with contextlib.suppress(Malformed):
            return decode(raw, Entry, LOG).receipt.number + behind
    return len(lines) + 1


def read(data: Path, public: bytes) -> Iterator[Receipt]:
    """The receipts of a data folder, oldest first, each checked.

    Raises Damaged where the chain breaks, BadSignature where a signature is wrong or was taken away.
    """
    lines = [*_raw_lines(data / OLD_LOG), *_raw_lines(data / LOG)]
    previous = None
    for raw in lines:
        line = decode(raw, Entry, LOG)
        number = line.receipt.number
        if previous is None:
            previous = _before_the_first(data, line.receipt)
        if line.receipt.previous != previous:
            raise Damaged(f"{LOG}: receipt {number} does not follow the one before it")
        if msgspec.json.encode(line) != raw:
            raise Damaged(f"{LOG}: receipt {number} is not as it was written")
        _check_signature(line, public)
        previous = hashlib.sha256(raw).hexdigest()
        yield line.receipt


def _check_signature(entry: Entry, public: bytes) -> None:
    from axlebox.firmware_bundle.vehicle_key import check

    receipt = entry.receipt
    if entry.signature is not None:
        check(public, msgspec.json.encode(receipt), entry.signature)
    elif receipt.action not in _UNSIGNED:
        raise BadSignature(f"receipt {receipt.number} ({receipt.action}) has no signature")


def _before_the_first(data: Path, first: Receipt) -> str:
    """What the oldest receipt must name: nothing, unless a full log before it was given up."""
    if first.number == 1:
        return _FIRST
    set_aside = data / OLD_LOG
    if not set_aside.exists() or set_aside.stat().st_size < MAX_LOG_BYTES:
        raise Damaged(f"{LOG} begins with receipt {first.number}: those before it were removed")
    return first.previous


def _raw_lines(path: Path) -> list[bytes]:
    """Whole lines; what a power cut left without a line end was never reported as written."""
    if not path.exists():
        return []
    *lines, _ = disk.read_bounded(path, 2 * MAX_LOG_BYTES).split(b"\n")
    return lines
