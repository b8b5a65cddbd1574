"""What every agent is: a client, a conversation, tools, and calls that run one after the other."""

from __future__ import annotations

import contextlib
import copy
import inspect
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Final, Generic, Literal, Self

import anyio
import attrs
from typing_extensions import TypeVar

from motus.agent.conversation import closing_messages, with_calls_closed
from motus.agent.deadline import Deadline
from motus.agent.names import variable_of
from motus.agent.outcomes import as_text, guard_value
from motus.agent.parameters import (
    check_model,
    check_reasoning,
    check_response_format,
    check_timeout,
    functions,
    memory_of,
)
from motus.agent.turns import Turns
from motus.guardrails import Guardrail, run_guardrails
from motus.memory.base import BaseMemory
from motus.memory.windows import known_context_window
from motus.messages import ChatMessage, ToolCall, ToolDefinition
from motus.models.base import AUTO_REASONING, BaseChatClient, CachePolicy, ReasoningConfig
from motus.models.pricing import cost, provider_of
from motus.models.usage import Counter, UsageMeter, counters
from motus.runtime.agent_task import AgentTaskDefinition
from motus.runtime.current import current
from motus.runtime.future import AgentFuture
from motus.runtime.policy import TaskSpec
from motus.runtime.types import AGENT_CALL
from motus.serve.interrupt import clocks
from motus.tools import DictTools, Tool, normalize_tools
from motus.tools.agent_tool import AgentTool, specialists_of_run

__all__ = ["AgentBase", "MemoryType", "Prompt"]

T = TypeVar("T", default=Any)

MemoryType = Literal["basic", "compact"]
Prompt = str | ChatMessage | None

# What is left of a stopped run is put in order in so many seconds, or not at all: a memory of
# somebody's own may wait for a database.
CLOSING_SECONDS: Final = 5.0
# Where a memory never compacts: at which share of the model's window a conversation is long.
DEFAULT_SHARE: Final = 0.75


