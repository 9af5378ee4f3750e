"""A run gets what it lacks, each point once, whatever the server does in between."""

import dataclasses
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from proxy import Proxy
from servers import mlflow_server

from pressft.study.results import Point
from pressft.tracking import sync
from pressft.tracking.client import Tracker, UnreachableError
from pressft.tracking.runs import Run
from pressft.tracking.sync import Sync


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with mlflow_server(tmp_path_factory.mktemp("server")) as found:
        yield found


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
def tracker(proxy: Proxy, tmp_path: Path) -> Tracker:
    proxy.mood = "pass"
    return Tracker(tmp_path, f"http://127.0.0.1:{proxy.port}")


@pytest.fixture
def writer(tracker: Tracker, lines: list[str]) -> Sync:
    return Sync(tracker, "e", "Q?", lines.append)


def made(record: str, steps: range, *, over: bool = True) -> Run:
    return Run(
        record=record,
        name=record,
        status="FINISHED" if over else "RUNNING",
        started=1000,
        ended=9000 if over else None,
        params={"rank": "8"},
        tags={"trial": "0", "study": "e", "arm": "none"},
        points=[Point(step, {"train/loss": 1.0 / step}, 1000 + step) for step in steps],
        version="1" if over else "",
    )


def shown(proxy: Proxy, record: str) -> list[object]:
    client = MlflowClient(f"http://127.0.0.1:{proxy.port}")
    experiment = client.get_experiment_by_name("e")
    return list(client.search_runs([experiment.experiment_id], f"tags.record = '{record}'"))


def steps(proxy: Proxy, record: str) -> Counter[int]:
    (run,) = shown(proxy, record)
    assert run.info.status == "FINISHED"
    assert (run.info.start_time, run.info.end_time) == (1000, 9000)
    client = MlflowClient(f"http://127.0.0.1:{proxy.port}")
    return Counter(p.step for p in client.get_metric_history(run.info.run_id, "train/loss"))


def test_a_server_that_is_away_costs_nothing_and_gets_all_of_it_later(
    proxy: Proxy, writer: Sync, lines: list[str]
) -> None:
    proxy.mood = "refuse"
    with writer:
        began = time.monotonic()
        for step in range(2, 200):
            writer.submit(made("away", range(1, step), over=False))
        writer.submit(made("away", range(1, 201)))
        assert time.monotonic() - began < 1  # the server is not asked
        assert writer.flush(1) == 1
        assert "training continues" in lines[0]
        proxy.mood = "pass"
        assert writer.flush(30) == 0
    assert lines[-1] == "MLflow answers again"
    assert steps(proxy, "away") == Counter(range(1, 201))


def test_connections_cut_in_the_middle_lose_and_double_nothing(proxy: Proxy, writer: Sync) -> None:
    with writer:
        for step in range(2, 60):
            writer.submit(made("cut", range(1, step), over=False))
            time.sleep(0.05)
            proxy.cut()
        writer.submit(made("cut", range(1, 60)))
        assert writer.flush(60) == 0
    assert steps(proxy, "cut") == Counter(range(1, 60))


def test_written_again_by_whomever_a_run_changes_nothing(proxy: Proxy, tracker: Tracker) -> None:
    run = made("again", range(1, 20))
    first = sync.write(tracker, "e", "Q?", run)
    assert sync.write(tracker, "e", "Q?", run).run_id == first.run_id
    sync.rewrite(tracker, "e", "Q?", run)
    late = dataclasses.replace(run, points=run.points[:5], status="RUNNING", ended=None, version="")
    sync.write(tracker, "e", "Q?", late)  # by a process that is behind
    sync.write(tracker, "e", "Q?", run)
    assert steps(proxy, "again") == Counter(range(1, 20))


def test_two_that_were_made_at_once_are_one_again(proxy: Proxy, tracker: Tracker) -> None:
    experiment = tracker.experiment("e", "Q?")
    half, whole = made("twin", range(1, 5)), made("twin", range(1, 10))
    for _ in range(2):
        tracker.create(experiment, half)
    assert len(shown(proxy, "twin")) == 2
    sync.write(tracker, "e", "Q?", whole)
    assert steps(proxy, "twin") == Counter(range(1, 10))


def test_a_tag_that_holds_no_more_goes(proxy: Proxy, tracker: Tracker) -> None:
    run = made("fixed", range(1, 3))
    faulty = dataclasses.replace(run, tags={**run.tags, "fault": "x"}, version="0", status="KILLED")
    sync.write(tracker, "e", "Q?", faulty)
    assert shown(proxy, "fixed")[0].data.tags["fault"] == "x"
    sync.write(tracker, "e", "Q?", run)
    assert "fault" not in shown(proxy, "fixed")[0].data.tags


@pytest.mark.parametrize("what", ["run", "experiment"])
def test_what_was_deleted_meanwhile_is_made_anew(proxy: Proxy, writer: Sync, what: str) -> None:
    client = MlflowClient(f"http://127.0.0.1:{proxy.port}")
    writer.submit(made(f"gone-{what}", range(1, 5), over=False))
    assert writer.flush(30) == 0
    (run,) = shown(proxy, f"gone-{what}")
    if what == "run":
        client.delete_run(run.info.run_id)
    else:
        client.delete_experiment(run.info.experiment_id)
    writer.submit(made(f"gone-{what}", range(1, 6)))
    assert writer.flush(30) == 0
    assert steps(proxy, f"gone-{what}") == Counter(range(1, 6))


def test_what_no_server_will_take_is_named_and_stands_in_nobodys_way(
    proxy: Proxy, writer: Sync, lines: list[str]
) -> None:
    bad = dataclasses.replace(made("bad", range(0)), params={"a key \0 that": "is none"})
    writer.submit(bad)
    writer.submit(made("good", range(1, 3)))
    assert writer.flush(30) == 0
    assert "bad cannot be written to MLflow" in lines[0]
    assert steps(proxy, "good") == Counter([1, 2])


def test_whatever_a_summary_comes_to_writing_goes_on(
    proxy: Proxy, writer: Sync, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sync, "SUMMARY_S", 0.0)
    monkeypatch.setattr(sync, "INTERVAL_S", 0.05)

    def broken() -> None:
        raise KeyError("untrained")

    monkeypatch.setattr(writer, "_summarize", broken)
    with writer:
        deadline = time.monotonic() + 30
        while not lines and time.monotonic() < deadline:
            time.sleep(0.05)
        writer.submit(made("after", range(1, 4)))
        while writer._pending and time.monotonic() < deadline:
            time.sleep(0.05)  # by the thread itself: nobody flushes
    assert lines[0] == "the summary could not be written: KeyError: 'untrained'"
    assert steps(proxy, "after") == Counter([1, 2, 3])


def test_no_password_of_a_server_is_told(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path, "http://me:s3cret@127.0.0.1:9/")
    with pytest.raises(UnreachableError) as error:
        tracker.pages()
    assert "s3cret" not in str(error.value)
