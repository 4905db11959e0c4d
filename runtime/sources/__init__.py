"""Where readings come from: a URI of the configuration becomes a Source."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from axlebox.firmware_bundle.errors import UsageError
from axlebox.runtime.config import Config
from axlebox.runtime.signals import Signals
from axlebox.runtime.sources.base import Source
from axlebox.runtime.sources.follow import Follow
from axlebox.runtime.sources.replay import Descriptor, open_file, open_stdin
from axlebox.runtime.sources.streams import Stream, connect, open_fifo

KNOWN = "stdin:, file:PATH, follow:PATH, fifo:PATH, unix:PATH, hwmon:, can:, canlog:PATH, mqtt:"


def open_source(config: Config, default_sensor: str, signals: Signals) -> Source:  # noqa: PLR0911
    """The source that a configuration names. Raises UsageError, and ModuleNotFoundError of an extra.

    `default_sensor` is whose readings are that name no sensor.
    """
    uri = config.source
    scheme, _, rest = uri.partition(":")
    path = Path(rest)
    match scheme, bool(rest):
        case "stdin", False:
            return Descriptor(uri, open_stdin(), default_sensor, signals)
        case "file", True:
            return Descriptor(uri, open_file(path), default_sensor, signals)
        case "follow", True:
            return Follow(path, default_sensor, signals)
        case "fifo", True:
            return Stream(uri, partial(open_fifo, path), default_sensor, signals)
        case "unix", True:
            return Stream(uri, partial(connect, path), default_sensor, signals)
        case "hwmon", False:
            from axlebox.runtime.sources.hwmon import Hwmon

            return Hwmon(config.hwmon.sensors, config.hwmon.period_s, signals)
        case "can", False:
            from axlebox.runtime.sources.can_bus import CanBus

            return CanBus(config.can, signals)
        case "canlog", True:
            from axlebox.runtime.sources.can_log import CanLog

            return CanLog(path, config.can, signals)
        case "mqtt", False:
            from axlebox.runtime.sources.mqtt import MqttSource

            return MqttSource(config.mqtt, default_sensor, signals)
    raise UsageError(f"source {uri!r} is none of {KNOWN}")


__all__ = ["KNOWN", "Source", "open_source"]
