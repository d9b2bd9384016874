"""A terabyte in 163 shards and 91,000 tensors becomes a work list in little memory."""

import json
import subprocess
import sys

import pytest
from support.sparse_checkpoint import TERABYTE, deepseek_shapes, make_sparse

MAKE = """
import sys
from bridge_core import make_work
{before}
work = make_work(sys.argv[1], sys.argv[2], parts=16, {options})
open(sys.argv[3], "w").write(work.to_text())
# The peak that getrusage gives would include that of the process which started this one.
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""
PLAIN = "to='flax', format='safetensors', accept_guesses=True, max_shard_size='6.3GB'"
RULES = """
from bridge_core import Rule
names = "model.layers.{i:int}.mlp.experts.{e:int}.%s_proj.weight", "model.layers.{i:int}.mlp.experts.%s"
rules = [
    Rule.rearrange(names[0] % part, names[1] % part, "out in -> e in out") for part in ("gate", "up", "down")
]
"""
CASES = {"one to one": ("", PLAIN, 91_099), "experts stacked": (RULES, f"{PLAIN}, rules=rules", 967)}


def has_sparse_files(folder):
    """Return whether the file system stores holes as holes; macOS's and Windows' do not at once."""
    with (folder / "hole").open("wb") as file:
        file.truncate(1 << 30)
    blocks = getattr((folder / "hole").stat(), "st_blocks", None)
    (folder / "hole").unlink()
    return blocks is not None and blocks * 512 < 1 << 20


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_the_work_list_of_a_terabyte_takes_less_than_a_gigabyte(tmp_path, case):
    pytest.importorskip("resource")
    if not has_sparse_files(tmp_path):
        pytest.skip("the file system has no sparse files")
    before, options, tensors = CASES[case]
    shapes = deepseek_shapes(**TERABYTE)
    total = make_sparse(tmp_path / "source", shapes, 163)
    assert len(shapes) > 91_000
    assert total > 1e12
    assert sum(path.stat().st_blocks * 512 for path in (tmp_path / "source").iterdir()) < 100e6
    code, made = MAKE.format(before=before, options=options), tmp_path / "work.json"
    arguments = [str(tmp_path / "source"), str(tmp_path / "out"), str(made)]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    peak = int(done.stdout) * (1 if sys.platform == "darwin" else 1024)
    assert peak < 1e9
    work = json.loads(made.read_text())
    assert sum(file["bytes"] for file in work["files"]) == total
    assert sum(file["tensors"] for file in work["files"]) == tensors
    assert len(work["parts"]) == 16
    of_parts = [sum(work["files"][number - 1]["bytes"] for number in part) for part in work["parts"]]
    assert max(of_parts) < 1.2 * total / 16
    assert sorted(number for part in work["parts"] for number in part) == list(
        range(1, len(work["files"]) + 1)
    )
    assert not (tmp_path / "out").exists()
