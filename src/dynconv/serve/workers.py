"""Several processes that share one socket and one copy of the weights.

The parent loads the network, forks the workers, and answers no requests itself. Memory is copied only when it is
written, and weights are not. The parent computes with one thread, because OpenMP's threads do not survive a fork.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Protocol

import torch

from dynconv.errors import DynconvError
from dynconv.serve import metrics
from dynconv.serve.model import Served

logger = logging.getLogger(__name__)

_STOP = (signal.SIGTERM, signal.SIGINT)
_PAUSE = 1.0
"""Seconds between the end of a worker that was not told to end, and its successor's start."""


class Work(Protocol):
    """What a worker does until SIGTERM.

    Args:
        served: the network.
        started: to be called when requests are being answered.
        orphaned: file descriptor at whose end of file the parent has died.
    """

    def __call__(self, served: Served, started: Callable[[], None], orphaned: int) -> None: ...


def need_fork() -> None:
    """Raises DynconvError where processes cannot share a network by forking."""
    if not sys.platform.startswith("linux"):
        raise DynconvError("workers: more than one needs Linux; start several servers behind a proxy instead")


def run_workers(count: int, load: Callable[[], Served], work: Work, ready: Callable[[], None]) -> None:
    """Keeps `count` workers running until SIGTERM or SIGINT, then lets them finish. SIGHUP loads the network again.

    A worker that dies is replaced. After SIGHUP, new workers take over before the old ones finish; if the network
    cannot be loaded, the old ones go on.

    Raises:
        DynconvError: the network cannot be loaded or is not on the CPU, or the first workers do not start.
    """
    cores = torch.get_num_threads()
    torch.set_num_threads(1)
    watched = {*_STOP, signal.SIGHUP, signal.SIGCHLD}
    signal.pthread_sigmask(signal.SIG_BLOCK, watched)
    workers = _Workers(count, max(1, cores // count), work, watched)
    workers.renew(load)
    ready()
    while (sent := signal.sigwait(watched)) not in _STOP:
        if sent == signal.SIGHUP:
            try:
                workers.renew(load)
            except DynconvError as error:
                logger.warning("the weights were not loaded again: %s", error)
            else:
                logger.info("the weights were loaded again")
        workers.replace_dead()
    workers.finish(watched)


class _Workers:
    """The worker processes: those that answer, and those that finish what they have accepted."""

    def __init__(self, count: int, threads: int, work: Work, watched: set[signal.Signals]) -> None:
        self._count = count
        self._threads = threads
        self._work = work
        self._watched = watched
        self._orphaned, self._alive = os.pipe()  # only the parent holds the second end open
        self._answering: set[int] = set()
        self._finishing: set[int] = set()

    def renew(self, load: Callable[[], Served]) -> None:
        """Loads the network, starts workers with it, and tells the former ones to finish. Raises DynconvError."""
        served = load()
        if served.predictor.device.type != "cpu":
            raise DynconvError("workers: more than one can share the weights only on the CPU; leave --workers out")
        self._served, former = served, self._answering
        self._answering = set()
        gc.unfreeze()
        gc.collect()
        gc.freeze()  # the collector would write to, and so copy, what the workers share
        try:
            self._start(self._count)
        except DynconvError:
            self._answering |= former
            raise
        for process in former:
            os.kill(process, signal.SIGTERM)
        self._finishing |= former

    def replace_dead(self) -> None:
        """Takes note of the processes that have ended, and replaces those that were answering."""
        dead = self._reap() & self._answering
        self._answering -= dead
        if dead:
            logger.warning("%d of %d workers ended unexpectedly; starting others", len(dead), self._count)
            time.sleep(_PAUSE)
            try:
                self._start(len(dead))
            except DynconvError as error:
                logger.warning("%s", error)

    def finish(self, watched: set[signal.Signals]) -> None:
        """Tells all workers to finish, and waits; a second SIGINT ends them at once."""
        for process in self._answering:
            os.kill(process, signal.SIGTERM)
        self._finishing |= self._answering
        while self._finishing:
            self._reap()
            if self._finishing and signal.sigwait(watched) == signal.SIGINT:
                for process in self._finishing:
                    os.kill(process, signal.SIGKILL)

    def _start(self, count: int) -> None:
        """Forks workers and waits until they answer. Raises DynconvError if one ends before that."""
        starting = [self._fork() for _ in range(count)]
        self._answering |= {process for process, _ in starting}
        for _, started in starting:
            with os.fdopen(started, "rb") as pipe:
                if not pipe.read(1):
                    raise DynconvError("workers: a worker ended before it could answer requests")

    def _fork(self) -> tuple[int, int]:
        """A new worker, and a file descriptor from which a byte can be read when it answers requests."""
        started, starting = os.pipe()
        process = os.fork()
        if process:
            os.close(starting)
            return process, started
        code = 1
        try:
            os.setpgid(0, 0)  # the terminal's Ctrl-C goes to the parent alone, which tells the workers
            os.close(started)
            os.close(self._alive)
            for sent in self._watched:
                signal.signal(sent, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, self._watched)
            torch.set_num_threads(self._threads)
            self._work(self._served, lambda: _tell(starting), self._orphaned)
            code = 0
        except Exception:
            logger.exception("a worker failed")
        finally:
            logging.shutdown()
            os._exit(code)

    def _reap(self) -> set[int]:
        """The processes that have ended since the last call."""
        ended = set[int]()
        while True:
            try:
                process, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if not process:
                break
            ended.add(process)
            metrics.forget(process)
        self._finishing -= ended
        return ended


def _tell(pipe: int) -> None:
    os.write(pipe, b".")
    os.close(pipe)
