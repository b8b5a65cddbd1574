"""Agents as tools of other agents."""

from __future__ import annotations

import copy
import inspect
import json
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextvars import ContextVar
from typing import Any, Final, Protocol, Self, runtime_checkable

from motus.guardrails import Guardrail, run_guardrails
from motus.tools.base import Tool, decode_arguments

__all__ = ["AgentTool", "Specialist", "specialists_of_run"]

_REQUEST: Final = {
    "type": "object",
    "properties": {"request": {"type": "string", "description": "The request, in full"}},
    "required": ["request"],
}


@runtime_checkable
class Specialist(Protocol):
    """What an agent must be to be a tool; `fork()` gives one with a conversation of its own."""

    max_steps: Any

    @property
    def name(self) -> str | None: ...

    def fork(self) -> Self: ...

    def __call__(self, prompt: str, /) -> Awaitable[Any]: ...


# The stateful specialists of the agent's run that this code belongs to, by their tools. Tasks
# inherit it, so that a tool finds what belongs to the run by which it was called.
specialists_of_run: Final[ContextVar[dict[AgentTool, Specialist]]] = ContextVar(
    "motus_specialists_of_run"
)


class AgentTool(Tool):
    """An agent that another one can call, with one parameter: `request`.

    Every call works with a fork, so the agent itself never changes, whoever else uses it. By
    default each call forks it anew: they run side by side, and begin with the conversation that
    the agent has by then. With `stateful` the calls of one run of the caller share a fork: they
    run one after the other, and each remembers those before it. Calls by nobody's run share one
    too.

    `input_guardrails` get the request; a replacement for it, or `{"request": ...}`, is what the
    agent gets. What it returns goes through `output_extractor`, then through `output_guardrails`.
    `max_steps` limits the fork.

    Raises `TypeError` for what is no agent. Cancelling the call cancels the agent's run.
    """

    def __init__(
        self,
        agent: Any,
        *,
        name: str | None = None,
        description: str | None = None,
        output_extractor: Callable[[Any], Any] | None = None,
        stateful: bool = False,
        max_steps: int | None = None,
        input_guardrails: Iterable[Guardrail] | None = None,
        output_guardrails: Iterable[Guardrail] | None = None,
    ) -> None:
        _check_agent(agent)
        known_as = agent.name or type(agent).__name__
        super().__init__(
            name or _tool_name(known_as),
            description or f"Delegate to sub-agent: {known_as}",
            json_schema=copy.deepcopy(_REQUEST),
            input_guardrails=input_guardrails,
            output_guardrails=output_guardrails,
        )
        self.agent = agent
        self.stateful = stateful
        self.max_steps = max_steps
        self.output_extractor = output_extractor
        self._without_a_run: dict[AgentTool, Specialist] = {}

    def validate(self, arguments: str) -> dict[str, Any]:
        given = decode_arguments(arguments)
        unknown = sorted(set(given) - {"request"})
        if unknown or not isinstance(given.get("request"), str):
            raise ValueError(
                "invalid arguments: there is one parameter, request, a string; "
                f"got {json.dumps(given)[:200]}"
            )
        return given

    async def guard(self, arguments: dict[str, Any]) -> dict[str, Any]:
        # As those of an agent they take the prompt, and not parameters by name.
        request = arguments["request"]
        checked = await run_guardrails(self.input_guardrails, request, agent=self.agent)
        return (
            {"request": request, **checked}
            if isinstance(checked, Mapping)
            else {"request": checked}
        )

    async def invoke(self, arguments: dict[str, Any]) -> Any:
        specialist = self._of_this_run() if self.stateful else self._forked()
        result = await specialist(arguments["request"])
        if self.output_extractor is not None:
            result = self.output_extractor(result)
        return await result if inspect.isawaitable(result) else result

    def _of_this_run(self) -> Specialist:
        specialists = specialists_of_run.get(self._without_a_run)
        if self not in specialists:
            specialists[self] = self._forked()
        return specialists[self]

    def _forked(self) -> Specialist:
        specialist: Specialist = self.agent.fork()
        if self.max_steps is not None:
            specialist.max_steps = self.max_steps
        return specialist


def _tool_name(name: str) -> str:
    """The name of an agent, which may be any text, as the name of a tool."""
    fit = re.sub(r"[^A-Za-z0-9_-]", "_", name)
    return (fit if re.match("[A-Za-z_]", fit) else f"_{fit}")[:64]


def _check_agent(agent: object) -> None:
    if isinstance(agent, type) or not isinstance(agent, Specialist):
        kind = agent.__name__ if isinstance(agent, type) else type(agent).__name__
        raise TypeError(f"AgentTool requires an AgentBase instance, got {kind}")
