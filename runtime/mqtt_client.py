"""What the source and the sink `mqtt:` share: a client of paho's, set up by the configuration.

MQTT 3.1.1, https://docs.oasis-open.org/mqtt/mqtt/v3.1.1/mqtt-v3.1.1.html, which every broker speaks.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable
from pathlib import Path

from paho.mqtt.client import Client as PahoClient
from paho.mqtt.client import MQTTv311
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.reasoncodes import ReasonCode

from axlebox.firmware_bundle import disk
from axlebox.firmware_bundle.errors import AxleboxError, UsageError
from axlebox.runtime.config import MqttSettings

_KEEPALIVE_S = 30
_FIRST_WAIT_S, _LONGEST_WAIT_S = 1, 30
"""Between two tries to connect: doubled from the one to the other."""
_STOP_S = 2.0
"""So long `stop` waits for the thread, which a resolver or an unreachable broker may hold up for longer."""
_MAX_PASSWORD_BYTES = 4096
_REFUSES_THE_USER = ("Bad user name or password", "Not authorized")


class Client(PahoClient):
    """paho's client with its thread, which ends only when it was asked to, or tells why."""

    def __init__(
        self,
        settings: MqttSettings,
        role: str,
        on_no_connection: Callable[[str], None],
        on_end: Callable[[Exception | None], None],
        lasting: bool,
    ) -> None:
        """`role` is added to the client id: a broker throws out the older of two clients with the same id.

        A `lasting` client connects again and again, and the broker keeps its session. `on_no_connection` gets the
        reason of each failed try, `on_end` the mistake that ended the thread. Raises UsageError.
        """
        super().__init__(
            CallbackAPIVersion.VERSION2,
            client_id=f"{settings.client_id}-{role}",
            clean_session=not lasting,
            protocol=MQTTv311,
            reconnect_on_failure=lasting,
        )
        self.place = f"{settings.host}:{settings.port}"
        self._on_no_connection = on_no_connection
        self._on_end = on_end
        self._stopping = False
        self._thread_ended = threading.Event()
        self._thread_ended.set()
        if settings.username is not None:
            self.username_pw_set(settings.username, _password(settings.password_file))
        if settings.ca_file is not None:
            self.tls_set_context(_tls(settings.ca_file, settings.cert_file, settings.key_file))
        self.reconnect_delay_set(_FIRST_WAIT_S, _LONGEST_WAIT_S)
        self._address = (_host(settings.host), settings.port)

    def start(self) -> None:
        """Connect, in a thread of its own; once."""
        self._thread_ended.clear()
        self.connect_async(*self._address, keepalive=_KEEPALIVE_S)
        self.loop_start()

    def stop(self) -> bool:
        """Disconnect; whether the thread has ended, after which no callback comes any more."""
        self._stopping = True
        self.disconnect()
        return self._thread_ended.wait(_STOP_S)

    def reconnect(self) -> MQTTErrorCode:
        """As paho's, which calls it for each try, but a failure is an error code.

        An OSError of the second try with an older MQTT, which paho makes amid reading, would end its thread.
        """
        try:
            return super().reconnect()
        except OSError as error:
            self._on_no_connection(f"{self.place}: {error.strerror or error}")
            return MQTTErrorCode.MQTT_ERR_NO_CONN
        finally:
            if self._stopping:  # asked for amid this try, which has put another state over it
                self.disconnect()

    def loop_forever(self, timeout: float = 1.0, retry_first_connection: bool = False) -> MQTTErrorCode:
        """The thread's whole life. A callback's mistake comes out here, since paho suppresses none by default."""
        failure: Exception | None = None
        try:
            return super().loop_forever(timeout, retry_first_connection)
        except Exception as error:
            failure = error
            return MQTTErrorCode.MQTT_ERR_UNKNOWN
        finally:
            self._on_end(failure)
            self._thread_ended.set()

    def refusal(self, reason: ReasonCode) -> str:
        """Words for a connection that the broker refuses."""
        hint = ". DO: check mqtt.username and mqtt.password_file" if str(reason) in _REFUSES_THE_USER else ""
        return f"{self.place} refuses: {reason}{hint}"


def _host(name: str) -> str:
    try:
        if name.encode("idna"):
            return name
    except UnicodeError:
        pass
    raise UsageError(f"mqtt.host = {name!r} is not the name of a host")


def _password(path: str | None) -> str | None:
    """The first line of the file. No error has a word of what stands there."""
    if path is None:
        return None
    try:
        line = disk.read_bounded(Path(path), _MAX_PASSWORD_BYTES).partition(b"\n")[0].removesuffix(b"\r")
        text = line.decode()
    except AxleboxError as error:
        raise UsageError(f"mqtt.password_file: {error}") from error
    except UnicodeDecodeError:
        raise UsageError(f"mqtt.password_file: {path} is not text (UTF-8)") from None
    if not text:
        raise UsageError(f"mqtt.password_file: the first line of {path} is empty, expected the password")
    return text


def _tls(ca_file: str, cert_file: str | None, key_file: str | None) -> ssl.SSLContext:
    """Checks the broker's certificate and its name against these authorities alone."""
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise UsageError(f"mqtt.ca_file: {ca_file}: {error.strerror}") from error
    if cert_file is not None:
        try:
            # Without a password OpenSSL would ask for the one of an encrypted key on the terminal.
            context.load_cert_chain(cert_file, key_file, password="")
        except OSError as error:
            raise UsageError(
                f"mqtt.cert_file, mqtt.key_file: {cert_file}, {key_file}: {error.strerror or 'the key is encrypted'}"
            ) from error
    return context
