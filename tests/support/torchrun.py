"""Starts programs under torchrun, or without it."""

from __future__ import annotations

import os
import subprocess
import sys

from support.processes import ROOT, kill_tree

TIMEOUT_S = 150  # less than a test has


def start(processes: int, *arguments: str) -> subprocess.CompletedProcess:
    """A program of Python's in so many processes; 0: without torchrun."""
    many = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, *(many if processes else []), *arguments]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            out, err = process.communicate(timeout=TIMEOUT_S)
        finally:
            kill_tree(process)
    return subprocess.CompletedProcess(command, process.returncode, out, err)
