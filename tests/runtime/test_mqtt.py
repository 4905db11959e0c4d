"""Readings from an MQTT broker and events to it: a real mosquitto, and one by script for what that never does."""

from __future__ import annotations

import datetime
import ipaddress
import json
import shutil
import signal
import socket
import struct
import subprocess
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from paho.mqtt.enums import CallbackAPIVersion

from axlebox.firmware_bundle.errors import AxleboxError, UsageError
from axlebox.runtime.config import MqttSettings, load_config
from axlebox.runtime.readings import MAX_LINE_BYTES, BadLine, LineReader, Reading, Replaced, parse_time
from axlebox.runtime.signals import Signals
from axlebox.runtime.sinks import mqtt as sink_module
from axlebox.runtime.sinks import open_sinks
from axlebox.runtime.sinks.base import Message, Outlet
from axlebox.runtime.sinks.mqtt import MqttSink
from axlebox.runtime.sources import mqtt as source_module
from axlebox.runtime.sources import open_source
from axlebox.runtime.sources.base import Item
from axlebox.runtime.sources.mqtt import MqttSource, Payloads, check_filter

DEADLINE_S = 20
SECRET = "Wagen-204-geheim"
PAGE = Path(__file__).resolve().parents[2] / "docs/mqtt.md"


def wait_until(condition: Callable[[], Any], what: str) -> None:
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end, f"waited {DEADLINE_S} s for: {what}"
        time.sleep(0.01)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module", autouse=True)
def signals() -> Iterator[Signals]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    yield Signals()
    for number, handler in before.items():
        signal.signal(number, handler)


@dataclass
class Broker:
    """mosquitto on loopback; with persistence, so that sessions outlive it."""

    folder: Path
    program: str
    lines: Sequence[str] = ("allow_anonymous true",)
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        config = self.folder / "mosquitto.conf"
        here = ["user root", "log_type all", "persistence true", f"persistence_location {self.folder}/"]
        config.write_text("\n".join([f"listener {self.port} 127.0.0.1", *here, *self.lines, ""]))
        with open(self.folder / "mosquitto.log", "ab") as log:
            self.process = subprocess.Popen([self.program, "-c", config], stdout=log, stderr=log)
        wait_until(self.answers, "mosquitto listens")

    def answers(self) -> bool:
        assert self.process is not None and self.process.poll() is None, (self.folder / "mosquitto.log").read_text()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(DEADLINE_S)
            self.process = None

    def settings(self, **more: Any) -> MqttSettings:
        return MqttSettings(host="127.0.0.1", port=self.port, **{"topics": {"train/+/temperature": ""}, **more})


@pytest.fixture
def stopped_broker(tmp_path: Path) -> Iterator[Broker]:
    program = shutil.which("mosquitto") or shutil.which("/usr/sbin/mosquitto")
    if program is None:
        pytest.skip("mosquitto is not installed")
    folder = tmp_path / "broker"
    folder.mkdir()
    broker = Broker(folder, program)
    yield broker
    broker.stop(signal.SIGKILL)


@pytest.fixture
def broker(stopped_broker: Broker) -> Broker:
    stopped_broker.start()
    return stopped_broker


class Peer:
    """Somebody else at the broker, who stays connected and whose subscriptions stay."""

    def __init__(self, broker: Broker, name: str, topic: str | None = None) -> None:
        self.seen: list[tuple[str, bytes, int, bool]] = []
        self.subscribed = threading.Event()
        self._client = paho.Client(CallbackAPIVersion.VERSION2, client_id=name, clean_session=False)
        self._client.reconnect_delay_set(1, 1)
        self._client.on_message = lambda _client, _data, one: self.seen.append(
            (one.topic, bytes(one.payload), one.qos, one.retain)
        )
        self._client.on_subscribe = lambda *_: self.subscribed.set()
        self._client.on_connect = lambda client, *_: client.subscribe(topic, 1) if topic else None
        self._client.connect("127.0.0.1", broker.port)
        self._client.loop_start()
        if topic:
            assert self.subscribed.wait(DEADLINE_S)

    def publish(self, topic: str, payload: bytes | str, retain: bool = False) -> None:
        """Returns when the broker has it."""
        info = self._client.publish(topic, payload, qos=1, retain=retain)
        wait_until(info.is_published, f"{topic} is published")

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@pytest.fixture
def peers() -> Iterator[Callable[..., Peer]]:
    made: list[Peer] = []

    def make(broker: Broker, name: str = "peer", topic: str | None = None) -> Peer:
        made.append(Peer(broker, name, topic))
        return made[-1]

    yield make
    for peer in made:
        peer.close()


