"""What the bridge does with files, in small: to run where system calls are missing.

A script: runs every journey for each of several sets of names that are taken away, and prints the set.
"""

import contextlib
import io
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from support import absent_syscalls

WEIGHTS = {
    "fc.weight": np.arange(30_000, dtype=np.float32).reshape(100, 300),
    "fc.bias": np.ones(100, np.float32),
    "out.weight": np.arange(20_000, dtype=np.float16).reshape(100, 200),
    "out.bias": np.zeros(100, np.float16),
}
DAY = 24 * 60 * 60


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


def refused(kind, call, *args, **options):
    caught = None
    try:
        call(*args, **options)
    except kind as err:
        caught = err
    assert type(caught) is kind, f"{caught!r}, not {kind.__name__}"


def file_to_file(place):
    import bridge_core as bridge

    bridge.save_state(WEIGHTS, place / "a.safetensors", layout="torch")
    for name, to in (
        ("b.msgpack", "flax"),
        ("c.npz", "neutral"),
        ("d.pt", "torch"),
        ("e.safetensors", "torch"),
    ):
        bridge.convert(place / "a.safetensors", place / name, to=to, verify=True, workers=3)
        assert bridge.verify(place / "a.safetensors", place / name).equal
    bridge.convert(place / "b.msgpack", place / "back.safetensors", to="torch")
    with bridge.open_state(place / "back.safetensors") as back:
        for name, array in WEIGHTS.items():
            np.testing.assert_array_equal(back[tuple(name.split("."))], array)
    assert names(place) == [
        "a.safetensors",
        "b.msgpack",
        "back.safetensors",
        "c.npz",
        "d.pt",
        "e.safetensors",
    ]


def folders(place):
    import bridge_core as bridge

    bridge.save_state(WEIGHTS, place / "a.safetensors", layout="torch")
    made = place / "set"
    options = {"to": "flax", "max_shard_size": 50_000, "format": "safetensors"}
    made.mkdir()
    bridge.convert(place / "a.safetensors", made, **options)  # an empty folder is no obstacle
    first = names(made)
    assert len(first) > 3
    assert bridge.verify(place / "a.safetensors", made).equal
    refused(bridge.DestinationExists, bridge.convert, place / "a.safetensors", made, **options)
    (made / "notes.txt").write_text("mine", encoding="utf-8")
    bridge.convert(place / "a.safetensors", made, overwrite=True, **{**options, "max_shard_size": 1_000_000})
    assert bridge.verify(place / "a.safetensors", made).equal
    assert names(made) == ["model.safetensors", "notes.txt"]
    assert names(place) == ["a.safetensors", "set"]


def overwriting(place):
    import bridge_core as bridge

    path = place / "a.safetensors"
    bridge.save_state(WEIGHTS, path)
    refused(bridge.DestinationExists, bridge.save_state, WEIGHTS, path)
    bridge.save_state({"w": np.ones(3)}, path, overwrite=True)
    with bridge.open_state(path) as state:
        assert list(state) == [("w",)]
        refused(bridge.DestinationExists, bridge.save_state, state, path)
    (place / "folder").mkdir()
    refused(bridge.DestinationIsFolder, _replace, place / "folder")
    refused(bridge.SystemFailure, bridge.save_state, WEIGHTS, place / "missing" / "a.safetensors")
    assert names(place) == ["a.safetensors", "folder"]


def _replace(path):
    from bridge_core.io import replacing_file

    with replacing_file(path, overwrite=True):
        raise AssertionError("not refused")


def aborting(place):
    import bridge_core as bridge

    bridge.save_state({"w": np.ones(3)}, place / "a.safetensors")
    bridge.save_state({"w": np.ones(3)}, place / "set", max_shard_size=1 << 20)
    before = {name: _content(place / name) for name in names(place)}

    def stop(_progress):
        raise KeyboardInterrupt

    for name, more in (("a.safetensors", {}), ("set", {"max_shard_size": 50_000})):
        refused(
            KeyboardInterrupt,
            bridge.save_state,
            WEIGHTS,
            place / name,
            overwrite=True,
            progress=stop,
            workers=2,
            **more,
        )
    assert {name: _content(place / name) for name in names(place)} == before


def _content(path):
    if path.is_dir():
        return {name: _content(path / name) for name in names(path)}
    return path.read_bytes()


def appearing(place):
    """A destination that another writer makes meanwhile is not replaced unasked."""
    import bridge_core as bridge

    for name, more in (("a.safetensors", {}), ("set", {"max_shard_size": 50_000})):
        done = []

        def appear(_progress, path=place / name, more=more, done=done):
            if not done:
                done.append(bridge.save_state({"w": np.ones(3)}, path, **more))

        refused(bridge.DestinationExists, bridge.save_state, WEIGHTS, place / name, progress=appear, **more)
        with bridge.open_state(place / name) as state:
            assert list(state) == [("w",)]
    assert names(place) == ["a.safetensors", "set"]


