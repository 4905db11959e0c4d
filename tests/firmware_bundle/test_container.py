"""The container: one spelling for each content, listed by every tar, and nothing else accepted."""

from __future__ import annotations

import io
import subprocess
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from axlebox.firmware_bundle.container import BLOCK, MAX_CONTAINER_BYTES, MAX_MEMBERS, pack, unpack
from axlebox.firmware_bundle.errors import AxleboxError, Damaged, Malformed

MEMBERS = {"a.json": b"{}", "b-1.onnx": bytes(range(256)) * 3, "empty": b"", "full_block": b"x" * BLOCK}

names = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,98}", fullmatch=True)
contents = st.dictionaries(names, st.binary(max_size=3 * BLOCK), min_size=1, max_size=MAX_MEMBERS)


def entry(name: str, data: bytes = b"", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    """A tar entry as the standard library makes it; `fields` are those of TarInfo."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, data


def tar_of(entries: Iterable[tuple[tarfile.TarInfo, bytes]], tar_format: int = tarfile.USTAR_FORMAT) -> bytes:
    """A tar by the standard library, with its end mark cut to the two blocks of ours."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tar_format) as tar:
        for info, data in entries:
            tar.addfile(info, io.BytesIO(data))
        end = buffer.tell()
    return buffer.getvalue()[:end] + bytes(2 * BLOCK)


def with_checksum(header: bytes) -> bytes:
    """A header with its checksum made right again, as an attacker would."""
    total = sum(header[:148]) + 8 * ord(" ") + sum(header[156:])
    return header[:148] + b"%06o\0 " % total + header[156:]


def flipped(data: bytes, at: int, bit: int) -> bytes:
    return data[:at] + bytes((data[at] ^ bit,)) + data[at + 1 :]


def test_what_was_packed_is_unpacked() -> None:
    assert unpack(pack(MEMBERS)) == MEMBERS


@given(contents)
def test_any_members_with_allowed_names_come_back(members: dict[str, bytes]) -> None:
    assert unpack(pack(members)) == members


@given(st.binary(max_size=4 * BLOCK))
def test_noise_is_refused_by_a_typed_error(noise: bytes) -> None:
    with pytest.raises(AxleboxError):
        unpack(noise)


@given(st.binary(max_size=2 * BLOCK), st.integers(0, len(pack(MEMBERS))))
def test_noise_in_the_middle_never_makes_a_second_spelling(noise: bytes, at: int) -> None:
    """Whatever unpack accepts is byte for byte what pack writes for the same members."""
    packed = pack(MEMBERS)
    changed = packed[:at] + noise + packed[at + len(noise) :]
    try:
        members = unpack(changed)
    except AxleboxError:
        return
    assert pack(members) == changed


def test_the_order_of_the_mapping_does_not_change_the_bytes() -> None:
    assert pack(dict(reversed(MEMBERS.items()))) == pack(MEMBERS)


def test_gnu_tar_lists_and_extracts_the_same_members(tmp_path: Path) -> None:
    file = tmp_path / "a.axb"
    file.write_bytes(pack(MEMBERS))
    listed = subprocess.run(["tar", "tvf", file], capture_output=True, text=True, check=True)
    assert [line.split()[-1] for line in listed.stdout.splitlines()] == sorted(MEMBERS)
    assert all(line.startswith("-rw-r--r-- 0/0 ") for line in listed.stdout.splitlines())
    assert listed.stderr == ""
    subprocess.run(["tar", "xf", file, "-C", tmp_path], check=True)
    assert {name: (tmp_path / name).read_bytes() for name in MEMBERS} == MEMBERS


def test_python_tarfile_reads_the_same_members() -> None:
    with tarfile.open(fileobj=io.BytesIO(pack(MEMBERS))) as tar:
        found = {info.name: tar.extractfile(info) for info in tar.getmembers()}
        assert {name: file.read() for name, file in found.items() if file} == MEMBERS


def test_python_tarfile_writes_the_same_bytes_up_to_its_padding() -> None:
    """Our header is that of an implementation which is not ours."""
    assert pack(MEMBERS) == tar_of(entry(name, MEMBERS[name]) for name in sorted(MEMBERS))


@pytest.mark.parametrize("bit", [1 << number for number in range(8)])
def test_one_flipped_bit_is_refused_or_stays_within_the_data_of_a_member(bit: int) -> None:
    packed = pack(MEMBERS)
    for at in range(len(packed)):
        try:
            members = unpack(flipped(packed, at, bit))
        except AxleboxError:
            continue
        changed = [name for name in MEMBERS if members[name] != MEMBERS[name]]
        assert list(members) == sorted(MEMBERS), at
        assert len(changed) == 1, at
        assert len(members[changed[0]]) == len(MEMBERS[changed[0]]), at


def test_a_file_cut_short_at_any_byte_is_refused() -> None:
    packed = pack(MEMBERS)
    for length in range(len(packed)):
        with pytest.raises(Damaged):
            unpack(packed[:length])


@pytest.mark.parametrize("tail", [b"\0", b"x", bytes(BLOCK), bytes(8 * BLOCK), b"x" * BLOCK])
def test_anything_after_the_end_is_refused(tail: bytes) -> None:
    with pytest.raises(Damaged, match="nothing after it"):
        unpack(pack(MEMBERS) + tail)


def test_the_longer_padding_of_the_standard_library_is_refused() -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        tar.addfile(*(entry("a")))
    assert len(buffer.getvalue()) == tarfile.RECORDSIZE
    with pytest.raises(Damaged):
        unpack(buffer.getvalue())


SPECIAL = {
    "symbolic link": entry("a", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
    "symbolic link to nothing": entry("a", type=tarfile.SYMTYPE),
    "hard link": entry("a", type=tarfile.LNKTYPE, linkname="b"),
    "character device": entry("a", type=tarfile.CHRTYPE, devmajor=1, devminor=3),
    "block device": entry("a", type=tarfile.BLKTYPE, devmajor=8),
    "fifo": entry("a", type=tarfile.FIFOTYPE),
    "folder": entry("a", type=tarfile.DIRTYPE),
    "contiguous file": entry("a", type=tarfile.CONTTYPE),
    "sparse file": entry("a", type=tarfile.GNUTYPE_SPARSE),
    "old regular file": entry("a", type=tarfile.AREGTYPE),
    "unknown type": entry("a", type=b"Z"),
    "setuid": entry("a", mode=0o4755),
    "executable": entry("a", mode=0o755),
    "owner": entry("a", uid=1000),
    "group": entry("a", gid=1000),
    "owner's name": entry("a", uname="root"),
    "time": entry("a", mtime=1),
    "parent folder": entry("../a"),
    "only dots": entry(".."),
    "hidden file": entry(".a"),
    "absolute name": entry("/a"),
    "folder in the name": entry("a/b"),
    "long name in the prefix field": entry("a" * 90 + "/" + "b" * 90),
    "upper case": entry("A"),
    "space": entry("a b"),
    "backslash": entry("a\\b"),
    "empty name": entry(""),
    "name of 100 characters": entry("a" * 100),
}


@pytest.mark.parametrize("special", SPECIAL.values(), ids=SPECIAL)
def test_an_entry_that_is_not_a_plain_file_with_a_plain_name_is_refused(
    special: tuple[tarfile.TarInfo, bytes],
) -> None:
    with pytest.raises(Malformed):
        unpack(tar_of([special]))


@pytest.mark.parametrize("name", ["ä", "a\u0308", "\uff41", "ﬁ", "a\u200b"])
def test_a_unicode_name_is_refused(name: str) -> None:
    with pytest.raises(Malformed):
        unpack(tar_of([entry(name)]))


@pytest.mark.parametrize("name", ["ä", "../a", "/a", "A", "", ".a", "a/b", "a" * 100, "a\n", "a\0"])
def test_a_name_that_would_be_refused_is_not_packed(name: str) -> None:
    with pytest.raises(Malformed):
        pack({name: b""})


def test_pax_and_gnu_extension_headers_are_refused() -> None:
    with pytest.raises(Malformed):
        unpack(tar_of([entry("a", pax_headers={"comment": "x"})], tarfile.PAX_FORMAT))
    with pytest.raises((Malformed, Damaged)):
        unpack(tar_of([entry("a" * 150)], tarfile.GNU_FORMAT))


@pytest.mark.parametrize("order", [["a", "a"], ["b", "a"], ["a", "c", "b"], ["a", "b", "a"]])
def test_names_that_repeat_or_do_not_increase_are_refused(order: list[str]) -> None:
    with pytest.raises(Malformed, match="names must increase"):
        unpack(tar_of(entry(name) for name in order))


def test_ten_thousand_members_are_refused() -> None:
    with pytest.raises(Malformed, match=f"more than {MAX_MEMBERS} members"):
        unpack(tar_of(entry(f"m{number:05}") for number in range(10_000)))


def test_the_most_members_that_are_allowed_are_read_and_one_more_is_not_packed() -> None:
    members = {f"m{number:02}": b"" for number in range(MAX_MEMBERS)}
    assert unpack(pack(members)) == members
    with pytest.raises(Malformed):
        pack({**members, "n": b""})


def test_a_file_larger_than_the_limit_is_neither_packed_nor_read() -> None:
    with pytest.raises(Malformed):
        pack({"a": bytes(MAX_CONTAINER_BYTES)})
    with pytest.raises(Malformed, match=str(MAX_CONTAINER_BYTES)):
        unpack(pack({"a": b""}) + bytes(MAX_CONTAINER_BYTES))


def test_a_container_without_members_is_refused() -> None:
    with pytest.raises(Malformed):
        unpack(bytes(2 * BLOCK))


SIZES = {
    "the largest octal number": b"77777777777\0",
    "base 256": b"\x80" + b"\0" * 10 + b"\x02",
    "base 256, negative": b"\xff" * 12,
    "negative": b"-0000000002\0",
    "plus sign": b"+0000000002\0",
    "underscores": b"0000000_002\0",
    "spaces": b"          2\0",
    "ended by a space": b"00000000002 ",
    "short": b"2" + bytes(11),
    "not octal": b"00000000009\0",
    "empty": bytes(12),
}


@pytest.mark.parametrize("field", SIZES.values(), ids=SIZES)
def test_a_huge_size_or_another_spelling_of_the_size_is_refused(field: bytes) -> None:
    """The entry holds two bytes, and its header has a right checksum."""
    packed = pack({"a": b"{}"})
    header = with_checksum(packed[:124] + field + packed[136:BLOCK])
    with pytest.raises(Malformed):
        unpack(header + packed[BLOCK:])


def test_a_size_beyond_the_end_is_refused() -> None:
    packed = pack({"a": b"{}"})
    header = with_checksum(packed[:124] + b"%011o\0" % MAX_CONTAINER_BYTES + packed[136:BLOCK])
    with pytest.raises(Damaged, match="cut short"):
        unpack(header + packed[BLOCK:])


SPELLINGS: dict[str, Callable[[bytes], bytes]] = {
    "version of GNU": lambda header: header[:257] + b"ustar  \0" + header[265:],
    "version of nobody": lambda header: header[:263] + b"\0\0" + header[265:],
    "bytes after the name": lambda header: header[:50] + b"x" + header[51:],
    "bytes at the end": lambda header: header[:511] + b"x",
    "a prefix": lambda header: header[:345] + b"x" + header[346:],
    "mode with a space": lambda header: header[:100] + b"0000644 " + header[108:],
}


@pytest.mark.parametrize("respell", SPELLINGS.values(), ids=SPELLINGS)
def test_a_header_with_a_right_checksum_but_other_bytes_is_refused(respell: Callable[[bytes], bytes]) -> None:
    packed = pack({"a": b"{}"})
    changed = with_checksum(respell(packed[:BLOCK]))
    assert changed != packed[:BLOCK]
    with pytest.raises(Malformed):
        unpack(changed + packed[BLOCK:])


def test_a_checksum_spelled_otherwise_is_refused() -> None:
    packed = pack({"a": b"{}"})
    with pytest.raises(Damaged, match="checksum"):
        unpack(packed[:148] + b"0" + packed[148:153] + b"\0 "[::-1] + packed[156:])


def test_padding_that_is_not_empty_is_refused() -> None:
    packed = bytearray(pack({"a": b"{}"}))
    packed[BLOCK + 2] = 1
    with pytest.raises(Damaged, match="padding"):
        unpack(bytes(packed))


def test_something_that_is_no_tar_is_called_no_bundle() -> None:
    with pytest.raises(Malformed, match="not an axlebox bundle"):
        unpack(b"PK\x03\x04" + bytes(2 * BLOCK))
