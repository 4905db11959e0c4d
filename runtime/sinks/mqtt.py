"""Events to an MQTT broker, each under its type. docs/mqtt.md has the topics."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from paho.mqtt.client import Client as PahoClient
from paho.mqtt.client import ConnectFlags, DisconnectFlags
from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from axlebox.firmware_bundle.errors import AxleboxError
from axlebox.runtime.config import MqttSettings
from axlebox.runtime.mqtt_client import Client
from axlebox.runtime.sinks.base import Message

_AT_ONCE = 100
"""Messages that wait for their PUBACKs."""
_ANSWER_S = 10.0
"""So long the broker may take for the next answer."""


class MqttSink:
    """Returns when the broker has acknowledged all; with QoS 0, when all is with the system."""

    uri = "mqtt:"
    bytes_written = 0

    def __init__(self, settings: MqttSettings) -> None:
        """Raises UsageError where no client can be made of the settings. The first `write` connects."""
        self._settings = settings
        self._connection: Connection | None = None
        self._delivered: dict[int, Message] = {}
        """What the broker has of a batch that failed, by identity: else a slow link would never get to the rest."""
        Connection(settings).close()

    def write(self, messages: Sequence[Message]) -> None:
        left = [message for message in messages if id(message) not in self._delivered]
        try:
            connection = self._connected()
            for start in range(0, len(left), _AT_ONCE):
                connection.deliver(left[start : start + _AT_ONCE], self._delivered)
        except AxleboxError:
            self.close()
            raise
        self._delivered.clear()

    def _connected(self) -> Connection:
        if self._connection is not None and self._connection.lost is not None:
            self.close()
        if self._connection is None:
            self._connection = Connection(self._settings)
            self._connection.open()
        return self._connection

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class Connection:
    """One connection, until it is lost. The next has a client of its own: paho would send by itself what it still has,
    and the outlet sends that again too.
    """

    def __init__(self, settings: MqttSettings) -> None:
        self.lost: str | None = None
        self._topic = settings.events_topic
        self._qos = settings.qos
        self._changed = threading.Condition()
        self._is_open = False
        self._acknowledged: set[int] = set()
        self._client = Client(settings, "sink", self._lose, self._on_end, lasting=False)
        self._client.max_inflight_messages_set(_AT_ONCE)
        self._client.max_queued_messages_set(_AT_ONCE)
        self._client.on_connect = self._on_connect
        self._client.on_disconnect = self._on_disconnect
        self._client.on_publish = self._on_publish

    def open(self) -> None:
        """Raises AxleboxError."""
        self._client.start()
        self._wait(lambda: self._is_open)

    def deliver(self, messages: Sequence[Message], delivered: dict[int, Message]) -> None:
        """Publish at most _AT_ONCE messages; those that are acknowledged go to `delivered`, also where the rest fails.

        Raises AxleboxError.
        """
        self._acknowledged.clear()
        sent: dict[int, Message] = {}
        try:
            for message in messages:
                sent[self._publish(message)] = message
            while (number := len(self._acknowledged)) < len(sent):
                self._wait(partial(self._has_more_than, number))
        finally:
            delivered.update((id(message), message) for mid, message in sent.items() if mid in self._acknowledged)

    def _has_more_than(self, number: int) -> bool:
        return len(self._acknowledged) > number

    def _publish(self, message: Message) -> int:
        kind = "reading" if message.event is None else message.event["type"]
        info = self._client.publish(f"{self._topic}/{kind}", message.body, self._qos, retain=False)
        if info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
            raise AxleboxError(f"sink mqtt: {self.lost or f'{self._client.place}: not connected'}")
        return info.mid

    def _wait(self, until: Callable[[], bool]) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self.lost is not None or until(), _ANSWER_S)
            if not until():
                raise AxleboxError(f"sink mqtt: {self.lost or f'{self._client.place}: no answer for {_ANSWER_S:g} s'}")

    def close(self) -> None:
        self._client.stop()

    # -- paho's thread -----------------------------------------------------------------------------

    def _on_connect(
        self, _client: PahoClient, _data: Any, _flags: ConnectFlags, reason: ReasonCode, _properties: Properties | None
    ) -> None:
        if reason.is_failure:
            self._lose(self._client.refusal(reason))
        else:
            with self._changed:
                self._is_open = True
                self._changed.notify()

    def _on_publish(
        self, _client: PahoClient, _data: Any, mid: int, _reason: ReasonCode, _properties: Properties | None
    ) -> None:
        with self._changed:
            self._acknowledged.add(mid)
            self._changed.notify()

    def _on_disconnect(
        self, _client: PahoClient, _data: Any, _flags: DisconnectFlags, reason: ReasonCode, _: Properties | None
    ) -> None:
        self._lose(f"{self._client.place}: connection lost ({reason})")

    def _on_end(self, failure: Exception | None) -> None:
        self._lose(f"{self._client.place}: {'connection lost' if failure is None else repr(failure)}")

    def _lose(self, why: str) -> None:
        with self._changed:
            self.lost = self.lost or why  # the first reason is the cause of the others
            self._changed.notify()
