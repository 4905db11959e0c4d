"""Which reader a file gets: the one that is asked for, that its description names, or that its content shows."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct, structs

from axlebox.firmware_bundle.errors import AxleboxError, Malformed, PreflightFailed, UsageError
from axlebox.firmware_bundle.manifest import FileFormat
from axlebox.runtime.readings import EARLIEST, LATEST, BadLine, Reading, Replaced, check_sensor_id
from axlebox.training.readers.base import Batch, Job, Reader, one_line
from axlebox.training.readers.binary import BINARY
from axlebox.training.readers.can_log import CAN, looks_like_log
from axlebox.training.readers.parquet import MAGIC, PARQUET
from axlebox.training.readers.text import TEXT

GROUP = "axlebox.readers"
"""The entry-point group of readers of other packages."""
BUILT_IN = (TEXT, PARQUET, BINARY, CAN)
_HEAD_BYTES = 4096
_CATALOG = "conf/base/catalog.yml"
DESCRIBE = f"DO: describe such files under formats in {_CATALOG} (docs/readers.md)"


@dataclass(frozen=True, slots=True)
class Found:
    """A reader with what it is told of a file."""

    reader: Reader
    settings: Struct | None = None
    distribution: str | None = None
    """Of a reader that is not axlebox's own: its package and version."""
    described: str | None = None
    """The name of the description that it was chosen by."""
    says_itself: bool = False
    """Whether content alone leads to this reader, on every machine."""
    notes: tuple[str, ...] = ()
    """What went wrong on the way to it."""

    def files(self, root: Path) -> dict[str, Path]:
        """By setting, the files that it needs too; `root` is what they are relative to."""
        named = {name: getattr(self.settings, name) for name in self.reader.files}
        return {name: root / one for name, one in named.items() if one is not None}

    def format(self, files: Mapping[str, str]) -> FileFormat | None:
        """For the record; `files` has the sha256 of each of `files`. Raises UsageError."""
        if self.says_itself:
            return None
        settings = {} if self.settings is None else msgspec.to_builtins(_said(self.settings))
        settings = {name: value for name, value in settings.items() if name not in files}
        try:
            return msgspec.convert(
                {"reader": self.reader.name, "settings": settings, "files": files, "distribution": self.distribution},
                FileFormat,
            )
        except msgspec.ValidationError as error:
            raise UsageError(f"{self.place}: cannot stand in a manifest: {error}") from error

    def with_files(self, copies: Mapping[str, Path]) -> Found:
        """The same, with copies in the places of those files."""
        if self.settings is None or not copies:
            return self
        named = {name: str(one) for name, one in copies.items()}
        return replace(self, settings=structs.replace(self.settings, **named))

    @property
    def place(self) -> str:
        return f"{_CATALOG}, formats.{self.described}" if self.described else f"reader {self.reader.name}"

    def read(self, job: Job) -> Iterator[Batch]:
        """Raises AxleboxError."""
        job.settings = self.settings
        job.guessed += self.notes
        return self.reader.read(job) if self.distribution is None else _guarded(self.reader, job)


def described(formats: Mapping[str, Any]) -> dict[str, tuple[Found, str | None]]:
    """Each description of the catalog, with its pattern of file names. Raises UsageError."""
    found = {}
    for name, entry in formats.items():
        place = f"{_CATALOG}, formats.{name}"
        if not isinstance(entry, Mapping) or not isinstance(entry.get("reader"), str):
            raise UsageError(f"{place}: expected a table with a reader, as in {{reader: binary, files: '*.rec', ...}}")
        pattern = entry.get("files")
        if pattern is not None and not isinstance(pattern, str):
            raise UsageError(f"{place}: files is {pattern!r}, expected a pattern of file names, as in '*.rec'")
        settings = {key: value for key, value in entry.items() if key not in ("reader", "files")}
        reader, distribution = _by_name(entry["reader"], place)
        plain = distribution is None and reader.settings is None
        found[str(name)] = (
            Found(reader, _settings(reader, settings, place), distribution, str(name), plain),
            pattern,
        )
    return found