@pytest.fixture
def opened(signals: Signals) -> Iterator[Callable[[MqttSettings], MqttSource]]:
    """Makes sources that are closed in the end."""
    made: list[MqttSource] = []

    def make(settings: MqttSettings) -> MqttSource:
        made.append(MqttSource(settings, "elsewhere", signals))
        return made[-1]

    yield make
    for source in made:
        if not source._closing:
            source.close()


def run_until(source: MqttSource, condition: Callable[[list[Item]], Any]) -> list[Item]:
    """What the source gives until the condition holds for it all."""
    items: list[Item] = []
    end = time.monotonic() + DEADLINE_S
    for batch in source.batches():
        items += batch
        if condition(items):
            break
        assert time.monotonic() < end, (items, source.health)
    return items


def connected(source: MqttSource) -> list[Item]:
    return run_until(source, lambda _: source.health.connected)


def event(number: int, kind: str = "anomaly") -> Message:
    record = {"type": kind, "id": number}
    return Message(json.dumps(record).encode(), record)


def ids(peer: Peer) -> list[int]:
    return [json.loads(payload)["id"] for _, payload, _, _ in peer.seen]


class Script:
    """A broker that does what its script says: one function for each connection that comes."""

    def __init__(self, *connections: Callable[[Script], None]) -> None:
        self.bodies: list[list[bytes]] = []
        """What was published, by connection."""
        self.kinds: set[int] = set()
        """First bytes of what was published: QoS, and whether it is retained or a duplicate."""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._run, args=[connections], daemon=True)
        self._thread.start()

    def _run(self, connections: Sequence[Callable[[Script], None]]) -> None:
        for one in connections:
            connection, _ = self._listener.accept()
            self.bodies.append([])
            with connection, connection.makefile("rwb") as self._file:
                one(self)
        self._listener.close()

    def packet(self) -> tuple[int, bytes]:
        """First byte and body of the next packet; 0 at the end of the connection."""
        first = self._file.read(1)
        if not first:
            return 0, b""
        length = shift = 0
        while True:
            (byte,) = self._file.read(1)
            length |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return first[0], self._file.read(length)

    def send(self, *octets: int) -> None:
        self._file.write(bytes(octets))
        self._file.flush()

    def accept(self) -> None:
        assert self.packet()[0] == 0x10
        self.send(0x20, 2, 0, 0)

    def take(self, acknowledged: int) -> None:
        """Acknowledge so many messages, and wait for the end of the connection."""
        self.accept()
        while (packet := self.packet())[0]:
            kind, body = packet
            if kind & 0xF0 == 0x30:
                start = 2 + struct.unpack("!H", body[:2])[0]
                self.bodies[-1].append(body[start + 2 :])
                self.kinds.add(kind)
                if len(self.bodies[-1]) <= acknowledged:
                    self.send(0x40, 2, *body[start : start + 2])

    def settings(self, **more: Any) -> MqttSettings:
        return MqttSettings(host="127.0.0.1", port=self.port, **{"topics": {"train/+/temperature": ""}, **more})

    def close(self) -> None:
        self._listener.close()
        self._thread.join(DEADLINE_S)


# -- payloads -------------------------------------------------------------------------------------


def message(topic: str | bytes, payload: bytes) -> paho.MQTTMessage:
    one = paho.MQTTMessage(1, topic.encode() if isinstance(topic, str) else topic)
    one.payload = payload
    return one