def leftovers(place):
    import bridge_core as bridge

    path = place / "a.safetensors"
    bridge.save_state(WEIGHTS, path)
    file, folder = place / ".a.safetensors.ckptbridge-00", place / ".a.safetensors.ckptbridge-01"
    file.write_bytes(b"half")
    folder.mkdir()
    (folder / "shard").write_bytes(b"half")
    bridge.save_state(WEIGHTS, path, overwrite=True)
    if names(place) != [path.name]:  # without locks, what is young may be a living writer's
        assert names(place) == [file.name, folder.name, path.name]
        past = time.time() - 2 * DAY
        for old in (file, folder):
            os.utime(old, (past, past))
        bridge.save_state(WEIGHTS, path, overwrite=True)
        assert names(place) == [folder.name, path.name]  # its shard is young
        os.utime(folder / "shard", (past, past))
        bridge.save_state(WEIGHTS, path, overwrite=True)
    assert names(place) == [path.name]
    old = place / ".set.ckptbridge-old-00"
    bridge.save_state(WEIGHTS, old, max_shard_size=50_000)
    refused(bridge.DestinationExists, bridge.save_state, WEIGHTS, place / "set", max_shard_size=50_000)
    assert names(place) == [path.name, "set"]


def links(place):
    import bridge_core as bridge
    from bridge_core.io import SourceFile, open_listed

    (place / "inside").mkdir()
    bridge.save_state(WEIGHTS, place / "out.safetensors")
    link = place / "inside" / "model.safetensors"
    link.symlink_to("../out.safetensors")
    refused(bridge.UnsafeFile, open_listed, link)
    refused(bridge.UnsafeFile, SourceFile, link, follow=False)
    with SourceFile(link) as file, open_listed(link, follow_links=True) as listed:
        assert file.identity == listed.identity
    if hasattr(os, "mkfifo"):
        os.mkfifo(place / "pipe")
        refused(bridge.MalformedFile, SourceFile, place / "pipe")
        refused(bridge.MalformedFile, open_listed, place / "pipe")
    refused(bridge.SourceIsFolder, SourceFile, place)
    for name in ("..", "a/b", "a\\b", "C:\\x", "c:x", "x:stream", "NUL", "com1.txt", "LPT9 .x", "x.", "x "):
        index = {"metadata": {}, "weight_map": {"fc.weight": name}}
        (place / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
        refused(bridge.UnsafeFile, bridge.open_state, place / "model.safetensors.index.json")


def changing(place):
    """A source that is written to while it is read is noticed."""
    import bridge_core as bridge

    path = place / "a.safetensors"
    bridge.save_state(WEIGHTS, path)
    with bridge.open_state(path) as state:
        os.truncate(path, 1000)
        refused(bridge.TruncatedFile, state.__getitem__, ("fc", "weight"))
        refused(bridge.IntegrityError, state.check_unchanged)


def reading_in_turns(place):
    """Threads that share a file through duplicates each get their own bytes."""
    from concurrent.futures import ThreadPoolExecutor

    from bridge_core.io import SourceFile

    content = os.urandom(1 << 18)
    (place / "bytes").write_bytes(content)
    with SourceFile(place / "bytes") as file, ThreadPoolExecutor(8) as pool:
        files = [file, *(file.duplicate() for _ in range(3))]

        def read(number):
            at = number * 997 % (len(content) - 500)
            rows = bytearray(200)
            files[number % 3].read_runs(at, 250, 100, rows)
            runs = content[at : at + 100] + content[at + 250 : at + 350]
            return files[number % 4].read(at, 500) == content[at : at + 500] and bytes(rows) == runs

        assert all(pool.map(read, range(400)))
        for duplicate in files[1:]:
            duplicate.close()


def the_command(place):
    import bridge_core as bridge
    from bridge_core.cli import main

    bridge.save_state(WEIGHTS, place / "a.safetensors", layout="torch")
    words = ["convert", str(place / "a.safetensors"), str(place / "b.msgpack"), "--to", "flax", "--quiet"]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        assert main(words, standalone_mode=False) == 0
        assert main(words, standalone_mode=False) == 1
        assert main([*words, "--overwrite"], standalone_mode=False) == 0


JOURNEYS = (
    file_to_file,
    folders,
    overwriting,
    aborting,
    appearing,
    leftovers,
    links,
    changing,
    reading_in_turns,
    the_command,
)


def run(groups, *, like_windows=False):
    """Run every journey without these groups of names."""
    for name in [name for name in sys.modules if name.startswith(("bridge_", "ckptbridge_"))]:
        del sys.modules[name]
    with contextlib.ExitStack() as back:
        back.enter_context(absent_syscalls.remove(*groups))
        if like_windows:
            back.enter_context(absent_syscalls.like_windows())
        from bridge_core.io import machine, page_cache, syscalls

        used = {
            "positions": not syscalls._HAS_POSITIONS,
            "copies": not syscalls.CAN_COPY_RANGES,
            "advice": page_cache._fadvise is None,
            "links": not syscalls._REFUSES_LINKS,
            "locks": syscalls.fcntl is None,
            "C library": syscalls.library_function("renameat2") is None,
        }
        for group, is_used in used.items():
            assert is_used is (group in groups), group
        assert machine.processors() >= 1
        for journey in JOURNEYS:
            with tempfile.TemporaryDirectory() as place:
                try:
                    journey(Path(place))
                except BaseException as err:
                    err.add_note(f"{journey.__name__}, without {', '.join(groups)}")
                    raise


def main(which):
    every = absent_syscalls.GROUPS
    rounds = {
        "usual": [(), every, absent_syscalls.MACOS],
        "single": [(group,) for group in every],
    }
    for absent in rounds[which]:
        run(absent)
        print("without", ", ".join(absent) or "nothing")
    if which == "usual":
        run(every, like_windows=True)
        print("like Windows")


if __name__ == "__main__":
    main(*sys.argv[1:])
