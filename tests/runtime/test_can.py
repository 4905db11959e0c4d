"""Frames of a CAN bus become readings: DBC, J1939, OBD-II; live, over lost connections, and from recorded logs."""

from __future__ import annotations

import ast
import gzip
import math
import os
import re
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice, pairwise
from pathlib import Path
from time import monotonic
from typing import Any

import can
import cantools.database
import pytest
from can.interfaces.virtual import VirtualBus, channels
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from axlebox.firmware_bundle.errors import UsageError
from axlebox.runtime.config import CanSettings, load_config
from axlebox.runtime.readings import LATEST, BadLine, Reading
from axlebox.runtime.signals import Signals
from axlebox.runtime.sources import base, can_bus, can_frames, can_log, can_obd
from axlebox.runtime.sources.base import Health, Item
from axlebox.runtime.sources.can_bus import CanBus
from axlebox.runtime.sources.can_frames import FrameDecoder
from axlebox.runtime.sources.can_log import CanLog
from axlebox.runtime.sources.inbox import Inbox

REPOSITORY = Path(__file__).resolve().parents[2]
EXTENDED = 0x80000000
"""Set in a DBC file for ids of 29 bits."""
PATIENCE_S = 20.0

ENGINE = 0x18FEEE00
"""PGN 65262 from address 0, the engine."""
ANY_ENGINE = ENGINE | 0xFE
TURBO = 0x18EF0000
"""PGN 61184, proprietary A: PDU1, so its second byte from the right is a destination."""

DBC = f"""
VERSION ""
NS_ :
BS_:
BU_: ECU

BO_ {EXTENDED | ANY_ENGINE} ET1: 8 ECU
 SG_ Coolant : 0|8@1+ (1,-40) [-40|210] "C" ECU
 SG_ Oil : 16|16@1+ (0.03125,-273) [-273|1735] "C" ECU
 SG_ Wide : 32|32@1+ (0.001,-40) [0|0] "C" ECU

BO_ {EXTENDED | TURBO} Turbo: 8 ECU
 SG_ Bearing : 8|16@1+ (0.1,-100) [0|0] "C" ECU

BO_ {EXTENDED | 0x1CECFF00} Long: 20 ECU
 SG_ Somewhere : 0|8@1+ (1,-40) [0|0] "C" ECU

BO_ 291 Axle: 6 ECU
 SG_ Left : 7|16@0- (0.1,0) [0|0] "C" ECU
 SG_ Right : 16|12@1- (0.25,5) [0|0] "C" ECU

BO_ {EXTENDED | 291} Other: 8 ECU
 SG_ Cabin : 0|8@1+ (0.5,-40) [0|0] "C" ECU
 SG_ Exact : 32|32@1- (1,0) [0|0] "C" ECU

BO_ 512 Switched: 8 ECU
 SG_ Page M : 0|4@1+ (1,0) [0|0] "" ECU
 SG_ First m0 : 8|8@1+ (1,-40) [0|0] "C" ECU
 SG_ Second m1 : 8|16@1+ (0.1,-40) [0|0] "C" ECU

SIG_VALTYPE_ {EXTENDED | 291} Exact : 1;
"""


@pytest.fixture(scope="module")
def signals() -> Iterator[Signals]:
    """The process gets its own handlers back afterwards."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    yield Signals()
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def dbc(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("dbc") / "vehicle.dbc"
    path.write_text(DBC, "cp1252")
    return str(path)


@pytest.fixture(scope="module")
def truth() -> cantools.database.Database:
    """cantools' own view of the same file."""
    database = cantools.database.load_string(DBC, "dbc")
    assert isinstance(database, cantools.database.Database)
    return database


@pytest.fixture(scope="module")
def decoder(dbc: str) -> Callable[..., FrameDecoder]:
    """A decoder of signals, given as sensor=MESSAGE.SIGNAL."""

    def make(j1939: bool = False, addresses: dict[str, int] | None = None, **wanted: str) -> FrameDecoder:
        return FrameDecoder(
            CanSettings(dbc=dbc, signals=wanted, j1939=j1939, source_addresses=addresses or {}), Health()
        )

    return make


def frame(frame_id: int, data: bytes, extended: bool = True, time: float = 1_700_000_000.5) -> can.Message:
    return can.Message(arbitration_id=frame_id, data=data, is_extended_id=extended, timestamp=time)


def engine(coolant: int, frame_id: int = ENGINE, time: float = 1_700_000_000.5) -> can.Message:
    """An ET1 whose first byte is `coolant`; all else is not available."""
    return frame(frame_id, bytes([coolant]).ljust(8, b"\xff"), time=time)


def values(items: list[Item]) -> list[tuple[str, float]]:
    assert all(isinstance(item, Reading) for item in items), items
    return [(item.sensor, item.value) for item in items if isinstance(item, Reading)]


# -- signals ---------------------------------------------------------------------------------------