def find_reader(path: Path, formats: Mapping[str, Any], name: str | None = None, shown: str | None = None) -> Found:
    """The reader of a file: of the description `name`, else of the one whose pattern fits, else by content.

    `shown` is the file's own name, where `path` is a copy's. Raises UsageError, Malformed and PreflightFailed.
    """
    known = described(formats)
    if name in known:
        return known[name][0]
    if name is not None:
        reader, distribution = _by_name(name, "--format", known)
        if reader in (BINARY, CAN):
            raise UsageError(f"--format {name} needs a description. {DESCRIBE}")
        return Found(reader, _settings(reader, {}, "--format"), distribution, says_itself=distribution is None)
    file_name = (shown or path.name).lower()
    fitting = {key: one for key, (one, pattern) in known.items() if pattern and fnmatchcase(file_name, pattern.lower())}
    if len(fitting) > 1:
        raise UsageError(f"{file_name} fits the formats {', '.join(fitting)}. DO: choose one with --format")
    if fitting:
        return next(iter(fitting.values()))
    return _by_content(path, shown or path.name)


def recorded(format: FileFormat | None, path: Path, files: Mapping[str, Path]) -> Found:  # noqa: A002
    """The reader that read a file before; `files` are the copies of what it needs too.

    Raises PreflightFailed where that is not installed as it was.
    """
    if format is None:
        return Found(_plain(_head(path)), says_itself=True)
    place = f"{path.name} was read by reader {format.reader}"
    reader, distribution = _by_name(format.reader, place)
    if distribution != format.distribution:
        raise PreflightFailed(
            f"{place} of {format.distribution or 'axlebox'}, installed is {distribution or 'axlebox'}. "
            "DO: install that again, or axlebox ingest the file again"
        )
    settings = {**format.settings, **{name: str(one) for name, one in files.items()}}
    return Found(reader, _settings(reader, settings, place), distribution)


