"""Worker threads for synchronous bodies.

A slot is the right to run, and there are `limit` of them. A body that blocks in `resolve()` gives
its slot back and takes one again, ahead of every waiting job, before it goes on: so bodies that
wait for other bodies finish at any depth, whatever the limit is.

Jobs are handed over under one lock; a thread that finishes takes the next job without being woken,
and without the lock.
"""

from __future__ import annotations

import threading
from _thread import allocate_lock
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import Context
from functools import partial
from typing import Any

from sniffio import current_async_library_cvar as async_library

from motus.errors import TaskCancelledError
from motus.runtime.current import current
from motus.runtime.node import Node

__all__ = ["Job", "ThreadPool", "thread"]


class _Thread(threading.local):
    """What is known of the thread that asks."""

    # The job that it works on, or None if it is not a worker thread. On the class: a thread-local
    # attribute that is missing is slow to ask for.
    job: Job | None = None


thread = _Thread()


class Job:
    """One call of a synchronous body."""

    __slots__ = (
        "abandoned", "args", "context", "error", "kwargs", "node", "report", "value",
    )  # fmt: skip

    def __init__(
        self,
        node: Node,
        args: Any,
        kwargs: dict[str, Any] | None,
        context: Context,
        report: Callable[[Job], object],
    ) -> None:
        self.node = node
        self.args = args
        self.kwargs = kwargs
        self.context: Context | None = context
        # Called in the worker thread when the body has ended, also when it was abandoned.
        self.report = report
        self.abandoned = False
        self.value: Any = None
        self.error: BaseException | None = None

    def run(self) -> None:
        args, kwargs, context = self.args, self.kwargs, self.context
        assert context is not None
        self.args = self.kwargs = self.context = None
        if not self.abandoned:
            try:
                self.value = context.run(_call_body, self.node, args, kwargs)
            except BaseException as error:  # noqa: BLE001  # the task's outcome, whatever it is; SystemExit must not end the thread
                self.error = error

    def raise_if_abandoned(self) -> None:
        if self.abandoned:
            raise TaskCancelledError(self.node.af_spec.name, self.node.af_id)


def _call_body(node: Node, args: Any, kwargs: dict[str, Any] | None) -> Any:
    """Called in the node's context: a thread's own, where no loop runs."""
    current.set(node)
    if async_library.get() is not None:
        async_library.set(None)
    fn = node.af_spec.fn
    return fn(*args) if kwargs is None else fn(*args, **kwargs)


class _Worker:
    """A thread, and the job that it runs or is about to."""

    __slots__ = ("gate", "job")

    def __init__(self, job: Job) -> None:
        self.job: Job | None = job
        self.gate = allocate_lock()
        self.gate.acquire()