def test_a_signal_that_cantools_encoded_is_read_back(
    truth: cantools.database.Database, decoder: Callable[..., FrameDecoder]
) -> None:
    found = decoder(left="Axle.Left", right="Axle.Right", cabin="Other.Cabin", exact="Other.Exact")
    data = truth.encode_message("Axle", {"Left": -1234.5, "Right": -87.25})
    first, second = found.read(frame(291, data, extended=False))
    assert first == Reading(1_700_000_000.5, "left", -12345 * 0.1)
    assert second == Reading(1_700_000_000.5, "right", -87.25)
    data = truth.get_message_by_name("Other").encode({"Cabin": 21.5, "Exact": 3.25})
    assert values(found.read(frame(291, data))) == [("cabin", 21.5), ("exact", 3.25)]


def test_the_same_id_with_11_and_with_29_bits_are_two_messages(decoder: Callable[..., FrameDecoder]) -> None:
    assert decoder(left="Axle.Left").read(frame(291, bytes(8))) == []
    assert decoder(cabin="Other.Cabin").read(frame(291, bytes(8), extended=False)) == []
    assert values(decoder(cabin="Other.Cabin").read(frame(291, bytes(8)))) == [("cabin", -40)]


@st.composite
def layouts(draw: st.DrawFn) -> tuple[int, int, str, str]:
    """Start, length, byte order and sign of a signal that fits into 8 bytes, as a DBC file has them."""
    length = draw(st.integers(1, 64))
    first = draw(st.integers(0, 64 - length))
    if draw(st.booleans()):
        return first, length, "1", draw(st.sampled_from("+-"))
    return 8 * (first // 8) + 7 - first % 8, length, "0", draw(st.sampled_from("+-"))


@given(layouts(), st.binary(min_size=8, max_size=8))
@settings(deadline=None, max_examples=150)
def test_every_layout_is_read_as_cantools_reads_it(
    tmp_path_factory: pytest.TempPathFactory, layout: tuple[int, int, str, str], data: bytes
) -> None:
    start, length, order, sign = layout
    text = 'VERSION ""\nNS_ :\nBS_:\nBU_: E\nBO_ 5 M: 8 E\n'
    text += f' SG_ S : {start}|{length}@{order}{sign} (0.5,-7) [0|0] "" E\n'
    path = tmp_path_factory.getbasetemp() / f"layout-{os.getpid()}.dbc"
    path.write_text(text)
    database = cantools.database.load_string(text, "dbc")
    assert isinstance(database, cantools.database.Database)
    expected = database.get_message_by_name("M").decode(data)["S"]  # type: ignore[call-overload]
    found = FrameDecoder(CanSettings(dbc=str(path), signals={"s": "M.S"}), Health())
    assert values(found.read(frame(5, data, extended=False))) == [("s", expected)]


def test_a_multiplexed_signal_that_is_not_in_the_frame_gives_nothing(
    truth: cantools.database.Database, decoder: Callable[..., FrameDecoder]
) -> None:
    found = decoder(first="Switched.First", second="Switched.Second")
    message = truth.get_message_by_name("Switched")
    assert values(found.read(frame(512, message.encode({"Page": 0, "First": 80}), extended=False))) == [("first", 80)]
    one = values(found.read(frame(512, message.encode({"Page": 1, "Second": 80.5}), extended=False)))
    assert one == [("second", 1205 * 0.1 - 40)]
    assert found.read(frame(512, bytes([7]).ljust(8, b"\0"), extended=False)) == []


@pytest.mark.parametrize("size", range(4))
def test_a_frame_that_is_too_short_is_a_bad_line(decoder: Callable[..., FrameDecoder], size: int) -> None:
    (item,) = decoder(oil="ET1.Oil").read(frame(ANY_ENGINE, bytes(size)))
    assert item == BadLine(0, f"CAN ET1.Oil: {size} bytes, expected at least 4")


@given(st.integers(0, 0x1FFFFFFF), st.booleans(), st.binary(max_size=8), st.floats(), st.booleans())
@settings(deadline=None)
def test_no_frame_is_an_exception(
    dbc: str, frame_id: int, extended: bool, data: bytes, time: float, j1939: bool
) -> None:
    names = {"a": "ET1.Oil", "b": "Turbo.Bearing", "c": "Other.Exact"}
    names |= {} if j1939 else {"d": "Axle.Left", "e": "Switched.First"}
    pids = {"f": 5, "g": 0x3C}
    found = FrameDecoder(CanSettings(dbc=dbc, signals=names, j1939=j1939, obd_pids=pids), Health())
    known = [frame_id, ENGINE, TURBO, 291, 512, 0x7E8]
    for one in known:
        assume(extended or one <= 0x7FF) if one is frame_id else None
        wide = extended or one > 0x7FF
        for item in found.read(frame(one, data, wide, time)):
            assert isinstance(item, BadLine) or 0 <= item.time <= LATEST


@pytest.mark.parametrize("time", [math.nan, math.inf, -1.0, 1e20])
def test_a_time_that_no_calendar_has_is_a_bad_line(decoder: Callable[..., FrameDecoder], time: float) -> None:
    (item,) = decoder(coolant="ET1.Coolant").read(engine(130, ANY_ENGINE, time))
    assert isinstance(item, BadLine)


def test_error_frames_and_remote_frames_are_no_readings(decoder: Callable[..., FrameDecoder]) -> None:
    found = decoder(coolant="ET1.Coolant")
    assert found.read(can.Message(arbitration_id=ANY_ENGINE, is_error_frame=True, data=bytes(8))) == []
    assert found.read(can.Message(arbitration_id=ANY_ENGINE, is_remote_frame=True, dlc=8)) == []


def test_filters_let_the_wanted_frames_through_and_no_others(dbc: str, decoder: Callable[..., FrameDecoder]) -> None:
    plain = decoder(left="Axle.Left", right="Axle.Right", cabin="Other.Cabin").filters
    assert plain == [
        {"can_id": 291, "can_mask": 0x7FF, "extended": False},
        {"can_id": 291, "can_mask": 0x1FFFFFFF, "extended": True},
    ]
    asked = FrameDecoder(
        CanSettings(dbc=dbc, signals={"a": "ET1.Oil", "b": "Turbo.Bearing"}, j1939=True, obd_pids={"c": 5}), Health()
    ).filters

    def passes(frame_id: int, extended: bool) -> bool:
        return any(one["extended"] == extended and not (frame_id ^ one["can_id"]) & one["can_mask"] for one in asked)

    assert passes(0x0CFEEE42, True) and passes(0x0CEF1742, True)
    assert passes(0x7E8, False) and passes(0x7EF, False)
    assert not passes(0x18FEEF00, True) and not passes(0x18F0EE00, True)
    assert not passes(0x7E7, False) and not passes(0x7F0, False) and not passes(0x7E8, True)


# -- J1939 -----------------------------------------------------------------------------------------


def test_a_pgn_counts_whatever_its_priority_and_source_address(
    truth: cantools.database.Database, decoder: Callable[..., FrameDecoder]
) -> None:
    found = decoder(j1939=True, coolant="ET1.Coolant", oil="ET1.Oil")
    data = truth.get_message_by_name("ET1").encode({"Coolant": 92, "Oil": 104.5, "Wide": 20.0})
    for frame_id in (ANY_ENGINE, ENGINE, 0x0CFEEE03):
        assert values(found.read(frame(frame_id, data))) == [("coolant", 92), ("oil", 104.5)]
    assert found.read(frame(0x18FEEF00, data)) == []
    assert found.read(frame(0x19FEEE00, data)) == []  # the data page is part of the PGN
    assert found.read(frame(0x600, data, extended=False)) == []


def test_without_j1939_only_the_whole_id_counts(decoder: Callable[..., FrameDecoder]) -> None:
    assert decoder(coolant="ET1.Coolant").read(engine(130, ENGINE)) == []
    assert values(decoder(coolant="ET1.Coolant").read(engine(130, ANY_ENGINE))) == [("coolant", 90)]


def test_the_destination_is_no_part_of_a_pdu1_pgn(
    truth: cantools.database.Database, decoder: Callable[..., FrameDecoder]
) -> None:
    found = decoder(j1939=True, bearing="Turbo.Bearing")
    data = truth.get_message_by_name("Turbo").encode({"Bearing": 612.5})
    for frame_id in (TURBO, 0x18EFFF21, 0x10EF0321):
        assert values(found.read(frame(frame_id, data))) == [("bearing", 7125 * 0.1 - 100)]
    assert found.read(frame(0x18EE0000, data)) == []


def test_a_source_address_tells_two_units_with_the_same_pgn_apart(decoder: Callable[..., FrameDecoder]) -> None:
    found = decoder(j1939=True, addresses={"front": 0, "rear": 3}, front="ET1.Coolant", rear="ET1.Coolant")
    assert values(found.read(engine(120, ENGINE))) == [("front", 80)]
    assert values(found.read(engine(121, ENGINE | 3))) == [("rear", 81)]
    assert found.read(engine(122, ENGINE | 7)) == []


@pytest.mark.parametrize(
    ("name", "first", "last_value", "nothing"),
    [
        ("Coolant", 0, b"\xfd", [b"\xfe", b"\xff"]),
        ("Oil", 2, b"\xff\xfd", [b"\x00\xfe", b"\xff\xfe", b"\x00\xff", b"\xff\xff"]),
        ("Wide", 4, b"\xff\xff\xff\xfd", [b"\x00\x00\x00\xfe", b"\xff\xff\xff\xfe", b"\x00\x00\x00\xff", b"\xff" * 4]),
    ],
)
def test_error_and_not_available_are_counted_and_no_readings(
    decoder: Callable[..., FrameDecoder], name: str, first: int, last_value: bytes, nothing: list[bytes]
) -> None:
    def data(raw: bytes) -> bytes:
        return (bytes(first) + raw).ljust(8, b"\0")

    found = decoder(j1939=True, sensor=f"ET1.{name}")
    for count, raw in enumerate(nothing, 1):
        assert found.read(frame(ENGINE, data(raw))) == []
        assert found.not_available == {"sensor": count}
    assert len(values(found.read(frame(ENGINE, data(last_value))))) == 1
    plain = decoder(sensor=f"ET1.{name}")
    assert len(values(plain.read(frame(ANY_ENGINE, data(nothing[0]))))) == 1  # only J1939 has these states
    assert plain.not_available == {"sensor": 0}


# -- OBD-II ----------------------------------------------------------------------------------------


def answers(**pids: int) -> tuple[FrameDecoder, Health]:
    health = Health()
    return FrameDecoder(CanSettings(obd_pids=pids, allow_transmit=True), health), health


@pytest.mark.parametrize("frame_id", [0x7E8, 0x7EF])
def test_answers_are_temperatures(frame_id: int) -> None:
    found, health = answers(coolant=0x05, oil=0x5C, catalyst=0x3C)
    read = partial(found.read)
    assert values(read(frame(frame_id, bytes.fromhex("0341057B55555555"), False))) == [("coolant", 83)]
    assert values(read(frame(frame_id, bytes.fromhex("03415C0055555555"), False))) == [("oil", -40)]
    assert values(read(frame(frame_id, bytes.fromhex("04413C11EC555555"), False))) == [("catalyst", 418.8)]
    assert read(frame(frame_id, bytes.fromhex("0341467B55555555"), False)) == []  # nobody's
    assert read(frame(frame_id, bytes.fromhex("0341057B55555555"), True)) == []
    assert read(frame(0x7E7, bytes.fromhex("0341057B55555555"), False)) == []
    assert health.lost == 0


def test_a_negative_answer_is_a_reading_lost() -> None:
    found, health = answers(coolant=0x05)
    assert found.read(frame(0x7E8, bytes.fromhex("037F011200000000"), False)) == []
    assert health.lost == 1
    found.read(frame(0x7E8, bytes.fromhex("037F017800000000"), False))  # the answer comes later
    found.read(frame(0x7E8, bytes.fromhex("037F221200000000"), False))  # somebody else's question
    assert health.lost == 1


def test_an_answer_that_is_cut_short_is_a_bad_line() -> None:
    found, _ = answers(catalyst=0x3C)
    for data in ("03413C11EC555555", "04413C11"):
        (item,) = found.read(frame(0x7E8, bytes.fromhex(data), False))
        assert item == BadLine(0, "OBD-II PID 60: 1 bytes of value, expected 2")


# -- settings that do not fit ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"signals": {"a": "ET1.Coolent"}}, "did you mean ET1.Coolant?"),
        ({"signals": {"a": "Axel.Left"}}, "did you mean Axle.Left?"),
        ({"signals": {"a": "Axle.Left"}, "j1939": True}, "its id has 11 bits"),
        ({"signals": {"a": "Long.Somewhere"}, "j1939": True}, "20 bytes are sent in several frames"),
        ({"signals": {"a": "ET1.Oil"}, "source_addresses": {"a": 1}}, "needs can.j1939 = true"),
        ({"signals": {"a": "ET1.Oil"}, "j1939": True, "source_addresses": {"b": 1}}, "is none of can.signals"),
        ({"obd_pids": {"a": 0x0C}}, "known are 5 (coolant), 15 (intake air)"),
        ({"signals": {"a": "ET1.Oil"}, "obd_pids": {"a": 5}}, "expected in one of them"),
    ],
)
def test_a_setting_that_does_not_fit_is_told_in_one_line(dbc: str, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=re.escape(words)) as told:
        FrameDecoder(CanSettings(**{"dbc": dbc, **changes}), Health())
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    "content", [b"", b"no DBC file", DBC.encode()[:600], os.urandom(500), DBC.replace("@1+", "@7?").encode()]
)
def test_a_file_that_is_no_dbc_file_is_told_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "some.dbc"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"can\.") as told:
        FrameDecoder(CanSettings(dbc=str(path), signals={"a": "Switched.First"}), Health())
    assert "\n" not in str(told.value) and len(str(told.value)) < 500