class AgentBase(ABC, Generic[T]):
    """An agent with a loop of its own: write `_run`.

    `agent(prompt)` is an `agent_call` task and returns its future: `await` it, or `resolve` it in
    synchronous code. The calls of one agent run one after the other, in order; its forks run in
    parallel. A run that fails, is cancelled or runs out of time leaves a conversation in which
    every tool call has a result, so that the next call goes on from there.

    `timeout` is for the whole run, in seconds, without those in which a human was asked. `memory`
    is used instead of one of `memory_type`; two agents that run at once must not share one. The
    name is that of the caller's variable unless it is given.
    """

    def __init__(
        self,
        client: BaseChatClient,
        model_name: str,
        name: str | None = None,
        system_prompt: str | None = None,
        tools: Any = None,
        response_format: type[T] | None = None,
        max_steps: int | None = None,
        timeout: float | None = None,
        memory_type: MemoryType = "basic",
        memory: BaseMemory | None = None,
        input_guardrails: Iterable[Guardrail] | None = None,
        output_guardrails: Iterable[Guardrail] | None = None,
        reasoning: ReasoningConfig = AUTO_REASONING,
        cache_policy: CachePolicy | str = CachePolicy.AUTO,
    ) -> None:
        check_model(client, model_name)
        check_response_format(response_format)
        check_timeout(timeout)
        check_reasoning(reasoning)
        self._client = client
        self._model_name = model_name
        self._name = name
        self._response_format = response_format
        self._timeout = timeout
        self._input_guardrails = functions("input_guardrails", input_guardrails)
        self._output_guardrails = functions("output_guardrails", output_guardrails)
        self._reasoning = reasoning
        self._cache_policy = CachePolicy(cache_policy)
        self._memory = memory_of(memory, memory_type)
        self._memory.set_model(client=client, model_name=model_name)
        if system_prompt is not None or memory is None:
            self.system_prompt = system_prompt
        self._tools: DictTools | None = None
        self.tools = tools
        self.max_steps = max_steps
        self._meter = UsageMeter(cost)
        self._turns = Turns()
        self._call: AgentTaskDefinition[AgentFuture[T]] | None = None
        # How often the conversation was forgotten, and how far the run has come.
        self._resets = 0
        self._steps_completed = 0

    # ------------------------------------------------------------------ what it is

    @property
    def client(self) -> BaseChatClient:
        """Who calls the model."""
        return self._client

    @property
    def model_name(self) -> str:
        """Which model."""
        return self._model_name

    @property
    def name(self) -> str:
        """As given, else the caller's variable, else the class."""
        if self._name is None:
            self._name = variable_of(self)
        return self._name or type(self).__name__

    @property
    def max_steps(self) -> int | None:
        """After how many steps without an answer a run fails; None for never."""
        return self._max_steps

    @max_steps.setter
    def max_steps(self, steps: int | None) -> None:
        if steps is not None and (type(steps) is not int or steps < 1):
            raise ValueError(f"max_steps must be a positive whole number, or None, not {steps!r}")
        self._max_steps = steps

    @property
    def system_prompt(self) -> str | None:
        """What every model call begins with."""
        return self._memory.construct_system_prompt().content or None

    @system_prompt.setter
    def system_prompt(self, prompt: str | None) -> None:
        if prompt is not None and not isinstance(prompt, str):
            raise TypeError(f"system_prompt must be a text, not {type(prompt).__name__}")
        self._memory.set_system_prompt(prompt or "")

    @property
    def tools(self) -> DictTools | None:
        """The tools by name. Takes whatever `normalize_tools` does."""
        return self._tools

    @tools.setter
    def tools(self, tools: Any) -> None:
        normalized = normalize_tools(tools) if tools is not None else None
        self._all_tools = DictTools() if normalized is None else normalized
        given = self._memory.build_tools()
        if given:
            self._all_tools = DictTools(
                [*self._all_tools.values(), *normalize_tools(given).values()],
                owned_sessions=self._all_tools.owned_sessions,
            )
        self._tools = normalized

    @property
    def response_format(self) -> type[T] | None:
        """The type of the answers, if they are not text."""
        return self._response_format

    @property
    def timeout(self) -> float | None:
        """How long a run may take, in seconds."""
        return self._timeout

    @property
    def reasoning(self) -> ReasoningConfig:
        """How much the model is to think."""
        return self._reasoning

    @property
    def cache_policy(self) -> CachePolicy:
        """How much of the prompt the provider is to keep."""
        return self._cache_policy

    def tools_schema(self) -> list[ToolDefinition] | None:
        """The tools as the model is told of them, those of the memory too; None without any."""
        return self._all_tools.definitions() or None

    # ------------------------------------------------------------------ the conversation

    @property
    def memory(self) -> BaseMemory:
        """The conversation."""
        return self._memory

    @property
    def messages(self) -> list[ChatMessage]:
        """What the model is sent, the system prompt too."""
        return self._memory.get_context()

    def get_context(self) -> list[ChatMessage]:
        """The same."""
        return self._memory.get_context()

    async def add_message(self, message: ChatMessage) -> None:
        """Add to the conversation."""
        await self._memory.add_message(message)

    async def add_user_message(
        self, content: str | ChatMessage | None, base64_image: str | None = None
    ) -> None:
        """Add what the user says, to be answered by the next call; a whole message as it is."""
        if not isinstance(content, ChatMessage):
            content = ChatMessage.user_message(content, base64_image)
        await self.add_message(content)

    async def add_assistant_message(
        self, content: str | None = None, tool_calls: list[ToolCall] | None = None
    ) -> None:
        """Add what the model is to have said."""
        await self.add_message(ChatMessage.assistant_message(content, tool_calls))

    async def add_tool_message(
        self, content: str, tool_call_id: str, name: str, base64_image: str | None = None
    ) -> None:
        """Add the result of a tool."""
        await self.add_message(ChatMessage.tool_message(content, tool_call_id, name, base64_image))

    def get_last_assistant_message(self) -> ChatMessage | None:
        """What the model said last."""
        said = (m for m in reversed(self._memory.messages) if m.role == "assistant")
        return next(said, None)

    async def compact_memory(self, **options: Any) -> str | None:
        """Compact the conversation now; the summary, if the memory makes one."""
        token = counters.set(self._counting())
        try:
            return await self._memory.compact(**options)
        finally:
            counters.reset(token)

    def clear_messages(self) -> None:
        """Forget the conversation, and nothing else; a run that goes on meanwhile fails."""
        self._resets += 1
        self._memory.clear_messages()

    def reset(self) -> None:
        """Begin anew with the same configuration; `usage` and `cost` go on counting.

        A run that goes on meanwhile fails: what it would go on with is forgotten.
        """
        self._resets += 1
        self._memory.reset()

    # ------------------------------------------------------------------ what it has used

    @property
    def usage(self) -> dict[str, float]:
        """Tokens of every model call in its runs, by token name, under both namings.

        Those of its memory, and of the specialists and tools that it has called, are among them.
        """
        return self._meter.totals

    @property
    def cost(self) -> float | None:
        """The same in US dollars; None if the price of a model is not known."""
        provider = provider_of(self._client)
        return None if cost(self._model_name, {}, provider) is None else self._meter.cost

    @property
    def context_window_usage(self) -> dict[str, Any]:
        """How long the conversation is, about, against when it is compacted, or should be."""
        tokens = self._memory.estimate_working_memory_tokens()
        threshold = self._memory.token_threshold() or int(
            known_context_window(self._model_name, self._client) * DEFAULT_SHARE
        )
        ratio = tokens / threshold
        return {
            "estimated_tokens": tokens,
            "threshold": threshold,
            "ratio": round(ratio, 3),
            "percent": f"{ratio:.0%}",
        }

    def get_execution_trace(self) -> dict[str, Any]:
        """What happened to the conversation, and what it took; `cost_usd` only if it is known."""
        trace = {**self._memory.get_memory_trace(), "usage": self.usage, "model": self._model_name}
        if self.cost is not None:
            trace["cost_usd"] = self.cost
        return trace

    def _counting(self) -> tuple[Counter, ...]:
        """Who counts what this agent uses: it itself, and whoever has called it."""
        mine, above = self._meter.add, counters.get()
        return above if mine in above else (*above, mine)

    # ------------------------------------------------------------------ copies

    def fork(self) -> Self:
        """An independent agent with the same configuration and conversation; its usage is empty."""
        clone = copy.copy(self)
        clone._detach(self._memory.fork())  # noqa: SLF001  # of this very class
        return clone

    def _detach(self, memory: BaseMemory) -> None:
        """Called on the copy: take this memory, and give up all else that may not be shared."""
        self._memory = memory
        # Some are tools of the memory.
        self.tools = self._tools
        self._input_guardrails = self._input_guardrails.copy()
        self._output_guardrails = self._output_guardrails.copy()
        self._meter = UsageMeter(cost)
        self._turns = Turns()
        self._call = None

    def as_tool(
        self,
        *,
        name: str | None = None,
        description: str | None = None,
        output_extractor: Callable[[Any], Any] | None = None,
        stateful: bool = False,
        max_steps: int | None = None,
        input_guardrails: Iterable[Guardrail] | None = None,
        output_guardrails: Iterable[Guardrail] | None = None,
    ) -> Tool:
        """The agent as a tool for another one; see `AgentTool`. The agent itself never changes."""
        return AgentTool(
            self,
            name=name,
            description=description,
            output_extractor=output_extractor,
            stateful=stateful,
            max_steps=max_steps,
            input_guardrails=input_guardrails,
            output_guardrails=output_guardrails,
        )

    # ------------------------------------------------------------------ calls

    def __call__(self, prompt: Any = None, **kwargs: Any) -> AgentFuture[T]:
        """Run the agent on a prompt: text, a message with a picture, or the future of one of them.

        Without one it goes on from what is in its memory. Other keywords go to `_run`. The future
        raises what the run does, `TimeoutError`, and `TaskCancelledError` when it was cancelled.
        """
        call = self._call
        if call is None:
            # Its name is that of the agent, found out from the first caller's variables.
            body = type(self)._perform  # noqa: SLF001  # its own
            spec = TaskSpec(body, name=self.name, is_coroutine=True, task_type=AGENT_CALL)
            call = self._call = AgentTaskDefinition(body, spec)
        frame = sys._getframe(1)  # noqa: SLF001  # as in AgentTaskDefinition
        return call.call_from(frame.f_code, frame.f_lasti, (self, prompt), kwargs)

    async def _perform(self, prompt: Prompt = None, **kwargs: Any) -> T:
        """The body of an `agent_call` task."""
        task = current.get()
        await self._turns.take(task)
        self._steps_completed = 0
        # Of this task's own context, and of all below it.
        specialists_of_run.set({})
        counters.set(self._counting())
        if self._timeout is None:
            return await self._settled(prompt, kwargs)
        deadline = Deadline(self._timeout, task.af_runtime)
        clocks.set((*clocks.get(), deadline))
        with deadline.scope:
            return await self._settled(prompt, kwargs)
        raise TimeoutError(
            f"Agent timed out after {deadline.elapsed:.1f}s "
            f"(limit: {self._timeout}s, steps completed: {self._steps_completed})"
        )

    async def _settled(self, prompt: Prompt, kwargs: dict[str, Any]) -> T:
        resets = self._resets
        try:
            if self._input_guardrails and prompt is not None:
                prompt = await self._guard_prompt(prompt)
            return await self._answered(await self._run(prompt, **kwargs))
        except BaseException:
            await self._close_conversation()
            raise
        finally:
            if self._resets != resets:
                # What was on its way into the memory belongs to what is forgotten.
                self._memory.clear_messages()

    async def _guard_prompt(self, prompt: Any) -> Any:
        if not isinstance(prompt, ChatMessage):
            return await run_guardrails(self._input_guardrails, prompt, agent=self)
        if prompt.content is None:
            return prompt
        content = await run_guardrails(self._input_guardrails, prompt.content, agent=self)
        return attrs.evolve(prompt, content=content)

    @abstractmethod
    async def _run(self, user_prompt: Any = None, **kwargs: Any) -> T:
        """The loop: from the prompt, if there is one, to the answer."""

    async def _answered(self, answer: T) -> T:
        """What `_run` returned, after the output guardrails."""
        return await guard_value(self._output_guardrails, answer, self)

    async def _close_conversation(self, results: Mapping[str, str] | None = None) -> None:
        """Give every open call a result: that in `results`, by its id, or an error."""
        closing = closing_messages(self._memory.messages, results)
        if closing:
            with anyio.move_on_after(CLOSING_SECONDS, shield=True):
                await self._memory.add_last_messages(closing)

    # ------------------------------------------------------------------ serving

    async def run_turn(
        self, message: ChatMessage, state: list[ChatMessage]
    ) -> tuple[ChatMessage, list[ChatMessage]]:
        """Answer a message in the conversation `state` alone; the answer, and the new state.

        System messages in `state` are passed over: the prompt is the agent's own. Neither the
        agent's conversation nor an earlier turn has a part in it; `usage` counts on. Cancelling it
        stops the run, and returns when all of it has stopped.
        """
        agent = copy.copy(self)
        memory = self._memory.fork()
        memory.reset()
        agent._detach(memory)  # noqa: SLF001  # of this very class
        agent._meter = self._meter  # noqa: SLF001  # as above
        memory.load_messages(with_calls_closed([m for m in state if m.role != "system"]))
        call = agent(agent._prompt_of(message))  # noqa: SLF001  # as above
        try:
            answer = await call
        except BaseException:
            if call.af_cancel():
                # Whatever it ends with: what stopped this turn is what is raised.
                with anyio.CancelScope(shield=True), contextlib.suppress(Exception):
                    await call
            raise
        return agent._said(answer), memory.messages  # noqa: SLF001  # as above

    def _prompt_of(self, message: ChatMessage) -> Prompt:
        """What `_run` gets of a turn's message: its text, if there is no picture with it."""
        return message.content if message.base64_image is None else message

    def _said(self, answer: Any) -> ChatMessage:
        """The answer of a turn as a message: the last one, if that is what it says.

        A loop of somebody's own may write down something else, or nothing, and the output
        guardrails see what it returns.
        """
        said = self.get_last_assistant_message()
        text = None if answer is None else as_text(answer)
        if said is None or said.tool_calls or text not in (None, said.content):
            return ChatMessage.assistant_message(text)
        return said

    # ------------------------------------------------------------------ tools with connections

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the connections that the tools own, all of them, whatever one of them raises."""
        async with contextlib.AsyncExitStack() as stack:
            for session in self._all_tools.owned_sessions:
                stack.push_async_callback(_closed, session)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} '{self._name or '?'}' of {self._model_name}>"


async def _closed(session: Any) -> None:
    closing = session.aclose()
    if inspect.isawaitable(closing):
        await closing
