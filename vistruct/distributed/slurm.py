"""What SLURM says about a group of tasks started by `srun`, read from the environment alone.

A shell inside an allocation and the batch script itself have SLURM's variables too; only a step of several tasks is a
group. Its tasks find each other on the first machine of the step's list, at a port that follows from the job.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

FIRST_PORT, PORTS = 15_000, 15_000  # below the range from which Linux draws ports for outgoing connections


def place(env: Mapping[str, str]) -> tuple[int, int, int] | None:
    """(rank, world, rank on this machine) of a task in a step of several; None: not in one."""
    tasks = int(env.get("SLURM_STEP_NUM_TASKS", "1"))
    if tasks < 2 or "SLURM_PROCID" not in env:
        return None
    return int(env["SLURM_PROCID"]), tasks, int(env.get("SLURM_LOCALID", "0"))


def address(env: Mapping[str, str]) -> tuple[str, str]:
    """(host, port) where the tasks of a step meet; what MASTER_ADDR and MASTER_PORT say goes before."""
    nodes = env.get("SLURM_STEP_NODELIST") or env.get("SLURM_JOB_NODELIST") or "127.0.0.1"
    number = int(env.get("SLURM_JOB_ID", "0")) + int(env.get("SLURM_STEP_ID", "0"))
    port = str(FIRST_PORT + number % PORTS)
    return env.get("MASTER_ADDR") or first_host(nodes), env.get("MASTER_PORT") or port


def first_host(nodes: str) -> str:
    """The first name of a list in SLURM's notation: `node[003-006,9],gpu1` -> `node003`."""
    found = re.match(r"(?:[^,\[]|\[[^\]]*\])+", nodes)  # up to the first comma outside of brackets
    first = found.group() if found else nodes
    return re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", first)
