"""Recorded logs of a CAN bus, by the vehicle's own decoder of frames."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from msgspec import Meta, Struct
from msgspec.structs import replace

from axlebox.firmware_bundle.errors import Malformed, PreflightFailed, UsageError
from axlebox.firmware_bundle.manifest import Label
from axlebox.runtime.config import CanSettings
from axlebox.runtime.readings import BadLine
from axlebox.runtime.sources.base import Health
from axlebox.training.readers.base import Batch, Job, Reader

if TYPE_CHECKING:
    from can.io.generic import MessageReader

_Byte = Annotated[int, Meta(ge=0, le=255)]


class CanFormat(Struct, frozen=True, forbid_unknown_fields=True):
    """What can be said of a log: of the vehicle's table [can] what means its frames (docs/can.md)."""

    dbc: str | None = None
    """Relative to the workspace."""
    signals: dict[Label, str] = {}
    j1939: bool = False
    source_addresses: dict[Label, _Byte] = {}
    obd_pids: dict[Label, _Byte] = {}

    def __post_init__(self) -> None:
        if not self.signals and not self.obd_pids:
            raise ValueError("signals is empty: expected sensor ids with their MESSAGE.SIGNAL")
        if self.signals and self.dbc is None:
            raise ValueError("signals needs dbc, the file that says where they stand")
        for sensor, name in self.signals.items():
            if not re.fullmatch(r"\w+\.\w+", name):
                raise ValueError(f"signals.{sensor} = {name!r}, expected MESSAGE.SIGNAL")


def looks_like_log(head: bytes) -> bool:
    """Whether nothing but a CAN log begins like this."""
    return head.startswith(b"LOGG") or bool(re.match(rb"\s*\(\d+\.\d+\)\s+\S+\s+[0-9A-Fa-f]{3,8}#", head))


def _read(job: Job) -> Iterator[Batch]:
    try:
        from axlebox.runtime.sources.can_frames import FrameDecoder
        from axlebox.runtime.sources.can_log import LogFrames
    except ModuleNotFoundError as error:
        if error.name not in ("can", "cantools"):
            raise
        raise PreflightFailed("CAN logs need the extra 'can'. DO: pip install 'axlebox[can]'") from error
    settings: CanFormat = job.settings
    health = Health()
    what_is_read = {name: getattr(settings, name) for name in settings.__struct_fields__}
    try:
        decoder = FrameDecoder(CanSettings(**what_is_read), health)
    except UsageError as error:
        raise UsageError(f"{job.name}: {str(error).replace(str(settings.dbc), 'the file')}") from error
    try:
        log = LogFrames(job.path, _open)
    except UsageError as error:
        raise Malformed(f"{job.name}: {str(error).removeprefix(f'{job.path}: ')}") from error
    suffixes = "".join(job.path.suffixes[-2:]).lower()
    job.format = "CAN log"
    if suffixes.endswith((".asc", ".asc.gz")):
        job.guessed.append("dates without a zone are UTC")
    try:
        while frames := log.next():
            yield [
                replace(item, line=number)
                for number, frame in enumerate(frames, job.done + 1)
                for item in decoder.read(frame)
            ]
            job.done += len(frames)
    finally:
        log.close()
    if log.broken is not None:
        yield [BadLine(job.done + 1, f"the log is broken, and what follows is not read: {log.broken}")]
    job.guessed.append(f"{job.done} frames")
    nothing = sum(decoder.not_available.values())
    if nothing:
        job.guessed.append(f"{nothing} values not available or in error, so no readings")
    if health.lost:
        job.guessed.append(f"{health.lost} negative answers")


def _open(path: Path) -> MessageReader:
    import can

    class Asc(can.ASCReader):
        """python-can reads dates with the zone of the machine that it runs on."""

        @staticmethod
        def _datetime_to_timestamp(datetime_string: str) -> float:
            return _utc(datetime_string)

    suffixes = [one.lower() for one in path.suffixes]
    if suffixes[-1:] == [".asc"]:
        return Asc(path, relative_timestamp=False)
    if suffixes[-2:] == [".asc", ".gz"]:
        return Asc(gzip.open(path, "rt"), relative_timestamp=False)
    return can.LogReader(path)


_MONTHS = ("jan", "feb", "mar|mär", "apr", "may|mai", "jun", "jul", "aug", "sep", "oct|okt", "nov", "dec|dez")
_DATES = ("%m %d %I:%M:%S.%f %p %Y", "%m %d %I:%M:%S %p %Y", "%m %d %H:%M:%S.%f %Y", "%m %d %H:%M:%S %Y")


def _utc(text: str) -> float:
    """POSIX seconds of an .asc file's date, as in `Sep 30 10:06:13.191 PM 2017`. Raises ValueError."""
    for number, names in enumerate(_MONTHS, 1):
        text = re.sub(rf"^({names})\w*", f"{number:02}", text.strip(), flags=re.IGNORECASE)
    for form in _DATES:
        try:
            return datetime.strptime(text, form).replace(tzinfo=UTC).timestamp()
        except ValueError:
            continue
    raise ValueError(f"{text!r} is no date of an .asc file")


CAN = Reader("can", _read, settings=CanFormat, files=("dbc",))