def read(payload: bytes, topic: str | bytes = "t/axle3", **topics: str) -> Item:
    (item,) = Payloads(MqttSettings(topics=topics or {"t/+": ""}), "elsewhere").read(message(topic, payload))
    return item


@pytest.mark.parametrize(
    "line",
    [
        b'{"time":"2026-03-01T10:00:00Z","sensor":"a","value":42.5}',
        b'{"time":"2026-03-01T10:00:00","sensor":"a","value":null}',
        b' {"time":"2026-03-01T10:00:00+02:00","sensor":"a","value":-3,"unit":"C"}\r\n',
        b'{"time":"2026-03-01T10:00:00Z","sensor":"a","replaced":true}',
        b'{"time":"2026-03-01T10:00:00Z","sensor":"a","replaced":true,"value":1}',
        b'{"time":"2026-03-01T10:00:00Z","sensor":"a"}',
        b'{"time":"yesterday","sensor":"a","value":1}',
        b'{"time":1772359200,"sensor":"a","value":1}',
        b'{"time":"2026-03-01T10:00:00Z","sensor":"a","value":"hot"}',
        b'{"time":"2026-03-01T10:00:00Z","sensor":"a\\u0007","value":1}',
        b'{"time":"2026-03-01T10:00:00Z","sensor":7,"value":1}',
    ],
)
def test_json_says_what_it_says_in_a_file_of_json_lines(line: bytes) -> None:
    (expected,) = LineReader("elsewhere").read([line])
    found = read(line)
    assert type(found) is type(expected)
    if not isinstance(expected, BadLine):
        assert repr(found) == repr(expected).replace("line=1", "line=0")  # repr: NaN is not equal to itself


@pytest.mark.parametrize("payload", [b'{"value": 61.5}', b'{"value": 61.5, "time": null}', b"61.5", b" 6.15e1\n"])
def test_without_a_time_it_is_the_boxs_clock(payload: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_module, "time", lambda: parse_time("2026-03-01T10:00:00.25Z"))
    assert read(payload) == Reading(parse_time("2026-03-01T10:00:00.25Z"), "axle3", 61.5)


def test_a_mark_of_a_replaced_sensor_is_read() -> None:
    assert isinstance(read(b'{"sensor":"a","replaced":true}'), Replaced)


@pytest.mark.parametrize(
    ("topics", "topic", "own", "expected"),
    [
        ({"a/#": "fixed"}, "a/b", None, "fixed"),
        ({"a/#": "fixed"}, "a/b", "own", "fixed"),
        ({"a/+/c": ""}, "a/b/c", "own", "own"),
        ({"a/+/c": ""}, "a/b/c", None, "b"),
        ({"+/#": ""}, "a/b/c", None, "a"),
        ({"+/+/c": ""}, "a/b/c", None, "elsewhere"),
        ({"a/#": ""}, "a/b/c", None, "elsewhere"),
        ({"a/b": "first", "a/#": "second"}, "a/b", None, "first"),
    ],
)
def test_whose_reading_it_is(topics: dict[str, str], topic: str, own: str | None, expected: str) -> None:
    payload = json.dumps({"value": 1, "sensor": own}).encode()
    found = read(payload, topic, **topics)
    assert isinstance(found, Reading) and found.sensor == expected
    if own is None:
        bare = read(b"1", topic, **topics)
        assert isinstance(bare, Reading) and bare.sensor == expected


GARBAGE = [
    b"",
    b"hot",
    b"1_0",
    b"12,5",
    b"2026-03-01T10:00:00Z,42",
    b"\xff\xfe",
    b"{",
    b"{}",
    b'{"value":1}{"value":2}',
    b'{"value":1e999}',
    b'[{"value":1}]',
    b"[" * 4000,
    b'{"a":' + b"[" * 4000,
    b"1" * (MAX_LINE_BYTES + 1),
    b'{"value":1,"x":"' + b"x" * MAX_LINE_BYTES + b'"}',
]


@pytest.mark.parametrize("payload", GARBAGE)
def test_garbage_is_a_bad_line_with_a_reason(payload: bytes) -> None:
    found = read(payload)
    assert isinstance(found, BadLine)
    assert found.line == 0
    assert 0 < len(found.reason) < 200


