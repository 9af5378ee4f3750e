"""Worker processes of one sweep: start, supervise, restart and stop them.

A dead worker is detected by its exit, not by a missing heartbeat: its trial goes back to the queue
at once, and is resumed from its newest checkpoint.
"""

import os
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO

import torch

from pressft._signals import Stopped, Stopping
from pressft.errors import PressftError
from pressft.progress import Reporter
from pressft.study.liveness import worker_name
from pressft.study.trials import Trial

POLL_S = 0.2
REPORT_S = 2.0  # between two reports of progress
MAX_RESTARTS = 5  # of one worker in a row, without a finished trial in between
STOP_S = 30.0  # for the current step and its checkpoint, before a worker is killed


@dataclass(slots=True)
class _Worker:
    """One slot of the pool: its current process, and how often it was restarted."""

    number: int
    process: "subprocess.Popen[str] | None" = None
    restarts: int = 0
    not_before: float = 0.0
    last_line: str = ""
    done: bool = False
    readers: list[threading.Thread] = field(default_factory=list)


class WorkerPool:
    """`n` workers that run `command` with the id of the start appended. URLs are passed in
    `environment`: they may hold a password, and all users of a machine can see its command lines.
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], n: int, report: Reporter
    ) -> None:
        self._command, self._environment, self._report = list(command), dict(environment), report
        self._workers = [_Worker(number) for number in range(1, n + 1)]

    def run(
        self,
        start_id: str,
        recover: Callable[[str, str], Sequence[Trial]],
        report_progress: Callable[[], None],
        stopping: Stopping,
    ) -> None:
        """Run the workers until none of them finds another trial.

        `recover` is called with the name of a worker that died and the reason, and returns the
        trials that it left running; `report_progress` is called every few seconds.

        Raises:
            Stopped: a signal came; the workers have saved their trials and ended.
            PressftError: every worker died too often; the message holds the last line of one.
        """
        try:
            with stopping.deferred():
                reported = time.monotonic()
                while not stopping.signum and not all(w.done for w in self._workers):
                    if time.monotonic() - reported > REPORT_S:
                        report_progress()
                        reported = time.monotonic()
                    for worker in self._workers:
                        self._supervise(worker, start_id, recover)
                    time.sleep(POLL_S)
        except Stopped:
            self._report.say("stopping: the workers finish and save the current step")
            raise
        finally:
            self._stop()
            for worker in self._workers:
                if worker.process:
                    recover(worker_name(worker.process.pid), "its process was stopped")
        if all(worker.restarts > MAX_RESTARTS for worker in self._workers):
            raise PressftError(f"every worker died; the last line: {self._workers[-1].last_line}")

    def _supervise(
        self, worker: _Worker, start_id: str, recover: Callable[[str, str], Sequence[Trial]]
    ) -> None:
        """Start the worker's process, or deal with its end."""
        if worker.done or time.monotonic() < worker.not_before:
            return
        if worker.process is None:
            self._start(worker, start_id)
            return
        code = worker.process.poll()
        if code is None:
            return
        for reader in worker.readers:
            reader.join()
        if code == 0:
            worker.done = True
            return
        reason = f"signal {-code}" if code < 0 else f"code {code}: {worker.last_line}"
        left = recover(worker_name(worker.process.pid), f"its worker died: {reason}")
        trials = ", ".join(f"trial {trial.number} goes back to the queue" for trial in left)
        self._report.say(f"worker {worker.number} died ({reason}); {trials or 'it ran no trial'}")
        worker.process = None
        worker.restarts += 1
        worker.not_before = time.monotonic() + min(30.0, 0.5 * 2**worker.restarts)
        worker.done = worker.restarts > MAX_RESTARTS

    def _start(self, worker: _Worker, start_id: str) -> None:
        threads = max(1, (os.cpu_count() or 1) // len(self._workers))
        # busy-waiting threads of several processes slow each other down fivefold
        own = {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
        if gpus := torch.cuda.device_count():
            own["CUDA_VISIBLE_DEVICES"] = str((worker.number - 1) % gpus)
        worker.process = subprocess.Popen(
            [*self._command, "--start-id", start_id],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | self._environment | own,
            start_new_session=True,  # Ctrl-C reaches this process, which stops the workers
        )
        reader = threading.Thread(target=self._read, args=(worker, worker.process.stderr))
        reader.start()
        worker.readers = [reader]

    def _read(self, worker: _Worker, stream: IO[str]) -> None:
        with stream:
            for line in stream:
                if line.strip():
                    worker.last_line = line.strip()
                    if "test perplexity" in line:
                        worker.restarts = 0
                    self._report.say(f"worker {worker.number}: {line.rstrip()}")

    def _stop(self) -> None:
        alive = [w.process for w in self._workers if w.process and w.process.poll() is None]
        for process in alive:
            process.terminate()
        deadline = time.monotonic() + STOP_S
        for process in alive:
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for worker in self._workers:
            for reader in worker.readers:
                reader.join()
