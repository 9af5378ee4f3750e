"""The pages of others on what a study left: MLflow's own UI, for this machine only."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

from pressft.errors import MissingError
from pressft.tracking import CLOSED, STORE, Tracker

CHARTS = "compareRunsMode=CHART&workflowType=machine_learning"  # it opens in "GenAI" mode else


def serve(root: Path, port: int, say: Callable[[str], None]) -> None:
    """Run the MLflow UI on the local store until SIGINT or SIGTERM, closed to other machines.

    Raises:
        MissingError: no store there yet, or the server does not come up.
    """
    store = root.resolve() / STORE
    if not store.is_file():
        raise MissingError(f"no runs in {root}: start with `pressft sweep experiments/smoke.py`")
    port = _free(port)
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)),
        *("--workers", "1", "--backend-store-uri", f"sqlite:///{store}"),
        *("--artifacts-destination", str(root.resolve() / "artifacts")),
    ]
    log = tempfile.TemporaryFile()  # noqa: SIM115  (closed with the server)
    server = subprocess.Popen(command, env=os.environ | CLOSED, stdout=log, stderr=log)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        _wait_until_up(server, port, log)
        say(f"MLflow on http://127.0.0.1:{port}  (Ctrl-C ends it)")
        for name, link in _links(root, port):
            say(f"  {name}: {link}")
        server.wait()
    except KeyboardInterrupt:
        pass
    finally:
        server.terminate()
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            server.kill()
        log.close()
        signal.signal(signal.SIGTERM, before)


def _free(port: int) -> int:
    """`port` if nothing listens there, else a free one."""
    for wanted in (port, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", wanted))
                return int(probe.getsockname()[1])
    raise MissingError("no free port on 127.0.0.1")


def _wait_until_up(server: subprocess.Popen[bytes], port: int, log: IO[bytes]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if server.poll() is not None:
            log.seek(0)
            last = (log.read().decode(errors="replace").strip().splitlines() or ["no reason"])[-1]
            raise MissingError(f"the MLflow server ended with code {server.returncode}: {last}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.2)
    raise MissingError("the MLflow server did not answer within 60 s")


def _links(root: Path, port: int) -> list[tuple[str, str]]:
    """Name and chart page of each experiment that has runs, the newest first."""
    site = f"http://127.0.0.1:{port}/#/experiments"
    return [(name, f"{site}/{key}/runs?{CHARTS}") for name, key in Tracker(root).experiments()]
