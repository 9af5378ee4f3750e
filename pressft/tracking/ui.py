"""Serve the web pages of MLflow and optuna-dashboard on this machine only."""

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
from pressft.tracking.client import HARDENED, STORE, Tracker

HOST = "127.0.0.1"
START_S = 60.0  # for a server to answer
STOP_S = 10.0  # for a server to end, before it is killed
# an address may hold a password, and all users of a machine can see its command lines
DASHBOARD = (
    "import os, sys; from optuna_dashboard import run_server; "
    "run_server(os.environ['PRESSFT_STORAGE'], host=sys.argv[1], port=int(sys.argv[2]))"
)


@dataclass(frozen=True, slots=True)
class Site:
    """A web server to start: name, port, command, additional environment variables, and the titles
    and paths of pages to print."""

    name: str
    port: int
    command: Sequence[str]
    environment: Mapping[str, str]
    pages: Sequence[tuple[str, str]] = ()

    @property
    def address(self) -> str:
        """The address for a browser."""
        return f"http://{HOST}:{self.port}"


def mlflow(root: Path, port: int) -> Site:
    """MLflow's UI on the local store, whose folder may have been moved.

    Raises:
        MissingError: there is no store yet.
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
    return Site("MLflow", port, command, HARDENED, pages)


def dashboard(storage: str, port: int) -> Site:
    """The optuna-dashboard on the storage of the studies.

    Raises:
        MissingError: optuna-dashboard is not installed.
    """
    if importlib.util.find_spec("optuna_dashboard") is None:
        raise MissingError("optuna-dashboard is not installed: pip install 'pressft[dashboard]'")
    port = _free(port)
    command = [sys.executable, "-c", DASHBOARD, HOST, str(port)]
    return Site("Optuna", port, command, {"PRESSFT_STORAGE": storage})


def serve(sites: Sequence[Site], say: Callable[[str], None]) -> None:
    """Run the servers until SIGINT or SIGTERM, or until one of them ends.

    Raises:
        MissingError: a server does not start.
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
    """A running server and its output; at the end of the block the server is stopped, together with
    all processes that it started."""
    with tempfile.TemporaryFile() as log:
        server = subprocess.Popen(
            site.command,
            env=os.environ | site.environment,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C reaches this process, which stops the servers
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
    """`port` if nothing listens on it, else a free one."""
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