@pytest.mark.parametrize("topic", ["t/", f"t/{'x' * 65}", "t/a\tb", b"t/\xff"])
def test_a_topic_that_names_no_sensor_is_a_bad_line(topic: str | bytes) -> None:
    assert isinstance(read(b"1", topic), BadLine)


def test_events_of_its_own_and_topics_of_others_are_no_readings() -> None:
    payloads = Payloads(MqttSettings(topics={"axlebox/#": ""}), "elsewhere")
    assert payloads.read(message("axlebox/events/reading", b'{"value":1}')) == []
    assert payloads.read(message("an/earlier/subscription", b"1")) == []
    assert len(payloads.read(message("axlebox/bearing", b"1"))) == 1


@pytest.mark.parametrize("text", ["", "a+", "a/#/b", "a#", "a/+b/c", "a\0b", "$share/g/t", "x" * 65_536])
def test_what_is_no_topic_filter_is_a_usage_error(text: str, signals: Signals) -> None:
    with pytest.raises(UsageError, match="is not a topic filter"):
        MqttSource(MqttSettings(topics={text: ""}), "elsewhere", signals)


@pytest.mark.parametrize("text", ["#", "+", "a", "/", "a/+/#", "+/a", "$SYS/#", "a b/ü"])
def test_what_is_a_topic_filter_is_taken(text: str) -> None:
    assert check_filter(text) == text


# -- the source -----------------------------------------------------------------------------------


def test_readings_come_in_and_retained_ones_are_skipped(
    broker: Broker, opened: Callable[[MqttSettings], MqttSource], peers: Callable[..., Peer]
) -> None:
    peer = peers(broker)
    peer.publish("train/axle1/temperature", "99", retain=True)
    source = opened(broker.settings())
    assert connected(source) == []
    peer.publish("train/axle1/temperature", "42.5")
    peer.publish("train/axle2/temperature", '{"time":"2026-03-01T10:00:00Z","value":43}')
    items = run_until(source, lambda items: len(items) >= 2)
    assert [(one.sensor, one.value) for one in items if isinstance(one, Reading)] == [("axle1", 42.5), ("axle2", 43.0)]
    assert source.health.error is None and source.health.reconnects == 0


def test_garbage_is_counted_and_what_follows_is_read(
    broker: Broker, opened: Callable[[MqttSettings], MqttSource], peers: Callable[..., Peer]
) -> None:
    source, peer = opened(broker.settings()), peers(broker)
    connected(source)
    for payload in GARBAGE:
        peer.publish("train/axle1/temperature", payload)
    peer.publish("train/axle1/temperature", "42.5")
    items = run_until(source, lambda items: any(isinstance(one, Reading) for one in items))
    assert [type(one) for one in items] == [BadLine] * len(GARBAGE) + [Reading]


def test_what_came_while_the_box_was_away_is_read_later(
    broker: Broker, opened: Callable[[MqttSettings], MqttSource], peers: Callable[..., Peer]
) -> None:
    source, peer = opened(broker.settings()), peers(broker)
    connected(source)
    source.close()
    for value in ("1", "2", "3"):
        peer.publish("train/axle1/temperature", value)
    items = run_until(opened(broker.settings()), lambda items: len(items) >= 3)
    assert [one.value for one in items if isinstance(one, Reading)] == [1.0, 2.0, 3.0]


def test_after_a_restart_of_the_broker_its_session_goes_on(
    broker: Broker, opened: Callable[[MqttSettings], MqttSource], peers: Callable[..., Peer]
) -> None:
    """What is published before the source is back is not lost."""
    source = opened(broker.settings())
    connected(source)
    broker.stop()
    run_until(source, lambda _: not source.health.connected)
    assert source.health.error is not None
    run_until(source, lambda _: "Connection refused" in str(source.health.error))
    broker.start()
    peers(broker).publish("train/axle1/temperature", "7")
    items = run_until(source, lambda items: items and source.health.connected)
    assert [one.value for one in items if isinstance(one, Reading)] == [7.0]
    assert source.health.reconnects == 1 and source.health.error is None


