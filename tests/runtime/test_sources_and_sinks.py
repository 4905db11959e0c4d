"""Bytes in, whole lines out; lines in, whole lines written."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from axlebox.firmware_bundle.errors import AxleboxError, UsageError
from axlebox.runtime.readings import MAX_LINE_BYTES, BadLine, LineReader
from axlebox.runtime.sinks import open_sink
from axlebox.runtime.sources import LineSource, LineSplitter, StopSignal, open_source, read_lines


@pytest.fixture(scope="module", autouse=True)
def stop() -> Iterator[StopSignal]:
    """A stop signal; the process gets its own handlers back afterwards."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    yield StopSignal()
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Reading and writing end; a test may close the writing end itself."""
    read, write = os.pipe()
    yield read, write
    for handle in (read, write):
        try:
            os.close(handle)
        except OSError:
            continue


def lines_of_chunks(chunks: list[bytes], stop: StopSignal) -> list[bytes]:
    """What a source gives when each chunk arrives by itself and is read before the next one."""
    read, write = os.pipe()
    source = LineSource(read, stop)
    batches = source.batches()
    found: list[bytes] = []
    try:
        for chunk in chunks:
            os.write(write, chunk)
            # A chunk without a line end yields nothing: the source would wait for more.
            if b"\n" in chunk:
                found += next(batches)
        os.close(write)
        for batch in batches:
            found += batch
    finally:
        os.close(read)
    assert source.cut_bytes == 0
    return found


texts = st.binary(max_size=60).map(lambda noise: noise.replace(b"\n", b"."))


@given(st.lists(texts, max_size=10), texts, st.lists(st.integers(0, 700), max_size=6))
@settings(deadline=None)
def test_however_the_bytes_arrive_the_lines_are_the_same(
    stop: StopSignal, lines: list[bytes], last: bytes, cuts: list[int]
) -> None:
    data = b"".join(line + b"\n" for line in lines) + last
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    chunks = [data[start:end] for start, end in pairwise(edges) if end > start]
    assert lines_of_chunks(chunks, stop) == lines + ([last] if last else [])


def test_as_many_lines_as_have_arrived_come_at_once(pipe: tuple[int, int], stop: StopSignal) -> None:
    read, write = pipe
    batches = LineSource(read, stop).batches()
    os.write(write, b"one\ntwo\nthr")
    assert next(batches) == [b"one", b"two"]
    os.write(write, b"ee\n")
    assert next(batches) == [b"three"]


def test_a_last_line_without_an_end_is_read_at_the_end_of_the_source(tmp_path: Path, stop: StopSignal) -> None:
    path = tmp_path / "readings.csv"
    path.write_bytes(b"one\ntwo")
    assert list(LineSource(open_source(f"file:{path}"), stop).batches()) == [[b"one"], [b"two"]]


def test_an_empty_source_gives_no_batch(tmp_path: Path, stop: StopSignal) -> None:
    path = tmp_path / "empty.csv"
    path.touch()
    assert list(LineSource(open_source(f"file:{path}"), stop).batches()) == []


@pytest.mark.parametrize("size", [64 * 1024, 3_000_000], ids=["ends where a read ends", "many reads long"])
def test_an_over_long_line_keeps_only_its_beginning_and_the_next_line_is_whole(
    tmp_path: Path, stop: StopSignal, size: int
) -> None:
    path = tmp_path / "readings.csv"
    path.write_bytes(b"x" * size + b"\n2022-09-10T00:00:00,108\n")
    batches = list(LineSource(open_source(f"file:{path}"), stop).batches())
    long, following = [line for batch in batches for line in batch]
    assert MAX_LINE_BYTES < len(long) < 200_000
    assert following == b"2022-09-10T00:00:00,108"
    (found,) = LineReader("temperature").read([long])
    assert isinstance(found, BadLine)
    assert "longer than" in found.reason


def test_a_source_longer_than_one_read_loses_nothing(tmp_path: Path, stop: StopSignal) -> None:
    path = tmp_path / "readings.csv"
    lines = [b"line %d" % number for number in range(40_000)]
    path.write_bytes(b"\n".join(lines) + b"\n")
    batches = list(LineSource(open_source(f"file:{path}"), stop).batches())
    assert len(batches) > 3
    assert [line for batch in batches for line in batch] == lines


def test_a_stop_ends_the_wait_for_input_and_counts_the_bytes_of_the_line_that_was_cut(pipe: tuple[int, int]) -> None:
    read, write = pipe
    stopping = StopSignal()
    source = LineSource(read, stopping)
    batches = source.batches()
    os.write(write, b"whole\nhal")
    assert next(batches) == [b"whole"]
    os.kill(os.getpid(), signal.SIGTERM)
    assert list(batches) == []
    assert source.cut_bytes == 3


@pytest.mark.parametrize(
    "uri", ["", "stdin:x", "standard input", "file:", "/a/path", "FILE:/a", "http://x/", "can:", "mqtt:"]
)
def test_a_source_that_is_neither_stdin_nor_a_file_is_a_usage_error_that_names_it(uri: str) -> None:
    with pytest.raises(UsageError) as caught:
        open_source(uri)
    assert str(caught.value) == f"source {uri!r} is not stdin: or file:PATH"


def test_a_source_file_that_is_missing_or_a_folder_is_a_usage_error_that_names_it(tmp_path: Path) -> None:
    for path, why in ((tmp_path / "missing.csv", "No such file or directory"), (tmp_path, "is not a regular file")):
        with pytest.raises(UsageError) as caught:
            open_source(f"file:{path}")
        assert str(caught.value) == f"source {path}: {why}"


# -- sinks ----------------------------------------------------------------------------------------


def test_a_file_sink_appends_to_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b"before\n")
    for text in (b"one\ntwo\n", b"three\n"):
        sink = open_sink(f"file:{path}")
        sink.write(text)
        sink.close()
    assert path.read_bytes() == b"before\none\ntwo\nthree\n"


def test_what_a_sink_was_given_is_in_the_file_before_it_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    sink = open_sink(f"file:{path}")
    sink.write(b"one\n")
    assert path.read_bytes() == b"one\n"
    sink.close()


def test_stdout_gets_the_lines(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    sink = open_sink("stdout:")
    sink.write(b"one\n")
    sink.close()
    print("still open", flush=True)
    assert capfdbinary.readouterr().out == b"one\nstill open\n"


@pytest.mark.parametrize("uri", ["", "stdout:x", "standard output", "file:", "/a/path", "store:", "lamp:/sys/x"])
def test_a_sink_that_is_neither_stdout_nor_a_file_is_a_usage_error_that_names_it(uri: str) -> None:
    with pytest.raises(UsageError) as caught:
        open_sink(uri)
    assert str(caught.value) == f"sink {uri!r} is not stdout: or file:PATH"


def test_a_sink_file_that_cannot_be_opened_is_a_usage_error_that_names_it(tmp_path: Path) -> None:
    for path, why in (
        (tmp_path / "no" / "folder.jsonl", "No such file or directory"),
        (tmp_path, "Is a directory"),
    ):
        with pytest.raises(UsageError) as caught:
            open_sink(f"file:{path}")
        assert str(caught.value) == f"sink {path}: {why}"


def test_a_full_disk_is_said_in_one_line() -> None:
    sink = open_sink("file:/dev/full")
    with pytest.raises(AxleboxError) as caught:
        sink.write(b"one\n")
    assert str(caught.value) == "sink file:/dev/full: No space left on device"
    sink.close()


def test_a_fifo_is_refused_at_once_instead_of_waited_for(tmp_path: Path) -> None:
    """To open one would wait for its other end, and SIGTERM would not end the wait."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with pytest.raises(UsageError, match="is not a regular file"):
        open_source(f"file:{fifo}")
    with pytest.raises(UsageError, match="is a FIFO"):
        open_sink(f"file:{fifo}")


@settings(max_examples=50)
@given(st.binary(max_size=400), st.integers(1, 50))
def test_a_file_and_a_stream_are_cut_into_the_same_lines(data: bytes, size: int) -> None:
    splitter = LineSplitter()
    found = [line for at in range(0, len(data), size) for line in splitter.feed(data[at : at + size])]
    if splitter.rest:
        found.append(splitter.rest)
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        assert list(read_lines(Path(file.name))) == found == data.split(b"\n")[: len(found)]
