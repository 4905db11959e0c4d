"""One exception class for each reason that somebody acts on, and its exit code (docs/exit-codes.md)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar


class AxleboxError(Exception):
    """An expected failure: its text is the one line that a person reads."""

    exit_code: ClassVar[int] = 30
    advice: ClassVar[str] = "try again; if it fails again, call for help"
    """What a technician does about it."""


class UsageError(AxleboxError):
    """The command's words, or the place it was called in, do not fit."""

    exit_code = 2


class AlreadyInstalled(AxleboxError):
    exit_code = 3


class BadSignature(AxleboxError):
    """A signature that is present does not verify."""

    exit_code = 10
    advice = "do not use this bundle; ask where it comes from"


class TooFewSignatures(AxleboxError):
    """Signers are unknown, or fewer signed than the role asks for."""

    exit_code = 11
    advice = "ask for a newer bundle of this fleet, approved by enough people"


class Damaged(AxleboxError):
    """Bytes are missing or differ from what was signed or installed."""

    exit_code = 12
    advice = "copy the bundle again, or use the second stick"


class BoxDamaged(Damaged):
    """What this box keeps is damaged, not the stick."""

    advice = "call for help"


class WrongTarget(AxleboxError):
    """Made for another vehicle or other hardware."""

    exit_code = 13
    advice = "find the bundle for this vehicle"


class WrongHardware(WrongTarget):
    """Made for other hardware."""

    advice = "find the bundle for this vehicle's hardware"


class WrongVehicle(WrongTarget):
    """Made for other vehicles of this hardware."""


class TooOld(AxleboxError):
    """Older than what is allowed here."""

    exit_code = 14
    advice = "find a newer bundle"


class Rollback(TooOld):
    """Below the floor: a release that this vehicle has left behind."""


class Revoked(TooOld):
    """Below the lowest version that a confirmed release still lets run (`min_sequence`)."""


class Expired(TooOld):
    """Metadata whose time is over, by a clock that may be wrong."""

    advice = "check the clock; if it is right, find a newer bundle"


class Malformed(AxleboxError):
    """Not what its format promises."""

    exit_code = 15
    advice = "check that this is the right file"


class PreflightFailed(AxleboxError):
    """Something that is needed first is missing: space, permissions, runtime version, a release."""

    exit_code = 20
    advice = "mend what is named above, then try again"


class RuntimeTooOld(PreflightFailed):
    """Made for a newer runtime than this one."""

    advice = "update the runtime, then install again"


class SelfTestFailed(AxleboxError):
    exit_code = 31
    advice = "leave this release; call for help"


class FallbackFailed(AxleboxError):
    exit_code = 32


class NoData(AxleboxError):
    """The source ended without one reading."""

    exit_code = 41


class GateFailed(AxleboxError):
    """A quality gate (parity, threshold target) stopped an export."""

    exit_code = 50


@contextlib.contextmanager
def naming(file: Path) -> Iterator[None]:
    """Say in a refusal which file it is about."""
    try:
        yield
    except AxleboxError as error:
        raise type(error)(f"{file.name}: {error}") from error
