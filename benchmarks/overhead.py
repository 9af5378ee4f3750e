"""Everything in a trial that is not training or scoring, and how long commands keep one waiting.

Tiny trials are worked off in this process, as a worker does, once with SQLite, once with
PostgreSQL. A trial lasts from one asking for a trial to the next; what `loop.steps`,
`perplexity.score` and `generation.generate` took of it is subtracted (checkpoints count as
training). With `--slow-s` MLflow is a real server behind a proxy that holds
every answer back for so long; told are the pauses of training by telling points. Then commands are
timed, each in a process of its own.

    python benchmarks/overhead.py --trials 8 --slow-s 1 --rounds 5
"""

import argparse
import functools
import itertools
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from workers import environment, postgresql

from pressft import sweep
from pressft.evaluation import generation, perplexity
from pressft.progress import Reporter
from pressft.spec import TrialSpec
from pressft.study.ledger import Ledger
from pressft.study.locations import Locations
from pressft.study.study import Choices, Study
from pressft.tracking.runs import Run
from pressft.tracking.sync import Sync
from pressft.training import loop

GOAL_S, STALL_S = 0.5, 0.05
BASE = TrialSpec(
    model="tiny-llama", corpus="invented", tokens=1024, batch=4, block=64, window=128,
    validation_tokens=300, rank=2,
)  # fmt: skip


class Silent(Reporter):
    """Says nothing."""

    def setup(self, what: str, done: float, of: float) -> None:
        """Nothing."""

    def plan(self, title: str, units: int) -> None:
        """Nothing."""

    def advance(self, what: str, units: int) -> None:
        """Nothing."""

    def say(self, line: str) -> None:
        """Nothing."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--trials", type=int, default=2)
    parser.add_argument("--slow-s", type=float, default=0.0)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    torch.set_num_threads(1)  # a tiny model; spinning threads on busy cores slow each other
    with tempfile.TemporaryDirectory() as name, postgresql(Path(name) / "pg") as url:
        folder = Path(name)
        with slow_server(folder, asked.slow_s) if asked.slow_s else nullcontext(None) as tracker:
            for kind, address in (("SQLite", None), ("PostgreSQL", url)):
                if address != "":
                    locations = Locations(folder / kind / "mlruns", address, tracker)
                    locations.root.mkdir(parents=True)
                    _report(kind, locations, asked.trials)
        commands(folder / "SQLite", asked.rounds)


def _report(kind: str, locations: Locations, n: int) -> None:
    """Sweep, and say what it took."""
    rates = Choices(*(1e-4 * (i + 1) for i in range(n + 1)))
    others, told = swept(Study("overhead", BASE, {"learning_rate": rates}), locations)
    median = statistics.median(others)
    stalls = sum(seconds > STALL_S for seconds in told)
    print(
        f"{kind}: {median:.2f} s a trial beside training and scoring, "
        f"ratio {median / GOAL_S:.2f} of {GOAL_S} s; {stalls} of {len(told)} points held training "
        f"up by more than {1000 * STALL_S:.0f} ms, the longest by {1000 * max(told):.0f} ms"
    )


class Stopwatch:
    """Adds up the seconds of calls, of the outermost only where they call one another."""

    def __init__(self) -> None:
        """Nothing measured, nothing running."""
        self.seconds = 0.0
        self.depth = 0

    def around(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """The call, measured."""

        @functools.wraps(call)
        def run(*args: Any, **options: Any) -> Any:  # noqa: ANN401
            self.depth += 1
            start = time.perf_counter()
            try:
                return call(*args, **options)
            finally:
                self.depth -= 1
                self.seconds += 0 if self.depth else time.perf_counter() - start

        return run

    def between(self, made: Callable[..., Generator[Any, None, None]]) -> Callable[..., Any]:
        """The generator, measured while it is at work."""

        def run(*args: Any) -> Generator[Any, None, None]:  # noqa: ANN401
            items = made(*args)
            following = self.around(functools.partial(next, items, None))
            with closing(items):
                while (item := following()) is not None:
                    yield item

        return run

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Measure training and scoring of ours."""
        with (
            mock.patch.object(loop, "steps", self.between(loop.steps)),
            mock.patch.object(perplexity, "score", self.around(perplexity.score)),
            mock.patch.object(generation, "generate", self.around(generation.generate)),
        ):
            yield


def swept(study: Study, locations: Locations) -> tuple[list[float], list[float]]:
    """Seconds of each trial beside the work, the first left out; and of each telling of points."""
    watch = Stopwatch()
    began: list[float] = []  # less the work done until then
    told: list[float] = []
    take, submit = Ledger.take, Sync.submit

    def taken(ledger: Ledger) -> Any:  # noqa: ANN401
        began.append(time.perf_counter() - watch.seconds)
        return take(ledger)

    def submitted(sync: Sync, run: Run) -> None:
        start = time.perf_counter()
        submit(sync, run)
        if run.status == "RUNNING" and run.points:
            told.append(time.perf_counter() - start)

    with (
        watch.at_work(),
        mock.patch.object(Ledger, "take", taken),
        mock.patch.object(Sync, "submit", submitted),
    ):
        sweep.work(study, Silent(), locations, uuid.uuid4().hex)
    return [after - before for before, after in itertools.pairwise(began)][1:], told


@contextmanager
def slow_server(folder: Path, delay_s: float) -> Iterator[str]:
    """Address of an MLflow server whose answers come so much later."""
    port, server = _free_port(), [sys.executable, "-m", "mlflow", "server", "--workers", "1"]
    store = ["--backend-store-uri", f"sqlite:///{folder}/served.db", "--port", str(port)]
    artifacts = ["--artifacts-destination", str(folder / "served")]
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen([*server, *store, *artifacts], stdout=log, stderr=log)
    try:
        _await(port, process)
        with socket.create_server(("127.0.0.1", 0)) as door:
            threading.Thread(target=_proxy, args=(door, port, delay_s), daemon=True).start()
            yield f"http://127.0.0.1:{door.getsockname()[1]}"
    finally:
        process.terminate()
        process.wait()


def _proxy(door: socket.socket, port: int, delay_s: float) -> None:
    """Connections to the port, what comes back held for `delay_s`."""
    while True:
        try:
            ours, _ = door.accept()
        except OSError:
            return
        theirs = socket.create_connection(("127.0.0.1", port))
        threading.Thread(target=_pass, args=(ours, theirs, 0.0), daemon=True).start()
        threading.Thread(target=_pass, args=(theirs, ours, delay_s), daemon=True).start()


def _pass(source: socket.socket, sink: socket.socket, delay_s: float) -> None:
    try:
        while data := source.recv(65536):
            time.sleep(delay_s)
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        return


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as door:
        return int(door.getsockname()[1])


def _await(port: int, process: "subprocess.Popen[bytes]") -> None:
    while process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.2)
    raise SystemExit("the MLflow server did not start")


def commands(root: Path, rounds: int) -> None:
    """Seconds of commands."""
    for words, goal in ((["--help"], 0.3), (["status", "overhead"], 1.0)):
        times = []
        for _ in range(rounds):
            began = time.perf_counter()
            line = [sys.executable, "-m", "pressft", *words]
            subprocess.run(line, cwd=root, check=True, capture_output=True, env=environment())
            times.append(time.perf_counter() - began)
        median = statistics.median(times)
        print(f"pressft {' '.join(words)}: {median:.2f} s, ratio {median / goal:.2f} of {goal} s")


if __name__ == "__main__":
    main()
