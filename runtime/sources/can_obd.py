"""OBD-II over CAN: the question for a temperature, and its answers.

PIDs and their scaling: SAE J1979, service 01. Addresses (0x7DF; 0x7E8 to 0x7EF) and single frames: ISO 15765-4.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import can

from axlebox.firmware_bundle.errors import UsageError
from axlebox.runtime.sources.base import Health

REQUEST_ID = 0x7DF
"""To every unit that knows OBD-II."""
FIRST_ANSWER_ID, ANSWER_MASK = 0x7E8, 0x7F8
BETWEEN_QUESTIONS_S = 0.05
"""A unit has so long to answer (P2 of ISO 15765-4), and need not heed another question before."""

_SERVICE, _ANSWER, _NEGATIVE = 0x01, 0x41, 0x7F
_PENDING = 0x78
"""Of negative answers the one that says: the real one comes later."""
_FRAME_BYTES = 8


@dataclass(frozen=True, slots=True)
class Temperature:
    """One PID whose value is a temperature in C."""

    name: str
    size: int = 1
    """Bytes: one is A - 40, two are (256 A + B) / 10 - 40."""

    def value(self, data: bytes) -> float:
        return data[0] - 40.0 if self.size == 1 else int.from_bytes(data[:2], "big") / 10 - 40.0


TEMPERATURES = {
    0x05: Temperature("coolant"),
    0x0F: Temperature("intake air"),
    0x3C: Temperature("catalyst, bank 1 sensor 1", 2),
    0x3D: Temperature("catalyst, bank 2 sensor 1", 2),
    0x3E: Temperature("catalyst, bank 1 sensor 2", 2),
    0x3F: Temperature("catalyst, bank 2 sensor 2", 2),
    0x46: Temperature("ambient air"),
    0x5C: Temperature("engine oil"),
}


def question(pid: int) -> can.Message:
    data = bytes([2, _SERVICE, pid]).ljust(_FRAME_BYTES, b"\0")
    return can.Message(arbitration_id=REQUEST_ID, is_extended_id=False, data=data)


class Answers:
    """What units answer to the questions for some PIDs."""

    def __init__(self, pids: Mapping[str, int], health: Health) -> None:
        """`pids`: by sensor id. Raises UsageError."""
        self._health = health
        self._sensors: dict[int, list[str]] = {}
        for sensor, pid in pids.items():
            if pid not in TEMPERATURES:
                known = ", ".join(f"{number} ({one.name})" for number, one in TEMPERATURES.items())
                raise UsageError(f"can.obd_pids.{sensor} = {pid} is no temperature that is known; known are {known}")
            self._sensors.setdefault(pid, []).append(sensor)

    def read(self, frame: can.Message) -> list[tuple[str, float]]:
        """Sensors and values in C of one frame. Raises ValueError for an answer that is cut short.

        A negative answer is a reading lost.
        """
        data = bytes(frame.data)
        if not self._sensors or not self._is_answer(frame) or len(data) < 4 or data[0] >> 4:
            return []
        service, pid = data[1:3]
        if service == _NEGATIVE:
            self._health.lost += pid == _SERVICE and data[3] != _PENDING
        if service != _ANSWER or pid not in self._sensors:
            return []
        temperature, values = TEMPERATURES[pid], data[3 : 1 + data[0]]
        if len(values) < temperature.size:
            raise ValueError(f"OBD-II PID {pid}: {len(values)} bytes of value, expected {temperature.size}")
        return [(sensor, temperature.value(values)) for sensor in self._sensors[pid]]

    @staticmethod
    def _is_answer(frame: can.Message) -> bool:
        return not frame.is_extended_id and frame.arbitration_id & ANSWER_MASK == FIRST_ANSWER_ID
