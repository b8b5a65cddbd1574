"""The template: imports the agent once, and makes the workers of which each serves one turn.

`python -m motus.serve.workers.template <settings> <lifeline>`, with a stream socket to the server
as descriptor 0. For each Fork frame, which brings the worker's channel and the pipe to print into,
it makes a worker and answers with Forked, which brings a descriptor for the process. When nothing
of a worker is alive any more it says Exited.

It is single-threaded and blocks: a loop or a thread would have to be got rid of in each fork. It
has no timers, and sleeps unless the server or one of its children wants something. It runs no code
of the agent after the import. When the server closes the socket, or dies, it kills what is left of
all workers, and ends.

An agent that starts threads when it is imported cannot be forked safely: then the template becomes
a fresh process by exec, which has the same duties but execs each worker, too.
"""

from __future__ import annotations

import array
import contextlib
import errno
import gc
import os
import select
import signal
import socket
import sys
import traceback
from collections import deque
from os import _exit
from typing import NoReturn

import attrs

from motus.errors import ProtocolError
from motus.serve.agents import LoadedAgent
from motus.serve.wire import (
    TO_TEMPLATE,
    Changed,
    Exited,
    Failure,
    Fork,
    Forked,
    FrameDecoder,
    FromTemplate,
    NotForked,
    Prepared,
    encode_frame,
)
from motus.serve.workers.child import LIFELINE, import_agent, serve_turn, warm_up
from motus.serve.workers.process import (
    WORKER_VARIABLE,
    WorkerMark,
    adopt_orphans,
    be_killed_first,
    carries_mark,
    child_processes,
    collapse_heap,
    follow_server,
    forbid_core_dumps,
    limit_resources,
    move_away,
    stop_following,
    take_channel,
    thread_count,
)
from motus.serve.workers.settings import WorkerSettings
from motus.serve.workers.watch import SourceWatch

__all__ = ["main"]

# With each Fork: the worker's channel, and where it prints.
DESCRIPTORS_OF_A_WORKER = 2
READ_BYTES = 1 << 16
EVENTS_THAT_MATTER = os.WEXITED | os.WNOHANG | os.WNOWAIT


@attrs.define
class _Ending:
    """A worker whose process is gone, but perhaps not all that it had started."""

    worker_id: str
    status: int
    # Killed, but not yet reaped. What is dying has no environment any more to be known by.
    strays: set[int] = attrs.field(factory=set)


