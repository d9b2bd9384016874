"""Starts the processes of a mesh, each with `support.mesh_work`."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

from support import mesh_work

_SECONDS = 120


def run_mesh(scenario, folder, *, processes, devices, kind="auto"):
    """Run a scenario in new processes on this machine; return what each of them printed.

    Args:
        scenario: The name of a function of `support.mesh_work`.
        folder: Where its files are.
        processes: How many processes.
        devices: How many devices each of them has.
        kind: The mesh, as for `support.mesh_work.mesh_of`.
    """
    with socket.socket() as free:  # the coordinator cannot choose a port by itself
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = [
        subprocess.Popen(
            [
                sys.executable,
                mesh_work.__file__,
                *map(str, (scenario, number, processes, devices, port, folder, kind)),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=Path(mesh_work.__file__).parents[2],
        )
        for number in range(processes)
    ]
    results = []
    try:
        for process in started:
            out, err = process.communicate(timeout=_SECONDS)
            assert process.returncode == 0, err[-4000:]
            results.append(json.loads(out.rpartition("RESULT ")[2]))
    finally:
        for process in started:
            process.kill()
            process.wait()
    return results