def test_a_dbc_file_that_is_missing_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"can.dbc: .*No such file"):
        FrameDecoder(CanSettings(dbc=str(tmp_path / "none.dbc"), signals={"a": "B.C"}), Health())


def test_an_interface_that_python_can_does_not_know_is_told(signals: Signals) -> None:
    with pytest.raises(UsageError, match=r"did you mean socketcan\?"):
        CanBus(CanSettings(interface="soketcan", obd_pids={"a": 5}), signals)


# -- the bus ---------------------------------------------------------------------------------------


class Vehicle:
    """A virtual bus with a source that listens to it, and another that may send and hears everything."""

    def __init__(self, signals: Signals) -> None:
        self.channel = uuid.uuid4().hex
        self.other = can.Bus(interface="virtual", channel=self.channel)
        self._signals = signals
        self._sources: list[CanBus] = []

    def source(self, **settings: Any) -> CanBus:
        source = CanBus(CanSettings(interface="virtual", channel=self.channel, **settings), self._signals)
        self._sources.append(source)
        return source

    def stop(self) -> None:
        for source in self._sources:
            source.close()
            assert not source._thread.is_alive()
        self.other.shutdown()


@pytest.fixture
def vehicle(signals: Signals, monkeypatch: pytest.MonkeyPatch) -> Iterator[Vehicle]:
    monkeypatch.setattr(base, "FIRST_WAIT_S", 0.001)
    found = Vehicle(signals)
    yield found
    found.stop()


