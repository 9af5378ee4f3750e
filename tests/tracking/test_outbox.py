"""Records: append-only, whole lines, one holder at a time."""

import json
from pathlib import Path

from pressft.tracking import outbox
from pressft.tracking.outbox import Record

EXPERIMENT = {"name": "e", "question": ""}


def begun(folder: Path) -> Record:
    record = Record(folder, "r")
    record.begin(EXPERIMENT, "title", {"rank": 8}, {"trial": 0})
    return record


def test_a_line_that_a_kill_cut_short_is_no_line_and_the_next_begins_anew(tmp_path: Path) -> None:
    record = begun(tmp_path)
    record.points(10, {"train/loss": 1.0})
    path = tmp_path / "r.jsonl"
    with path.open("ab") as file:
        file.write(b'{"do": "points", "tok')
    (waiting,) = outbox.waiting(tmp_path)
    assert [event["do"] for event in waiting.batch(0).events] == ["begin", "points"]
    assert not waiting.batch(0).over
    begun(tmp_path).end("FINISHED")
    batch = waiting.batch(0)
    assert [event["do"] for event in batch.events] == ["begin", "points", "begin", "end"]
    assert batch.over
    assert batch.offset == path.stat().st_size
    assert all(json.loads(line) for line in path.read_text().splitlines())


def test_a_point_is_told_once(tmp_path: Path) -> None:
    record = begun(tmp_path)
    for _ in range(2):
        record.points(10, {"train/loss": 1.0})
    record.points(10, {"train/loss": 1.0, "eval/loss": 2.0})
    (waiting,) = outbox.waiting(tmp_path)
    told = [event["metrics"] for event in waiting.batch(0).events[1:]]
    assert told == [{"train/loss": 1.0}, {"eval/loss": 2.0}]


def test_batches_follow_each_other_without_a_gap(tmp_path: Path) -> None:
    record = begun(tmp_path)
    for step in range(9):
        record.points(step, {"train/loss": float(step)})
    record.end("FINISHED")
    (waiting,) = outbox.waiting(tmp_path)
    offset, events = 0, []
    while batch := waiting.batch(offset, most=4):
        events += batch.events
        offset = batch.offset
        if batch.over:
            break
    assert [e.get("tokens") for e in events] == [None, *range(9), None]


def test_one_process_at_a_time_holds_a_record(tmp_path: Path) -> None:
    begun(tmp_path)
    (mine,), (theirs,) = outbox.waiting(tmp_path), outbox.waiting(tmp_path)
    with mine.held() as ours:
        assert ours
        with theirs.held() as too:
            assert not too
        mine.keep(7, "run")
        mine.drop()
    with theirs.held() as gone:
        assert not gone
    assert theirs.sent() == (0, "")
    assert not list(tmp_path.iterdir())
