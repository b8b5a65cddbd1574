"""The loop of a ReAct agent as a state machine: what happened in, what to do next out.

::

    Start --> CALLING --ModelReplied--> ACTING --all results--> CALLING ...
                 |                        '--> OVER (no steps left)
                 '--no calls--> CHECKING --ReplyAccepted--> OVER
                                    '--ReplyRejected--> CALLING, once, then OVER

It knows neither model nor tools nor memory, waits for nothing, and never sees the conversation. A
step is one call of the model with the tools that it asks for; the second chance of an answer that
does not fit its type is none.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

import attrs

from motus.agent.conversation import tool_error
from motus.agent.limits import UsageLimitExceeded, UsageLimits, Used
from motus.errors import InvalidTransitionError
from motus.messages import ChatCompletion, ChatMessage, ToolCall

__all__ = [
    "AddMessages",
    "CallModel",
    "CheckReply",
    "Fail",
    "Finish",
    "Instruction",
    "RunTools",
    "ShowStep",
    "State",
    "StepMachine",
]


@attrs.frozen
class CallModel:
    """Send the conversation to the model; then `model_replied`."""


@attrs.frozen
class AddMessages:
    """Add these to the conversation."""

    messages: list[ChatMessage]


@attrs.frozen
class ShowStep:
    """Tell the step callback, before the tools run."""

    content: str | None
    tool_calls: list[ToolCall]


@attrs.frozen
class RunTools:
    """Start all of these together; `tool_finished` for each, in any order."""

    calls: list[ToolCall]


@attrs.frozen
class CheckReply:
    """Is this the answer? Then `reply_accepted` or `reply_rejected`."""

    completion: ChatCompletion


@attrs.frozen
class Finish:
    """The run is over with this value."""

    value: Any


@attrs.frozen
class Fail:
    """The run is over: raise this."""

    error: Exception


Instruction = CallModel | AddMessages | ShowStep | RunTools | CheckReply | Finish | Fail


class State(Enum):
    """What the machine waits for."""

    NEW = "new"
    CALLING = "calling"
    ACTING = "acting"
    CHECKING = "checking"
    OVER = "over"


class StepMachine:
    """One run. Each method is an event and returns instructions, to be carried out in order.

    `max_steps` None is no limit. Raises `InvalidTransitionError` for an event that cannot happen.
    """

    def __init__(self, max_steps: int | None, limits: UsageLimits | None = None) -> None:
        self._max_steps = max_steps
        self._limits = limits
        self._tokens = 0
        self._cost: float | None = 0.0
        self._tool_calls = 0
        self._calls: list[ToolCall] = []
        self._results: dict[int, str] = {}
        self._was_rejected = False
        self.state = State.NEW
        # Steps begun.
        self.steps = 0

    @property
    def steps_completed(self) -> int:
        """Steps whose reply has come and whose tools have run."""
        return self.steps - (self.state in (State.CALLING, State.ACTING))

    @property
    def used(self) -> Used:
        """What the run has used so far."""
        return Used(self._tokens, self._cost, self._tool_calls)

    def started(self, prompt: ChatMessage | None) -> list[Instruction]:
        """The run begins, with something new to answer or without."""
        self._expect(State.NEW, "started")
        return [*([AddMessages([prompt])] if prompt is not None else []), *self._next_step()]

    def consumed(self, tokens: int, cost: float | None) -> UsageLimitExceeded | None:
        """A model call, the run's own or one below it, has used so much; None is not known.

        Returns an error for what runs below this run, if that has reached a limit: whatever it
        does from now on would be in vain.
        """
        self._tokens += tokens
        self._cost = None if cost is None or self._cost is None else self._cost + cost
        if self.state is not State.ACTING or self._limits is None:
            return None
        problem = self._limits.problem(self.used)
        return _limit_error(problem) if problem is not None else None

    def model_replied(self, completion: ChatCompletion) -> list[Instruction]:
        """The model has replied."""
        self._expect(State.CALLING, "model_replied")
        calls = completion.tool_calls or []
        self._tool_calls += len(calls)
        if not calls:
            self.state = State.CHECKING
            return [CheckReply(completion)]
        self._calls, self._results = calls, {}
        asked = AddMessages([completion.to_message()])
        refusal = self._limits.problem_with_calls(self.used) if self._limits else None
        if refusal is not None:
            self.state = State.OVER
            refused = tool_error(f"not called: {refusal}")
            return [asked, self._tool_messages([refused] * len(calls)), _exceeded(refusal)]
        self.state = State.ACTING
        return [asked, ShowStep(completion.content, calls), RunTools(calls)]

    def tool_finished(self, index: int, result: str) -> list[Instruction]:
        """The call with this index in `RunTools` has its result; nothing to do until all have."""
        self._expect(State.ACTING, "tool_finished")
        if not 0 <= index < len(self._calls) or index in self._results:
            raise InvalidTransitionError(f"step {self.steps}: no result of call {index} is awaited")
        self._results[index] = result
        if len(self._results) < len(self._calls):
            return []
        # In the order of the calls, whichever was first.
        results = [self._results[at] for at in range(len(self._calls))]
        return [self._tool_messages(results), *self._next_step()]

    def reply_accepted(self, message: ChatMessage, value: Any) -> list[Instruction]:
        """The reply is the answer, as it is to be remembered and as it is to be returned."""
        self._expect(State.CHECKING, "reply_accepted")
        self.state = State.OVER
        return [AddMessages([message]), Finish(value)]

    def reply_rejected(self, completion: ChatCompletion, error: Exception) -> list[Instruction]:
        """The reply is no answer of the type that was asked for."""
        self._expect(State.CHECKING, "reply_rejected")
        rejected = completion.to_message()
        problem = self._limits.problem(self.used) if self._limits else None
        if self._was_rejected or problem is not None:
            self.state = State.OVER
            failed = Fail(error) if self._was_rejected else _exceeded(str(problem))
            return [AddMessages([rejected]), failed]
        self._was_rejected = True
        self.state = State.CALLING
        correction = ChatMessage.user_message(
            f"This reply cannot be used: {error}\nReply again, with the whole corrected JSON only."
        )
        return [AddMessages([rejected, correction]), CallModel()]

    def results(self) -> dict[str, str]:
        """By call id, what has come of a step that is not complete."""
        return {self._calls[index].id: result for index, result in self._results.items()}

    def _next_step(self) -> list[Instruction]:
        if self._max_steps is not None and self.steps >= self._max_steps:
            self.state = State.OVER
            steps = self._max_steps
            return [
                Fail(RuntimeError(f"ReactAgent reached max steps ({steps}) without completing"))
            ]
        problem = self._limits.problem(self.used) if self._limits and self.steps else None
        if problem is not None:
            self.state = State.OVER
            return [_exceeded(problem)]
        self.steps += 1
        self.state = State.CALLING
        return [CallModel()]

    def _tool_messages(self, results: list[str]) -> AddMessages:
        return AddMessages(
            [
                ChatMessage.tool_message(result, call.id, call.function.name)
                for call, result in zip(self._calls, results, strict=True)
            ]
        )

    def _expect(self, state: State, event: str) -> None:
        if self.state is not state:
            raise InvalidTransitionError(f"an agent's run in state {self.state.value}: {event}")


def _exceeded(problem: str) -> Fail:
    return Fail(_limit_error(problem))


def _limit_error(problem: str) -> UsageLimitExceeded:
    return UsageLimitExceeded(f"Agent stopped at a usage limit: {problem}")
