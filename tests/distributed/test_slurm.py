from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from several_processes import in_ranks

from vistruct.distributed.ranks import from_main, setup
from vistruct.distributed.slurm import FIRST_PORT, PORTS, address, first_host, place

STEP = {"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "1", "SLURM_JOB_ID": "123456"}


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("gpu7", "gpu7"),
        ("gpu7,gpu9", "gpu7"),
        ("node[003-006,9]", "node003"),
        ("node[9,003-006]", "node9"),
        ("node[12]", "node12"),
        ("n1,node[003-006]", "n1"),
        ("node[003-006].cluster.example,other", "node003.cluster.example"),
        ("rack[1-2]n[07-08]", "rack1n07"),
        ("gpu-a-[01-02],gpu-b-01", "gpu-a-01"),
        ("10.0.0.1,10.0.0.2", "10.0.0.1"),
    ],
)
def test_the_first_host_of_slurms_notation(nodes, first):
    assert first_host(nodes) == first


def test_a_task_of_a_step_knows_its_place():
    assert place(STEP) == (3, 8, 1)


@pytest.mark.parametrize(
    "env",
    [
        {},
        {"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_LOCALID": "0"},  # the batch script, or a shell of salloc
        STEP | {"SLURM_STEP_NUM_TASKS": "1"},
    ],
)
def test_what_is_no_step_of_several_tasks_is_no_group(env):
    assert place(env) is None


def test_all_tasks_of_a_step_get_the_same_address_and_two_jobs_another():
    nodes = {"SLURM_STEP_NODELIST": "node[003-006]", "SLURM_JOB_NODELIST": "node[001-006]"}
    host, port = address(STEP | nodes)
    assert host == "node003"
    assert FIRST_PORT <= int(port) < FIRST_PORT + PORTS
    assert address(STEP | nodes | {"SLURM_PROCID": "5", "SLURM_LOCALID": "0"}) == (host, port)
    assert address(STEP | nodes | {"SLURM_JOB_ID": "123457"})[1] != port
    assert address(STEP | nodes | {"SLURM_STEP_ID": "1"})[1] != port
    assert address(STEP | nodes | {"MASTER_ADDR": "head", "MASTER_PORT": "29500"}) == ("head", "29500")
    assert address(STEP | {"SLURM_JOB_NODELIST": "node[001-006]"})[0] == "node001"


def meet(out: str, job: int) -> None:
    """As `srun` starts a task: nothing but SLURM's variables."""
    rank, world = os.environ.pop("RANK"), os.environ.pop("WORLD_SIZE")
    for name in ("LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        del os.environ[name]
    os.environ |= {"SLURM_PROCID": rank, "SLURM_STEP_NUM_TASKS": world, "SLURM_LOCALID": rank}
    os.environ |= {"SLURM_JOB_ID": str(job), "SLURM_STEP_NODELIST": "localhost"}
    ranks = setup()
    Path(out, rank).write_text(f"{ranks.rank} {ranks.world} {ranks.local} {from_main(rank)}")


def test_tasks_find_each_other_by_slurms_variables_alone(tmp_path):
    job = next(n for n in range(os.getpid(), os.getpid() + 100) if is_free(FIRST_PORT + n % PORTS))
    assert in_ranks(2, meet, str(tmp_path), job) == [0, 0]
    assert [(tmp_path / str(rank)).read_text() for rank in range(2)] == ["0 2 0 0", "1 2 1 0"]


def is_free(port: int) -> bool:
    with socket.socket() as server:
        return server.connect_ex(("127.0.0.1", port)) != 0
