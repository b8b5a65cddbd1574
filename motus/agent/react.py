"""The ReAct loop: carries out what the step machine decides."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Any

import attrs
from typing_extensions import TypeVar

from motus.agent.base import AgentBase, MemoryType, Prompt
from motus.agent.conversation import closing_messages, tool_error
from motus.agent.limits import UsageLimits
from motus.agent.outcomes import as_text, guard_value
from motus.agent.steps import (
    AddMessages,
    CallModel,
    CheckReply,
    Fail,
    Finish,
    Instruction,
    RunTools,
    ShowStep,
    StepMachine,
)
from motus.agent.tasks import model_serve_task
from motus.errors import TaskCancelledError
from motus.guardrails import Guardrail
from motus.memory.base import BaseMemory
from motus.messages import ChatCompletion, ChatMessage, ToolCall
from motus.models.base import AUTO_REASONING, BaseChatClient, CachePolicy, ReasoningConfig
from motus.models.errors import ModelContextOverflowError, StructuredOutputError
from motus.models.pricing import cost
from motus.models.usage import ModelUse, counters
from motus.runtime.future import AgentFuture
from motus.tools.results import encode_error

__all__ = ["ReActAgent", "StepCallback"]

T = TypeVar("T", default=str)

StepCallback = Callable[[str | None, list[dict[str, str]]], Awaitable[object] | None]


class ReActAgent(AgentBase[T]):
    """Calls the model, runs the tools that it asks for, all at once, and so on until it answers.

    The answer is text, or an object of `response_format`: a pydantic model, a dataclass, an attrs
    class. One that does not fit goes back to the model once, with what is wrong; then it is a
    `StructuredOutputError`.

    `max_steps` replies with tool calls and no answer are a `RuntimeError`. `step_callback(content,
    tool_calls)` is called, and awaited, before the tools of a step run; each call is a dict of its
    name and arguments. Output guardrails see the answer before it is remembered, so that what they
    change or refuse is nowhere in the conversation. `usage_limits` hold for each run.
    """

    def __init__(
        self,
        client: BaseChatClient,
        model_name: str,
        name: str | None = None,
        system_prompt: str | None = None,
        tools: Any = None,
        response_format: type[T] | None = None,
        max_steps: int | None = 20,
        timeout: float | None = None,
        memory_type: MemoryType = "basic",
        memory: BaseMemory | None = None,
        input_guardrails: Iterable[Guardrail] | None = None,
        output_guardrails: Iterable[Guardrail] | None = None,
        reasoning: ReasoningConfig = AUTO_REASONING,
        cache_policy: CachePolicy | str = CachePolicy.AUTO,
        step_callback: StepCallback | None = None,
        usage_limits: UsageLimits | None = None,
    ) -> None:
        if step_callback is not None and not callable(step_callback):
            raise TypeError(f"step_callback must be a function, not {step_callback!r:.80}")
        if usage_limits is not None and not isinstance(usage_limits, UsageLimits):
            raise TypeError(
                "usage_limits must be UsageLimits(tokens=..., cost=..., tool_calls=...), "
                f"not {usage_limits!r:.80}"
            )
        super().__init__(
            client,
            model_name,
            name=name,
            system_prompt=system_prompt,
            tools=tools,
            response_format=response_format,
            max_steps=max_steps,
            timeout=timeout,
            memory_type=memory_type,
            memory=memory,
            input_guardrails=input_guardrails,
            output_guardrails=output_guardrails,
            reasoning=reasoning,
            cache_policy=cache_policy,
        )
        self._step_callback = step_callback
        self._usage_limits = usage_limits

    async def _run(self, user_prompt: Any = None, **kwargs: Any) -> T:
        if kwargs:
            raise TypeError(
                f"a call of a ReActAgent takes a prompt and nothing else, not {', '.join(kwargs)}: "
                "the rest is said when the agent is made"
            )
        limits = self._usage_limits
        machine = StepMachine(self.max_steps, limits)
        if limits is not None:
            counters.set((*counters.get(), partial(_hold_to, limits, machine)))
        message = _as_message(user_prompt)
        # What came in by hand may have been left open.
        await self._memory.add_last_messages(closing_messages(self._memory.messages))
        try:
            return await self._carry_out(machine, machine.started(message))
        except BaseException:
            await self._close_conversation(machine.results())
            raise

    async def _carry_out(self, machine: StepMachine, todo: list[Instruction]) -> T:
        resets = self._resets
        while True:
            self._steps_completed = machine.steps_completed
            following: list[Instruction] = []
            for instruction in todo:
                if self._resets != resets:
                    raise RuntimeError("the conversation was reset while the agent was running")
                match instruction:
                    case AddMessages(messages):
                        for message in messages:
                            await self.add_message(message)
                    case CallModel():
                        following = await self._reply(machine)
                    case ShowStep(content, calls):
                        await self._show(content, calls)
                    case RunTools(calls):
                        following = await self._results(machine, calls)
                    case CheckReply(completion):
                        following = await self._check(machine, completion)
                    case Fail(error):
                        raise error
                    case Finish(value):
                        return value  # type: ignore[no-any-return]  # made by _check
            todo = following

    def _has_another_loop(self) -> bool:
        """Whether a subclass has a `_run` of its own: it knows texts, and answers as it likes."""
        return type(self)._run is not ReActAgent._run  # noqa: SLF001  # its own

    def _prompt_of(self, message: ChatMessage) -> Prompt:
        return super()._prompt_of(message) if self._has_another_loop() else message

    def _said(self, answer: Any) -> ChatMessage:
        said = self.get_last_assistant_message()
        if said is None or said.tool_calls or self._has_another_loop():
            return super()._said(answer)
        # Also where it is an object: as the model has written it.
        return said

    async def _answered(self, answer: T) -> T:
        # The guardrails have seen it already, before it was remembered.
        return answer

    async def _reply(self, machine: StepMachine) -> list[Instruction]:
        try:
            return machine.model_replied(await self._completion())
        except StructuredOutputError as error:
            said = attrs.evolve(error.completion, tool_calls=None)
            machine.model_replied(said)
            return machine.reply_rejected(said, error)

    async def _completion(self) -> ChatCompletion:
        """The model's reply; a conversation that is too long for the model is compacted, once."""
        try:
            return await self._model_call()
        except ModelContextOverflowError:
            if await self._memory.compact() is None:
                raise
        try:
            return await self._model_call()
        except ModelContextOverflowError as error:
            raise ModelContextOverflowError(
                f"{error} (also after the conversation was compacted: what has to stay of it, the "
                "last request or step with the system prompt and the tools, is too long by itself)",
                provider=error.provider,
                status=error.status,
            ) from error

    def _model_call(self) -> AgentFuture[ChatCompletion]:
        # By name, for hooks.
        return model_serve_task(
            client=self._client,
            model=self._model_name,
            messages=self.get_context(),
            tools=self.tools_schema(),
            response_format=self._response_format,
            reasoning=self._reasoning,
            cache_policy=self._cache_policy,
        )

    async def _show(self, content: str | None, calls: list[ToolCall]) -> None:
        if self._step_callback is not None:
            shown = [
                {"name": call.function.name, "arguments": call.function.arguments} for call in calls
            ]
            waiting = self._step_callback(content, shown)
            if inspect.isawaitable(waiting):
                await waiting

    async def _results(self, machine: StepMachine, calls: list[ToolCall]) -> list[Instruction]:
        tools = self._all_tools
        futures = [tools.start(call.function.name, call.function.arguments) for call in calls]
        following: list[Instruction] = []
        index = 0
        try:
            for index, future in enumerate(futures):
                following += machine.tool_finished(index, await _result(future))
        except BaseException:
            # What has come of the others is worth keeping; what has not is not waited for.
            for later, future in enumerate(futures[index:], index):
                if not future.af_cancel() and (result := _known_result(future)) is not None:
                    machine.tool_finished(later, result)
            raise
        return following

    async def _check(self, machine: StepMachine, completion: ChatCompletion) -> list[Instruction]:
        """Whether a reply without tool calls is the answer, and what the guardrails make of it."""
        reply = completion.to_message()
        answer: Any = completion.content or ""
        if self._response_format is not None:
            answer = completion.parsed
            if answer is None:
                error = StructuredOutputError("the reply has no structured output", completion)
                return machine.reply_rejected(completion, error)
        checked = await guard_value(self._output_guardrails, answer, self)
        if checked is not answer:
            # Without what the model has thought, and its provider's own form of the reply: what
            # was taken out is in them too.
            reply = ChatMessage.assistant_message(as_text(checked))
        return machine.reply_accepted(reply, checked)


