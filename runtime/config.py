"""The vehicle's configuration: one TOML file, optional, checked strictly.

Units stand in the names of settings. `config.toml` in the data folder is read where no other file
is named; `--set table.key=value` comes on top of it. docs/configuration.md has every setting.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

import msgspec
from msgspec import Meta, Struct

from axlebox.firmware_bundle import disk
from axlebox.firmware_bundle.errors import AxleboxError, UsageError
from axlebox.firmware_bundle.vehicle import CONFIG

_MAX_CONFIG_BYTES = 64 * 1024
DAY_S = 86400.0

SensorId = Annotated[str, Meta(min_length=1, max_length=64)]
AbsolutePath = Annotated[str, Meta(pattern="^/")]
"""The caller's folder may be a stick."""
Seconds = Annotated[float, Meta(gt=0, le=366 * DAY_S)]


class Maintenance(Struct, frozen=True, forbid_unknown_fields=True):
    """What says whether the vehicle stands in maintenance; without both it always does."""

    file: AbsolutePath | None = None
    """It does while this file exists."""
    command: Annotated[tuple[str, ...], Meta(min_length=1)] | None = None
    """It does where this program, called without a shell, ends with 0."""
    timeout_s: Annotated[float, Meta(gt=0, le=60)] = 10.0
    """A command that takes longer says no."""


class Confirm(Struct, frozen=True, forbid_unknown_fields=True):
    """When the daemon confirms a release on trial by itself."""

    automatic: bool = True
    after_s: Annotated[float, Meta(ge=60, le=366 * DAY_S)] = 600.0
    """Seconds that it has run without an end."""
    after_readings: Annotated[int, Meta(ge=1)] = 100
    """Readings that passed the gate and were scored."""


class HwmonSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """The source `hwmon:`."""

    sensors: dict[SensorId, AbsolutePath] = {}
    """By sensor id its file, as a pattern like in a shell: hwmon's numbers change from boot to boot."""
    period_s: Annotated[float, Meta(ge=0.1, le=3600)] = 1.0


class CanSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """The sources `can:` and `canlog:PATH`."""

    interface: str = "socketcan"
    """As python-can names it."""
    channel: str = "can0"
    bitrate: Annotated[int, Meta(ge=1000, le=8_000_000)] | None = None
    """For interfaces that are not set up by the system; socketcan's is set by `ip link`."""
    dbc: AbsolutePath | None = None
    """The DBC file that says where in a frame a temperature stands."""
    signals: dict[SensorId, str] = {}
    """By sensor id its signal in the DBC file, as MESSAGE.SIGNAL."""
    j1939: bool = False
    """Frames are told apart by PGN, whatever their priority and source address; not-available and error values
    are no readings."""
    source_addresses: dict[SensorId, Annotated[int, Meta(ge=0, le=255)]] = {}
    """With j1939: sensors whose frames count only from this address, where two units send the same PGN."""
    allow_transmit: bool = False
    """The one switch for whatever sends on the bus. Without it axlebox only listens."""
    obd_pids: dict[SensorId, Annotated[int, Meta(ge=0, le=255)]] = {}
    """By sensor id the OBD-II PID of a temperature to ask for (5: coolant); needs allow_transmit."""
    obd_period_s: Annotated[float, Meta(ge=0.1, le=3600)] = 1.0


class MqttSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """The source `mqtt:` and the sink `mqtt:`."""

    host: str = "localhost"
    port: Annotated[int, Meta(ge=1, le=65535)] = 1883
    client_id: Annotated[str, Meta(min_length=1, max_length=64)] = "axlebox"
    username: str | None = None
    password_file: AbsolutePath | None = None
    """Its first line is the password, so that none stands in a configuration."""
    ca_file: AbsolutePath | None = None
    """With it the connection is TLS, and the broker's certificate is checked against these authorities."""
    cert_file: AbsolutePath | None = None
    key_file: AbsolutePath | None = None
    topics: dict[str, Annotated[str, Meta(max_length=64)]] = {}
    """By topic filter the sensor id of its readings; "" takes the message's own, or what the filter's + stands for."""
    events_topic: Annotated[str, Meta(pattern="^[^+#]+$")] = "axlebox/events"
    qos: Literal[0, 1] = 1


class FileSinkSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """The sinks `file:PATH`."""

    max_mib: Annotated[float, Meta(gt=0, le=4096)] = 16.0
    """A file that has grown to this becomes PATH.1, PATH.1 becomes PATH.2 ..."""
    keep: Annotated[int, Meta(ge=0, le=99)] = 3
    """... and so many of those are kept."""


class LampSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """The sinks `lamp:PATH`: a LED's `brightness` or a GPIO's `value`."""

    on: Annotated[str, Meta(min_length=1, max_length=32)] = "1"
    """What is written for a lamp that is on: something calls for somebody, or axlebox does not watch."""
    off: Annotated[str, Meta(min_length=1, max_length=32)] = "0"
    status_file: AbsolutePath | None = None
    """One line for people: what is hot, how urgent, what to do."""


class MetricsSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """The sinks `textfile:PATH` and `prometheus:PORT`."""

    period_s: Annotated[float, Meta(ge=1, le=3600)] = 15.0
    """How old the numbers may be."""
    address: str = "127.0.0.1"
    """Where `prometheus:PORT` listens."""
    max_sensors: Annotated[int, Meta(ge=0, le=4096)] = 256
    """Sensors with numbers of their own."""


class HealthSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """What the daemon says of itself."""

    no_data_after_s: Seconds | None = None
    """Without any reading for so long; by default a minute, or three of the contract's longest periods."""
    flat_score_after_s: Annotated[float, Meta(ge=0)] = DAY_S
    """A sensor whose values change and whose score does not, for so long; 0 switches it off."""
    max_memory_mib: Annotated[float, Meta(ge=64, le=65536)] = 160.0
    """Above this the daemon keeps its state and ends with 70, so that systemd starts it anew."""


class StoreSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """The embedded store; the sink `store:` is always there unless it is switched off here."""

    enabled: bool = True
    max_mib_per_day: Annotated[float, Meta(ge=1, le=100_000)] = 100.0
    """Beyond it no more readings are kept that day; events are."""


class LogSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """What goes to stderr."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"


class Config(Struct, frozen=True, forbid_unknown_fields=True):
    source: str = "stdin:"
    sinks: Annotated[tuple[str, ...], Meta(max_length=16)] = ("stdout:",)
    readings: bool = False
    """Sinks also get one line for every reading."""
    maintenance: Maintenance = Maintenance()
    confirm: Confirm = Confirm()
    hwmon: HwmonSettings = HwmonSettings()
    can: CanSettings = CanSettings()
    mqtt: MqttSettings = MqttSettings()
    file_sink: FileSinkSettings = FileSinkSettings()
    lamp: LampSettings = LampSettings()
    metrics: MetricsSettings = MetricsSettings()
    health: HealthSettings = HealthSettings()
    store: StoreSettings = StoreSettings()
    log: LogSettings = LogSettings()


TABLES: Mapping[str, type[Struct]] = {
    name: kind for name, kind in get_type_hints(Config).items() if isinstance(kind, type) and issubclass(kind, Struct)
}


def load_config(data: Path, path: Path | None = None, settings: Mapping[str, Any] | None = None) -> Config:
    """The configuration in `path`, by default the data folder's own, with settings by dotted name on top of it.

    Raises UsageError naming key, value and what is allowed.
    """
    if path is None:
        path = data / CONFIG
        found = _read(path) if path.exists() else {}
    else:
        found = _read(path)
    place = " with ".join(([str(path)] if path.exists() else []) + (["--set, --source and --sink"] if settings else []))
    for name, value in (settings or {}).items():
        table, _, key = name.rpartition(".")
        inner = found.setdefault(table, {}) if table else found
        if not isinstance(inner, dict):
            raise UsageError(f"{place}: {table} is not a table")
        inner[key] = value
    try:
        config = msgspec.convert(found, Config)
    except msgspec.ValidationError as error:
        raise UsageError(f"{place}: {_explain(str(error), found)}") from error
    for problem in _contradictions(config):
        raise UsageError(f"{place}: {problem}")
    return config


def parse_settings(words: Iterable[str]) -> dict[str, Any]:
    """The values of `--set KEY=VALUE`: as TOML where that is valid TOML, else as text. Raises UsageError."""
    settings = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not re.fullmatch(r"(\w+\.)?\w+", name):
            raise UsageError(f"--set {word!r} is not KEY=VALUE or TABLE.KEY=VALUE")
        try:
            settings[name] = tomllib.loads(f"value = {text}")["value"]
        except (tomllib.TOMLDecodeError, RecursionError):
            settings[name] = text
    return settings


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(_text(path))
    except (ValueError, RecursionError) as error:  # tomllib lets a number of 5000 digits and deep nesting through
        raise UsageError(f"{path} is not TOML: {error}") from error


def _text(path: Path) -> str:
    try:
        return disk.read_bounded(path, _MAX_CONFIG_BYTES).decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8: {error.reason} at byte {error.start}") from error
    except AxleboxError as error:  # too large, not a regular file, not to be read
        raise UsageError(str(error)) from error


def _explain(words: str, found: Mapping[str, Any]) -> str:
    """What msgspec says of a configuration, with the key first and the value that it has."""
    complaint, _, place = words.partition(" - at `$.")
    path = place.rstrip("`")
    unknown = re.search(r"unknown field `([^`]*)`", complaint)
    if unknown:
        known = TABLES[path].__struct_fields__ if path in TABLES else Config.__struct_fields__
        close = difflib.get_close_matches(unknown[1], known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"
        return f"{f'{path}.' if path else ''}{unknown[1]} is not a setting; {hint}"
    if complaint.startswith("Invalid enum value"):
        table, _, key = path.rpartition(".")
        allowed = get_args(get_type_hints(TABLES.get(table, Config))[key])
        complaint = f"expected one of {', '.join(map(str, allowed))}"
    return f"{path} = {_value_at(path, found)!r}: {complaint}"


def _value_at(path: str, found: Any) -> Any:
    """As deep as the path can be followed."""
    for word in re.findall(r"[^.\[\]]+", path):
        if isinstance(found, dict) and word in found:
            found = found[word]
        elif isinstance(found, list) and word.isdigit() and int(word) < len(found):
            found = found[int(word)]
        else:
            break
    return found


def _contradictions(config: Config) -> Iterator[str]:
    """Settings that cannot be used together."""
    yield from _missing(config)
    yield from _can_contradictions(config.can)
    yield from _mqtt_contradictions(config.mqtt)
    if not config.store.enabled and "store:" in config.sinks:
        yield "store.enabled = false, and store: is one of the sinks"


def _missing(config: Config) -> Iterator[str]:
    """What the source needs."""
    can, source = config.can, config.source.partition(":")[0]
    if source == "hwmon" and not config.hwmon.sensors:
        yield "hwmon.sensors is empty: source hwmon: needs a sensor id with the path of its file"
    if source == "mqtt" and not config.mqtt.topics:
        yield "mqtt.topics is empty: source mqtt: needs a topic filter with a sensor id"
    if source in ("can", "canlog") and not (can.signals or can.obd_pids):
        yield f"can.signals is empty: source {source}: needs a sensor id with its MESSAGE.SIGNAL"


def _can_contradictions(can: CanSettings) -> Iterator[str]:
    if can.signals and can.dbc is None:
        yield "can.signals needs can.dbc, the file that says where they stand"
    if can.obd_pids and not can.allow_transmit:
        yield "can.obd_pids asks on the bus: it needs can.allow_transmit = true"
    for sensor, name in can.signals.items():
        if not re.fullmatch(r"\w+\.\w+", name):
            yield f"can.signals.{sensor} = {name!r}: expected MESSAGE.SIGNAL"


def _mqtt_contradictions(mqtt: MqttSettings) -> Iterator[str]:
    if (mqtt.cert_file is None) != (mqtt.key_file is None):
        yield "mqtt.cert_file and mqtt.key_file belong together"
    if mqtt.cert_file and not mqtt.ca_file:
        yield "mqtt.cert_file needs mqtt.ca_file"
    if mqtt.password_file and mqtt.username is None:
        yield "mqtt.password_file needs mqtt.username"
