"""One exception class for each reason that somebody acts on, and its exit code (docs/exit-codes.md)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import ClassVar


class AxleboxError(Exception):
    """An expected failure: its text is the one line that a person reads."""

    exit_code: ClassVar[int] = 30
    headline: ClassVar[str] = ""
    """What has happened, for a technician; empty where the text itself says it best."""
    advice: ClassVar[str] = "try again; if it fails again, call for help"
    """What a technician does about it."""


class UsageError(AxleboxError):
    """The command's words, or the place it was called in, do not fit."""

    exit_code = 2
    advice = ""


class AlreadyInstalled(AxleboxError):
    exit_code = 3


class BadSignature(AxleboxError):
    """A signature that is present does not verify."""

    exit_code = 10
    headline = "A signature on this bundle is wrong."
    advice = "do not use this bundle; ask where it comes from"


class TooFewSignatures(AxleboxError):
    """Signers are unknown, or fewer signed than the role asks for."""

    exit_code = 11
    headline = "The bundle is not signed by enough people whom this vehicle trusts."
    advice = "ask for a newer bundle of this fleet, approved by enough people"


class Damaged(AxleboxError):
    """Bytes are missing or differ from what was signed."""

    exit_code = 12
    headline = "The file on the stick is damaged."
    advice = "copy the bundle again, or use the second stick"


class BoxDamaged(Damaged):
    """What this box keeps is damaged, not the stick."""

    headline = "What this box has stored is damaged."
    advice = "call for help; the stick is not the reason"


class WrongTarget(AxleboxError):
    """Made for another vehicle or other hardware."""

    exit_code = 13
    headline = "The bundle is not for this vehicle."
    advice = "find the bundle for this vehicle"


class WrongHardware(WrongTarget):
    """Made for other hardware."""

    headline = "The bundle is not for this hardware."
    advice = "find the bundle for this vehicle's hardware"


class WrongVehicle(WrongTarget):
    """Made for other vehicles of this hardware."""


class TooOld(AxleboxError):
    """Older than what is allowed here."""

    exit_code = 14
    headline = "The bundle is too old."
    advice = "find a newer bundle"


class Rollback(TooOld):
    """Below the floor: a release that this vehicle has left behind."""

    headline = "The bundle is older than what this vehicle has confirmed."


class Revoked(TooOld):
    """Below the lowest version that a confirmed release still lets run (`min_sequence`)."""

    headline = "This release was withdrawn."


class Expired(TooOld):
    """Metadata whose time is over, by a clock that may be wrong."""

    headline = "The bundle has expired, by this box's clock."
    advice = "check the clock; if it is right, find a newer bundle"


class Malformed(AxleboxError):
    """Not what its format promises."""

    exit_code = 15
    headline = "This is not a bundle that can be read."
    advice = "check that this is the right file"


class PreflightFailed(AxleboxError):
    """Something that is needed first is missing: space, permissions, runtime version, a release."""

    exit_code = 20
    advice = "mend that, then try again"


class DiskRefused(PreflightFailed):
    """The operating system refuses to write: a full, failing or read-only disk, a missing permission."""

    headline = "This box could not write to its disk."
    advice = "free some space or call for help, then try again"


class RuntimeTooOld(PreflightFailed):
    """Made for a newer runtime than this one."""

    headline = "The bundle needs a newer runtime than this box has."
    advice = "update the runtime, then install again"


class FeatureSetMissing(RuntimeTooOld):
    """Made for a feature set that neither this runtime nor a package on this box has."""

    headline = "The bundle needs a feature set that this box does not have."
    advice = "update the runtime, or install the package that brings it, then install again"


class NotInMaintenance(AxleboxError):
    """The vehicle's configuration says that nobody may change it now."""

    exit_code = 21
    headline = "The vehicle does not stand in maintenance."
    advice = "put the vehicle into maintenance, then install again"


class StickLost(AxleboxError):
    """The stick cannot be read, or not any more."""

    headline = "The stick cannot be read."
    advice = "put the stick in again, or use the second stick"


class SelfTestFailed(AxleboxError):
    exit_code = 31
    headline = "The release does not run as it should on this box."
    advice = "leave this release; call for help"


class FallbackFailed(AxleboxError):
    exit_code = 32
    headline = "No other release can run."
    advice = "call for help"


class DaemonNotRunning(AxleboxError):
    exit_code = 40


class NoData(AxleboxError):
    """The source ended without one reading, or none came for too long."""

    exit_code = 41


class SensorFault(AxleboxError):
    exit_code = 42


class GateFailed(AxleboxError):
    """A quality gate (parity, threshold target) stopped an export."""

    exit_code = 50


@contextlib.contextmanager
def naming(file: str) -> Iterator[None]:
    """Say in a refusal which file it is about."""
    try:
        yield
    except BoxDamaged:
        raise  # it names its own
    except AxleboxError as error:
        raise type(error)(f"{file}: {error}") from error