def test_after_a_crash_of_the_broker_the_subscriptions_are_renewed(
    broker: Broker, opened: Callable[[MqttSettings], MqttSource], peers: Callable[..., Peer]
) -> None:
    source = opened(broker.settings())
    connected(source)
    broker.stop(signal.SIGKILL)
    (broker.folder / "mosquitto.db").unlink(missing_ok=True)
    run_until(source, lambda _: not source.health.connected)
    broker.start()
    connected(source)
    peers(broker).publish("train/axle1/temperature", "8")
    assert len(run_until(source, lambda items: items)) == 1


def test_a_broker_that_is_not_there_yet_is_waited_for(
    stopped_broker: Broker, opened: Callable[[MqttSettings], MqttSource]
) -> None:
    source = opened(stopped_broker.settings())
    run_until(source, lambda _: source.health.error)
    assert source.health.error == f"127.0.0.1:{stopped_broker.port}: Connection refused"
    stopped_broker.start()
    connected(source)
    assert source.health.reconnects == 0


@pytest.mark.parametrize(("codes", "is_connected"), [((1, 0x80), True), ((0x80, 0x80), False)])
def test_a_refused_subscription_is_said(
    codes: Sequence[int], is_connected: bool, opened: Callable[[MqttSettings], MqttSource]
) -> None:
    def refuse(script: Script) -> None:
        script.accept()
        _, body = script.packet()
        script.send(0x90, 2 + len(codes), *body[:2], *codes)
        script.packet()

    script = Script(refuse)
    source = opened(script.settings(topics={"a/#": "", "b/#": ""}))
    run_until(source, lambda _: source.health.error)
    assert source.health.connected is is_connected
    assert str(source.health.error).endswith(f"refuses the subscription to {'b/#' if is_connected else 'a/#, b/#'}")


def test_a_refused_version_of_mqtt_does_not_end_the_source(
    stopped_broker: Broker, opened: Callable[[MqttSettings], MqttSource]
) -> None:
    """paho then connects anew amid its reading, where it would let an OSError end its thread."""

    def refuse(script: Script) -> None:
        script.packet()
        script._listener.close()
        script.send(0x20, 2, 0, 1)

    script = Script(refuse)
    source = opened(script.settings())
    run_until(source, lambda _: "Connection refused" in str(source.health.error))
    stopped_broker.port = script.port
    stopped_broker.start()
    connected(source)


