"""Start a command once for each device, and end them together: what `--devices N` does.

torchrun would do the starting, but turns a three-line error into pages about its agents. Nothing here imports
torch.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import FrameType
from typing import IO

LOST = 3  # exit code of a process that failed only because it lost another one
GRACE_S = 10.0  # from a polite end to a hard one
LAUNCHER = "VISTRUCT_LAUNCHER"  # environment: number of the process that started this one as a rank
ALIVE_EVERY_S = 0.5  # how often a rank looks whether its launcher is there


def launch(argv: Sequence[str], devices: int, *, env: Mapping[str, str] | None = None) -> int:
    """Run `python *argv` in `devices` processes on this machine and wait for all of them.

    Rank 0 speaks; what another rank said on stderr is shown only where that one is the reason. When one
    process fails the others are ended; a SIGTERM, SIGINT or SIGHUP to this process goes to all of them, and a second
    one kills them, but for SIGHUP: a terminal that is closed may send several. If this process is killed, they end too.

    Args:
        argv: what follows the interpreter, such as ["-m", "vistruct.cli.main", "train", "detect"].
        devices: processes, at least 1.
        env: added to this process's environment.

    Returns:
        0, or the exit code of a process that failed (128 + signal number if one ended it).
    """
    environment = {**os.environ, **(env or {}), "WORLD_SIZE": str(devices), LAUNCHER: str(os.getpid())}
    environment.setdefault("MASTER_ADDR", "127.0.0.1")
    environment.setdefault("MASTER_PORT", str(_free_port()))
    environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // devices)))
    processes: list[subprocess.Popen[bytes]] = []
    quiet: list[IO[bytes]] = []  # stderr of the ranks that do not speak

    signals: list[int] = []

    def forward(signum: int, _frame: FrameType | None) -> None:
        is_hangup = signal.Signals(signum).name == "SIGHUP"
        again = not is_hangup and any(signal.Signals(one).name != "SIGHUP" for one in signals)
        signals.append(signum)
        for process in processes:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL if again else signum)

    before = {s: signal.signal(s, forward) for s in (*stop_signals(), signal.SIGINT)}
    try:
        for rank in range(devices):
            place = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            stderr = None if rank == 0 else tempfile.TemporaryFile()  # noqa: SIM115  # closed below
            if stderr is not None:
                quiet.append(stderr)
            processes.append(
                subprocess.Popen(
                    [sys.executable, *argv],
                    env=environment | place,
                    stdout=None if rank == 0 else subprocess.DEVNULL,
                    stderr=stderr,
                    start_new_session=True,  # Ctrl-C reaches them once, through `forward`
                )
            )
        failed = _wait(processes)
        if failed is not None and processes[failed].returncode < 0 and not signals:
            name = signal.Signals(-processes[failed].returncode).name
            print(
                f"process {failed} of {devices} was killed ({name})",
                "--devices",
                "was it out of memory? the same command resumes from the last checkpoint",
                sep="\n",
                file=sys.stderr,
            )
            return _exit_code(processes[failed].returncode)
        if failed:
            quiet[failed - 1].seek(0)
            sys.stderr.write(quiet[failed - 1].read().decode(errors="replace"))
        return 0 if failed is None else _exit_code(processes[failed].returncode)
    finally:
        _end(processes)
        for signum, handler in before.items():
            signal.signal(signum, handler)
        for file in quiet:
            file.close()


def stop_signals() -> list[signal.Signals]:
    """What ends a run in good order; a SIGHUP that is ignored, as `nohup` has it, stays so."""
    if sys.platform == "win32" or signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        return [signal.SIGTERM]
    return [signal.SIGTERM, signal.SIGHUP]


def end_with_launcher() -> None:
    """End this process at once when the one that launched it (`launch`, torchrun) is gone; without one do nothing.

    Nobody could stop it any more, and the same command again would be a second run in its directory.
    """
    if LAUNCHER in os.environ:
        launcher = int(os.environ[LAUNCHER])
    elif "TORCHELASTIC_RUN_ID" in os.environ:
        launcher = os.getppid()
    else:
        return

    def watch() -> None:
        while os.getppid() == launcher:
            time.sleep(ALIVE_EVERY_S)
        os._exit(LOST)

    threading.Thread(target=watch, name="launcher", daemon=True).start()


def _wait(processes: list[subprocess.Popen[bytes]]) -> int | None:
    """Wait until all are done or one failed, and say which: one that was killed, else rank 0 rather than another."""
    while True:
        codes = [process.poll() for process in processes]
        killed = next((rank for rank, code in enumerate(codes) if code is not None and code < 0), None)
        if killed is not None:  # what the others say now is only that they miss it
            return killed
        if any(codes):
            # The same mistake usually stops every rank within moments: let rank 0 be the one to tell it.
            with suppress(subprocess.TimeoutExpired):
                processes[0].wait(timeout=2.0)
            codes = [process.poll() for process in processes]
            failed = [rank for rank, code in enumerate(codes) if code]
            return next((rank for rank in failed if codes[rank] != LOST), failed[0])
        if all(code == 0 for code in codes):
            return None
        time.sleep(0.05)


def _end(processes: list[subprocess.Popen[bytes]]) -> None:
    alive = [process for process in processes if process.poll() is None]
    for process in alive:
        process.terminate()
    deadline = time.monotonic() + GRACE_S
    for process in alive:
        try:
            process.wait(timeout=max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _exit_code(returncode: int) -> int:
    return 128 - returncode if returncode < 0 else returncode


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]
