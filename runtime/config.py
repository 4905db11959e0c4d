"""The vehicle's configuration: one TOML file, optional, checked strictly.

Units stand in the names of settings. `config.toml` in the data folder is read where no other file
is named.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from axlebox.firmware_bundle import disk
from axlebox.firmware_bundle.errors import AxleboxError, UsageError
from axlebox.firmware_bundle.vehicle import CONFIG

_MAX_CONFIG_BYTES = 64 * 1024


class Maintenance(Struct, frozen=True, forbid_unknown_fields=True):
    """What says whether the vehicle stands in maintenance; without both it always does."""

    file: Annotated[str, Meta(pattern="^/")] | None = None
    """It does while this file exists; by its whole path, since the caller's folder may be a stick."""
    command: Annotated[tuple[str, ...], Meta(min_length=1)] | None = None
    """It does where this program, called without a shell, ends with 0."""
    timeout_s: Annotated[float, Meta(gt=0, le=60)] = 10.0
    """A command that takes longer says no."""


class Confirm(Struct, frozen=True, forbid_unknown_fields=True):
    """When the daemon confirms a release on trial by itself."""

    automatic: bool = True
    after_s: Annotated[float, Meta(ge=60, le=366 * 86400)] = 600.0
    """Seconds that it has run without an end."""
    after_readings: Annotated[int, Meta(ge=1)] = 100
    """Readings that passed the gate and were scored."""


class Config(Struct, frozen=True, forbid_unknown_fields=True):
    maintenance: Maintenance = Maintenance()
    confirm: Confirm = Confirm()


def load_config(data: Path, path: Path | None = None) -> Config:
    """The configuration in `path`, by default the data folder's own. Raises UsageError."""
    if path is None:
        path = data / CONFIG
        if not path.exists():
            return Config()
    try:
        return msgspec.convert(tomllib.loads(_text(path)), Config)
    except msgspec.ValidationError as error:
        raise UsageError(f"{path}: {error}{_nearest(str(error))}") from error
    except (ValueError, RecursionError) as error:  # tomllib lets a number of 5000 digits and deep nesting through
        raise UsageError(f"{path} is not TOML: {error}") from error


def _text(path: Path) -> str:
    try:
        return disk.read_bounded(path, _MAX_CONFIG_BYTES).decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8: {error.reason} at byte {error.start}") from error
    except AxleboxError as error:  # too large, not a regular file, not to be read
        raise UsageError(str(error)) from error


def _nearest(words: str) -> str:
    """The known setting that an unknown one may stand for."""
    unknown = re.search(r"unknown field `([^`]*)`", words)
    if not unknown:
        return ""
    tables = {"maintenance": Maintenance, "confirm": Confirm}
    inside = re.search(r" - at `\$\.(\w+)`$", words)
    known = tables[inside[1]] if inside else Config
    close = difflib.get_close_matches(unknown[1], known.__struct_fields__, n=1)
    return f". Did you mean {close[0]}?" if close else f"; known are {', '.join(known.__struct_fields__)}"
