"""Parts of files are fetched ahead of the reads, several at a time, once, and within the memory."""

import threading

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from support.memory_filesystem import MemoryFileSystem, assert_nothing_held, temporary

from bridge_core.errors import RemoteFailure
from bridge_core.io import fetch_memory, retries, stopped_by
from bridge_core.io.fetching import shared_fetcher
from bridge_core.io.range_parts import Part, Parts

MIB = 1 << 20
SIZE = 40 * MIB
DATA = np.random.default_rng(1).integers(0, 256, SIZE, np.uint8).tobytes()


@pytest.fixture
def system():
    return MemoryFileSystem({"host/a.bin": DATA, "host/b.bin": DATA[::-1]})


@pytest.fixture
def file(system):
    with system.path("a.bin").open_source() as file:
        yield file
    assert_nothing_held()


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(retries, "sleep", lambda _pause, _ended: None)


def ranges(system):
    return sorted((one.start, one.start + one.nbytes) for one in system.made("read"))


def becomes(condition):
    """Wait until something is so, which another thread does; return whether it is."""
    with shared_fetcher._changed:
        for _ in range(200):
            if condition():
                return True
            shared_fetcher._changed.wait(0.1)
    return False


def in_blocks(file, start, stop, block=MIB):
    return b"".join(file.read(at, min(block, stop - at)) for at in range(start, stop, block))


def test_an_announced_range_is_fetched_in_large_parts_and_not_beyond(system, file):
    file.prefetch(MIB, 20 * MIB)
    assert system.reads == 0
    assert in_blocks(file, MIB, 21 * MIB) == DATA[MIB : 21 * MIB]
    assert ranges(system) == [(MIB, 9 * MIB), (9 * MIB, 17 * MIB), (17 * MIB, 21 * MIB)]


def test_parts_are_fetched_ahead_of_the_reads(system, file):
    together = threading.Barrier(3, timeout=20)
    system.on_read = lambda _request: together.wait()
    file.prefetch(MIB, 20 * MIB)
    assert file.read(MIB, 10) == DATA[MIB : MIB + 10]
    assert system.most_at_once == 3


def test_announced_ranges_that_follow_each_other_are_one_request(system, file):
    for start in range(MIB, 3 * MIB, 1000):
        file.prefetch(start, 1000)
    assert file.read(MIB, 10) == DATA[MIB : MIB + 10]
    assert ranges(system) == [(MIB, 3 * MIB + 848)]


def test_small_gaps_are_fetched_while_they_are_few_of_the_bytes(system, file):
    for start in (MIB, 2 * MIB + 30_000, 3 * MIB + 60_000, 4 * MIB + 400_000):
        file.prefetch(start, MIB)
    assert file.read(MIB, 10) + file.read(4 * MIB + 400_000, 10)
    assert ranges(system) == [(MIB, 4 * MIB + 60_000), (4 * MIB + 400_000, 5 * MIB + 400_000)]


def test_small_parts_within_a_range_do_not_cut_it(system, file):
    assert file.read(10 * MIB, 10) == DATA[10 * MIB : 10 * MIB + 10]
    system.forget_requests()
    file.prefetch(8 * MIB, 2 * MIB)
    file.prefetch(10 * MIB, 2 * MIB)
    assert in_blocks(file, 8 * MIB, 12 * MIB) == DATA[8 * MIB : 12 * MIB]
    assert ranges(system) == [(8 * MIB, 12 * MIB)]


def test_files_are_fetched_in_the_order_in_which_they_were_announced(system, file):
    with system.path("b.bin").open_source() as other:
        together = threading.Barrier(3, timeout=20)
        system.on_read = lambda _request: together.wait()
        file.prefetch(30 * MIB, MIB)
        other.prefetch(20 * MIB, MIB)
        file.prefetch(10 * MIB, MIB)
        assert file.read(30 * MIB, 10) == DATA[30 * MIB : 30 * MIB + 10]
        system.on_read = None
        assert other.read(20 * MIB, 10) == DATA[::-1][20 * MIB : 20 * MIB + 10]
        assert system.reads == 3


