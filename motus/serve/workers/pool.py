"""The workers of a server: one template at a time that makes them, and a few kept at hand."""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
from anyio.abc import TaskGroup, TaskStatus

from motus.errors import MotusError, ProtocolError
from motus.serve.agents import AgentLoadError, AgentTarget
from motus.serve.config import ServerConfig
from motus.serve.workers.environment import worker_environment
from motus.serve.workers.keeper import TemplateProcess
from motus.serve.workers.settings import WorkerSettings
from motus.serve.workers.worker import TemplateGoneError, Worker, WorkerDiedError

__all__ = ["Worker", "WorkerDiedError", "WorkerPool"]

logger = logging.getLogger("motus.serve.workers")

# Two are enough: while one is being taken, the other is there, and a fork takes a millisecond.
SPARES = 2
# For the import of the agent.
PREPARE_SECONDS = 300.0
# From the request for a worker to one that has the agent, where each imports it anew.
READY_SECONDS = 300.0
# For a fork. A template that has not even begun by then has been stopped, or traced, and would keep
# every turn waiting; another one costs an import, and harms no turn.
FORK_SECONDS = 10.0
# An editor writes a file in several steps, and often more than one file.
CHANGES_SETTLE_SECONDS = 0.1
# Changes during an import are followed by another import, which may make some itself, each time.
MISSED_CHANGES = 3
FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 10.0
# A template that lived that long was not ended by what it was made of.
STEADY_SECONDS = 10.0
# So many that never came to make a worker: then turns are told instead of waiting for the next.
DEATHS_UNTIL_ERROR = 3
# For templates to end all that their workers have started; they need some milliseconds.
CLOSE_SECONDS = 1.0