def test_a_mistake_in_a_callback_reaches_the_daemon(
    broker: Broker,
    opened: Callable[[MqttSettings], MqttSource],
    peers: Callable[..., Peer],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def mistake(*_: object) -> list[Item]:
        raise OSError("a mistake")

    monkeypatch.setattr(Payloads, "read", mistake)
    source = opened(broker.settings())
    connected(source)
    peers(broker).publish("train/axle1/temperature", "1")
    with pytest.raises(OSError, match="a mistake"):
        run_until(source, lambda _: False)


@pytest.mark.parametrize("is_up", [True, False])
def test_close_ends_the_thread(
    is_up: bool, stopped_broker: Broker, opened: Callable[[MqttSettings], MqttSource]
) -> None:
    if is_up:
        stopped_broker.start()
    source = opened(stopped_broker.settings())
    before = threading.active_count()
    run_until(source, lambda _: source.health.connected if is_up else source.health.error)
    assert threading.active_count() == before + 1
    source.close()
    wait_until(lambda: threading.active_count() == before, "the thread ends")
    assert source._inbox.failure is None


def test_a_source_that_was_never_asked_for_any_closes_at_once(
    opened: Callable[[MqttSettings], MqttSource],
) -> None:
    since = time.monotonic()
    opened(MqttSettings(topics={"#": ""})).close()
    assert time.monotonic() - since < 1.0


# -- users and certificates -----------------------------------------------------------------------


@pytest.fixture
def guarded(stopped_broker: Broker) -> Broker:
    """Knows one user and its password."""
    passwords = stopped_broker.folder / "passwords"
    subprocess.run(["mosquitto_passwd", "-b", "-c", passwords, "t204", SECRET], check=True, capture_output=True)
    stopped_broker.lines = ("allow_anonymous false", f"password_file {passwords}")
    stopped_broker.start()
    return stopped_broker


def secret(folder: Path, text: str) -> str:
    path = folder / "mqtt-password"
    path.write_text(text)
    return str(path)


def test_the_password_is_the_first_line_of_its_file(
    guarded: Broker, opened: Callable[[MqttSettings], MqttSource], tmp_path: Path
) -> None:
    path = secret(tmp_path, f"{SECRET}\r\na remark\n")
    connected(opened(guarded.settings(username="t204", password_file=path)))


def test_a_wrong_password_is_said_and_tried_again(
    guarded: Broker, opened: Callable[[MqttSettings], MqttSource], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    wrong = f"{SECRET}-of-last-year"
    settings = guarded.settings(username="t204", password_file=secret(tmp_path, wrong))
    log = guarded.folder / "mosquitto.log"
    source = opened(settings)
    run_until(source, lambda _: log.read_text().count("not authorised") >= 2)
    assert source.health.error == (
        f"127.0.0.1:{guarded.port} refuses: Not authorized. DO: check mqtt.username and mqtt.password_file"
    )
    with pytest.raises(AxleboxError, match=r"^sink mqtt: .* refuses: Not authorized\. DO: check") as caught:
        MqttSink(settings).write([event(1)])
    told = f"{source.health} {''.join(traceback.format_exception(caught.value))}"
    assert wrong not in told + str(capfd.readouterr())


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (None, "No such file"),
        (b"", "is empty"),
        (b"\n" + SECRET.encode(), "is empty"),
        (SECRET.encode() + b"\xff", "not text"),
        (SECRET.encode() * 1000, "larger than"),
    ],
)
def test_a_password_file_of_no_use_is_a_usage_error_without_the_secret(
    content: bytes | None, found: str, signals: Signals, tmp_path: Path
) -> None:
    path = tmp_path / "mqtt-password"
    if content is not None:
        path.write_bytes(content)
    settings = MqttSettings(topics={"#": ""}, username="t204", password_file=str(path))
    for make in (lambda: MqttSource(settings, "elsewhere", signals), lambda: MqttSink(settings)):
        with pytest.raises(UsageError, match=found) as caught:
            make()
        assert str(path) in str(caught.value) and SECRET not in str(caught.value)
        assert not isinstance(caught.value.__cause__, UnicodeError)  # has the file's bytes


@pytest.mark.parametrize("host", ["", "a..b", "x" * 64])
def test_what_is_no_host_is_a_usage_error(host: str) -> None:
    with pytest.raises(UsageError, match="is not the name of a host"):
        MqttSink(MqttSettings(host=host))


class Authority:
    """A self-made certificate authority."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, folder.name)])
        self.file = self._write("ca.pem", self._sign(self.name, self.key, x509.BasicConstraints(True, None)))

    def _sign(self, name: x509.Name, key: ec.EllipticCurvePrivateKey, extension: x509.ExtensionType) -> bytes:
        now = datetime.datetime.now(datetime.UTC)
        builder = x509.CertificateBuilder(self.name, name, key.public_key(), x509.random_serial_number())
        builder = builder.not_valid_before(now - datetime.timedelta(days=1))
        builder = builder.not_valid_after(now + datetime.timedelta(days=1)).add_extension(extension, critical=True)
        return builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def _write(self, name: str, data: bytes) -> str:
        (self.folder / name).write_bytes(data)
        return str(self.folder / name)

    def issue(self, name: str, lock: serialization.KeySerializationEncryption | None = None) -> tuple[str, str]:
        """Files of a certificate for 127.0.0.1, and of its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        common = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        loopback = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        private = key.private_bytes(pem, pkcs8, lock or serialization.NoEncryption())
        return self._write(f"{name}.pem", self._sign(common, key, loopback)), self._write(f"{name}.key", private)