@pytest.mark.parametrize("readers", [1, 4])
def test_all_bytes_are_read_once_within_the_memory(readers, system, file):
    with fetch_memory(4 * MIB, readers):
        shared_fetcher.most_held = 0
        file.prefetch(0, SIZE)
        parts: dict[int, bytes] = {}

        def read(number):
            step = SIZE // readers
            parts[number] = in_blocks(file, number * step, (number + 1) * step)

        threads = [threading.Thread(target=read, args=(number,)) for number in range(readers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert b"".join(parts[number] for number in range(readers)) == DATA
        assert system.bytes_read == SIZE
        assert shared_fetcher.most_held <= 4 * MIB


def test_memory_that_is_not_enough_for_the_order_of_reading_is_not_exceeded(system, file):
    with fetch_memory(MIB, 2):
        shared_fetcher.most_held = 0
        file.prefetch(0, SIZE)
        places = np.random.default_rng(2).permutation(SIZE // (MIB // 4))[:60] * (MIB // 4)
        assert all(file.read(int(at), 1000) == DATA[at : at + 1000] for at in places)
        assert shared_fetcher.most_held <= MIB


def test_what_was_read_as_often_as_announced_goes_first(system, file):
    with fetch_memory(4 * MIB, 1):
        for _ in range(2):
            file.prefetch(MIB, MIB)
        file.prefetch(10 * MIB, 10 * MIB)
        first = in_blocks(file, MIB, 2 * MIB)
        in_blocks(file, 10 * MIB, 19 * MIB)
        assert in_blocks(file, MIB, 2 * MIB) == first
        assert system.bytes_read == 11 * MIB


def test_reads_of_what_is_there_fetch_on(system, file):
    with fetch_memory(4 * MIB, 1):
        file.prefetch(0, SIZE)
        file.read(0, 10)
        assert becomes(lambda: system.reads == 3)  # what fits ahead
        in_blocks(file, 10, MIB)
        file.read(MIB, 10)
        assert becomes(lambda: system.reads == 4)


def test_what_an_earlier_run_left_unread_does_not_stop_fetching_ahead(system, file):
    with fetch_memory(4 * MIB, 1):
        file.prefetch(0, 3 * MIB)
        in_blocks(file, 0, 3 * MIB, 3 * MIB - 10)
        file.prefetch(0, 3 * MIB)
    with fetch_memory(4 * MIB, 1):
        together = threading.Barrier(3, timeout=20)
        system.on_read = lambda _request: together.wait()
        file.prefetch(20 * MIB, 3 * MIB)
        assert file.read(20 * MIB, 10) == DATA[20 * MIB : 20 * MIB + 10]


def test_a_failure_reaches_every_read_that_waits_and_the_next_one_tries_again(system, file):
    system.fail(*[temporary()] * 6)
    errors = []

    def read():
        try:
            file.read(MIB, 10)
        except RemoteFailure as err:
            errors.append(err)

    with system.hold() as released:
        threads = [threading.Thread(target=read) for _ in range(3)]
        for thread in threads:
            thread.start()
        released.set()
        for thread in threads:
            thread.join()
    assert errors
    assert len({id(error) for error in errors}) == len(errors)
    assert file.read(MIB, 10) == DATA[MIB : MIB + 10]


def test_a_failure_ahead_is_raised_where_its_bytes_are_read(system, file):
    def fail_late(request):
        if request.start >= 9 * MIB:
            raise RemoteFailure("the server answered 416.")

    system.on_read = fail_late
    file.prefetch(MIB, 16 * MIB)
    assert in_blocks(file, MIB, 9 * MIB) == DATA[MIB : 9 * MIB]
    with pytest.raises(RemoteFailure, match="416"):
        file.read(9 * MIB, 10)


def test_a_read_ends_when_its_event_is_set(system, file):
    stop = threading.Event()
    ended = threading.Event()

    def read():
        with stopped_by(stop):
            try:
                file.read(MIB, 10)
            except KeyboardInterrupt:
                ended.set()

    with system.hold():
        thread = threading.Thread(target=read)
        thread.start()
        stop.set()
        thread.join(20)
        assert ended.is_set()


def test_closing_ends_reads_and_tries(system):
    file = system.path("a.bin").open_source()
    errors = []

    def read():
        try:
            file.read(MIB, 10)
        except Exception as err:
            errors.append(str(err))

    with system.hold():
        thread = threading.Thread(target=read)
        thread.start()
        assert becomes(lambda: system.reads)
        file.close()
        thread.join(20)
    assert "was closed" in errors[0]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_order_of_announcing_reading_and_failing_gives_the_right_bytes(data):
    size = 300_000
    system = MemoryFileSystem({"host/a.bin": DATA[:size]})
    place = st.integers(0, size - 1)
    with (
        system.path("a.bin").open_source() as file,
        fetch_memory(data.draw(st.sampled_from([64 << 10, 200_000, MIB])), data.draw(st.integers(1, 3))),
    ):
        shared_fetcher.most_held = 0
        for _ in range(data.draw(st.integers(1, 12))):
            start = data.draw(place)
            nbytes = data.draw(st.integers(1, min(size - start, data.draw(st.sampled_from([50, 10**6])))))
            match data.draw(st.sampled_from(["announce", "read", "runs", "fail"])):
                case "announce":
                    file.prefetch(start, nbytes)
                case "fail":
                    system.fail(temporary())
                case "runs":
                    stride = data.draw(st.integers(nbytes, max(nbytes, 2 * nbytes)))
                    count = data.draw(st.integers(1, max(1, (size - start - nbytes) // stride)))
                    count = min(count, 50)
                    if start + (count - 1) * stride + nbytes > size:
                        count = 1
                    buffer = bytearray(count * nbytes)
                    file.read_runs(start, stride, nbytes, buffer)
                    runs = range(start, start + count * stride, stride)
                    assert bytes(buffer) == b"".join(DATA[at : at + nbytes] for at in runs)
                case "read":
                    assert file.read(start, nbytes) == DATA[start : start + nbytes]
        largest = max((one.nbytes for one in system.made("read")), default=0)
        assert shared_fetcher.most_held <= max(shared_fetcher.limit, largest)
    assert_nothing_held()


def test_parts_are_found_by_their_bytes():
    parts = Parts()
    for start, stop in ((10, 20), (30, 40), (20, 25)):
        parts.add(Part(None, start, stop))
    assert [(part.start, part.stop) for part in parts] == [(10, 20), (20, 25), (30, 40)]
    at = {offset: parts.at(offset) for offset in (0, 10, 19, 20, 25, 39, 40)}
    assert {offset: part and part.start for offset, part in at.items()} == {
        0: None, 10: 10, 19: 10, 20: 20, 25: None, 39: 30, 40: None,
    }  # fmt: skip
    assert parts.uncovered(0, 50) == [(0, 10), (25, 30), (40, 50)]
    assert parts.uncovered(12, 22) == []
    assert parts.around(27, 50) == (25, 30)
    assert parts.around(5, 50) == (0, 10)
    parts.remove(at[20])
    assert parts.around(27, 50) == (20, 30)
