"""A model call as one object, for clients that treat all three kinds of call alike."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import attrs

from motus.messages import ChatCompletion, ChatMessage, ToolDefinition
from motus.models.base import BaseChatClient, ChatStream, StreamEvent, pieces
from motus.models.options import AUTO_REASONING, ReasoningConfig
from motus.models.structured import StructuredOutput, structured_output

__all__ = ["ModelRequest", "RequestChatClient"]


def _messages(messages: Sequence[ChatMessage]) -> list[ChatMessage]:
    return list(messages)


def _tools(tools: Sequence[ToolDefinition] | None) -> list[ToolDefinition]:
    return list(tools or ())


@attrs.frozen
class ModelRequest:
    """What a model is asked: the arguments of a call, `options` being its other keywords.

    `response_format` is that of `parse`. Raises `TypeError` if there is no schema for it.
    """

    model: str
    messages: list[ChatMessage] = attrs.field(converter=_messages)
    tools: list[ToolDefinition] = attrs.field(converter=_tools)
    reasoning: ReasoningConfig
    response_format: type[Any] | None
    options: dict[str, Any]
    output: StructuredOutput | None = attrs.field(init=False, eq=False, repr=False)

    @output.default
    def _structured(self) -> StructuredOutput | None:
        return None if self.response_format is None else structured_output(self.response_format)


class RequestChatClient(BaseChatClient):
    """A client that says in `_reply` what it answers to a request, and in `_pieces` how in pieces.

    Its errors begin with `_source`.
    """

    _source: str

    async def create(
        self,
        model: str,
        messages: Sequence[ChatMessage],
        tools: Sequence[ToolDefinition] | None = None,
        reasoning: ReasoningConfig = AUTO_REASONING,
        **kwargs: Any,
    ) -> ChatCompletion:
        return await self._reply(ModelRequest(model, messages, tools, reasoning, None, kwargs))

    async def parse(
        self,
        model: str,
        messages: Sequence[ChatMessage],
        response_format: type[Any],
        tools: Sequence[ToolDefinition] | None = None,
        reasoning: ReasoningConfig = AUTO_REASONING,
        **kwargs: Any,
    ) -> ChatCompletion:
        request = ModelRequest(model, messages, tools, reasoning, response_format, kwargs)
        reply = await self._reply(request)
        if request.output is None or reply.parsed is not None:
            return reply
        return request.output.fill(reply, self._source)

    def stream(
        self,
        model: str,
        messages: Sequence[ChatMessage],
        tools: Sequence[ToolDefinition] | None = None,
        reasoning: ReasoningConfig = AUTO_REASONING,
        **kwargs: Any,
    ) -> ChatStream:
        request = ModelRequest(model, messages, tools, reasoning, None, kwargs)
        return ChatStream(self._pieces(request))

    @abstractmethod
    async def _reply(self, request: ModelRequest) -> ChatCompletion:
        """The reply; `parsed` is filled in afterwards."""

    async def _pieces(self, request: ModelRequest) -> AsyncGenerator[StreamEvent, None]:
        """The reply in pieces, the whole of it last; here, all at once."""
        for piece in pieces(await self._reply(request)):
            yield piece
