"""Real replies, recorded once and replayed without a network."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import attrs
from anyio.lowlevel import checkpoint
from cattrs import Converter

from motus.messages import (
    ChatCompletion,
    ChatMessage,
    ToolDefinition,
    make_converter,
    messages_to_json,
)
from motus.models.base import AUTO_REASONING, BaseChatClient, ReasoningConfig
from motus.models.structured import structured_output
from motus.testing.cassette import Cassette

__all__ = ["RecordingClient", "ReplayingClient"]


class _CassetteClient(BaseChatClient):
    def __init__(self, cassette: Cassette) -> None:
        self._cassette = cassette
        self._converter: Converter = make_converter()

    def _request(
        self,
        model: str,
        messages: Sequence[ChatMessage],
        response_format: type[Any] | None,
        tools: Sequence[ToolDefinition] | None,
        reasoning: ReasoningConfig,
        options: dict[str, Any],
    ) -> dict[str, Any]:
        schema = None if response_format is None else structured_output(response_format).schema
        return {
            "model": model,
            "messages": messages_to_json(messages, omit_none=True),
            "tools": [attrs.asdict(tool) for tool in tools or ()],
            "response_format": schema,
            "reasoning": attrs.asdict(reasoning),
            "options": options,
        }


class RecordingClient(_CassetteClient):
    """Passes everything on to a real client, and writes it down in a file, which is begun anew.

    The file holds conversations and replies, but no keys. Failed calls are not recorded.
    """

    def __init__(self, client: BaseChatClient, path: str | os.PathLike[str]) -> None:
        super().__init__(Cassette(path, record=True))
        self._client = client

    async def create(
        self,
        model: str,
        messages: Sequence[ChatMessage],
        tools: Sequence[ToolDefinition] | None = None,
        reasoning: ReasoningConfig = AUTO_REASONING,
        **kwargs: Any,
    ) -> ChatCompletion:
        """What the client replies."""
        request = self._request(model, messages, None, tools, reasoning, kwargs)
        reply = await self._client.create(model, messages, tools, reasoning, **kwargs)
        return self._written(request, reply)

    async def parse(
        self,
        model: str,
        messages: Sequence[ChatMessage],
        response_format: type[Any],
        tools: Sequence[ToolDefinition] | None = None,
        reasoning: ReasoningConfig = AUTO_REASONING,
        **kwargs: Any,
    ) -> ChatCompletion:
        """What the client replies."""
        request = self._request(model, messages, response_format, tools, reasoning, kwargs)
        reply = await self._client.parse(
            model, messages, response_format, tools, reasoning, **kwargs
        )
        return self._written(request, reply)

    def _written(self, request: dict[str, Any], reply: ChatCompletion) -> ChatCompletion:
        # The object of a class is made again from the text.
        written = self._converter.unstructure(attrs.evolve(reply, parsed=None))
        self._cassette.add(request, written)
        return reply

    async def aclose(self) -> None:
        """Close the real client."""
        await self._client.aclose()


class ReplayingClient(_CassetteClient):
    """Answers from a file of `RecordingClient`: `ReplayMissError` for what is not in it.

    A request must be the same to the last letter; equal ones are answered in the order in which
    they were recorded.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(Cassette(path, record=False))

    @property
    def replies_left(self) -> int:
        """How many recorded replies have not been asked for."""
        return self._cassette.left

    async def create(
        self,
        model: str,
        messages: Sequence[ChatMessage],
        tools: Sequence[ToolDefinition] | None = None,
        reasoning: ReasoningConfig = AUTO_REASONING,
        **kwargs: Any,
    ) -> ChatCompletion:
        """The recorded reply."""
        await checkpoint()
        return self._found(self._request(model, messages, None, tools, reasoning, kwargs))

    async def parse(
        self,
        model: str,
        messages: Sequence[ChatMessage],
        response_format: type[Any],
        tools: Sequence[ToolDefinition] | None = None,
        reasoning: ReasoningConfig = AUTO_REASONING,
        **kwargs: Any,
    ) -> ChatCompletion:
        """The recorded reply, as an object of the class."""
        await checkpoint()
        request = self._request(model, messages, response_format, tools, reasoning, kwargs)
        return structured_output(response_format).fill(self._found(request), "recorded")

    def _found(self, request: dict[str, Any]) -> ChatCompletion:
        return self._converter.structure(self._cassette.find(request), ChatCompletion)
