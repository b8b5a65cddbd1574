"""Synchronous bodies: from a node to a job on a thread, and back."""

from __future__ import annotations

import os
import warnings
from _thread import get_ident
from collections.abc import Callable
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Final

from motus.runtime.backends import Event
from motus.runtime.containers import futures_in, may_hold_futures
from motus.runtime.node import DONE, Node
from motus.runtime.threads import Job, ThreadPool

if TYPE_CHECKING:
    from motus.runtime.scheduler import GraphScheduler

__all__ = ["THREAD_GRACE", "Jobs"]

# How long a closing runtime waits for synchronous bodies, which nothing can stop, in seconds.
THREAD_GRACE: Final = 5.0


class Jobs:
    """The synchronous bodies of one scheduler."""

    def __init__(self, scheduler: GraphScheduler, max_threads: int | None) -> None:
        self._scheduler = scheduler
        self._backend = scheduler.backend
        self._ended: Event | None = None
        limit = min(32, (os.cpu_count() or 1) + 4) if max_threads is None else max_threads
        self.pool = ThreadPool(limit, self._start_thread)

    def start(self, node: Node, args: Any, kwargs: dict[str, Any] | None) -> None:
        """Run the body of a node on a thread; the graph hears how it ended."""
        job = Job(node, args, kwargs, node.af_context, self._report)
        node.af_args = node.af_kwargs = None
        node.af_control = job
        self._scheduler.running[node.af_id] = node
        self.pool.submit(job)

    def start_attempt(
        self, node: Node, args: Any, kwargs: dict[str, Any] | None, ended: Callable[[], object]
    ) -> Job:
        """Run one attempt of a body on a thread; `ended` is called in the loop."""
        # A copy: the thread of an attempt that timed out may still be in its context.
        context = copy_context()

        def report(job: Job) -> None:
            self._scheduler.post(self._attempt_ended, job, ended)

        job = Job(node, args, kwargs, context, report)
        self.pool.submit(job)
        return job

    def abandon(self, job: Job) -> None:
        """Nothing can stop a thread: its result is dropped, and what it calls is cancelled."""
        self.pool.abandon(job)
        self._scheduler.running.pop(job.node.af_id, None)
        self._scheduler.graph.stopped(job.node)

    async def all_ended(self) -> None:
        """Wait for the bodies that run, for `THREAD_GRACE`; then warn of those that are left."""
        deadline = self._backend.now() + THREAD_GRACE
        while self.pool.running() and (left := deadline - self._backend.now()) > 0:
            self._ended = self._backend.event()
            await self._backend.wait_out(self._ended, left)
        if stuck := self.pool.running():
            names = ", ".join(sorted({f"'{job.node.af_spec.name}'" for job in stuck}))
            warnings.warn(
                f"Motus left {len(stuck)} threads behind, whose tasks did not end within "
                f"{THREAD_GRACE:g} seconds after they were told to: {names}. Let long synchronous "
                "bodies call motus.runtime.check_cancelled().",
                RuntimeWarning,
                stacklevel=2,
            )

    def _report(self, job: Job) -> None:
        futures = None
        try:
            if may_hold_futures(job.value):
                # In the thread: a result may be large.
                futures = futures_in((job.value,)) or None
        except Exception as error:  # noqa: BLE001  # results are objects of users, and may refuse
            job.error = error
        self._scheduler.post(self._finish, job, futures)

    def _finish(self, job: Job, futures: list[Node] | None) -> None:
        if self._ended is not None:
            self._ended.set()
        if job.abandoned:
            return
        node = job.node
        self._scheduler.running.pop(node.af_id, None)
        node.af_control = None
        if node.af_state >= DONE:
            # Ctrl+C came while the job was handed over, and was taken for its error.
            return
        if job.error is not None:
            self._scheduler.body_raised(node, job.error)
        else:
            self._scheduler.graph.succeed(node, job.value, futures)

    def _attempt_ended(self, job: Job, ended: Callable[[], object]) -> None:
        if self._ended is not None:
            self._ended.set()
        ended()

    def _start_thread(
        self, work: Callable[[], None], failed: Callable[[RuntimeError], None]
    ) -> None:
        if self._scheduler.thread_id == get_ident():
            self._backend.start_thread(work, failed)
        else:
            self._scheduler.post(self._start_here, work, failed)

    def _start_here(self, work: Callable[[], None], failed: Callable[[RuntimeError], None]) -> None:
        # What is posted to a closed runtime is done in the thread that posts it.
        if not self._scheduler.closed:
            self._backend.start_thread(work, failed)