def test_over_tls_both_sides_are_checked(
    stopped_broker: Broker,
    opened: Callable[[MqttSettings], MqttSource],
    tmp_path: Path,
) -> None:
    good, other = Authority(tmp_path / "good"), Authority(tmp_path / "other")
    certificate, key = good.issue("broker")
    stopped_broker.lines = (
        "allow_anonymous true",
        f"cafile {good.file}",
        f"certfile {certificate}",
        f"keyfile {key}",
        "require_certificate true",
    )
    stopped_broker.start()
    own = dict(zip(("cert_file", "key_file"), good.issue("box"), strict=True))
    connected(opened(stopped_broker.settings(ca_file=good.file, **own)))
    MqttSink(stopped_broker.settings(ca_file=good.file, **own)).write([event(1)])
    source = opened(stopped_broker.settings(ca_file=other.file, **own))
    run_until(source, lambda _: source.health.error)
    assert "certificate verify failed" in str(source.health.error)
    with pytest.raises(AxleboxError, match=r"^sink mqtt: "):
        MqttSink(stopped_broker.settings(ca_file=good.file)).write([event(1)])


def test_certificates_of_no_use_are_usage_errors(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "good")
    certificate, key = authority.issue("locked", serialization.BestAvailableEncryption(SECRET.encode()))
    for settings, words in (
        (MqttSettings(ca_file=str(tmp_path / "none")), "mqtt.ca_file: .*none: No such file"),
        (MqttSettings(ca_file=key), "mqtt.ca_file: .*locked.key: "),
        (MqttSettings(ca_file=authority.file, cert_file=certificate, key_file=key), "mqtt.key_file: .*locked.key: "),
    ):
        with pytest.raises(UsageError, match=words):
            MqttSink(settings)


# -- the sink -------------------------------------------------------------------------------------


@pytest.mark.parametrize("qos", [0, 1])
def test_each_event_goes_to_the_topic_of_its_type(qos: int, broker: Broker, peers: Callable[..., Peer]) -> None:
    peer = peers(broker, topic="trains/t204/#")
    sink = MqttSink(broker.settings(events_topic="trains/t204", qos=qos))
    kinds = ["anomaly", "limit", "sensor", "drift", "health"]
    sink.write([*(event(number, kind) for number, kind in enumerate(kinds)), Message(b'{"sensor":"a","value":1}')])
    sink.write([event(5)])
    wait_until(lambda: len(peer.seen) == 7, "seven messages")
    sink.close()
    assert peer.seen == [
        *((f"trains/t204/{kind}", event(number, kind).body, qos, False) for number, kind in enumerate(kinds)),
        ("trains/t204/reading", b'{"sensor":"a","value":1}', qos, False),
        ("trains/t204/anomaly", event(5).body, qos, False),
    ]


def test_a_program_of_others_reads_the_events(broker: Broker) -> None:
    program = shutil.which("mosquitto_sub")
    if program is None:
        pytest.skip("mosquitto_sub is not installed")
    words = [program, "-h", "127.0.0.1", "-p", str(broker.port), "-t", "axlebox/events/#", "-v", "-C", "1"]
    log = broker.folder / "mosquitto.log"
    with subprocess.Popen([*words, "-i", "reader", "-W", str(DEADLINE_S)], stdout=subprocess.PIPE) as reader:
        wait_until(lambda: "Sending SUBACK to reader" in log.read_text(), "it has subscribed")
        MqttSink(broker.settings()).write([event(1)])
        output, _ = reader.communicate()
    assert output == b"axlebox/events/anomaly " + event(1).body + b"\n"


def test_more_than_paho_may_hold_at_once_arrives_whole_and_in_order(broker: Broker, peers: Callable[..., Peer]) -> None:
    peer = peers(broker, topic="axlebox/#")
    MqttSink(broker.settings()).write([event(number) for number in range(750)])
    wait_until(lambda: len(peer.seen) >= 750, "all messages")
    assert ids(peer) == list(range(750))