class WorkerPool:
    """Makes workers for one agent while `run` runs."""

    def __init__(self, target: AgentTarget, config: ServerConfig | None = None) -> None:
        config = ServerConfig() if config is None else config
        self._settings = WorkerSettings(
            import_path=target.import_path,
            search_path=target.search_path,
            mode=config.workers_mode,
            backend=config.backend,
            reload=config.reload,
            memory=config.worker_memory,
            cpu=config.worker_cpu,
            files=config.worker_files,
        )
        self._env = config.env
        self._tasks: TaskGroup | None = None
        self._closing = anyio.Event()
        # Whether there has been a template that had the agent.
        self._has_begun = False
        self._current: TemplateProcess | None = None
        self._templates: set[TemplateProcess] = set()
        self._spares: deque[Worker] = deque()
        self._coming = 0
        # Why there is no template now, where that is known.
        self._problem: AgentLoadError | None = None
        self._news = anyio.Event()

    @property
    def mode(self) -> str | None:
        """How workers are started: "fork" or "exec"; None while that is not known."""
        return None if self._current is None else self._current.mode

    @property
    def is_running(self) -> bool:
        return self._tasks is not None

    def close(self) -> None:
        """Make `run` end every worker and return."""
        self._closing.set()

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Keep a template, from the moment it has the agent until `close` is called.

        Raises `AgentLoadError` when the agent cannot be imported at the start. Cancelled, it ends
        every worker first, for a bounded time.
        """
        self._closing = anyio.Event()
        self._has_begun = False
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._live, task_status)
            try:
                await self._closing.wait()
            finally:
                # The workers' ends are reported to those who are being cancelled with us.
                self._closing.set()
        if self._problem is not None and not self._has_begun:
            raise self._problem

    async def _live(self, task_status: TaskStatus[None]) -> None:
        with anyio.CancelScope(shield=True):
            async with anyio.create_task_group() as self._tasks:
                keeping = anyio.CancelScope()
                self._tasks.start_soon(self._keep, keeping, task_status)
                await self._closing.wait()
                keeping.cancel()
                self._current = None
                for template in self._templates:
                    template.stop()
                with anyio.move_on_after(CLOSE_SECONDS):
                    for template in list(self._templates):
                        await template.wait_gone()
                self._tasks.cancel_scope.cancel()
            self._tasks = None
            while self._spares:
                await self._spares.popleft().stop()

    async def _keep(self, scope: anyio.CancelScope, task_status: TaskStatus[None]) -> None:
        """Have a template that is alive and up to date, and change over to a new one."""
        deaths = 0
        in_a_row = 0
        pause = 0.0
        with scope:
            while True:
                began = anyio.current_time()
                before = self._alive()
                missed = False
                try:
                    template, first = await self._prepare()
                except AgentLoadError as error:
                    self._report(error)
                except TemplateGoneError as error:
                    deaths += 1
                    # Something may have killed it; but not time after time.
                    if deaths >= DEATHS_UNTIL_ERROR or not self._has_begun:
                        self._report(AgentLoadError(f"The agent could not be imported: {error}"))
                else:
                    # What has changed meanwhile it may have imported before that, and it watches
                    # what it has imported only from now on.
                    missed = before is not None and not before.has_ended and before.has_news
                    self._change_over(template, first)
                    if not self._has_begun:
                        self._has_begun = True
                        task_status.started()
                if not self._has_begun:
                    self._closing.set()
                    return
                in_a_row = in_a_row + 1 if missed else 0
                if (current := self._alive()) is not None:
                    if not 0 < in_a_row <= MISSED_CHANGES:
                        await current.wait_news()
                    if not current.has_ended:
                        await anyio.sleep(CHANGES_SETTLE_SECONDS)
                        current.forget_news()
                        logger.info("the agent's files have changed")
                        continue
                    logger.warning("the template has died; there will be another one")
                    self._drop_spares()
                    deaths = 0 if current.has_forked else deaths + 1
                    if deaths >= DEATHS_UNTIL_ERROR:
                        self._report(AgentLoadError("The template dies before it makes a worker"))
                if anyio.current_time() - began > STEADY_SECONDS:
                    pause = 0.0
                await anyio.sleep(pause)
                pause = min(pause * 2 or FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS)

    def _report(self, error: AgentLoadError) -> None:
        if self._has_begun:
            logger.error("the agent cannot be loaded: %s", error)
        # Where an older template still works, nobody has to wait, or to know.
        self._announce(error if self._alive() is None else None)

    async def _prepare(self) -> tuple[TemplateProcess, Worker | None]:
        """A template that has the agent, and its first worker if only that shows it.

        Raises `AgentLoadError` or `TemplateGoneError`.
        """
        environment = worker_environment(os.environ, self._env)
        template = TemplateProcess(self._settings, environment)
        self._home().start_soon(self._host, template)
        problem = f"it took longer than {PREPARE_SECONDS:g} seconds"
        try:
            with anyio.move_on_after(PREPARE_SECONDS):
                await template.wait_prepared()
                # Otherwise nobody has imported it yet, or only a process that is no more.
                return template, None if template.mode == "fork" else await self._fork(template)
        except (WorkerDiedError, ProtocolError, OSError) as error:
            problem = str(error)
        except BaseException:
            template.stop()
            raise
        template.stop()
        raise TemplateGoneError(problem)

    async def _host(self, template: TemplateProcess) -> None:
        self._templates.add(template)
        try:
            await template.run()
        finally:
            self._templates.discard(template)

    def _change_over(self, template: TemplateProcess, first: Worker | None) -> None:
        before, self._current = self._current, template
        self._drop_spares()
        if before is not None:
            before.retire()
        if first is not None:
            self._spares.append(first)
        self._announce(None)
        self._refill_soon()

    def _announce(self, problem: AgentLoadError | None) -> None:
        """Tell those who wait for a worker how things are now."""
        self._problem = problem
        self._news.set()
        self._news = anyio.Event()

    def _alive(self) -> TemplateProcess | None:
        current = self._current
        return None if current is None or current.has_ended else current

    def _home(self) -> TaskGroup:
        if self._tasks is None:
            raise RuntimeError("workers need `run`, which the application's lifespan startup calls")
        return self._tasks

    @asynccontextmanager
    async def worker(self, on_output: Callable[[str], None]) -> AsyncIterator[Worker]:
        """A fresh worker; on leaving, nothing of it is alive and its streams are closed.

        `on_output` is called with each line that the agent prints. Waits while there is no
        template. Raises `OSError` where the system has no room for a worker, `AgentLoadError`
        when the agent cannot be imported any more, and what `Worker.receive` does when a worker
        ends while it imports the agent.
        """
        worker = await self._take()
        worker.output.send_lines_to(on_output)
        # While there is one left, the next is made when this one has gone, where it delays nobody.
        if self.mode == "exec" or not self._spares:
            self._refill_soon()
        try:
            yield worker
        finally:
            await worker.stop()
            self._refill_soon()

    async def _take(self) -> Worker:
        self._home()
        while True:
            if (template := self._alive()) is None:
                if self._problem is not None:
                    raise AgentLoadError(str(self._problem)) from self._problem
                await self._news.wait()
                continue
            self._drop_dead_spares()
            if self._spares:
                return self._spares.popleft()
            try:
                return await self._fork(template)
            except TemplateGoneError:
                continue  # it was alive a moment ago: nothing has been asked of the worker yet

    async def _fork(self, template: TemplateProcess) -> Worker:
        worker = await template.fork()
        try:
            with anyio.move_on_after(FORK_SECONDS) as waiting:
                await worker.wait_forked()
            if waiting.cancelled_caught:
                logger.error("the template does not answer, and is killed")
                template.kill()
                raise TemplateGoneError("the template does not answer")  # noqa: TRY301  # cleaned up here
            if template.mode == "exec":
                await worker.wait_ready(READY_SECONDS)
        except BaseException:
            # Nobody waits for the end of what nobody has used, unless everything ends.
            if self._closing.is_set():
                await worker.stop()
            else:
                self._home().start_soon(worker.stop)
            raise
        return worker

    def _drop_spares(self) -> None:
        while self._spares:
            self._home().start_soon(self._spares.popleft().stop)

    def _drop_dead_spares(self) -> None:
        for worker in [worker for worker in self._spares if worker.has_exited]:
            self._spares.remove(worker)
            self._home().start_soon(worker.stop)

    def _refill_soon(self) -> None:
        if self._tasks is None or self._closing.is_set():
            return
        self._drop_dead_spares()
        while len(self._spares) + self._coming < SPARES:
            self._coming += 1
            self._tasks.start_soon(self._refill)

    async def _refill(self) -> None:
        try:
            if (template := self._alive()) is None:
                return
            worker = await self._fork(template)
            if template is self._current:
                self._spares.append(worker)
            else:
                await worker.stop()
        except TemplateGoneError:
            return  # the next one gets spares of its own
        except (MotusError, OSError) as error:
            # Whoever needs a worker asks again, and is told.
            if not self._closing.is_set():
                logger.warning("no spare worker: %s", error)
        finally:
            self._coming -= 1
