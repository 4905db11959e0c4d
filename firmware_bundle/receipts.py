"""receipts.log: what was done to a vehicle, one signed line each, each naming the digest of the line before.

A line that is changed, removed or put elsewhere breaks the chain. What the daemon writes (`drop`) is
unsigned, since it never loads the trust code; the next signed line covers it. A log that lost its
newest lines, or all of them, looks like a younger one: only whoever noted a later number sees that.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from axlebox.firmware_bundle import disk
from axlebox.firmware_bundle.errors import BadSignature, Damaged, Malformed
from axlebox.firmware_bundle.manifest import Count, Sha256, decode

LOG, OLD_LOG = "receipts.log", "receipts.old.log"
MAX_LOG_BYTES = 1024 * 1024
"""A log that has grown to this is set aside; the one that was set aside before it is given up.

A later version may lower it and never raise it: `read` believes no smaller log that was set aside.
"""
_MAX_REASON_CHARS = 400
_FIRST = "0" * 64

Action = Literal["install", "confirm", "fallback", "drop"]
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
    """Digest of the release that would have run before the action."""
    code: int
    """Exit code: 0 for what was done, the refusal's for what was not."""
    reason: str
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
    release: str | None = None
    digest: str | None = None
    code: int = 0
    reason: str = ""

    def about(self, release: str, digest: str) -> None:
        self.release, self.digest = release, digest

    def refused(self, code: int, reason: str) -> None:
        self.code, self.reason = code, " ".join(reason.split())[:_MAX_REASON_CHARS]

    def write(self, data: Path, signed: bool = True) -> Receipt:
        """Append the receipt to the log of a data folder; returns it."""
        return _append(data, Receipt(number=0, **asdict(self)), signed)


class _Line(Struct, frozen=True, forbid_unknown_fields=True):
    receipt: Receipt
    signature: str | None
    """The vehicle's, over the receipt's JSON; None where the daemon wrote it."""


def _append(data: Path, receipt: Receipt, signed: bool) -> Receipt:
    """Add a receipt, durably, with its number and the digest of the line before; returns it so."""
    lines = _raw_lines(data / LOG) or _raw_lines(data / OLD_LOG)
    previous = hashlib.sha256(lines[-1]).hexdigest() if lines else _FIRST
    receipt = msgspec.structs.replace(receipt, number=_next_number(lines), previous=previous)
    signature = None
    if signed:
        from axlebox.firmware_bundle.vehicle_key import sign

        signature = sign(data, msgspec.json.encode(receipt))
    disk.append_line(data / LOG, msgspec.json.encode(_Line(receipt, signature)), MAX_LOG_BYTES, data / OLD_LOG)
    return receipt


def _next_number(lines: Sequence[bytes]) -> int:
    """One above the last line's; lines that wore out are counted, else one of them would end all receipts."""
    for behind, raw in enumerate(reversed(lines), 1):
        with contextlib.suppress(Malformed):
            return decode(raw, _Line, LOG).receipt.number + behind
    return len(lines) + 1


def read(data: Path, public: bytes) -> Iterator[Receipt]:
    """The receipts of a data folder, oldest first, each checked.

    Raises Damaged where the chain breaks, BadSignature where a signature is wrong or was taken away.
    """
    from axlebox.firmware_bundle.vehicle_key import check

    lines = [*_raw_lines(data / OLD_LOG), *_raw_lines(data / LOG)]
    previous = None
    for raw in lines:
        line = decode(raw, _Line, LOG)
        number = line.receipt.number
        if previous is None:
            previous = _before_the_first(data, line.receipt)
        if line.receipt.previous != previous:
            raise Damaged(f"{LOG}: receipt {number} does not follow the one before it")
        if msgspec.json.encode(line) != raw:
            raise Damaged(f"{LOG}: receipt {number} is not as it was written")
        if line.signature is not None:
            check(public, msgspec.json.encode(line.receipt), line.signature)
        elif line.receipt.action not in _UNSIGNED:
            raise BadSignature(f"{LOG}: receipt {number} ({line.receipt.action}) has no signature")
        previous = hashlib.sha256(raw).hexdigest()
        yield line.receipt


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
