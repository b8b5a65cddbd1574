"""Anthropic: `AnthropicChatClient`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncGenerator, Sequence
from typing import Any, ClassVar

from motus.messages import ChatCompletion, ChatMessage, ToolDefinition
from motus.models.anthropic_wire import (
    ReplyAccumulator,
    add_breakpoints,
    wire_messages,
    wire_thinking,
)
from motus.models.base import StreamEvent
from motus.models.errors import (
    ModelAuthenticationError,
    ModelConnectionError,
    ModelError,
    ModelServerError,
    ModelTimeoutError,
)
from motus.models.options import CachePolicy, ReasoningConfig
from motus.models.remote import (
    RemoteChatClient,
    arguments,
    drained,
    missing_sdk,
    retry_after_seconds,
)
from motus.models.structured import StructuredOutput

__all__ = ["AnthropicChatClient"]

DEFAULT_MAX_TOKENS = 64_000
# An error in mid-stream comes with status 200 and only its name.
_STATUS_OF = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}


class AnthropicChatClient(RemoteChatClient):
    """A client of Anthropic, or of the server at `base_url`, which may want no key.

    The key defaults to the variable ANTHROPIC_API_KEY, the address to ANTHROPIC_BASE_URL.
    `max_retries` is how often the SDK tries again after a rate limit, a server's failure or a
    broken connection, waiting as the server says; `timeout` is in seconds. Other keywords go to
    `anthropic.AsyncAnthropic`. Raises ImportError without the SDK, and `ModelAuthenticationError`
    without a key where one is needed.

    Replies are streamed on the wire also for `create` and `parse`: with the default of 64,000
    `max_tokens` one may take longer than a silent connection lives.
    """

    provider: ClassVar[str] = "anthropic"

    def __init__(
        self,
        api_key: str | None = None,
        *,
        base_url: str | None = None,
        http_client: Any = None,
        max_retries: int = 2,
        timeout: float | None = None,
        **sdk: Any,
    ) -> None:
        try:
            # Most of a second of imports, for those who talk to this provider.
            import anthropic
        except ImportError as error:
            raise missing_sdk("Anthropic", "anthropic", "anthropic") from error
        from motus.models.transport import LoopClient  # needs what comes with the SDK

        self._transform_schema = anthropic.transform_schema
        if timeout is not None:
            sdk["timeout"] = timeout
        self._own_http = None if http_client is not None else LoopClient()

        def make(**options: Any) -> anthropic.AsyncAnthropic:
            return anthropic.AsyncAnthropic(
                api_key=api_key,
                base_url=base_url,
                http_client=http_client or self._own_http,
                max_retries=max_retries,
                **{**sdk, **options},
            )

        try:
            self._sdk = make()
        except anthropic.CredentialsError as error:
            # It has found a profile on this machine, and cannot use it.
            raise ModelAuthenticationError(f"anthropic: {error}", provider="anthropic") from error
        super().__init__(self._sdk.api_key, self._sdk.auth_token)
        headers = dict(sdk.get("default_headers") or {})
        named = {name.lower() for name in headers} & {"authorization", "x-api-key"}
        if not (self._sdk.api_key or self._sdk.auth_token or self._sdk.credentials or named):
            if base_url is None and not os.environ.get("ANTHROPIC_BASE_URL"):
                raise ModelAuthenticationError(
                    "anthropic: no key: pass api_key=, or set ANTHROPIC_API_KEY",
                    provider=self.provider,
                )
            omitted = {"X-Api-Key": anthropic.omit, "Authorization": anthropic.omit}
            self._sdk = make(default_headers={**headers, **omitted})

    async def aclose(self) -> None:
        if self._own_http is not None:
            await self._own_http.aclose()

    def _request(
        self,
        model: str,
        messages: Sequence[ChatMessage],
        tools: Sequence[ToolDefinition],
        reasoning: ReasoningConfig,
        output: StructuredOutput | None,
        kwargs: dict[str, Any],
    ) -> dict[str, Any]:
        kwargs = dict(kwargs)
        policy = CachePolicy(kwargs.pop("cache_policy", CachePolicy.AUTO))
        max_tokens = kwargs.get("max_tokens") or DEFAULT_MAX_TOKENS
        system = [
            {"type": "text", "text": message.content}
            for message in messages
            if message.role == "system" and message.content and message.content.strip()
        ]
        request: dict[str, Any] = {
            "model": model,
            "max_tokens": max_tokens,
            "messages": wire_messages(messages),
        }
        if system:
            request["system"] = system
        if tools:
            request["tools"] = [self._wire_tool(tool) for tool in tools]
        config: dict[str, Any] = {}
        if output is not None:
            schema = self._transform_schema(output.schema)
            config["format"] = {"type": "json_schema", "schema": schema}
        thinking, effort = wire_thinking(model, reasoning, max_tokens)
        if thinking is not None:
            request["thinking"] = thinking
        if effort is not None:
            config["effort"] = effort
        if config:
            request["output_config"] = config
        request.update(kwargs)
        add_breakpoints(request, policy)
        return request

    def _wire_tool(self, tool: ToolDefinition) -> dict[str, Any]:
        schema = tool.parameters or {"type": "object", "properties": {}}
        wire: dict[str, Any] = {"name": tool.name, "input_schema": schema}
        if tool.description:
            wire["description"] = tool.description
        if tool.strict:
            wire["input_schema"] = self._transform_schema(schema)
            wire["strict"] = True
        return wire

    async def _send(self, request: dict[str, Any]) -> ChatCompletion:
        async with contextlib.aclosing(self._events(request)) as events:
            *_, completion = [event async for event in events]
        assert isinstance(completion, ChatCompletion)
        return completion

    async def _events(self, request: dict[str, Any]) -> AsyncGenerator[StreamEvent, None]:
        whole = ReplyAccumulator()
        stream = await self._open(request)
        ended = False
        try:
            # Not `async for`, which would make one more generator of the stream.
            while (event := await anext(stream, None)) is not None:
                for piece in self._read(whole.add, event):
                    yield piece
            ended = True
        finally:
            if not ended:
                await drained(stream.response, stream)
        yield self._complete(whole)

    async def _open(self, request: dict[str, Any]) -> Any:
        create = self._sdk.messages.create
        stream: Any = await create(**arguments(create, {**request, "stream": True}))
        if not hasattr(stream, "response"):
            raise self._no_reply()
        return stream

    def _complete(self, whole: ReplyAccumulator) -> ChatCompletion:
        if not whole.ended:
            raise self._broken_off()
        return self._checked(whole.completion)

    def _explain(self, error: Exception) -> ModelError | None:
        import anthropic  # loaded already

        if isinstance(error, anthropic.APITimeoutError):
            return self._error(ModelTimeoutError, "no answer in time")
        if isinstance(error, anthropic.APIConnectionError):
            cause = error.__cause__ or error
            return self._error(ModelConnectionError, f"the connection failed: {cause}")
        if isinstance(error, anthropic.APIStatusError):
            kind, message = _body(error.body)
            status = error.status_code
            if status < 400:
                status = _STATUS_OF.get(kind, 500)
            return self._status_error(
                status,
                message or error.message,
                retry_after=retry_after_seconds(error.response.headers),
            )
        if isinstance(error, anthropic.AnthropicError):
            return self._error(ModelServerError, str(error))
        return None


def _body(body: object) -> tuple[str, str]:
    error = body.get("error") if isinstance(body, dict) else None
    if not isinstance(error, dict):
        return "", ""
    return str(error.get("type", "")), str(error.get("message", ""))