class _Template:
    def __init__(
        self,
        control: socket.socket,
        lifeline: int,
        settings: WorkerSettings,
        mark: WorkerMark,
        agent: LoadedAgent | None,
    ) -> None:
        self._control = control
        self._lifeline = lifeline
        self._settings = settings
        self._mark = mark
        # None: workers are exec'd and import it themselves.
        self._agent = agent
        self._decoder = FrameDecoder(TO_TEMPLATE)
        self._received: deque[int] = deque()
        # By process, which is also the process group.
        self._workers: dict[int, str] = {}
        self._endings: dict[int, _Ending] = {}
        self._wake_reader, self._wake_writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._watch = _watch(settings) if settings.reload else None

    def run(self) -> NoReturn:
        """Serve until the server's end of the socket is closed."""
        signal.set_wakeup_fd(self._wake_writer, warn_on_full_buffer=False)
        # Without a handler there would be no wake-up.
        signal.signal(signal.SIGCHLD, lambda *_: None)
        # Ctrl+C on the terminal is the server's business.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        # Whoever started the server, or the agent's import, may have blocked some, SIGCHLD as well.
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(self._wake_reader, select.POLLIN)
        if self._watch is not None:
            poll.register(self._watch.descriptor, select.POLLIN)
        self._send(Prepared("exec" if self._agent is None else "fork"))
        while True:
            ready = {descriptor for descriptor, _ in poll.poll()}
            if self._wake_reader in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake_reader, READ_BYTES)
                self._reap()
            if self._watch is not None and self._watch.changed():
                self._send(Changed())
            if self._control.fileno() in ready:
                self._obey()

    def _send(self, message: FromTemplate, descriptors: tuple[int, ...] = ()) -> None:
        try:
            frame = encode_frame(message)
            sent = socket.send_fds(self._control, [frame], descriptors)
            self._control.sendall(frame[sent:])
        except OSError:
            self._stop()

    def _obey(self) -> None:
        """Do what the server asks for. The end of its stream, or any error in it, is the end."""
        size = socket.CMSG_SPACE(DESCRIPTORS_OF_A_WORKER * array.array("i").itemsize)
        try:
            data, ancillary, _, _ = self._control.recvmsg(READ_BYTES, size, socket.MSG_CMSG_CLOEXEC)
            if not data:
                self._stop()
            for level, kind, content in ancillary:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    self._received.extend(array.array("i", content))
            self._decoder.feed(data)
            while (message := self._decoder.next_message()) is not None:
                self._make_worker(message)
        except (OSError, ProtocolError):
            self._stop()

    def _make_worker(self, wish: Fork) -> None:
        if len(self._received) < DESCRIPTORS_OF_A_WORKER:
            # The system had no room for them here, and dropped them.
            while self._received:
                os.close(self._received.popleft())
            self._send(NotForked(wish.worker_id, errno.EMFILE))
            return
        channel, output = self._received.popleft(), self._received.popleft()
        try:
            pid = self._start(wish.worker_id, channel, output)
        except OSError as error:
            self._send(NotForked(wish.worker_id, error.errno or errno.EAGAIN))
            return
        finally:
            os.close(channel)
            os.close(output)
        self._workers[pid] = wish.worker_id
        try:
            process = os.pidfd_open(pid)
        except OSError:
            # Old kernels, and some containers, are without.
            self._send(Forked(wish.worker_id, pid, has_descriptor=False))
            return
        try:
            self._send(Forked(wish.worker_id, pid), (process,))
        finally:
            os.close(process)

    def _start(self, worker_id: str, channel: int, output: int) -> int:
        if self._agent is None:
            return self._exec(worker_id, channel, output)
        pid = os.fork()
        if pid == 0:
            try:
                self._become_worker(self._agent, worker_id, channel, output)
            # Whatever went wrong, a worker never goes on as a template.
            except BaseException:  # noqa: BLE001  # as said above
                traceback.print_exc()
            finally:
                _exit(1)
        return pid

    def _become_worker(
        self, agent: LoadedAgent, worker_id: str, channel: int, output: int
    ) -> NoReturn:
        os.setsid()
        follow_server(self._lifeline)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.close(output)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for descriptor in (self._lifeline, self._wake_reader, self._wake_writer):
            os.close(descriptor)
        if self._watch is not None:
            os.close(self._watch.descriptor)
        self._control.close()
        self._mark.put(worker_id)
        # `random` sees to itself after a fork.
        if (numpy_random := sys.modules.get("numpy.random")) is not None:
            numpy_random.seed()
        private = move_away(channel)
        os.close(channel)
        limit_resources(self._settings)
        serve_turn(private, agent)

    def _exec(self, worker_id: str, channel: int, output: int) -> int:
        settings = self._settings.to_argument()
        return os.posix_spawn(
            sys.executable,
            [sys.executable, "-m", "motus.serve.workers.child", settings],
            {**os.environ, WORKER_VARIABLE: worker_id},
            file_actions=[
                (os.POSIX_SPAWN_DUP2, channel, 0),
                (os.POSIX_SPAWN_DUP2, output, 1),
                (os.POSIX_SPAWN_DUP2, output, 2),
                # After those, one of which may have had this number.
                (os.POSIX_SPAWN_DUP2, self._lifeline, LIFELINE),
            ],
            setsid=True,
            setsigdef=[signal.SIGINT, signal.SIGCHLD],
        )

    def _reap(self) -> None:
        """See off whatever has ended, and report each worker of which nothing is left."""
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, EVENTS_THAT_MATTER)
            except ChildProcessError:
                break
            if ended is None:
                break
            worker_id = self._workers.pop(ended.si_pid, None)
            if worker_id is not None:
                # It is still a zombie, so its number, the group's as well, cannot be another's.
                _kill_group(ended.si_pid)
                exited = ended.si_code == os.CLD_EXITED
                status = ended.si_status if exited else -ended.si_status
                self._endings[ended.si_pid] = _Ending(worker_id, status)
            os.waitpid(ended.si_pid, 0)
            for ending in self._endings.values():
                ending.strays.discard(ended.si_pid)
        if not self._endings:
            return
        adopted = [pid for pid in child_processes() if pid not in self._workers]
        for group, ending in list(self._endings.items()):
            for pid in adopted:
                if pid not in ending.strays and carries_mark(pid, ending.worker_id):
                    ending.strays.add(pid)
                    _kill(pid)
            # The end of each of them is a signal to us, who are the parent of what loses its own.
            if not ending.strays and not _group_exists(group):
                del self._endings[group]
                self._send(Exited(ending.worker_id, ending.status))

    def _stop(self) -> NoReturn:
        """Kill every descendant, generation by generation, and exit when none is left."""
        while True:
            for pid in self._workers:
                _kill_group(pid)
            for pid in child_processes():
                _kill(pid)
            try:
                pid, _ = os.waitpid(-1, 0)
            except ChildProcessError:
                _exit(0)
            self._workers.pop(pid, None)


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)


