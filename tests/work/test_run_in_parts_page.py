"""The files of docs/run-in-parts.md that other programs run, by these programs or by small ones."""

import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from support.guides import blocks_of, run_blocks

from bridge_core import verify_manifest

BLOCKS = blocks_of(Path(__file__).parents[2] / "docs" / "run-in-parts.md")
OPTIONS = ["--to", "flax", "--format", "safetensors", "--max-shard-size", "17kB"]
SCHEDULER = {
    "sbatch": """\
#!/bin/sh
# Slurm in one file: runs each task of an array, or what --wrap has, and prints a number.
test "$1" = --parsable && shift
case "$1" in --dependency=afterok:17) eval "$3"; exit;; esac
last=$(sed -n 's/^#SBATCH --array=1-//p' "$1")
for n in $(seq "$last"); do SLURM_ARRAY_TASK_ID=$n bash "$1" >&2 || exit 1; done
echo 17
""",
    "ckptbridge": f"""\
#!/bin/sh
exec {sys.executable} -m bridge_core "$@"
""",
}
RAY = """
def init(): ...

def remote(**options):
    return Decorator

class Decorator:
    def __init__(self, function):
        self.remote = function

def get(results):
    assert sorted(result.part for result in results) == [1, 2, 3]
"""


@pytest.fixture
def page(tmp_path, monkeypatch):
    """The page's model and files in the current folder, and small programs in front of PATH."""
    monkeypatch.chdir(tmp_path)
    files = [block for block in BLOCKS if block.title or re.match(r"# \S+\.py\n", block[1])]
    run_blocks([BLOCKS[0], *files], "page")
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, text in SCHEDULER.items():
        (programs / name).write_text(text)
        (programs / name).chmod(stat.S_IRWXU)
    (programs / "ray.py").write_text(RAY)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(programs), *map(str, sys.path)]))
    return tmp_path


def run(*words, **environment):
    environment = {**os.environ, **environment}
    done = subprocess.run(words, capture_output=True, text=True, timeout=200, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def make_list(out="out"):
    run("ckptbridge", "work", "make", "model.safetensors", out, *OPTIONS, "--parts", "3", "-o", "work.json")


unix = pytest.mark.skipif(not shutil.which("bash") or os.name == "nt", reason="runs shell scripts")


@unix
@pytest.mark.slow
def test_the_scripts_for_slurm_convert(page):
    make_list()
    run("bash", "submit.sh")
    assert verify_manifest("out").intact


@unix
@pytest.mark.slow
def test_the_job_of_kubernetes_converts(page):
    make_list()
    text = (page / "job.yaml").read_text()
    completions = int(re.search(r"completions: (\d+)", text)[1])
    shell, option, command = re.search(r"command: \[(\w+), (-c), \"(.*)\"\]", text).groups()
    for index in range(completions):
        run(shell, option, command.replace("/data/", f"{page}/"), JOB_COMPLETION_INDEX=str(index))
    run("ckptbridge", "work", "finish", "work.json")
    assert verify_manifest("out").intact


@unix
@pytest.mark.slow
def test_the_script_for_ray_converts(page):
    run(sys.executable, "with_ray.py")
    assert verify_manifest("with-ray").intact


@pytest.mark.slow
def test_the_script_for_dask_converts(page):
    pytest.importorskip("distributed")
    run(sys.executable, "with_dask.py")
    assert verify_manifest("with-dask").intact