def _head(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(_HEAD_BYTES)


def _plain(head: bytes) -> Reader:
    """What content alone says."""
    return PARQUET if head.startswith(MAGIC) else TEXT


def _by_content(path: Path, name: str) -> Found:
    head = _head(path)
    notes: list[str] = []
    for plugin in _plugins():
        try:
            reader = plugin.load()
            if reader.recognises is not None and _asked(reader, Path(name), head):
                settings = _settings(reader, {}, f"reader {reader.name}")
                return Found(reader, settings, plugin.distribution, notes=tuple(notes))
        except AxleboxError as error:  # the file need not be this reader's at all
            notes.append(str(error))
    if looks_like_log(head):
        raise Malformed(f"{name} is a CAN log, and nobody said which signals to read. {DESCRIBE}")
    return Found(_plain(head), says_itself=True, notes=tuple(notes))


@dataclass(frozen=True, slots=True)
class _Plugin:
    """A reader of another package, not loaded yet."""

    entry: metadata.EntryPoint
    distribution: str
    """Its package and version."""
    others: tuple[str, ...]
    """Who else has a reader of this name."""

    def load(self) -> Reader:
        """Raises PreflightFailed."""
        who = f"reader {self.entry.name} of {self.distribution}"
        if self.others:
            raise PreflightFailed(f"{who} has the name of a reader of {self.others[0]}. DO: uninstall one of them")
        try:
            reader = self.entry.load()
        except Exception as error:  # somebody else's code
            raise PreflightFailed(f"{who} cannot be loaded: {type(error).__name__}: {one_line(error)}") from error
        if not isinstance(reader, Reader) or reader.name != self.entry.name:
            what = f"a Reader named {reader.name}" if isinstance(reader, Reader) else f"of type {type(reader).__name__}"
            raise PreflightFailed(f"{who} is {what}, expected a Reader named {self.entry.name}")
        return reader


def _plugins() -> list[_Plugin]:
    entries = sorted(metadata.entry_points(group=GROUP), key=lambda one: (one.name, _distribution(one)))
    owners = {one.name: ["axlebox"] for one in BUILT_IN}
    for entry in entries:
        owners.setdefault(entry.name, []).append(_distribution(entry))
    return [
        _Plugin(one, _distribution(one), tuple(who for who in owners[one.name] if who != _distribution(one)))
        for one in entries
    ]


def _distribution(entry: metadata.EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}"[:64] if entry.dist else "an unknown package"


def _by_name(name: str, place: str, also: Iterable[str] = ()) -> tuple[Reader, str | None]:
    """A reader and, where it is not axlebox's own, its distribution. Raises UsageError and PreflightFailed."""
    plugins = {one.entry.name: one for one in _plugins()}
    if name in plugins:
        return plugins[name].load(), plugins[name].distribution
    built_in = {one.name: one for one in BUILT_IN}
    if name not in built_in:
        known = [*also, *built_in, *plugins]
        nearest = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {nearest[0]}?" if nearest else f"known are {', '.join(known)}"
        raise UsageError(f"{place}: there is no reader {name!r}; {hint}")
    return built_in[name], None


def _settings(reader: Reader, raw: Mapping[str, Any], place: str) -> Struct | None:
    if reader.settings is None:
        if raw:
            raise UsageError(f"{place}: reader {reader.name} has no settings, found {', '.join(map(str, raw))}")
        return None
    try:
        return msgspec.convert(_text_keys(raw), reader.settings)
    except msgspec.ValidationError as error:
        raise UsageError(f"{place}: {one_line(error)}") from error


def _said(settings: Any) -> Any:
    """Plain data of settings, without what is a default: equal settings give equal data."""
    if isinstance(settings, Struct):  # omit_defaults would go by identity, and keep a 1.0 that somebody wrote
        said = {one.name: getattr(settings, one.name) for one in structs.fields(settings)}
        for one in structs.fields(settings):
            default = one.default_factory() if one.default_factory is not msgspec.NODEFAULT else one.default
            if said[one.name] == default:
                del said[one.name]
        settings = said
    if isinstance(settings, Mapping):
        return {str(key): _said(one) for key, one in settings.items()}
    return [_said(one) for one in settings] if isinstance(settings, list | tuple) else settings


def _text_keys(raw: Any) -> Any:
    """YAML has numbers as keys, JSON has not."""
    if isinstance(raw, Mapping):
        return {str(key): _text_keys(one) for key, one in raw.items()}
    return [_text_keys(one) for one in raw] if isinstance(raw, list | tuple) else raw


def _asked(reader: Reader, path: Path, head: bytes) -> bool:
    try:
        return bool(reader.recognises and reader.recognises(path, head))
    except Exception as error:  # somebody else's code
        raise PreflightFailed(f"reader {reader.name}: {type(error).__name__}: {one_line(error)}") from error


def _guarded(reader: Reader, job: Job) -> Iterator[Batch]:
    """What somebody else's code reads, where that is what it promises. Raises Malformed."""
    try:
        for batch in reader.read(job):
            yield [_as_promised(item) for item in batch]
    except AxleboxError:
        raise
    except Exception as error:
        raise Malformed(f"{job.name}: reader {reader.name}: {type(error).__name__}: {one_line(error)}") from error


def _as_promised(item: Any) -> Reading | BadLine | Replaced:
    match item:
        case BadLine(line=int(), reason=str()):
            return item
        case Reading(time=float() | int(), sensor=str(), value=float() | int(), line=int()):
            time = float(item.time)
        case Replaced(time=float() | int(), sensor=str(), line=int()):
            time = float(item.time)
        case _:
            raise TypeError(f"it gave {item!r}, expected Readings, BadLines and Replaced")
    try:
        check_sensor_id(item.sensor)
    except ValueError as error:
        return BadLine(item.line, str(error))
    if not EARLIEST <= time <= LATEST:
        return BadLine(item.line, f"{time:g} is not a time (POSIX seconds)")
    if isinstance(item, Replaced):
        return Replaced(time, item.sensor, item.line)
    return Reading(time, item.sensor, float(item.value), item.line)
