"""The pages of others on what a study left: MLflow's own and Optuna's, for this machine only."""

import contextlib
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pressft.errors import MissingError
from pressft.tracking.client import CLOSED, STORE, Tracker

HOST = "127.0.0.1"
START_S = 60.0  # for a server to answer
STOP_S = 10.0  # for it to end, then it is killed
# an address may hold a password, and a command line is seen by all
DASHBOARD = (
    "import os, sys; from optuna_dashboard import run_server; "
    "run_server(os.environ['PRESSFT_STORAGE'], host=sys.argv[1], port=int(sys.argv[2]))"
)


@dataclass(frozen=True, slots=True)
class Site:
    """A server to be: what it shows, its command, what is added to its environment, its pages."""

    name: str
    port: int
    command: Sequence[str]
    environment: Mapping[str, str]
    pages: Sequence[tuple[str, str]] = ()

    @property
    def address(self) -> str:
        """Where a browser finds it."""
        return f"http://{HOST}:{self.port}"


def mlflow(root: Path, port: int) -> Site:
    """MLflow's UI on the local store; a folder that was moved is found.

    Raises:
        MissingError: no store there yet.
    """
    store = root.resolve() / STORE
    if not store.is_file():
        raise MissingError(f"no runs in {root}: start with `pressft sweep experiments/smoke.py`")
    port = _free(port)
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port)),
        *("--workers", "1", "--backend-store-uri", f"sqlite:///{store}"),
        *("--artifacts-destination", str(root.resolve() / "artifacts")),
    ]
    pages = [(name, f"#{page}") for name, page in Tracker(root).pages()]
    return Site("MLflow", port, command, CLOSED, pages)


def dashboard(storage: str, port: int) -> Site:
    """optuna-dashboard on the storage of the studies.

    Raises:
        MissingError: it is not installed.
    """
    if importlib.util.find_spec("optuna_dashboard") is None:
        raise MissingError("optuna-dashboard is not installed: pip install 'pressft[dashboard]'")
    port = _free(port)
    command = [sys.executable, "-c", DASHBOARD, HOST, str(port)]
    return Site("Optuna", port, command, {"PRESSFT_STORAGE": storage})


def serve(sites: Sequence[Site], say: Callable[[str], None]) -> None:
    """Run the servers until SIGINT or SIGTERM, or one ends, closed to other machines.

    Raises:
        MissingError: one does not come up.
    """
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with contextlib.ExitStack() as stack:
            servers = [stack.enter_context(_running(site)) for site in sites]
            for site, (server, log) in zip(sites, servers, strict=True):
                _wait_until_up(site, server, log)
                say(f"{site.name} on {site.address}  (Ctrl-C ends it)")
                for name, page in site.pages:
                    say(f"  {name}: {site.address}/{page}")
            while all(server.poll() is None for server, _ in servers):
                time.sleep(0.2)
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _running(site: Site) -> Iterator[tuple["subprocess.Popen[bytes]", IO[bytes]]]:
    """A server and what it prints; ended behind the block, with all that it started."""
    with tempfile.TemporaryFile() as log:
        server = subprocess.Popen(
            site.command,
            env=os.environ | site.environment,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C comes to us, and we pass it on once
        )
        try:
            yield server, log
        finally:
            _end(server)


def _end(server: "subprocess.Popen[bytes]") -> None:
    server.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        server.wait(STOP_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)  # what it left behind
    server.wait()


def _free(port: int) -> int:
    """`port` if nothing listens there, else a free one."""
    for wanted in (port, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError, OverflowError):
                probe.bind((HOST, wanted))
                return int(probe.getsockname()[1])
    raise MissingError(f"no free port on {HOST}")


def _wait_until_up(site: Site, server: "subprocess.Popen[bytes]", log: IO[bytes]) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if server.poll() is not None:
            log.seek(0)
            last = (log.read().decode(errors="replace").strip().splitlines() or ["no reason"])[-1]
            raise MissingError(f"{site.name} ended with code {server.returncode}: {last}")
        with contextlib.suppress(OSError), socket.create_connection((HOST, site.port), 1):
            return
        time.sleep(0.2)
    raise MissingError(f"{site.name} did not answer within {START_S:.0f} s")
