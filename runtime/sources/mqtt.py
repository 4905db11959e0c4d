"""Readings from topics of an MQTT broker. docs/mqtt.md has the payloads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from time import time
from typing import Any

import msgspec
from paho.mqtt.client import Client as PahoClient
from paho.mqtt.client import ConnectFlags, DisconnectFlags, MQTTMessage, topic_matches_sub
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from axlebox.firmware_bundle.errors import UsageError
from axlebox.runtime.config import MqttSettings
from axlebox.runtime.mqtt_client import Client
from axlebox.runtime.readings import (
    MAX_LINE_BYTES,
    BadLine,
    LineReader,
    ReaderState,
    Reading,
    check_sensor_id,
    format_time,
)
from axlebox.runtime.signals import Signals
from axlebox.runtime.sources.base import Health, Item
from axlebox.runtime.sources.inbox import Inbox

_ONE_JSON_LINE = ReaderState("json lines", line=-1)
"""The line after it is number 0: a message has none."""
_MAX_FILTER_BYTES = 65_535


class MqttSource:
    """Subscribes anew on every connection; with QoS 1 the broker keeps what comes while the box is away."""

    uri = "mqtt:"
    live = True
    patience_s = 0.0
    position = None
    cut_bytes = 0

    def __init__(self, settings: MqttSettings, default_sensor: str, signals: Signals) -> None:
        """Raises UsageError. The first `batches` connects."""
        self.health = Health()
        self._payloads = Payloads(settings, default_sensor)
        self._subscriptions = [(check_filter(one), int(settings.qos)) for one in settings.topics]
        self._signals = signals
        self._client = Client(settings, "source", self.health.down, self._on_end, lasting=True)
        self._client.on_connect = self._on_connect
        self._client.on_subscribe = self._on_subscribe
        self._client.on_disconnect = self._on_disconnect
        self._client.on_message = self._on_message
        self._started = self._closing = False
        self._inbox = Inbox(self.health)

    def batches(self) -> Iterator[list[Item]]:
        if not self._started:
            self._started = True
            self._client.start()
        yield from self._inbox.batches(self._signals)

    def close(self) -> None:
        self._closing = True
        if self._client.stop():  # else the thread would write to a number that is another file's by then
            self._inbox.close()

    # -- paho's thread -----------------------------------------------------------------------------

    def _on_connect(
        self, client: PahoClient, _data: Any, _flags: ConnectFlags, reason: ReasonCode, _properties: Properties | None
    ) -> None:
        if reason.is_failure:
            self.health.down(self._client.refusal(reason))
        else:
            client.subscribe(self._subscriptions)

    def _on_subscribe(
        self, _client: PahoClient, _data: Any, _mid: int, reasons: Sequence[ReasonCode], _: Properties | None
    ) -> None:
        granted = zip(self._subscriptions, reasons, strict=True)
        refused = [topic for (topic, _), reason in granted if reason.is_failure]
        why = f"{self._client.place} refuses the subscription to {', '.join(refused)}" if refused else None
        if len(refused) < len(reasons):
            self.health.up()
            self.health.error = why
        else:
            self.health.down(why)

    def _on_disconnect(
        self, _client: PahoClient, _data: Any, _flags: DisconnectFlags, reason: ReasonCode, _: Properties | None
    ) -> None:
        if self.health.connected or self.health.error is None:  # a refused connection has said why already
            self.health.down(f"{self._client.place}: connection lost ({reason})")

    def _on_message(self, _client: PahoClient, _data: Any, message: MQTTMessage) -> None:
        if not message.retain:  # kept by the broker since nobody knows when
            self._inbox.put(self._payloads.read(message))

    def _on_end(self, failure: Exception | None) -> None:
        if not self._closing:
            self._inbox.fail(failure or RuntimeError("the MQTT client's thread ended by itself"))


class Payloads:
    """Messages become readings: JSON as in a file of JSON lines, where the time may be missing, or a bare number."""

    def __init__(self, settings: MqttSettings, default_sensor: str) -> None:
        self._sensors = settings.topics
        self._default_sensor = default_sensor
        self._own_events = f"{settings.events_topic}/"

    def read(self, message: MQTTMessage) -> list[Item]:
        """A reading, a mark or a bad line; nothing for a topic that is none of the configuration's."""
        try:
            topic = message.topic
            found = next((one for one in self._sensors if topic_matches_sub(one, topic)), None)
            if found is None or topic.startswith(self._own_events):
                return []  # a subscription of an earlier configuration; or readings would come back for ever
            return self._read(message.payload, self._sensors[found], stands_for_plus(found, topic))
        except UnicodeDecodeError:
            return [BadLine(0, "topic or payload are not text (UTF-8)")]
        except ValueError as error:
            return [BadLine(0, str(error))]

    def _read(self, payload: bytes | bytearray, sensor: str, of_topic: str | None) -> list[Item]:
        if len(payload) > MAX_LINE_BYTES:
            raise ValueError(f"longer than {MAX_LINE_BYTES} bytes")
        text = payload.decode().strip()
        otherwise = sensor or (self._default_sensor if of_topic is None else of_topic)
        if text.startswith("{"):
            return _json_reading(text, sensor, otherwise)
        return [Reading(time(), check_sensor_id(otherwise), _number(text))]


def _json_reading(text: str, sensor: str, otherwise: str) -> list[Item]:
    """As LineReader, after what the message leaves to the topic and to the box's clock."""
    try:
        row = msgspec.json.decode(text, type=dict[str, Any])
        if row.get("time") is None:
            row["time"] = format_time(time())
        if sensor or row.get("sensor") is None:
            row["sensor"] = otherwise
        line = msgspec.json.encode(row)
    except (msgspec.MsgspecError, OverflowError, RecursionError) as error:
        raise ValueError(f"not a JSON reading: {error}") from None
    return LineReader(otherwise, _ONE_JSON_LINE).read([line])


def _number(text: str) -> float:
    """float() alone would take 1_0 for 10."""
    try:
        if "_" in text:
            raise ValueError
        return float(text)
    except ValueError:
        raise ValueError(f"{text[:40]!r} is neither a number nor a JSON reading") from None


def stands_for_plus(topic_filter: str, topic: str) -> str | None:
    """What the filter's only + stands for in a topic that matches.

    >>> stands_for_plus("train/+/temperature", "train/axle3/temperature")
    'axle3'
    """
    levels = topic_filter.split("/")
    return topic.split("/")[levels.index("+")] if levels.count("+") == 1 else None


def check_filter(text: str) -> str:
    """The topic filter, or UsageError where it could not be one (MQTT 3.1.1, 4.7)."""
    *first, last = text.split("/")
    whole = all(level == "+" or not {"+", "#"} & set(level) for level in [*first, "" if last == "#" else last])
    if not text or not whole or "\0" in text or len(text.encode()) > _MAX_FILTER_BYTES or first[:1] == ["$share"]:
        raise UsageError(f"mqtt.topics: {text[:80]!r} is not a topic filter (+: any one level, #: all the rest)")
    return text