def until(batches: Iterator[list[Item]], true: Callable[[list[Item]], bool]) -> list[Item]:
    """All items that come until something is true of them, or of the world."""
    items: list[Item] = []
    deadline = monotonic() + PATIENCE_S
    while not true(items):
        assert monotonic() < deadline, items
        items += next(batches)
    return items


def many(count: int) -> Callable[[list[Item]], bool]:
    return lambda items: len(items) >= count


COOLANT: dict[str, Any] = {"signals": {"coolant": "ET1.Coolant"}, "j1939": True}


def test_readings_arrive_from_the_bus(vehicle: Vehicle, dbc: str) -> None:
    source = vehicle.source(dbc=dbc, **COOLANT)
    batches = source.batches()
    until(batches, lambda _: source.health.connected)
    for coolant in (130, 0xFE, 131, 0xFF, 132):
        vehicle.other.send(engine(coolant))
    vehicle.other.send(frame(0x18FEEF00, bytes(8)))
    vehicle.other.send(frame(ENGINE, b""))
    vehicle.other.send(engine(133, ENGINE | 42))
    items = until(batches, many(5))
    bad = items.pop(3)
    assert isinstance(bad, BadLine) and "0 bytes" in bad.reason
    assert values(items) == [("coolant", value) for value in (90, 91, 92, 93)]
    assert source.not_available == {"coolant": 2}
    assert source.health == Health(True, 0, 0, None, _was_connected=True)
    assert source.live and source.patience_s == 0 and source.position is None and source.cut_bytes == 0


