"""What every model client is: `create`, `parse` and `stream`, in the words of `motus.messages`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from types import TracebackType
from typing import Any, ClassVar, Self

import attrs

from motus.messages import ChatCompletion, ChatMessage, FunctionCall, ToolCall, ToolDefinition
from motus.models.options import AUTO_REASONING, CachePolicy, ReasoningConfig

__all__ = [
    "AUTO_REASONING",
    "BaseChatClient",
    "CachePolicy",
    "ChatCompletion",
    "ChatMessage",
    "ChatStream",
    "FunctionCall",
    "ReasoningConfig",
    "ReasoningDelta",
    "StreamEvent",
    "TextDelta",
    "ToolCall",
    "ToolCallDelta",
    "ToolDefinition",
    "pieces",
]


# What a server sends ends up in these as it is: each looks at its own.
_IS_TEXT = attrs.validators.instance_of(str)
_IS_TEXT_OR_NONE = attrs.validators.optional(_IS_TEXT)


@attrs.frozen
class TextDelta:
    """A piece of the reply's text."""

    text: str = attrs.field(validator=_IS_TEXT)


@attrs.frozen
class ReasoningDelta:
    """A piece of what the model thinks, as far as the provider shows it."""

    text: str = attrs.field(validator=_IS_TEXT)


@attrs.frozen
class ToolCallDelta:
    """A piece of a tool call: `index` says of which one, the first piece brings `id` and `name`."""

    index: int
    id: str | None = attrs.field(default=None, validator=_IS_TEXT_OR_NONE)
    name: str | None = attrs.field(default=None, validator=_IS_TEXT_OR_NONE)
    arguments: str = attrs.field(default="", validator=_IS_TEXT)


StreamEvent = TextDelta | ReasoningDelta | ToolCallDelta | ChatCompletion


def pieces(completion: ChatCompletion) -> Iterator[StreamEvent]:
    """A whole reply as a stream of as few pieces as there can be."""
    if completion.reasoning:
        yield ReasoningDelta(completion.reasoning)
    if completion.content:
        yield TextDelta(completion.content)
    for index, call in enumerate(completion.tool_calls or []):
        yield ToolCallDelta(index, call.id, call.function.name, call.function.arguments)
    yield completion


class ChatStream(AsyncIterator[StreamEvent]):
    """A reply as it arrives: deltas, and at the end the whole `ChatCompletion`.

    The connection is opened by the first step, and closed when the stream ends, fails or is
    cancelled. Leave it early only inside `async with`, which closes it too. `completion` is `None`
    until the reply is whole.
    """

    def __init__(self, events: AsyncGenerator[StreamEvent, None]) -> None:
        self._events = events
        self.completion: ChatCompletion | None = None

    async def __anext__(self) -> StreamEvent:
        event = await anext(self._events)
        if isinstance(event, ChatCompletion):
            self.completion = event
        return event

    async def aclose(self) -> None:
        """Close the connection; a second time does nothing."""
        await self._events.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()


class BaseChatClient(ABC):
    """A provider of models.

    `messages` is the conversation, oldest first; `tools` what the model may call. `cache_policy`
    is ignored by providers that need no breakpoints. Other keywords go to the provider as they
    are. Every failure is a `ModelError`; cancelling a call closes its connection.

    Agents pass every argument by its name, and `cache_policy` only to methods that name it, or
    that take any keyword and are of a class that `wants_cache_policy`.
    """

    wants_cache_policy: ClassVar[bool] = False

    @abstractmethod
    async def create(
        self,
        model: str,
        messages: Sequence[ChatMessage],
        tools: Sequence[ToolDefinition] | None = None,
        reasoning: ReasoningConfig = AUTO_REASONING,
        **kwargs: Any,
    ) -> ChatCompletion:
        """The model's reply to the conversation."""

    @abstractmethod
    async def parse(
        self,
        model: str,
        messages: Sequence[ChatMessage],
        response_format: type[Any],
        tools: Sequence[ToolDefinition] | None = None,
        reasoning: ReasoningConfig = AUTO_REASONING,
        **kwargs: Any,
    ) -> ChatCompletion:
        """The reply as an object of `response_format`, in `parsed`.

        A reply that calls tools has `parsed is None`. One that is not of the type raises
        `StructuredOutputError`, which has the reply.
        """

    def stream(
        self,
        model: str,
        messages: Sequence[ChatMessage],
        tools: Sequence[ToolDefinition] | None = None,
        reasoning: ReasoningConfig = AUTO_REASONING,
        **kwargs: Any,
    ) -> ChatStream:
        """The reply in pieces; here, for clients that cannot do better, all of it at once."""
        return ChatStream(self._at_once(model, messages, tools, reasoning, kwargs))

    async def _at_once(
        self,
        model: str,
        messages: Sequence[ChatMessage],
        tools: Sequence[ToolDefinition] | None,
        reasoning: ReasoningConfig,
        kwargs: dict[str, Any],
    ) -> AsyncGenerator[StreamEvent, None]:
        for piece in pieces(await self.create(model, messages, tools, reasoning, **kwargs)):
            yield piece

    async def aclose(self) -> None:  # noqa: B027  # a client without connections has nothing to close
        """Close the connections of the client, also those of calls that have not ended.

        It can be used again afterwards.
        """

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()
