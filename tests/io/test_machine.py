"""What the machine gives this process."""

from __future__ import annotations

import pytest

from bridge_core.io import machine


@pytest.mark.parametrize(
    ("lines", "files", "limit"),
    [
        ("0::/", {"two/memory.max": "500"}, 500),
        ("0::/a/b", {"two/a/b/memory.max": "max", "two/a/memory.max": "400", "two/memory.max": "600"}, 400),
        ("0::/elsewhere/on/the/host", {"two/memory.max": "300"}, 300),
        ("4:cpu,memory:/x\n1:cpu:/", {"one/x/memory.limit_in_bytes": "200", "two/memory.max": "100"}, 200),
        ("4:memory:/x", {"one/x/memory.limit_in_bytes": "9223372036854771712"}, 1000),
        ("0::/", {"two/memory.max": "max"}, 1000),
        ("nonsense", {}, 1000),
        (None, {}, 1000),
    ],
)
def test_a_container_has_less_memory_than_its_machine(tmp_path, monkeypatch, lines, files, limit):
    monkeypatch.setattr(machine, "machine_memory", lambda: 1000)
    monkeypatch.setattr(machine, "_CGROUPS", tmp_path / "cgroup")
    groups = {"": (str(tmp_path / "two"), "memory.max")}
    groups["memory"] = (str(tmp_path / "one"), "memory.limit_in_bytes")
    monkeypatch.setattr(machine, "_CGROUP_FILES", groups)
    if lines is not None:
        (tmp_path / "cgroup").write_text(lines)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert machine.memory_limit() == limit
