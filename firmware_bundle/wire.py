"""Protobuf messages of a sender who is not trusted, read by a caller who knows which field comes next.

The caller asks for one field after the other; anything else at that place is refused, so an unknown
field, another order, a second copy and bytes after the end cannot occur in an accepted message. A
number must be in its shortest spelling. What was accepted is therefore the only spelling of its content.
https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NoReturn

from axlebox.firmware_bundle.errors import Malformed

_VARINT, _BYTES = 0, 2  # wire types

# Four bytes of seven bits: no length, index or code of ours needs more, and a negative number takes ten.
_NUMBER = rb"(?:[\x00-\x7f]|[\x80-\xff]{1,3}[\x01-\x7f])"
_SPELLING = "numbers below 2**28, each in its shortest spelling"
_ONE_NUMBER = re.compile(_NUMBER)
_TEXT = re.compile(rb"[ -~]{0,64}")


def refuse(where: str, found: str, allowed: str) -> NoReturn:
    """Raise Malformed in the one form that all refusals of a model have."""
    raise Malformed(f"{where}: {found}; allowed: {allowed}")


class Message:
    """One message, read from its beginning to its end. Every method raises Malformed where it cannot.

    >>> from axlebox.firmware_bundle.wire import Message
    >>> message = Message(memoryview(bytes([0x08, 0x0A, 0x12, 0x01, 0x58])), "port")
    >>> message.number(1, "version"), message.text(2, "name"), message.end()
    (10, 'X', None)
    """

    __slots__ = ("_at", "_data", "where")

    def __init__(self, data: memoryview, where: str) -> None:
        self._data = data
        self._at = 0
        self.where = where
        """How refusals name this message."""

    def number(self, field: int, name: str, only: int | None = None) -> int:
        """A number field, 0 to 2**28 - 1; equal to `only` where that is given."""
        self._take_tag(field, _VARINT, name)
        found = self._varint()
        if only is not None:
            self.expect(name, found, only)
        return found

    def text(self, field: int, name: str, only: str | None = None) -> str:
        """A string field of at most 64 printable ASCII characters; equal to `only` where that is given."""
        raw = self.data(field, name)
        if not _TEXT.fullmatch(raw):
            refuse(self.where, f"{name} of {len(raw)} bytes", "at most 64 printable ASCII characters")
        found = str(raw, "ascii")
        if only is not None:
            self.expect(name, found, only)
        return found

    def texts(self, field: int, name: str, at_most: int) -> tuple[str, ...]:
        """The strings of a repeated field (below 16): none to `at_most`. More are left for the next call to refuse."""
        found: list[str] = []
        while len(found) < at_most and self._next_is(field, _BYTES):
            found.append(self.text(field, name))
        return tuple(found)

    def data(self, field: int, name: str) -> memoryview:
        """The bytes of a length-delimited field, not copied."""
        self._take_tag(field, _BYTES, name)
        length = self._varint()
        left = len(self._data) - self._at
        if length > left:
            refuse(self.where, f"{name} of {length} bytes", f"the {left} bytes that are left")
        self._at += length
        return self._data[self._at - length : self._at]

    def message(self, field: int, name: str) -> Message:
        """A message inside this one."""
        return Message(self.data(field, name), f"{self.where}, {name}")

    def numbers(self, field: int, name: str, at_most: int) -> Sequence[int]:
        """The numbers of a repeated field (below 16) that is not packed: 1 to `at_most`, a tag before each.

        A forest has ten thousands of them, so regular expressions do the work. The possessive
        repetition keeps no way back and therefore needs no memory.
        """
        one = re.escape(bytes((field << 3 | _VARINT,)))
        run = re.compile(b"(?:%b%b){1,%d}+" % (one, _NUMBER, at_most)).match(self._data, self._at)
        if run is None:
            self._take_tag(field, _VARINT, name)
            refuse(self.where, f"no number after the tag of {name}", _SPELLING)
        self._at = run.end()
        if self._next_is(field, _VARINT):
            refuse(self.where, f"one more of {name}, or another spelling", f"at most {at_most} {_SPELLING}")
        # A longer number has its high bit set in the first byte after its tag. Where every second
        # byte of the run is without it, these bytes are the numbers.
        singles = run[0][1::2]
        return singles if singles.isascii() else _values(re.findall(one + b"(%b)" % _NUMBER, run[0]))

    def end(self) -> None:
        """Nothing may follow."""
        if self._at < len(self._data):
            refuse(self.where, self._describe_tag(self._varint()), "nothing more")

    def expect(self, name: str, found: object, allowed: object) -> None:
        """Refuse what differs from the only thing allowed."""
        if found != allowed:
            refuse(self.where, f"{name} {found!r}", repr(allowed))

    def _take_tag(self, field: int, wire_type: int, name: str) -> None:
        allowed = f"{name} (field {field})"
        if self._at == len(self._data):
            refuse(self.where, "the end", allowed)
        tag = self._varint()
        if tag != field << 3 | wire_type:
            refuse(self.where, self._describe_tag(tag), allowed)

    def _next_is(self, field: int, wire_type: int) -> bool:
        return self._data[self._at : self._at + 1] == bytes((field << 3 | wire_type,))

    @staticmethod
    def _describe_tag(tag: int) -> str:
        return f"field {tag >> 3} of wire type {tag & 7}"

    def _varint(self) -> int:
        spelled = _ONE_NUMBER.match(self._data, self._at)
        if spelled is None:
            refuse(self.where, f"no number at byte {self._at}", _SPELLING)
        self._at = spelled.end()
        return _values([spelled[0]])[0]


def _values(spelled: list[bytes]) -> list[int]:
    """What varints stand for: seven bits a byte, the lowest first."""
    return [
        (raw := int.from_bytes(one, "little")) & 0x7F | raw >> 1 & 0x3F80 | raw >> 2 & 0x1FC000 | raw >> 3 & 0xFE00000
        for one in spelled
    ]
