"""Where events go: URIs of the configuration become sinks."""

from __future__ import annotations

import contextlib
from pathlib import Path

from axlebox.firmware_bundle.errors import UsageError
from axlebox.runtime.config import Config
from axlebox.runtime.sinks.base import Sink
from axlebox.runtime.sinks.descriptors import LogFile, Stdout
from axlebox.runtime.sinks.displays import Display
from axlebox.runtime.sinks.journald import Journald
from axlebox.runtime.sinks.lamp import Lamp

KNOWN = "stdout:, file:PATH, store:, journald:, lamp:PATH, textfile:PATH, mqtt:, prometheus:PORT"
_SCHEMES = {
    "stdout": False,
    "file": True,
    "store": False,
    "journald": False,
    "lamp": True,
    "textfile": True,
    "mqtt": False,
    "prometheus": True,
}
"""Whether something follows the colon."""
_MIB = 1024 * 1024


def open_sinks(config: Config) -> list[Sink]:
    """Those of the configuration's sinks that take events. Raises UsageError, and ModuleNotFoundError of an extra."""
    return [sink for uri in config.sinks if (sink := _open(uri, config)) is not None]


def open_displays(config: Config) -> list[Display]:
    """Those that show how things are now. Raises as above, and then has none open."""
    displays: list[Display] = []
    try:
        for uri in config.sinks:
            if (display := _open_display(uri, config)) is not None:
                displays.append(display)
    except (UsageError, ImportError):
        for display in displays:  # the configuration before, which goes on, may need the same port
            with contextlib.suppress(OSError):
                display.close()
        raise
    return displays


def check_sinks(config: Config) -> None:
    """Raise UsageError where a URI is none of KNOWN."""
    for uri in config.sinks:
        scheme, _, rest = uri.partition(":")
        if not uri.startswith(scheme + ":") or bool(rest) != _SCHEMES.get(scheme):
            raise UsageError(f"sink {uri!r} is none of {KNOWN}")
        if scheme == "textfile" and not rest.endswith(".prom"):
            raise UsageError(f"sink {uri}: its name must end in .prom, since node_exporter reads no other file")
        if scheme == "prometheus" and not (rest.isdigit() and 0 < int(rest) < 65536):
            raise UsageError(f"sink {uri!r}: {rest!r} is not a port, 1 to 65535")


def _open_display(uri: str, config: Config) -> Display | None:
    scheme, _, rest = uri.partition(":")
    match scheme:
        case "lamp":
            return Lamp(Path(rest), config.lamp)
        case "textfile":
            from axlebox.runtime.sinks.textfile import Textfile

            return Textfile(Path(rest), config.metrics)
        case "prometheus":
            from axlebox.runtime.sinks.prometheus import Prometheus

            return Prometheus(int(rest), config.metrics)
    return None


def _open(uri: str, config: Config) -> Sink | None:
    scheme, _, rest = uri.partition(":")
    match scheme, bool(rest):
        case "stdout", False:
            return Stdout()
        case "file", True:
            return LogFile(Path(rest), int(config.file_sink.max_mib * _MIB), config.file_sink.keep)
        case "journald", False:
            return Journald()
        case "mqtt", False:
            from axlebox.runtime.sinks.mqtt import MqttSink

            return MqttSink(config.mqtt)
    return None
