"""What waits is sent, each point once, whatever the server does; the work never waits for it."""

import shutil
import time
from collections import Counter
from pathlib import Path

import pytest
from mlflow import MlflowClient
from proxy import Proxy
from servers import mlflow_server

from pressft.tracking.client import AwayError, Tracker
from pressft.tracking.outbox import Record
from pressft.tracking.sender import Sender

EXPERIMENT = {"name": "e", "question": "Q?"}


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory):  # noqa: ANN201
    with mlflow_server(tmp_path_factory.mktemp("server")) as found:
        yield found


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
def sender(proxy: Proxy, tmp_path: Path, lines: list[str]) -> Sender:
    proxy.mood = "pass"
    tracker = Tracker(tmp_path, f"http://127.0.0.1:{proxy.port}")
    return Sender(tracker, tmp_path / "outbox", lines.append)


def write(folder: Path, name: str, steps: range, *, end: bool = True) -> Record:
    record = Record(folder, name)
    record.begin(EXPERIMENT, name, {"rank": 8}, {"trial": 0, "study": "e", "arm": "none"})
    for step in steps:
        record.points(step, {"train/loss": 1.0 / step})
    if end:
        record.end("FINISHED")
    return record


def shown(proxy: Proxy, name: str) -> list[object]:
    client = MlflowClient(f"http://127.0.0.1:{proxy.port}")
    experiment = client.get_experiment_by_name("e")
    return list(client.search_runs([experiment.experiment_id], f"tags.record = '{name}'"))


def steps(proxy: Proxy, name: str) -> Counter[int]:
    (run,) = shown(proxy, name)
    assert run.info.status == "FINISHED"
    client = MlflowClient(f"http://127.0.0.1:{proxy.port}")
    return Counter(p.step for p in client.get_metric_history(run.info.run_id, "train/loss"))


def test_a_server_that_is_away_costs_nothing_and_gets_all_of_it_later(
    proxy: Proxy, sender: Sender, tmp_path: Path, lines: list[str]
) -> None:
    proxy.mood = "refuse"
    with sender:
        began = time.monotonic()
        write(tmp_path / "outbox", "away", range(1, 201))
        assert time.monotonic() - began < 20  # 200 synced lines; the server is not asked
        assert sender.flush({"away"}, 1) == {"away"}
        assert "the work goes on" in lines[0]
        proxy.mood = "pass"
        assert sender.flush({"away"}, 30) == set()
    assert lines[-1] == "MLflow answers again"
    assert steps(proxy, "away") == Counter(range(1, 201))
    assert not list((tmp_path / "outbox").iterdir())


def test_connections_cut_in_the_middle_lose_and_double_nothing(
    proxy: Proxy, sender: Sender, tmp_path: Path
) -> None:
    with sender:
        record = write(tmp_path / "outbox", "cut", range(1, 2), end=False)
        for step in range(2, 60):
            record.points(step, {"train/loss": 1.0 / step})
            time.sleep(0.05)
            proxy.cut()
        record.end("FINISHED")
        assert sender.flush({"cut"}, 60) == set()
    assert steps(proxy, "cut") == Counter(range(1, 60))


def test_a_sender_that_lost_its_place_sends_nothing_twice(
    proxy: Proxy, sender: Sender, tmp_path: Path
) -> None:
    folder = tmp_path / "outbox"
    write(folder, "again", range(1, 20))
    shutil.copy(folder / "again.jsonl", tmp_path / "kept")
    assert sender.flush({"again"}, 30) == set()
    shutil.copy(tmp_path / "kept", folder / "again.jsonl")  # as after a power cut
    assert sender.flush({"again"}, 30) == set()
    assert steps(proxy, "again") == Counter(range(1, 20))


def test_a_run_deleted_meanwhile_is_made_anew(proxy: Proxy, sender: Sender, tmp_path: Path) -> None:
    record = write(tmp_path / "outbox", "gone", range(1, 5), end=False)
    sender.flush({"gone"}, 2)  # not over: it is sent, and stays
    (run,) = shown(proxy, "gone")
    MlflowClient(f"http://127.0.0.1:{proxy.port}").delete_run(run.info.run_id)
    record.points(5, {"train/loss": 0.2})
    record.end("FINISHED")
    assert sender.flush({"gone"}, 30) == set()
    assert steps(proxy, "gone") == Counter(range(1, 6))


def test_what_no_server_will_take_is_set_aside_and_named(
    proxy: Proxy, sender: Sender, tmp_path: Path, lines: list[str]
) -> None:
    record = Record(tmp_path / "outbox", "bad")
    record.begin(EXPERIMENT, "bad", {"a key \0 that": "is none"}, {})
    record.end("FINISHED")
    write(tmp_path / "outbox", "good", range(1, 3))
    assert sender.flush({"bad", "good"}, 30) == set()
    assert [path.name for path in (tmp_path / "outbox").iterdir()] == ["bad.refused"]
    assert "bad cannot be shown" in lines[0]
    assert steps(proxy, "good") == Counter([1, 2])


def test_whatever_a_summary_comes_to_sending_goes_on(
    proxy: Proxy, sender: Sender, tmp_path: Path, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pressft.tracking.sender.ALSO_S", 0.0)
    monkeypatch.setattr("pressft.tracking.sender.ROUND_S", 0.05)

    def broken() -> None:
        raise KeyError("untrained")

    monkeypatch.setattr(sender, "_also", broken)
    with sender:
        deadline = time.monotonic() + 30
        while not lines and time.monotonic() < deadline:
            time.sleep(0.05)
        write(tmp_path / "outbox", "after", range(1, 4))
        while (tmp_path / "outbox" / "after.jsonl").exists() and time.monotonic() < deadline:
            time.sleep(0.05)  # by the thread itself: nobody flushes
    assert lines[0] == "the summary cannot be shown now: KeyError: 'untrained'"
    assert steps(proxy, "after") == Counter([1, 2, 3])


def test_no_password_of_a_server_is_told(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path, "http://me:s3cret@127.0.0.1:9/")
    with pytest.raises(AwayError) as error:
        tracker.pages()
    assert "s3cret" not in str(error.value)
