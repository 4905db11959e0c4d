"""The container of a bundle: a tar file with exactly one way to write each content.

Any `tar` lists it. The reader rebuilds every 512-byte header from (name, size) and compares
bytes, so links, devices, folders, other owners, pax or sparse entries, a second spelling of a
number and data after the end cannot occur in an accepted file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from axlebox.firmware_bundle.errors import Damaged, Malformed

BLOCK = 512
MAX_MEMBERS = 64
MAX_CONTAINER_BYTES = 64 * 1024 * 1024
_END = bytes(2 * BLOCK)
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,98}")


def _header(name: str, size: int) -> bytes:
    """POSIX ustar header (IEEE Std 1003.1-1988) of a regular file, mode 0644, owner 0, time 0."""
    fields = b"".join(
        (
            name.encode("ascii").ljust(100, b"\0"),
            b"0000644\0" + b"0000000\0" + b"0000000\0",  # mode, uid, gid
            b"%011o\0" % size,
            b"00000000000\0",  # mtime
            b" " * 8,  # the checksum counts as spaces while it is computed
            b"0",  # regular file
            bytes(100),  # link name
            b"ustar\x0000",
        )
    ).ljust(BLOCK, b"\0")
    return fields[:148] + b"%06o\0 " % sum(fields) + fields[156:]


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise Malformed(f"member name {name!r} is not made of a-z 0-9 . _ - (at most 99 characters)")


def pack(members: Mapping[str, bytes]) -> bytes:
    """The one container that holds these members, in order of their names."""
    parts = []
    for name in sorted(members):
        _check_name(name)
        data = members[name]
        parts += [_header(name, len(data)), data, bytes(-len(data) % BLOCK)]
    packed = b"".join([*parts, _END])
    if len(members) > MAX_MEMBERS or len(packed) > MAX_CONTAINER_BYTES:
        raise Malformed(
            f"{len(members)} members in {len(packed)} bytes; at most {MAX_MEMBERS} in {MAX_CONTAINER_BYTES} are allowed"
        )
    return packed


def unpack(data: bytes) -> dict[str, bytes]:
    """The members of a container, by name.

    Raises Damaged where bytes are missing or a header's checksum is wrong (a bad copy), and
    Malformed where an intact header says something that `pack` never writes.
    """
    if len(data) > MAX_CONTAINER_BYTES:
        raise Malformed(f"{len(data)} bytes, at most {MAX_CONTAINER_BYTES} are allowed")
    members: dict[str, bytes] = {}
    previous = ""
    at = 0
    while True:
        header = data[at : at + BLOCK]
        if len(header) < BLOCK:
            raise Damaged(f"the file ends at byte {len(data)}, in the middle of a header")
        if header == bytes(BLOCK):
            break
        name, size = _parse_header(header, at)
        if name <= previous:
            raise Malformed(f"member {name} comes after {previous}: names must increase")
        if len(members) == MAX_MEMBERS:
            raise Malformed(f"more than {MAX_MEMBERS} members")
        padded = data[at + BLOCK : at + BLOCK + size + -size % BLOCK]
        if len(padded) < size or any(padded[size:]) or len(padded) % BLOCK:
            raise Damaged(f"member {name} is cut short, or its padding is not empty")
        members[name] = padded[:size]
        at += BLOCK + len(padded)
        previous = name
    if data[at:] != _END:
        raise Damaged(f"byte {at} should begin the end mark of {len(_END)} zero bytes, and nothing after it")
    if not members:
        raise Malformed("no members")
    return members


def _parse_header(header: bytes, at: int) -> tuple[str, int]:
    if header[257:262] != b"ustar":
        if at == 0:
            raise Malformed("this is not an axlebox bundle (no tar header at its beginning)")
        raise Damaged(f"the header at byte {at} is not readable")
    checksum = sum(header[:148]) + sum(b" " * 8) + sum(header[156:])
    if header[148:156] != b"%06o\0 " % checksum:
        raise Damaged(f"the header at byte {at} has a wrong checksum")
    raw_name = header[:100].rstrip(b"\0")
    raw_size = header[124:135]
    try:
        name = raw_name.decode("ascii")
        size = int(raw_size.decode("ascii"), 8)
    except ValueError as error:
        raise Malformed(f"the header at byte {at} has a name or a size that is not plain") from error
    _check_name(name)
    # int() also takes a sign, spaces and underscores; the rebuilt header does not.
    if size < 0 or size > MAX_CONTAINER_BYTES or _header(name, size) != header:
        raise Malformed(f"the header of member {name} is not the canonical one")
    return name, size