def test_what_comes_while_the_broker_is_away_is_delivered_after(broker: Broker, peers: Callable[..., Peer]) -> None:
    peer = peers(broker, topic="axlebox/#")
    said: list[str] = []
    outlet = Outlet(MqttSink(broker.settings()), said.append)
    outlet.put([event(0)])
    wait_until(lambda: outlet.written == 1, "the first event is written")
    broker.stop()
    for number in range(1, 6):
        outlet.put([event(number)])
    wait_until(lambda: outlet.error, "the outlet sees that the broker is away")
    assert said == [f"sink mqtt: 127.0.0.1:{broker.port}: Connection refused; scoring goes on"]
    broker.start()
    wait_until(lambda: outlet.written == 6, "all are written")
    wait_until(lambda: len(peer.seen) >= 6, "all are seen")
    outlet.close()
    assert ids(peer) == [0, 1, 2, 3, 4, 5]
    assert said[1:] == ["sink mqtt: works again"]
    assert outlet.dropped == 0


def test_after_a_restart_of_the_broker_between_two_events_nobody_is_troubled(
    broker: Broker, peers: Callable[..., Peer]
) -> None:
    peer = peers(broker, topic="axlebox/#")
    sink = MqttSink(broker.settings())
    sink.write([event(0)])
    connection = sink._connection
    assert connection is not None
    broker.stop()
    broker.start()
    wait_until(lambda: connection.lost, "the sink sees it")
    sink.write([event(1)])
    wait_until(lambda: len(peer.seen) >= 2, "both are seen")
    sink.close()
    assert ids(peer) == [0, 1]


def test_a_broker_that_acknowledges_no_more_leaves_the_rest_to_the_outlet(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it has acknowledged before is not sent again."""
    monkeypatch.setattr(sink_module, "_ANSWER_S", 0.5)
    script = Script(lambda script: script.take(120), lambda script: script.take(1000))
    sink = MqttSink(script.settings())
    batch = [event(number) for number in range(250)]
    with pytest.raises(AxleboxError, match=r"^sink mqtt: 127\.0\.0\.1:\d+: no answer for 0\.5 s$"):
        sink.write(batch)
    sink.write(list(batch))
    sink.write([event(250)])
    sink.close()
    script.close()
    assert [len(bodies) for bodies in script.bodies] == [200, 131]
    assert script.kinds == {0x32}  # QoS 1, not retained, never sent again by paho itself
    assert script.bodies[1] == [event(number).body for number in range(120, 251)]


def test_a_connection_that_is_lost_amid_a_batch_is_an_error_at_once() -> None:
    def hang_up(script: Script) -> None:
        script.accept()
        script.packet()

    script = Script(hang_up)
    since = time.monotonic()
    with pytest.raises(AxleboxError, match=r"^sink mqtt: .*connection lost"):
        MqttSink(script.settings()).write([event(1)])
    assert time.monotonic() - since < 5.0


def test_a_failed_write_leaves_no_thread_behind(stopped_broker: Broker) -> None:
    sink = MqttSink(stopped_broker.settings())
    before = threading.active_count()
    for _ in range(3):
        with pytest.raises(AxleboxError, match="Connection refused"):
            sink.write([event(1)])
    assert threading.active_count() == before


# -- the document ---------------------------------------------------------------------------------


def test_the_documents_example_is_a_configuration(signals: Signals, tmp_path: Path) -> None:
    example = PAGE.read_text().partition("```toml\n")[2].partition("```")[0]
    assert "/etc/axlebox/" in example
    path = tmp_path / "config.toml"
    authority = Authority(tmp_path / "ca")
    (tmp_path / "ca/mqtt-password").write_text(SECRET)
    shutil.copy(authority.file, tmp_path / "ca/broker-ca.pem")
    path.write_text(example.replace("/etc/axlebox/", f"{tmp_path}/ca/"))
    config = load_config(tmp_path, path)
    source = open_source(config, "elsewhere", signals)
    source.close()
    assert [type(sink) for sink in open_sinks(config)][-1] is MqttSink