def test_a_reading_has_the_frames_time_and_the_boxs_where_an_interface_counts_from_its_start(
    vehicle: Vehicle, dbc: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(can_bus, "time", lambda: 1_700_000_000.0)
    source = vehicle.source(dbc=dbc, **COOLANT)
    for time in (1_699_999_999.25, 12.5):
        source._take(engine(130, time=time))
    items = until(source.batches(), many(2))
    assert [item.time for item in items if isinstance(item, Reading)] == [1_699_999_999.25, 1_700_000_000.0]


def test_a_bus_that_cannot_be_opened_is_tried_again(
    vehicle: Vehicle, dbc: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = [OSError(19, "No such device"), can.CanInitializationError("no driver"), OSError(19, "No such device")]
    seen: list[str | None] = []
    source = vehicle.source(dbc=dbc, **COOLANT)
    real = can.Bus

    def opened(**how: Any) -> can.BusABC:
        seen.append(source.health.error)
        if failures:
            raise failures.pop()
        return real(**how)

    monkeypatch.setattr(can, "Bus", opened)
    batches = source.batches()
    until(batches, lambda _: source.health.connected)
    assert seen == [None, "[Errno 19] No such device", "no driver", "[Errno 19] No such device"]
    vehicle.other.send(engine(130))
    assert values(until(batches, many(1))) == [("coolant", 90)]
    assert source.health.reconnects == 0 and source.health.error is None


@pytest.mark.parametrize("error", [can.CanOperationError("Network is down", 100), OSError(19, "x"), ValueError("x")])
def test_a_bus_that_is_lost_is_connected_again_and_counted(
    vehicle: Vehicle, dbc: str, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    source = vehicle.source(dbc=dbc, **COOLANT)
    batches = source.batches()
    until(batches, lambda _: source.health.connected)
    real, errors = VirtualBus.recv, [error]

    def recv(bus: VirtualBus, timeout: float | None = None) -> can.Message | None:
        if errors and bus is not vehicle.other:
            raise errors.pop()
        return real(bus, timeout)

    monkeypatch.setattr(VirtualBus, "recv", recv)
    until(batches, lambda _: source.health.reconnects == 1)
    vehicle.other.send(engine(130))
    assert values(until(batches, many(1))) == [("coolant", 90)]
    assert source.health.connected and source.health.lost == 0
    assert len(channels[vehicle.channel]) == 2  # the lost one was shut down


def test_an_interface_that_is_down_is_no_connection_though_it_can_be_bound(
    vehicle: Vehicle, dbc: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SocketCAN binds to an interface that is down, and the first recv fails: seen as connected, it would be
    tried without a pause for ever."""
    waits: list[float] = []
    tried = threading.Event()

    def recv(bus: can.BusABC, timeout: float | None = None) -> None:
        raise can.CanOperationError("Network is down", 100)

    monkeypatch.setattr(VirtualBus, "recv", recv)
    source = vehicle.source(dbc=dbc, **COOLANT)

    def wait(seconds: float) -> bool:
        waits.append(seconds)
        if len(waits) == 5:
            tried.set()
            source._ended.set()
        return source._ended.is_set()

    monkeypatch.setattr(source._ended, "wait", wait)
    next(source.batches())
    assert tried.wait(PATIENCE_S)
    assert waits == [pytest.approx(0.001 * 2**n) for n in range(5)]
    assert source.health == Health(False, 0, 0, "Network is down [Error Code 100]")


def test_error_frames_are_told_until_a_good_one_comes(vehicle: Vehicle, dbc: str) -> None:
    source = vehicle.source(dbc=dbc, **COOLANT)
    source._take(can.Message(is_error_frame=True))
    assert source.health.error == "error frames on the bus" and source.health.connected
    source._take(engine(130))
    assert source.health.error is None


def test_a_mistake_in_the_thread_ends_the_source(vehicle: Vehicle, dbc: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def recv(bus: can.BusABC, timeout: float | None = None) -> None:
        raise AttributeError("a mistake")

    monkeypatch.setattr(VirtualBus, "recv", recv)
    with pytest.raises(AttributeError, match="a mistake"):
        until(vehicle.source(dbc=dbc, **COOLANT).batches(), lambda _: False)


def test_settings_that_an_interface_refuses_are_told_and_not_tried_again(
    vehicle: Vehicle, dbc: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(**how: Any) -> None:
        assert how["bitrate"] == 12345
        raise ValueError("Invalid bitrate")

    monkeypatch.setattr(can, "Bus", refused)
    with pytest.raises(UsageError, match="Invalid bitrate"):
        until(vehicle.source(dbc=dbc, bitrate=12345, **COOLANT).batches(), lambda _: False)


def test_the_environment_has_no_say(vehicle: Vehicle, dbc: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAN_CONFIG", '{"receive_own_messages": true, "nonsense": 1}')
    seen: list[dict[str, Any]] = []
    real = VirtualBus.__init__

    def init(bus: Any, channel: Any, **how: Any) -> None:
        seen.append(how)
        real(bus, channel, **how)

    monkeypatch.setattr(VirtualBus, "__init__", init)
    source = vehicle.source(dbc=dbc, **COOLANT)
    until(source.batches(), lambda _: source.health.connected)
    assert [set(how) for how in seen] == [{"can_filters"}]


def test_of_more_readings_than_the_inbox_holds_the_oldest_are_lost_and_counted(
    vehicle: Vehicle, dbc: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(can_bus, "Inbox", lambda health: Inbox(health, 10))
    source = vehicle.source(dbc=dbc, **COOLANT)
    for raw in range(100):
        source._take(engine(raw))
    assert source.health.lost == 90
    assert [value for _, value in values(until(source.batches(), many(10)))] == [raw - 40.0 for raw in range(90, 100)]


def test_batches_can_be_called_again(vehicle: Vehicle, dbc: str) -> None:
    """As after a signal that asked for the configuration to be read again."""
    source = vehicle.source(dbc=dbc, **COOLANT)
    until(source.batches(), lambda _: source.health.connected)
    vehicle.other.send(engine(130))
    assert values(until(source.batches(), many(1))) == [("coolant", 90)]
    assert source.health.reconnects == 0


def test_a_source_that_was_never_read_can_be_closed(vehicle: Vehicle, dbc: str) -> None:
    vehicle.source(dbc=dbc, **COOLANT)


# -- what is sent ----------------------------------------------------------------------------------

PIDS = {"coolant": 0x05, "catalyst": 0x3C}


def test_nothing_is_ever_sent_without_allow_transmit(vehicle: Vehicle, dbc: str) -> None:
    """Through loss and reconnection too, with PIDs that are due many times."""
    source = vehicle.source(dbc=dbc, obd_pids=PIDS, obd_period_s=0.1, **COOLANT | {"signals": {"oil": "ET1.Coolant"}})
    batches = source.batches()
    until(batches, lambda _: source.health.connected)
    vehicle.other.send(engine(130))
    vehicle.other.send(frame(0x7E8, bytes.fromhex("0341057B55555555"), extended=False))
    assert len(until(batches, many(2))) == 2  # listening to what others ask is allowed
    end = monotonic() + 0.5
    until(batches, lambda _: monotonic() > end)
    assert vehicle.other.recv(0) is None
    assert source._due == math.inf
    source._due = 0.0  # nor where a question should ever come to be due
    with source._open() as bus:
        source._ask(bus)
    assert vehicle.other.recv(0) is None


def test_there_is_one_place_that_sends() -> None:
    found = []
    for module in (can_bus, can_frames, can_log, can_obd):
        text = Path(str(module.__file__)).read_text()
        for function in (one for one in ast.walk(ast.parse(text)) if isinstance(one, ast.FunctionDef)):
            names = {one.attr for one in ast.walk(function) if isinstance(one, ast.Attribute)}
            found += [f"{module.__name__}.{function.name}" for name in names if name.startswith("send")]
    assert found == ["axlebox.runtime.sources.can_bus._ask"]


def test_units_are_asked_and_their_answers_are_readings(vehicle: Vehicle) -> None:
    asked: list[can.Message] = []
    ended = threading.Event()
    replies = {0x05: "0341057B55555555", 0x3C: "037F011200000000"}

    def unit() -> None:
        while not ended.is_set():
            if (question := vehicle.other.recv(0.1)) is not None:
                asked.append(question)
                vehicle.other.send(frame(0x7E8, bytes.fromhex(replies[question.data[2]]), extended=False))

    thread = threading.Thread(target=unit, daemon=True)
    thread.start()
    source = vehicle.source(obd_pids=PIDS, obd_period_s=0.1, allow_transmit=True)
    try:
        items = until(source.batches(), lambda items: len(items) >= 3 and source.health.lost >= 2)
    finally:
        ended.set()
        thread.join(PATIENCE_S)
    assert set(values(items)) == {("coolant", 83.0)}
    assert [(one.arbitration_id, one.is_extended_id, bytes(one.data).hex()) for one in asked[:3]] == [
        (0x7DF, False, "0201050000000000"),
        (0x7DF, False, "02013c0000000000"),
        (0x7DF, False, "0201050000000000"),
    ]
    times = [one.timestamp for one in asked]
    assert min(later - earlier for earlier, later in pairwise(times)) > 0.049  # two PIDs in 0.1 s, one by one


def test_units_get_time_to_answer_however_many_pids_there_are(signals: Signals) -> None:
    pids = {f"s{pid}": pid for pid in can_obd.TEMPERATURES}
    source = CanBus(CanSettings(interface="virtual", obd_pids=pids, obd_period_s=0.1, allow_transmit=True), signals)
    assert source._between_s == can_obd.BETWEEN_QUESTIONS_S
    source.close()


# -- recorded logs ---------------------------------------------------------------------------------


def write(path: Path, frames: list[can.Message]) -> Path:
    with can.Logger(path) as logger:
        for one in frames:
            logger.on_message_received(one)
    return path


def replayed(path: Path, dbc: str, signals: Signals, **settings: Any) -> tuple[list[list[Item]], CanLog]:
    source = CanLog(path, CanSettings(dbc=dbc, **settings or COOLANT), signals)
    batches = list(source.batches())
    source.close()
    return batches, source


@pytest.mark.parametrize("suffix", [".log", ".blf", ".asc", ".csv", ".trc", ".db", ".log.gz"])
def test_a_log_that_python_can_wrote_is_read_back(tmp_path: Path, dbc: str, signals: Signals, suffix: str) -> None:
    count = 400 if suffix == ".db" else 2500  # python-can's writer of .db loses what is more than 501 at its end
    frames = [engine(raw % 250, time=1_700_000_000.125 + raw / 64) for raw in range(count)]
    frames[7] = can.Message(arbitration_id=ENGINE, is_remote_frame=True, dlc=8, timestamp=frames[7].timestamp)
    frames[8] = engine(0xFF, time=frames[8].timestamp)
    frames[9] = frame(0x123, b"\1\2", extended=False, time=frames[9].timestamp)
    batches, source = replayed(write(tmp_path / f"trip{suffix}", frames), dbc, signals)
    items = [item for batch in batches for item in batch]
    expected = [(one.timestamp, one.data[0] - 40.0) for index, one in enumerate(frames) if index not in (7, 8, 9)]
    assert [item.value for item in items if isinstance(item, Reading)] == [value for _, value in expected]
    assert [item.time for item in items if isinstance(item, Reading)] == pytest.approx(
        [time for time, _ in expected], abs=2e-3, rel=0
    )
    assert len(items) == len(expected) and max(map(len, batches)) <= 1000
    assert source.not_available == {"coolant": 1}
    assert source.health == Health(False, 0, 0, "its end was reached", _was_connected=True)
    assert not source.live and source.patience_s == math.inf and source.position is None


def test_answers_are_read_from_a_log_too(tmp_path: Path, dbc: str, signals: Signals) -> None:
    path = write(tmp_path / "trip.log", [frame(0x7E8, bytes.fromhex("0341057B55555555"), extended=False)])
    batches, _ = replayed(path, dbc, signals, obd_pids={"coolant": 5}, allow_transmit=True)
    assert values([item for batch in batches for item in batch]) == [("coolant", 83)]


def test_a_log_is_left_by_a_signal_and_gone_on_with(
    tmp_path: Path, dbc: str, signals: Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "trip.log", [engine(raw % 250, time=1.7e9 + raw) for raw in range(2500)])
    source = CanLog(path, CanSettings(dbc=dbc, **COOLANT), signals)
    (first,) = islice(source.batches(), 1)
    with monkeypatch.context() as patch:
        patch.setattr(signals, "reload", True)
        assert list(source.batches()) == []
    rest = [item for batch in source.batches() for item in batch]
    source.close()
    assert [item.time for item in first + rest if isinstance(item, Reading)] == [1.7e9 + raw for raw in range(2500)]


BREAKS: dict[str, Callable[[bytes], bytes]] = {
    ".log": lambda data: data[: len(data) // 2].rpartition(b"\n")[0] + b"\n(17000000",
    ".asc": lambda data: data[: len(data) // 2].rpartition(b" FF\n")[0] + b" XY\n",
    ".blf": lambda data: data[: len(data) // 2],
    ".log.gz": lambda data: data[: len(data) // 2],
}


@pytest.mark.parametrize("suffix", BREAKS)
def test_a_log_that_breaks_in_the_middle_ends_with_what_was_read(
    tmp_path: Path, dbc: str, signals: Signals, suffix: str
) -> None:
    path = write(tmp_path / f"trip{suffix}", [engine(raw % 250, time=1.7e9 + raw) for raw in range(5000)])
    path.write_bytes(BREAKS[suffix](path.read_bytes()))
    batches, source = replayed(path, dbc, signals)
    found = [item.value for batch in batches for item in batch if isinstance(item, Reading)]
    assert 1000 < len(found) < 4900
    assert found == [raw % 250 - 40.0 for raw in range(len(found))]
    assert source.health.lost == 1 and not source.health.connected
    assert source.health.error is not None and source.health.error.startswith("the log is broken: ")
    assert list(source.batches()) == [] and source.health.lost == 1


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("trip.log", None, "No such file"),
        ("trip.txt", b"", "No read support for unknown log format"),
        ("trip", b"", "No read support for unknown log format"),
        ("trip.log", b"", "has no CAN frame"),
        ("trip.log", b"noise\n", "is no CAN log that can be read"),
        ("trip.blf", b"noise", "is no CAN log that can be read"),
        ("trip.asc", b"noise\n\xff\xfe", "source"),
        ("trip.db", b"noise" * 100, "is no CAN log that can be read"),
        ("trip.log.gz", b"noise", "is no CAN log that can be read"),
    ],
)
def test_a_file_that_is_no_log_is_told(
    tmp_path: Path, dbc: str, signals: Signals, name: str, content: bytes | None, words: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=words) as told:
        CanLog(path, CanSettings(dbc=dbc, **COOLANT), signals)
    assert str(path) in str(told.value)


def test_a_pipe_is_no_log(tmp_path: Path, dbc: str, signals: Signals) -> None:
    os.mkfifo(tmp_path / "trip.log")
    with pytest.raises(UsageError, match="is not a regular file"):
        CanLog(tmp_path / "trip.log", CanSettings(dbc=dbc, **COOLANT), signals)


def test_a_compressed_log_is_not_taken_for_a_cut_one(tmp_path: Path, dbc: str, signals: Signals) -> None:
    path = write(tmp_path / "trip.blf", [engine(raw % 250, time=1.7e9 + raw) for raw in range(1000)])
    (tmp_path / "trip.blf.gz").write_bytes(gzip.compress(path.read_bytes()))
    _, source = replayed(tmp_path / "trip.blf.gz", dbc, signals)
    assert source.health.lost == 0


# -- without the extra -----------------------------------------------------------------------------

_OPEN = """
import sys
from pathlib import Path
missing, source = sys.argv.pop(), sys.argv.pop()
import click
import axlebox.runtime.sources
assert not {"can", "cantools"} & set(sys.modules), "loaded before anybody asked for it"
sys.modules[missing] = None  # as if it were not installed
from axlebox.runtime.commandline import run_program
from axlebox.runtime.config import Config
from axlebox.runtime.signals import Signals

@click.group()
def cli(): pass

@cli.command()
def run():
    axlebox.runtime.sources.open_source(Config(source=source), "temperature", Signals())

run_program(cli, "axleboxd")
"""


@pytest.mark.parametrize("source", ["can:", "canlog:/trip.log"])
@pytest.mark.parametrize("missing", ["can", "cantools"])
def test_without_the_extra_its_name_is_told(source: str, missing: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _OPEN, "run", source, missing], capture_output=True, text=True, check=False
    )
    assert done.stderr == "axleboxd: this command needs the extra 'can'. DO: pip install 'axlebox[can]'\n"
    assert done.returncode


# -- the document ----------------------------------------------------------------------------------

EXAMPLES = re.findall(r"^```toml\n(.*?)^```", (REPOSITORY / "docs/can.md").read_text(), re.M | re.S)


@pytest.mark.parametrize("text", EXAMPLES)
def test_every_example_of_the_document_is_a_configuration(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.toml"
    path.write_text(text)
    config = load_config(tmp_path, path)
    assert config.source.partition(":")[0] in ("can", "canlog")
    FrameDecoder(CanSettings(obd_pids=config.can.obd_pids), Health())


def test_the_document_shows_every_way_and_names_every_setting() -> None:
    assert len(EXAMPLES) == 4
    page = (REPOSITORY / "docs/can.md").read_text()
    for name in CanSettings.__struct_fields__:
        assert f"`{name}`" in page or re.search(rf"^{name} = ", page, re.M) or f"[can.{name}]" in page, name
