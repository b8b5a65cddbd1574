"""Worker threads for synchronous bodies.

A slot is the right to run, and there are `limit` of them. A body that blocks in `resolve()` gives
its slot back and takes one again, ahead of every waiting job, before it goes on: so bodies that
wait for other bodies finish at any depth, whatever the limit is.

Jobs are handed over under one lock; a thread that finishes takes the next job without being woken.
"""

from __future__ import annotations

import threading
from _thread import allocate_lock
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import Context
from typing import Any

from motus.errors import TaskCancelledError
from motus.runtime.node import Node

__all__ = ["Job", "ThreadPool", "current_job"]


class _Here(threading.local):
    # On the class: a thread-local attribute that is missing is slow to ask for.
    job: Job | None = None


_here = _Here()


def current_job() -> Job | None:
    """The job that this thread works on, or None if it is not a worker thread."""
    return _here.job


class Job:
    """One call of a synchronous body."""

    __slots__ = (
        "abandoned", "args", "context", "error", "fn", "has_slot", "kwargs", "node", "report",
        "value",
    )  # fmt: skip

    def __init__(
        self,
        node: Node,
        fn: Callable[..., Any],
        args: Any,
        kwargs: dict[str, Any] | None,
        context: Context,
        report: Callable[[Job], object],
    ) -> None:
        self.node = node
        self.fn: Callable[..., Any] | None = fn
        self.args = args
        self.kwargs = kwargs
        self.context: Context | None = context
        # Called in the worker thread when the body has ended, also when it was abandoned.
        self.report = report
        self.abandoned = False
        # The right to run; not any more once it is abandoned.
        self.has_slot = False
        self.value: Any = None
        self.error: BaseException | None = None

    def run(self) -> None:
        fn, args, kwargs, context = self.fn, self.args, self.kwargs, self.context
        assert fn is not None
        assert context is not None
        self.fn = self.args = self.kwargs = self.context = None
        if not self.abandoned:
            try:
                self.value = context.run(fn, *args, **(kwargs or {}))
            except BaseException as error:  # noqa: BLE001 - the task's outcome, whatever it is; SystemExit must not end the thread
                self.error = error

    def raise_if_abandoned(self) -> None:
        if self.abandoned:
            raise TaskCancelledError(self.node.af_spec.name, self.node.af_id)


class _Worker:
    __slots__ = ("gate", "job")

    def __init__(self) -> None:
        self.job: Job | None = None
        self.gate = allocate_lock()
        self.gate.acquire()


class ThreadPool:
    """At most `limit` synchronous bodies run at once; threads are started when they are needed.

    `start_thread(work)` runs `work` on a new daemon thread. A thread ends after the pool is
    closed, and never before the body that it runs.
    """

    def __init__(self, limit: int, start_thread: Callable[[Callable[[], None]], None]) -> None:
        self._limit = limit
        self._start_thread = start_thread
        self._lock = allocate_lock()
        self._waiting: deque[Job] = deque()
        self._idle: list[_Worker] = []
        self._resuming: deque[Any] = deque()
        self._slots_taken = 0
        self._busy: dict[int, Job] = {}
        self._closed = False

    def submit(self, job: Job) -> None:
        """Run the job as soon as there is a slot. For the loop's thread."""
        with self._lock:
            if self._slots_taken >= self._limit:
                self._waiting.append(job)
                return
            self._slots_taken += 1
            worker = self._begin(job)
        self._give(worker, job)

    def abandon(self, job: Job) -> None:
        """Nobody waits for the job any more: whoever is next gets its slot."""
        handed = None
        with self._lock:
            job.abandoned = True
            if job.has_slot:
                job.has_slot = False
                handed = self._pass_slot_on()
        if handed is not None:
            self._give(*handed)

    def running(self) -> list[Job]:
        """The jobs whose bodies have begun and not ended."""
        # One step for the interpreter, so it needs no lock.
        return list(self._busy.copy().values())

    def close(self) -> None:
        """Start nothing any more; let idle threads end, and busy ones when their bodies have."""
        with self._lock:
            self._closed = True
            self._waiting.clear()
            idle, self._idle = self._idle, []
        for worker in idle:
            worker.gate.release()

    @contextmanager
    def slot_given_back(self, job: Job) -> Iterator[None]:
        """While the body that runs in this thread only waits, another may run."""
        handed = None
        with self._lock:
            gave = job.has_slot
            if gave:
                job.has_slot = False
                handed = self._pass_slot_on()
        if handed is not None:
            self._give(*handed)
        try:
            yield
        finally:
            gate = None
            with self._lock:
                # What was abandoned meanwhile goes on without one, to its end.
                if gave and not job.abandoned:
                    job.has_slot = True
                    if self._slots_taken < self._limit:
                        self._slots_taken += 1
                    else:
                        gate = allocate_lock()
                        gate.acquire()
                        self._resuming.append(gate)
            if gate is not None:
                gate.acquire()

    def _begin(self, job: Job) -> _Worker | None:
        """The job has a slot; the idle thread that is to run it, if there is one."""
        job.has_slot = True
        self._busy[id(job)] = job
        return self._idle.pop() if self._idle else None

    def _pass_slot_on(self) -> tuple[_Worker | None, Job] | None:
        """Give a slot to whoever is next; what is returned must be given its job afterwards."""
        if self._resuming:
            self._resuming.popleft().release()
            return None
        job = self._next_waiting()
        if job is not None:
            return self._begin(job), job
        self._slots_taken -= 1
        return None

    def _next_waiting(self) -> Job | None:
        while self._waiting:
            job = self._waiting.popleft()
            if not job.abandoned:
                return job
        return None

    def _give(self, worker: _Worker | None, job: Job) -> None:
        if worker is not None:
            worker.job = job
            worker.gate.release()
            return
        worker = _Worker()
        worker.job = job
        self._start_thread(_Work(self, worker))

    def work(self, worker: _Worker) -> None:
        """The life of a worker thread."""
        while True:
            job, worker.job = worker.job, None
            if job is None:
                return
            _here.job = job
            job.run()
            _here.job = None
            # Before it is reported: whoever hears of it may ask what is still running.
            del self._busy[id(job)]
            # And before that the thread is free again: in a chain of jobs the next one is often
            # there when the report returns, and this thread need not sleep in between.
            idle = self._finish(worker, job)
            job.report(job)
            job = None
            if idle is None:
                return
            if idle:
                worker.gate.acquire()

    def _finish(self, worker: _Worker, job: Job) -> bool | None:
        """After a job: False if the thread has another one already, None if it is to end."""
        with self._lock:
            if job.has_slot:
                job.has_slot = False
                # The slot stays here if it can: the next job needs no other thread.
                following = None if self._resuming else self._next_waiting()
                if following is not None:
                    following.has_slot = True
                    self._busy[id(following)] = following
                    worker.job = following
                    return False
                self._pass_slot_on()
            if self._closed:
                return None
            self._idle.append(worker)
        return True


class _Work:
    """The work of one thread: a callable with a name that a debugger can show."""

    def __init__(self, pool: ThreadPool, worker: _Worker) -> None:
        self._pool = pool
        self._worker = worker
        self.__name__ = "motus-thread"

    def __call__(self) -> None:
        self._pool.work(self._worker)
