"""The page cache: ranges reach the disk and leave memory, or nothing happens."""

from __future__ import annotations

import ctypes
import errno
import os

import pytest

from bridge_core.io import page_cache, syscalls

NBYTES = 64 << 12


@pytest.fixture
def opened(tmp_path):
    """A file of some pages that were written just now, open for reading and writing."""
    fd = syscalls.create_file(tmp_path / "a")
    os.pwrite(fd, bytes(NBYTES), 0) if hasattr(os, "pwrite") else os.write(fd, bytes(NBYTES))
    yield fd
    os.close(fd)


def test_a_range_is_written_and_leaves_the_cache(opened):
    if not page_cache.can_drop_pages() or page_cache.cached_nbytes(opened, 0, NBYTES) != NBYTES:
        pytest.skip("the system or the file system cannot be asked")
    page_cache.start_writeback(opened, 0, NBYTES)
    page_cache.finish_writeback(opened, 0, NBYTES)
    page_cache.drop_pages(opened, 0, NBYTES)
    left = page_cache.cached_nbytes(opened, 0, NBYTES)
    if left == NBYTES:
        pytest.skip("the file system holds its files in memory")
    assert left == 0
    assert os.read(opened, 1) in (b"", b"\0")
    assert os.fstat(opened).st_size == NBYTES


def test_without_the_calls_nothing_happens(opened, monkeypatch):
    monkeypatch.setattr(page_cache, "_fadvise", None)
    monkeypatch.setattr(page_cache, "library_function", lambda _name: None)
    assert not page_cache.can_drop_pages()
    page_cache.prefetch(opened, 0, NBYTES)
    page_cache.start_writeback(opened, 0, NBYTES)
    page_cache.finish_writeback(opened, 0, NBYTES)
    page_cache.drop_pages(opened, 0, NBYTES)
    assert page_cache.cached_nbytes(opened, 0, NBYTES) is None


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_a_failed_write_is_reported_where_the_range_is_waited_for(opened, monkeypatch, code):
    # The kernel reports it once for each open file, so that a sync afterwards may succeed.
    monkeypatch.setattr(page_cache, "library_function", lambda _name: failing(code))
    with pytest.raises(OSError) as caught:  # noqa: PT011
        page_cache.finish_writeback(opened, 0, NBYTES)
    assert caught.value.errno == code


@pytest.mark.parametrize("code", syscalls.UNSUPPORTED)
def test_a_file_system_that_cannot_wait_for_a_range_leaves_it_to_the_sync(opened, monkeypatch, code):
    monkeypatch.setattr(page_cache, "library_function", lambda _name: failing(code))
    page_cache.finish_writeback(opened, 0, NBYTES)
    assert page_cache.cached_nbytes(opened, 0, NBYTES) is None


def failing(code):
    """Return a function of the C library that fails."""

    def call(*_arguments):
        ctypes.set_errno(code)
        return -1

    return call
