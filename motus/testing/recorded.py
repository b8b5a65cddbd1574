"""Real replies, recorded once and replayed without a network."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from typing import Any, ClassVar, Final

import attrs
from anyio.lowlevel import checkpoint
from cattrs import Converter

from motus.messages import ChatCompletion, make_converter, messages_to_json
from motus.models.base import (
    BaseChatClient,
    ReasoningDelta,
    StreamEvent,
    TextDelta,
    ToolCallDelta,
)
from motus.models.errors import StructuredOutputError
from motus.models.requests import ModelRequest, RequestChatClient
from motus.testing.cassette import Cassette
from motus.testing.errors import ReplayMissError

__all__ = ["RecordingClient", "ReplayingClient"]

_PIECES: Final[dict[str, type[StreamEvent]]] = {
    "text": TextDelta,
    "reasoning": ReasoningDelta,
    "tool_call": ToolCallDelta,
    "completion": ChatCompletion,
}
_NAMES: Final = {kind: name for name, kind in _PIECES.items()}


class _CassetteClient(RequestChatClient):
    wants_cache_policy: ClassVar[bool] = True
    _source = "recorded"

    def __init__(self, cassette: Cassette) -> None:
        self._cassette = cassette
        self._converter: Converter = make_converter()

    def _key(self, request: ModelRequest, *, streamed: bool = False) -> dict[str, Any]:
        """What makes two requests the same."""
        return {
            "model": request.model,
            "messages": messages_to_json(request.messages, omit_none=True),
            "tools": [attrs.asdict(tool) for tool in request.tools],
            "response_format": None if request.output is None else request.output.schema,
            "reasoning": attrs.asdict(request.reasoning),
            "options": request.options,
            "stream": streamed,
        }


class RecordingClient(_CassetteClient):
    """Passes everything on to a real client, and writes it down in a file, which is begun anew.

    The file holds conversations and replies, but no keys. Failed calls are not recorded, but for
    a reply that is not of the asked-for type. A stream that was left or cancelled is recorded as
    far as it came.
    """

    def __init__(self, client: BaseChatClient, path: str | os.PathLike[str]) -> None:
        super().__init__(Cassette(path, record=True))
        self._client = client

    async def _reply(self, request: ModelRequest) -> ChatCompletion:
        number, key = self._cassette.next_number(), self._key(request)
        try:
            reply = await self._asked(request)
        except StructuredOutputError as error:
            self._cassette.add(number, key, self._written(error.completion))
            raise
        self._cassette.add(number, key, self._written(reply))
        return reply

    async def _asked(self, request: ModelRequest) -> ChatCompletion:
        more = (request.tools or None, request.reasoning)
        if request.response_format is None:
            call = self._client.create
            return await call(request.model, request.messages, *more, **request.options)
        return await self._client.parse(
            request.model, request.messages, request.response_format, *more, **request.options
        )

    def _pieces(self, request: ModelRequest) -> AsyncGenerator[StreamEvent, None]:
        # The conversation may have gone on when the first piece is asked for.
        return self._passed_on(request, self._key(request, streamed=True))

    async def _passed_on(
        self, request: ModelRequest, key: dict[str, Any]
    ) -> AsyncGenerator[StreamEvent, None]:
        number = self._cassette.next_number()
        pieces: list[dict[str, Any]] = []
        try:
            async with self._client.stream(
                request.model,
                request.messages,
                request.tools or None,
                request.reasoning,
                **request.options,
            ) as stream:
                async for piece in stream:
                    pieces.append({_NAMES[type(piece)]: self._written(piece)})
                    yield piece
        except Exception:
            pieces.clear()
            raise
        finally:
            if pieces:
                self._cassette.add(number, key, {"pieces": pieces})

    def _written(self, piece: StreamEvent) -> dict[str, Any]:
        if isinstance(piece, ChatCompletion):
            # The object of a class is made again from the text.
            piece = attrs.evolve(piece, parsed=None)
        written: dict[str, Any] = self._converter.unstructure(piece)
        return written

    async def aclose(self) -> None:
        """Close the real client."""
        await self._client.aclose()


class ReplayingClient(_CassetteClient):
    """Answers from a file of `RecordingClient`: `ReplayMissError` for what is not in it.

    A request must be the same to the last letter; equal ones are answered in the order in which
    they were made. A stream comes in the recorded pieces; one that was left early cannot be read
    any further than it was then.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(Cassette(path, record=False))

    @property
    def replies_left(self) -> int:
        """How many recorded replies have not been asked for."""
        return self._cassette.left

    async def _reply(self, request: ModelRequest) -> ChatCompletion:
        await checkpoint()
        reply = self._cassette.find(self._key(request))
        return self._converter.structure(reply, ChatCompletion)

    def _pieces(self, request: ModelRequest) -> AsyncGenerator[StreamEvent, None]:
        return self._replayed(self._key(request, streamed=True))

    async def _replayed(self, key: dict[str, Any]) -> AsyncGenerator[StreamEvent, None]:
        name = ""
        for recorded in self._cassette.find(key)["pieces"]:
            await checkpoint()
            [(name, fields)] = recorded.items()
            yield self._converter.structure(fields, _PIECES[name])
        if name != "completion":
            raise ReplayMissError(
                f"{self._cassette.path}: this stream was left here when it was recorded"
            )