class ThreadPool:
    """At most `limit` synchronous bodies run at once; threads are started when they are needed.

    `start_thread(work, failed)` runs `work` on a new daemon thread; if there can be none, it has
    `failed(error)` called a little later. A thread ends after the pool is closed, and never before
    the body that it runs.
    """

    def __init__(
        self,
        limit: int,
        start_thread: Callable[[Callable[[], None], Callable[[RuntimeError], None]], None],
    ) -> None:
        self._limit = limit
        self._start_thread = start_thread
        self._lock = allocate_lock()
        self._waiting: deque[Job] = deque()
        self._idle: list[_Worker] = []
        self._resuming: deque[Any] = deque()
        self._slots_taken = 0
        # By id, the jobs that have a slot. Whoever pops one from here has its slot in hand: that is
        # one step for the interpreter, so that a thread and one that abandons its job agree.
        self._holding: dict[int, Job] = {}
        self._workers: set[_Worker] = set()
        self._closed = False

    def submit(self, job: Job) -> None:
        """Run the job as soon as there is a slot. For the loop's thread."""
        with self._lock:
            if self._slots_taken >= self._limit:
                self._waiting.append(job)
                return
            self._slots_taken += 1
            wake = self._begin(job)
        wake()

    def abandon(self, job: Job) -> None:
        """Nobody waits for the job any more: whoever is next gets its slot."""
        wake = None
        with self._lock:
            job.abandoned = True
            if self._holding.pop(id(job), None) is not None:
                wake = self._pass_slot_on()
        if wake is not None:
            wake()

    def running(self) -> list[Job]:
        """The jobs whose bodies have begun and not ended."""
        with self._lock:
            return [worker.job for worker in self._workers if worker.job is not None]

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
        wake = None
        with self._lock:
            gave = self._holding.pop(id(job), None) is not None
            if gave:
                wake = self._pass_slot_on()
        if wake is not None:
            wake()
        try:
            yield
        finally:
            gate = None
            with self._lock:
                # What was abandoned meanwhile goes on without one, to its end.
                if gave and not job.abandoned:
                    self._holding[id(job)] = job
                    if self._slots_taken < self._limit:
                        self._slots_taken += 1
                    else:
                        gate = allocate_lock()
                        gate.acquire()
                        self._resuming.append(gate)
            if gate is not None:
                gate.acquire()

    def _begin(self, job: Job) -> Callable[[], object]:
        """Give a thread to a job that has its slot; what is returned must be called, unlocked."""
        self._holding[id(job)] = job
        if self._idle:
            worker = self._idle.pop()
            worker.job = job
            return worker.gate.release
        worker = _Worker(job)
        self._workers.add(worker)
        failed = partial(self._not_started, worker)
        return partial(self._start_thread, _Work(self, worker), failed)

    def _not_started(self, worker: _Worker, error: RuntimeError) -> None:
        """There is no thread for the worker, and that is how its job ends."""
        job = worker.job
        assert job is not None
        job.error = error
        wake = None
        with self._lock:
            self._workers.discard(worker)
            if self._holding.pop(id(job), None) is not None:
                wake = self._pass_slot_on()
        job.report(job)
        if wake is not None:
            wake()

    def _pass_slot_on(self) -> Callable[[], object] | None:
        """Give a slot to whoever is next; as with `_begin`, call what is returned."""
        if self._resuming:
            self._resuming.popleft().release()
            return None
        job = self._next_waiting()
        if job is not None:
            return self._begin(job)
        self._slots_taken -= 1
        return None

    def _next_waiting(self) -> Job | None:
        try:
            while (job := self._waiting.popleft()).abandoned:
                pass
        except IndexError:
            return None
        return job

    def work(self, worker: _Worker) -> None:
        """The life of a worker thread."""
        while True:
            job = worker.job
            if job is None:
                return
            thread.job = job
            job.run()
            thread.job = None
            # Before the job is reported: whoever hears of it may ask what is still running, and
            # in a chain of jobs the next one is often there when the report returns, so that this
            # thread need not sleep in between.
            goes_on = self._finish(worker, job)
            job.report(job)
            job = None
            if goes_on is None:
                return
            if not goes_on:
                worker.gate.acquire()

    def _finish(self, worker: _Worker, job: Job) -> bool | None:
        """After a job: whether the thread has another one already; None if it is to end."""
        has_slot = self._holding.pop(id(job), None) is not None
        # Without the lock, which a thread that the interpreter has put aside may hold: then every
        # other one would queue up behind it, and go on doing so.
        if has_slot and not self._resuming and self._go_on(worker):
            return True
        with self._lock:
            if has_slot:
                if self._resuming:
                    self._resuming.popleft().release()
                elif self._go_on(worker):
                    return True
                else:
                    self._slots_taken -= 1
            worker.job = None
            if self._closed:
                self._workers.discard(worker)
                return None
            self._idle.append(worker)
        return False

    def _go_on(self, worker: _Worker) -> bool:
        """Keep the slot in this thread for the next waiting job, if there is one."""
        job = self._next_waiting()
        if job is None:
            return False
        self._holding[id(job)] = job
        worker.job = job
        return True


class _Work:
    """The work of one thread: a callable with a name that a debugger can show."""

    def __init__(self, pool: ThreadPool, worker: _Worker) -> None:
        self._pool = pool
        self._worker = worker
        self.__name__ = "motus-thread"

    def __call__(self) -> None:
        self._pool.work(self._worker)
