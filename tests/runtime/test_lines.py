"""Bytes in, whole lines out, however they arrive."""

from __future__ import annotations

import tempfile
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from axlebox.runtime.lines import LineSplitter, read_lines
from axlebox.runtime.readings import MAX_LINE_BYTES, BadLine, LineReader

texts = st.binary(max_size=60).map(lambda noise: noise.replace(b"\n", b"."))


def fed(chunks: list[bytes]) -> list[bytes]:
    splitter = LineSplitter()
    found = [line for chunk in chunks for line in splitter.feed(chunk)]
    return [*found, splitter.rest] if splitter.rest else found


@given(st.lists(texts, max_size=10), texts, st.lists(st.integers(0, 700), max_size=6))
@settings(deadline=None)
def test_however_the_bytes_arrive_the_lines_are_the_same(lines: list[bytes], last: bytes, cuts: list[int]) -> None:
    data = b"".join(line + b"\n" for line in lines) + last
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    assert fed([data[start:end] for start, end in pairwise(edges)]) == lines + ([last] if last else [])


@pytest.mark.parametrize("size", [64 * 1024, 3_000_000], ids=["ends where a read ends", "many reads long"])
def test_an_over_long_line_keeps_only_its_beginning_and_the_next_line_is_whole(tmp_path: Path, size: int) -> None:
    path = tmp_path / "readings.csv"
    path.write_bytes(b"x" * size + b"\n2022-09-10T00:00:00,108\n")
    long, following = read_lines(path)
    assert MAX_LINE_BYTES < len(long) < 200_000
    assert following == b"2022-09-10T00:00:00,108"
    (found,) = LineReader("temperature").read([long])
    assert isinstance(found, BadLine)
    assert "longer than" in found.reason


def test_of_an_endless_line_only_so_much_is_remembered_and_all_is_counted() -> None:
    splitter = LineSplitter()
    for _ in range(100):
        assert splitter.feed(b"y" * 65_536) == []
    assert len(splitter.rest) == MAX_LINE_BYTES + 1
    assert splitter.rest_bytes == 6_553_600


@settings(max_examples=50)
@given(st.binary(max_size=400), st.integers(1, 50))
def test_a_file_and_a_stream_are_cut_into_the_same_lines(data: bytes, size: int) -> None:
    found = fed([data[at : at + size] for at in range(0, len(data), size)])
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        assert list(read_lines(Path(file.name))) == found == data.split(b"\n")[: len(found)]