def _hold_to(limits: UsageLimits, machine: StepMachine, use: ModelUse) -> Exception | None:
    """Tell the machine what has been used."""
    priced = limits.cost is not None
    return machine.consumed(use.tokens, cost(use.model, use.usage, use.provider) if priced else 0.0)


async def _result(future: AgentFuture[str]) -> str:
    try:
        return await future
    except TaskCancelledError:
        # By somebody who meant this call alone; of a cancelled run the next step is the end.
        return tool_error("the call was cancelled")
    except (Exception, SystemExit) as error:  # noqa: BLE001  # nothing that a tool does ends the run
        return encode_error(error)


def _known_result(future: AgentFuture[str]) -> str | None:
    """What a call that is done has come to; None if it was stopped, or stops the run itself."""
    try:
        return future.af_result()
    except TaskCancelledError:
        return None
    except (Exception, SystemExit) as error:  # noqa: BLE001  # as above
        return encode_error(error)
    except BaseException:  # noqa: BLE001  # no cancellation: an error that the run ends with anyway
        return None


def _as_message(prompt: Any) -> ChatMessage | None:
    if prompt is None or isinstance(prompt, ChatMessage):
        return prompt
    if isinstance(prompt, str):
        return ChatMessage.user_message(prompt)
    raise TypeError(f"a prompt is text or a ChatMessage, not {type(prompt).__name__}")
