"""Chaos: a study on PostgreSQL and a real MLflow server, while its workers are killed at random and
inside saves, the database is restarted and the tracker goes away. In the end every trial is there
once, with the very numbers of a study left alone, and every point of every curve once.

    python tests/chaos.py           # `make chaos`: prints the table
    python tests/chaos.py --short   # as `make test` has it
    python tests/chaos.py --crowd   # no fault, but 200 trials by four workers
"""

import argparse
import dataclasses
import operator
import os
import random
import signal
import sqlite3
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # busy processes would spin
os.environ["HF_HUB_OFFLINE"] = "1"

from forking import comparable, die_in_save, ended, fork
from listening import TINY, Listener
from proxy import Proxy
from servers import Database, mlflow_server

from pressft import doctor, sweep
from pressft.errors import MissingError
from pressft.report import status
from pressft.study.locations import Locations
from pressft.study.results import Store
from pressft.study.study import Choices, Study
from pressft.training import loop

BASE = dataclasses.replace(TINY, validation_tokens=300)
POINTS_OF = "SELECT key, step FROM metrics WHERE run_uuid = ?"


@dataclass(frozen=True, slots=True)
class Plan:
    """How many faults of each kind, and of how many trials the study is; `pause_s` lies between
    two kills, `outage_s` is the longest absence of the tracker."""

    trials: int
    kills: int
    saves: int
    restarts: int
    outages: int
    outage_s: float
    pause_s: float = 2.0
    workers: int = 4
    tokens: int = 1536  # of a trial: six steps

    def study(self) -> Study:
        """Two arms and ranks, and as many learning rates as it takes."""
        rates = [1e-3 * (i + 1) for i in range(self.trials // 4)]
        space = {
            "remove": Choices("none", "last"),
            "rank": Choices(2, 4),
            "learning_rate": Choices(*rates),
        }
        return Study("chaos", dataclasses.replace(BASE, tokens=self.tokens), space)


LONG = Plan(
    trials=60, kills=100, saves=50, restarts=10, outages=5, outage_s=60, pause_s=1.0, tokens=9216
)
CROWD = Plan(trials=200, kills=0, saves=0, restarts=0, outages=0, outage_s=0, tokens=256)
SHORT = Plan(
    trials=16,
    kills=10,
    saves=5,
    restarts=2,
    outages=1,
    outage_s=8,
    pause_s=1.5,
    workers=3,
    tokens=4608,
)


@dataclass
class Counts:
    """Faults that were injected, and what came of them; all but the faults are to be zero."""

    kills: int = 0
    saves: int = 0
    restarts: int = 0
    outages: int = 0
    outage_s: float = 0.0
    lost: int = 0
    doubled: int = 0
    points_lost: int = 0
    points_doubled: int = 0
    differ: int = 0
    finished: int = 0
    runs: int = 0
    left: list[str] = field(default_factory=list)  # what the doctor finds
    seconds: float = 0.0

    def holds(self, plan: Plan) -> bool:
        """Whether all faults were injected, and nothing came of them."""
        faults = (self.kills, self.saves, self.restarts, self.outages)
        wanted = (plan.kills, plan.saves, plan.restarts, plan.outages)
        wrong = (self.lost, self.doubled, self.points_lost, self.points_doubled, self.differ)
        whole = self.finished == self.runs == plan.trials
        return all(map(operator.ge, faults, wanted)) and whole and not any(wrong) and not self.left

    def table(self) -> str:
        """As Markdown."""
        rows: list[tuple[str, object]] = [
            ("faults: workers killed at random", self.kills),
            ("faults: workers killed inside a save", self.saves),
            ("faults: PostgreSQL restarted", self.restarts),
            (f"faults: tracker away ({self.outage_s:.0f} s in all)", self.outages),
            ("trials finished, runs in MLflow", f"{self.finished}, {self.runs}"),
            ("**trials lost**", self.lost),
            ("**trials doubled**", self.doubled),
            ("**points lost**", self.points_lost),
            ("**points doubled**", self.points_doubled),
            ("**perplexities that differ**", self.differ),
        ]
        lines = [f"| {name} | {value} |" for name, value in rows]
        return "\n".join(["| | |", "| --- | ---: |", *lines])


class Chaos:
    """One study under faults, beside one left alone."""

    def __init__(
        self, plan: Plan, folder: Path, database: Database, proxy: Proxy, say: Callable[[str], None]
    ) -> None:
        """Nothing is started yet."""
        self.plan, self.study, self.say = plan, plan.study(), say
        self.database, self.proxy = database, proxy
        self.locations = Locations(
            folder / "chaos" / "mlruns", database.url, f"http://127.0.0.1:{proxy.port}"
        )
        self.alone = Locations(folder / "alone" / "mlruns")
        self.server_db = folder / "server" / "server.db"
        self.counts, self.random = Counts(), random.Random(0)
        self._alive: dict[int, bool] = {}  # whether it is to die inside a save
        self._over = threading.Event()

    def run(self) -> Counts:
        """All of it."""
        began = time.monotonic()
        loop.CHECKPOINT_S = 0.0  # one at every step
        undisturbed = []
        if self.plan.kills:
            undisturbed = [fork(lambda: sweep.run_sweep(self.study, Listener(), self.alone), 3000)]
        troubles = [threading.Thread(target=t) for t in (self._restart, self._outages)]
        try:
            for trouble in troubles:
                trouble.start()
            self._work(troubles)
        finally:
            self._over.set()
            for trouble in troubles:
                trouble.join()
            for pid in self._alive:
                os.kill(pid, signal.SIGKILL)
                ended(pid)
        self.say("all faults are through: the same commands once more, to their end")
        last = [fork(self._sweep, 3000) for _ in range(self.plan.workers)]
        for pid in (*last, *undisturbed):
            if code := ended(pid):
                raise AssertionError(f"a sweep that nothing disturbed ended with {code}")
        self._count()
        self.counts.seconds = time.monotonic() - began
        return self.counts

    def _sweep(self) -> None:
        listener = Listener()
        outcome = sweep.run_sweep(self.study, listener, self.locations)
        if outcome.done < outcome.asked:
            raise AssertionError(f"{outcome}: {listener.lines}")

    def _work(self, troubles: Sequence[threading.Thread]) -> None:
        """Keep workers alive and kill them, until all faults are through or all work is done."""
        plan, counts, done = self.plan, self.counts, False
        while not done and (
            counts.kills < plan.kills
            or counts.saves < plan.saves
            or any(trouble.is_alive() for trouble in troubles)
        ):
            while len(self._alive) < plan.workers:
                self._start()
            time.sleep(self.random.uniform(0.2, 2 * plan.pause_s))
            mortal = [pid for pid, in_save in self._alive.items() if not in_save]
            if counts.kills < plan.kills and mortal:
                pid = self.random.choice(mortal)
                os.kill(pid, signal.SIGKILL)
            done = 0 in {self._reaped(pid) for pid in list(self._alive)}

    def _start(self) -> None:
        """A new worker; of those that are to die inside a save, as many as are left to do."""
        left = self.plan.saves - self.counts.saves - sum(self._alive.values())
        call = self.random.randrange(1, 60) if left > 0 and self.random.random() < 0.5 else 0

        def work() -> None:
            if call:
                die_in_save(call)
            self._sweep()

        self._alive[fork(work, 1000)] = call > 0

    def _reaped(self, pid: int) -> int | None:
        """Exit code of a worker that is gone, counted; None of one that lives."""
        found, state = os.waitpid(pid, os.WNOHANG)
        if not found:
            return None
        in_save, code = self._alive.pop(pid), os.waitstatus_to_exitcode(state)
        if code == -signal.SIGKILL:
            self.counts.saves += in_save
            self.counts.kills += not in_save
        elif code not in {
            0,
            MissingError.exit_code,
        }:  # 5: it was started while the database is away
            raise AssertionError(f"a worker ended with {code}")
        return code

    def _restart(self) -> None:
        for number in range(self.plan.restarts):
            if self._over.wait(self.random.uniform(2, 8)):
                return
            away_s = self.random.uniform(0.5, 6)
            self.say(f"PostgreSQL is away for {away_s:.1f} s")
            self.database.restart(away_s, "immediate" if number % 2 else "fast")
            self.counts.restarts += 1

    def _outages(self) -> None:
        for number in range(self.plan.outages):
            if self._over.wait(self.random.uniform(2, 8)):
                return
            away_s = self.random.uniform(self.plan.outage_s / 2, self.plan.outage_s)
            mood = ("refuse", "stall", "delay")[number % 3]
            self.say(f"the tracker will {mood} for {away_s:.0f} s")
            self.proxy.mood = mood  # type: ignore[assignment]
            self.proxy.cut()
            self._over.wait(away_s)
            self.proxy.mood = "pass"
            self.counts.outages += 1
            self.counts.outage_s += away_s

    def _count(self) -> None:
        """What came of it, by the storage, the files and the server's own database."""
        counts, store = self.counts, Store(self.locations.root)
        rows = [r for r in status.find("chaos", self.locations).trials if r.state == "complete"]
        results = {cell: store.trial(cell) for cell in {str(row.attrs["cell"]) for row in rows}}
        counts.finished = len(rows)
        counts.lost = self.study.n_trials - len(results)
        counts.doubled = len(rows) - len(results)
        expected = _numbers(self.alone) if self.plan.kills else {}
        counts.differ = sum(
            cell not in results or comparable(results[cell]) != number
            for cell, number in expected.items()
        )
        for cell, points in self._shown():
            counts.runs += 1
            result = results[cell]
            wanted = {(key, at) for at, metrics, _ in result.curve for key in metrics}
            wanted |= {(key, result.tokens) for key in ("test/loss", "test/perplexity")}
            counts.points_lost += len(wanted - points.keys())
            counts.points_doubled += sum(n - 1 for n in points.values())
        counts.doubled += max(0, counts.runs - len(results))
        counts.lost += max(0, len(results) - counts.runs)
        counts.left = [fault.what for fault in doctor.examine(self.locations)]

    def _shown(self) -> list[tuple[str, Counter[tuple[str, int]]]]:
        """Cell and points of every finished run, by plain SQL in the server's database."""
        with sqlite3.connect(self.server_db) as database:
            runs = database.execute(
                "SELECT r.run_uuid, t.value FROM runs r JOIN tags t ON t.run_uuid = r.run_uuid"
                " AND t.key = 'cell' WHERE r.status = 'FINISHED' AND r.lifecycle_stage = 'active'"
            ).fetchall()
            return [
                (cell, Counter(database.execute(POINTS_OF, (run,)).fetchall()))
                for run, cell in runs
            ]


def _numbers(locations: Locations) -> dict[str, object]:
    store = Store(locations.root)
    cells = [str(row.attrs["cell"]) for row in status.find("chaos", locations).trials]
    return {cell: comparable(store.trial(cell)) for cell in cells}


def run(plan: Plan, folder: Path, database: Database, say: Callable[[str], None]) -> Counts:
    """Chaos by a plan, under `folder`."""
    with mlflow_server(folder / "server") as proxy:
        chaos = Chaos(plan, folder, database, proxy, say)
        return chaos.run()


def main() -> None:
    """One of the plans; prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--short", action="store_true", help="what `make test` runs")
    parser.add_argument("--crowd", action="store_true", help="four workers, 200 trials, no fault")
    asked = parser.parse_args()
    plan = SHORT if asked.short else CROWD if asked.crowd else LONG
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        os.environ["PRESSFT_CACHE"] = folder
        database = Database()
        try:
            counts = run(plan, Path(folder), database, lambda line: print(line, file=sys.stderr))
        finally:
            database.close()
    print(counts.table())
    print(f"{counts.seconds:.0f} s; the doctor finds: {counts.left or 'nothing'}")
    sys.exit(not counts.holds(plan))


if __name__ == "__main__":
    main()
