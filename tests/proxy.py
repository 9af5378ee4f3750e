"""A TCP proxy on loopback that can refuse, stall, delay and cut what passes through it."""

import select
import socket
import threading
import time
from contextlib import suppress
from typing import Literal

Mood = Literal["pass", "refuse", "stall", "delay"]


class Proxy:
    """Passes connections on to a port of this machine, in the mood it is in."""

    def __init__(self, port: int, delay_s: float = 1.0) -> None:
        """Listen on a free port, for as long as the process lives."""
        self._target, self._delay_s = port, delay_s
        self.mood: Mood = "pass"
        self._open: set[socket.socket] = set()
        self._door = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = int(self._door.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """End every connection there is, in the middle of whatever it says."""
        for end in list(self._open):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            near, _ = self._door.accept()
            if self.mood == "refuse":
                near.close()
            else:
                threading.Thread(target=self._pass, args=(near,), daemon=True).start()

    def _pass(self, near: socket.socket) -> None:
        with suppress(OSError), near, socket.create_connection(("127.0.0.1", self._target)) as far:
            self._open |= {near, far}
            try:
                while True:
                    for end in select.select([near, far], [], [])[0]:
                        other = far if end is near else near
                        while self.mood == "stall":
                            time.sleep(0.05)
                        if self.mood == "delay" and end is near:
                            time.sleep(self._delay_s)
                        if not (data := end.recv(2**16)):
                            return
                        other.sendall(data)
            finally:
                self._open -= {near, far}
                for end in (near, far):  # a fork of us may hold a copy of it open
                    with suppress(OSError):
                        end.shutdown(socket.SHUT_RDWR)
