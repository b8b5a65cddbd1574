"""The worker's side of `interrupt()`: payloads out, values in, each to the one who waits for it."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Callable
from typing import Any

import anyio
import attrs
import sniffio

from motus.serve.wire import Interrupt

__all__ = ["PendingInterrupts"]


@attrs.define(eq=False)
class _Waiter:
    """Somebody in some event loop of this process, perhaps in another thread."""

    answered: anyio.Event
    wake_soon: Callable[[Callable[[], object]], object]
    value: Any = None
    closed: bool = False

    def wake(self) -> None:
        # The loop may be over by now: then nobody waits.
        with contextlib.suppress(RuntimeError):
            self.wake_soon(self.answered.set)


class PendingInterrupts:
    """Sends interrupts with `send` and hands out the values that `deliver` brings."""

    def __init__(self, turn_id: str, send: Callable[[Interrupt], None]) -> None:
        self._turn_id = turn_id
        self._send = send
        self._process = os.getpid()
        self._waiting: dict[str, _Waiter] = {}
        self._closed = False

    def __len__(self) -> int:
        return len(self._waiting)

    async def ask(self, payload: dict[str, Any]) -> Any:
        """Send the payload and wait for its value. Raises `EOFError` once there can be none."""
        if os.getpid() != self._process:
            raise RuntimeError("interrupt() called in a process that the worker has forked")
        interrupt_id = str(uuid.uuid4())
        waiter = self._waiting[interrupt_id] = _Waiter(anyio.Event(), _wake_soon())
        try:
            # After it is registered, so that whoever closes has either seen it or is seen.
            if self._closed:
                raise EOFError("Worker pipe closed")
            self._send(Interrupt(self._turn_id, interrupt_id, payload))
            await waiter.answered.wait()
        finally:
            self._waiting.pop(interrupt_id, None)
        if waiter.closed:
            raise EOFError("Worker pipe closed")
        return waiter.value

    def deliver(self, interrupt_id: str, value: Any) -> None:
        """Give the value to the one who waits for it; nobody does if that was cancelled."""
        if (waiter := self._waiting.pop(interrupt_id, None)) is not None:
            waiter.value = value
            waiter.wake()

    def close(self) -> None:
        """No values come any more: tell those who wait, and those who will."""
        self._closed = True
        for waiter in list(self._waiting.values()):
            waiter.closed = True
            waiter.wake()


def _wake_soon() -> Callable[[Callable[[], object]], object]:
    """How any thread can have something called in the running loop."""
    if sniffio.current_async_library() == "trio":
        import trio  # not in a worker that runs on asyncio

        return trio.lowlevel.current_trio_token().run_sync_soon
    import asyncio  # not in a worker that runs on trio

    return asyncio.get_running_loop().call_soon_threadsafe
