"""The replayable alarm: what reproduces one anomaly event, anywhere, to the last bit of its reasons.

A capsule holds the state before, of the sensor and its siblings, their readings around the event,
and the events that came of them. Whoever has the release that it names replays it through the
vehicle's own code. The daemon keeps capsules in its store; `axleboxd capsule` signs one with the
vehicle's key and writes it to a file.
"""

from __future__ import annotations

import base64
import platform
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct

from axlebox.firmware_bundle.errors import GateFailed, Malformed, WrongTarget
from axlebox.firmware_bundle.slots import Release
from axlebox.runtime import ring
from axlebox.runtime.detector import Monitor, monitor_release
from axlebox.runtime.remembering import State
from axlebox.runtime.store import MAX_CAPSULES
from axlebox.runtime.version import VERSION

FORMAT = 1
KEPT = MAX_CAPSULES
MAX_FILE_BYTES = 16 * 1024 * 1024
SCORE_TOLERANCE = 1e-12
"""Scores pass through a power function, whose last bits may differ between processors; all else is equal."""
_COMPARED = ("type", "state", "id", "severity", "sensor", "time", "value", "tail_sum", "extreme_at", "why", "threshold")


class Capsule(Struct, frozen=True):
    event: str
    """Its id."""
    sensor: str
    digest: str
    """Of the release."""
    release: str
    vehicle: str
    state: State
    """Monitor.state of the sensors, before the first of the readings."""
    readings: bytes
    """As a block of the ring: readings and marks of the sensor and its siblings."""
    events: list[dict[str, Any]]
    """What was told of the event, as far as the readings go."""
    runtime: str = VERSION
    machine: str = platform.machine()
    format: int = FORMAT


class Signed(Struct, frozen=True, forbid_unknown_fields=True):
    """The file: the capsule, base64 of msgpack, with the vehicle's signature over its bytes."""

    capsule: str
    signature: str
    vehicle: str


def encode(capsule: Capsule) -> bytes:
    return msgspec.msgpack.encode(capsule)


def decode(body: bytes) -> Capsule:
    """Raises Malformed."""
    try:
        capsule = msgspec.msgpack.decode(body, type=Capsule)
    except (msgspec.DecodeError, RecursionError) as error:
        raise Malformed(f"this is no capsule: {error}") from error
    if capsule.format != FORMAT:
        raise Malformed(f"the capsule has format {capsule.format}, this runtime reads {FORMAT}")
    return capsule


def to_file(body: bytes, signature: str, vehicle: str) -> bytes:
    return msgspec.json.encode(Signed(base64.b64encode(body).decode(), signature, vehicle)) + b"\n"


def from_file(data: bytes) -> tuple[bytes, Signed]:
    """The capsule's bytes, unchecked, and the file's content. Raises Malformed."""
    try:
        signed = msgspec.json.decode(data, type=Signed)
        return base64.b64decode(signed.capsule, validate=True), signed
    except (msgspec.DecodeError, ValueError) as error:
        raise Malformed(f"this is no file of a capsule: {error}") from error


class Replayed(Struct, frozen=True):
    """What a replay showed."""

    events: list[dict[str, Any]]
    """What was told of the event now."""
    readings: int
    largest_score_difference: float


def replay(capsule: Capsule, release: Release) -> Replayed:
    """Replay a capsule. Raises WrongTarget where the release is another one, GateFailed where anything differs."""
    if release.digest != capsule.digest:
        raise WrongTarget(f"event {capsule.event} is of {capsule.release} ({capsule.digest[:8]}), not {release.label}")
    monitor = monitor_release(release)
    try:
        monitor.restore(capsule.state)
        items = ring.decode(capsule.readings)
    except (LookupError, ArithmeticError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise Malformed(f"the capsule's state does not fit: {type(error).__name__}") from error
    found = told_of(capsule.event, monitor, items)
    difference = _compare(capsule.events, found)
    return Replayed(found, len(items), difference)


def told_of(event_id: str, monitor: Monitor, items: Sequence[ring.Item]) -> list[dict[str, Any]]:
    """What a monitor tells of an event while it takes readings."""
    return [event for outcome in monitor.process(items) for event in outcome.events if event.get("id") == event_id]


def _compare(expected: Sequence[dict[str, Any]], found: Sequence[dict[str, Any]]) -> float:
    """The largest difference of scores. Raises GateFailed naming the first thing that differs beyond it."""
    if len(expected) != len(found):
        raise GateFailed(f"the vehicle told {len(expected)} times of the event, the replay {len(found)} times")
    largest = 0.0
    for then, now in zip(expected, found, strict=True):
        for name in _COMPARED:
            if then.get(name) != now.get(name):
                raise GateFailed(f"{name} was {then.get(name)!r} on the vehicle and is {now.get(name)!r} here")
        if (then["score"] is None) != (now["score"] is None):
            raise GateFailed(f"score was {then['score']!r} on the vehicle and is {now['score']!r} here")
        if then["score"] is not None:
            largest = max(largest, abs(then["score"] - now["score"]))
    if not largest <= SCORE_TOLERANCE:
        raise GateFailed(f"scores differ by {largest:g}, at most {SCORE_TOLERANCE:g} are allowed")
    return largest