def _kill_group(pid: int) -> None:
    # Not there: its leader has not come to make it, or has become another user's.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _group_exists(pid: int) -> bool:
    try:
        os.killpg(pid, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _watch(settings: WorkerSettings) -> SourceWatch | None:
    try:
        return SourceWatch(settings.search_path)
    except OSError as error:
        # The system gives out a hundred or so to each user.
        print(f"the agent's files cannot be watched, so they are not reloaded: {error.strerror}")  # noqa: T201  # to the server's log
        return None


def _start_over(control: int, lifeline: int, settings: WorkerSettings) -> NoReturn:
    """Become a process without the agent and its threads, that execs each worker."""
    os.dup2(control, 0)
    os.set_inheritable(lifeline, True)
    exec_only = attrs.evolve(settings, mode="exec")
    argument = exec_only.to_argument()
    module = "motus.serve.workers.template"
    os.execv(sys.executable, [sys.executable, "-m", module, argument, str(lifeline)])  # noqa: S606  # no shell wanted


def main() -> NoReturn:
    """Be a template on descriptor 0."""
    settings = WorkerSettings.from_argument(sys.argv[1])
    inherited = int(sys.argv[2])
    lifeline = move_away(inherited)
    os.close(inherited)
    forbid_core_dumps()
    # It and its workers can be replaced; the server holds the sessions.
    be_killed_first()
    adopt_orphans()
    mark = WorkerMark()
    channel = take_channel()
    control = socket.socket(fileno=channel)
    agent = None
    if settings.mode != "exec":
        # An import may take long, and may never let go of the interpreter.
        following = follow_server(lifeline)
        found = import_agent(settings)
        stop_following(following)
        if isinstance(found, Failure):
            control.sendall(encode_frame(found))
            _exit(0)
        warm_up(found.backend)
        if settings.mode == "auto" and thread_count() > 1:
            print(  # noqa: T201  # to the server's log
                f"{settings.import_path} starts threads when it is imported, so workers are not "
                "forked: each imports it anew"
            )
            _start_over(channel, lifeline, settings)
        agent = found
    template = _Template(control, lifeline, settings, mark, agent)
    if agent is not None:
        # Collecting garbage in a worker would copy every page that is shared until then.
        gc.collect()
        gc.freeze()
        collapse_heap()
    template.run()


if __name__ == "__main__":
    main()
