"""Walks an HDF5 file on standard input and prints ``[verdict, text]``. A script, run in a process of its own.

It reads only structure, no values and no values of attributes, and follows no link out of the file.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from typing import Any

import h5py
from h5py import h5a, h5d, h5g, h5l, h5o, h5t, h5z

from bridge_core.io import limit_process

_MAX_LINKS = 1_000_000
_MAX_SOFT_HOPS = 16
_MEMORY, _CPU_SECONDS = 4 << 30, 30
_BOMB_BYTES, _BOMB_RATIO = 1 << 20, 50
_FILTERS = {
    h5z.FILTER_DEFLATE,
    h5z.FILTER_SHUFFLE,
    h5z.FILTER_FLETCHER32,
    h5z.FILTER_SZIP,
    h5z.FILTER_NBIT,
    h5z.FILTER_SCALEOFFSET,
    h5z.FILTER_LZF,
}


class Found(Exception):
    """Carries a verdict out of the walk."""


class Scan:
    """One walk through one file.

    Args:
        root: The root group.
        size: Bytes of the file.
    """

    def __init__(self, root: Any, size: int) -> None:
        self._root = root
        self._size = size
        self._links = 0
        self._datasets: set[int] = set()
        self._minor: tuple[str, str] | None = None

    def run(self) -> tuple[str, str]:
        """Walk, depth first and without recursion.

        Raises:
            Found: The file is dangerous.
        """
        home = h5o.get_info(self._root).addr
        open_groups, done = {home}, set()
        stack = [(home, "", self._root, self._group(self._root, ""))]
        while stack:
            address, path, group, links = stack[-1]
            link = next(links, None)
            if link is None:
                stack.pop()
                open_groups.discard(address)
                done.add(address)
                continue
            name, kind = link
            inner = f"{path}/{name.decode('utf-8', 'replace')}"
            if kind == h5l.TYPE_SOFT:
                self._follow(group, name, inner)
                continue
            if kind != h5l.TYPE_HARD:
                raise Found("unsafe", f"{inner} is a link to another file; a checkpoint needs none.")
            info = h5o.get_info(group, name)
            if info.type == h5o.TYPE_GROUP:
                if info.addr in open_groups:
                    raise Found("malformed", f"{inner} is a hard link to a group that contains it: a cycle.")
                if info.addr not in done:
                    open_groups.add(info.addr)
                    child = h5g.open(group, name)
                    stack.append((info.addr, inner, child, self._group(child, inner)))
            elif info.type == h5o.TYPE_DATASET and info.addr not in self._datasets:
                self._datasets.add(info.addr)
                self._dataset(h5d.open(group, name), inner)
        return self._minor or (("ours", "") if self._ours() else ("foreign", ""))

    def _group(self, group: Any, path: str) -> Iterator[tuple[bytes, int]]:
        self._attributes(group, path or "/")
        links: list[tuple[bytes, int]] = []

        def note(name: bytes, info: Any) -> None:
            links.append((bytes(name), int(info.type)))
            if len(links) + self._links > _MAX_LINKS:
                raise Found("limit", f"the file has more than {_MAX_LINKS} links.")

        group.links.iterate(note, info=True)
        self._links += len(links)
        return iter(links)

    def _follow(self, group: Any, name: bytes, shown: str) -> None:
        """Follow a soft link step by step, as far as it stays in this file."""
        parts, hops = [name], 0
        while parts:
            part = parts.pop()
            if part in (b"", b"."):
                continue
            try:
                kind = group.links.get_info(part).type
            except (KeyError, RuntimeError):
                return
            if kind == h5l.TYPE_SOFT:
                hops += 1
                if hops > _MAX_SOFT_HOPS:
                    raise Found("malformed", f"{shown} is a soft link that leads back to itself: a cycle.")
                value = group.links.get_val(part)
                group = self._root if value.startswith(b"/") else group
                parts += reversed(value.split(b"/"))
            elif kind != h5l.TYPE_HARD:
                raise Found("unsafe", f"{shown} is a soft link to another file; a checkpoint needs none.")
            elif parts:
                if h5o.get_info(group, part).type != h5o.TYPE_GROUP:
                    return
                group = h5g.open(group, part)

    def _dataset(self, dataset: Any, path: str) -> None:
        settings = dataset.get_create_plist()
        layout = settings.get_layout()
        if layout == h5d.VIRTUAL:
            raise Found("unsafe", f"{path} is a virtual dataset: its values are in other files.")
        if settings.get_external_count():
            raise Found("unsafe", f"{path} stores its values in another file (external storage).")
        for number in range(settings.get_nfilters()):
            code = settings.get_filter(number)[0]
            if code not in _FILTERS:
                raise Found("unsafe", f"{path} needs filter {code}, which is code from outside of HDF5.")
        self._attributes(dataset, path)
        kind = dataset.get_type()
        if _has_vlen(kind):
            self._note("unsupported", f"{path} has values of variable length, which are not read.")
            return
        shape = dataset.get_space().shape
        elements = math.prod(shape) if shape is not None else 0
        declared, stored = elements * kind.get_size(), dataset.get_storage_size()
        if layout == h5d.COMPACT or declared == 0:
            return
        if declared > self._size and (stored == 0 or not settings.get_nfilters()):
            raise Found("limit", f"{path} declares {declared} bytes, but the file is {self._size} bytes.")
        if declared > _BOMB_BYTES and declared > stored * _BOMB_RATIO:
            raise Found("limit", f"{path} would grow from {stored} bytes to {declared} bytes when read.")
        if stored == 0:
            self._note("holed", f"{path} declares {declared} bytes of values and stores none.")

    def _attributes(self, item: Any, path: str) -> None:
        for number in range(h5a.get_num_attrs(item)):
            if _has_vlen(h5a.open(item, index=number).get_type()):
                self._note("unsupported", f"{path} has an attribute of variable length, which is not read.")

    def _note(self, verdict: str, text: str) -> None:
        if self._minor is None:
            self._minor = (verdict, text)

    def _ours(self) -> bool:
        return all(name in self._root for name in (b"ckptbridge", b"t"))


def _has_vlen(kind: Any) -> bool:
    pending = [kind]
    while pending:
        kind = pending.pop()
        if kind.get_class() == h5t.VLEN or (kind.get_class() == h5t.STRING and kind.is_variable_str()):
            return True
        if kind.get_class() == h5t.COMPOUND:
            pending += [kind.get_member_type(i) for i in range(kind.get_nmembers())]
        elif kind.get_class() == h5t.ARRAY:
            pending.append(kind.get_super())
    return False


def scan(file: Any, size: int) -> tuple[str, str]:
    """Return the verdict on a file and its text."""
    try:
        with h5py.File(file, "r") as opened:
            return Scan(opened.id, size).run()
    except Found as found:
        return found.args[0], found.args[1]
    except MemoryError:
        return "limit", f"libhdf5 needs more than {_MEMORY} bytes of memory for the file's structure."
    except Exception as err:
        text = " ".join(str(err).split())[:500]
        verdict = "truncated" if "truncated file" in text else "unreadable"
        return verdict, f"the file is damaged: libhdf5 reports: {text}."


if __name__ == "__main__":
    limit_process(_MEMORY, _CPU_SECONDS)
    stream = sys.stdin.buffer
    print(json.dumps(scan(stream, stream.seek(0, 2))))
