"""A worker's pulse: what long work feels between its pieces, to say that it lives and to hear that it is to stop."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn, TypeVar

from kdbench.folders import patiently

T = TypeVar("T")
Emit = Callable[[dict[str, Any]], None]

#: Seconds without a word after which a beat says that the worker lives.
ALIVE_EVERY = 1.0
#: What a worker says last that was told to end.
STOPPED = {"event": "stopped"}
#: Seconds that it is given to say so, as nobody may be reading.
LAST_WORD = 1.0
#: Seconds of the processor that work takes in that time at least: less, and it is waiting, perhaps for ever.
WORKING = 0.01


class Stopped(KeyboardInterrupt):
    """The worker is to end, and another one goes on: no fault of whoever is at work."""


class Pulse:
    """What a worker says to its run by ``emit``, from any thread; and whether it is to stop.

    ``beat`` belongs between two pieces of whatever may take long, where nothing is half done. What takes long in one
    piece is silent, and is not waited for longer than ``stop`` was told to.
    """

    def __init__(self, emit: Emit) -> None:
        self._emit, self._lock = emit, threading.Lock()
        self._said = time.monotonic()
        self._stopping = threading.Event()
        self._saving = False
        #: Exit code of a process that has stopped.
        self.code = 0

    def __call__(self, event: dict[str, Any]) -> None:
        """Say ``event``."""
        with self._lock:
            self._emit(event)
            self._said = time.monotonic()

    def waits(self, text: str) -> None:
        """Say what it holds still for, which is no fault."""
        self({"event": "waiting", "text": text})

    def note(self, text: str) -> None:
        self({"event": "note", "text": text})

    def patiently(self, write: Callable[[], T], what: str) -> T:
        """What ``write`` gives, as soon as the disk takes ``what``."""
        return patiently(write, what, self.waits, self.note, self.wait)

    def beat(self) -> None:
        """Say that the worker lives, unless it has just said something; Stopped where it is to stop."""
        if self.stopping:
            raise Stopped
        if time.monotonic() - self._said >= ALIVE_EVERY:
            self({"event": "alive"})

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Inside, where no beat is met, another thread says that the worker lives for as long as it computes."""
        over = threading.Event()

        def say() -> None:
            spent = time.process_time()
            while not over.wait(ALIVE_EVERY):
                before, spent = spent, time.process_time()
                if spent - before >= WORKING:
                    self({"event": "alive"})

        thread = threading.Thread(target=say, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def wait(self, seconds: float) -> None:
        """Let ``seconds`` go by; Stopped as soon as the worker is to stop."""
        self._stopping.wait(seconds)
        self.beat()

    @property
    def stopping(self) -> bool:
        return self._stopping.is_set()

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Inside, there is something to save at the next beat, which whoever stops the worker waits for."""
        self._saving = True
        try:
            yield
        finally:
            self._saving = False

    def stop(self, code: int, patience: float) -> None:
        """Let the next beat raise Stopped, and end the process with ``code`` after ``patience`` seconds at the latest.

        At once where there is nothing to save. Whoever is first chooses the code.
        """
        self.code = self.code or code
        self._stopping.set()
        if not self._saving:
            self.end()
        watchdog = threading.Timer(patience, self.end)
        watchdog.daemon = True
        watchdog.start()

    def end(self) -> NoReturn:
        """End the process now, whatever any thread is at."""
        if self._lock.acquire(timeout=LAST_WORD):
            with suppress(Exception):
                self._emit(STOPPED)
        os._exit(self.code)
