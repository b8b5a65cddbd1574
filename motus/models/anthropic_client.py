"""Anthropic: `AnthropicChatClient`."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any, ClassVar

import anyio

from motus.messages import ChatCompletion, ToolDefinition
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
from motus.models.options import CachePolicy
from motus.models.remote import (
    RemoteChatClient,
    arguments,
    drained,
    missing_sdk,
    read_out,
    retry_after_seconds,
)
from motus.models.requests import ModelRequest

if TYPE_CHECKING:
    from anthropic import AsyncAnthropic

__all__ = ["AnthropicChatClient"]

DEFAULT_MAX_TOKENS = 64_000
# How the SDK identifies itself otherwise; with these it wants no key.
_OTHER_WAYS_IN = {"auth_token", "credentials", "config", "profile"}
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
    broken connection, waiting as the server says; `timeout` is in seconds, 600 unless given.
    `http_client` is an `httpx2.AsyncClient` that the caller closes. Other keywords go to
    `anthropic.AsyncAnthropic`. Raises ImportError without the SDK, and `ModelAuthenticationError`
    without a key where one is needed.

    Replies are streamed on the wire also for `create` and `parse`: with the default of 64,000
    `max_tokens` one may take longer than a silent connection lives. The SDK does not try again
    when a stream breaks off, so this is done here for these two.
    """

    provider: ClassVar[str] = "anthropic"
    wants_cache_policy: ClassVar[bool] = True
    key_variable: ClassVar[str] = "ANTHROPIC_API_KEY"
    url_variable: ClassVar[str] = "ANTHROPIC_BASE_URL"
    default_url: ClassVar[str] = "https://api.anthropic.com"

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

        headers = sdk.get("default_headers") or {}
        super().__init__(api_key, base_url, http_client, max_retries, timeout, headers)
        self._transform_schema = anthropic.transform_schema
        if timeout is not None:
            sdk["timeout"] = timeout
        try:
            self._sdk = anthropic.AsyncAnthropic(
                api_key=api_key if sdk.keys() & _OTHER_WAYS_IN else self._key,
                base_url=self._base_url,
                http_client=self._http,
                max_retries=max_retries,
                **sdk,
            )
        except anthropic.CredentialsError as error:
            # It has found a profile on this machine, and cannot use it.
            raise ModelAuthenticationError(f"anthropic: {error}", provider="anthropic") from error
        self._keep_secret(self._sdk.api_key, self._sdk.auth_token)
        self._omitted: dict[str, Any] = {}
        named = {name.lower() for name in headers} & {"authorization", "x-api-key"}
        if not (self._sdk.api_key or self._sdk.auth_token or self._sdk.credentials or named):
            if not self._own_server:
                raise self._no_key()
            self._omitted = {"X-Api-Key": anthropic.omit, "Authorization": anthropic.omit}

    def _wire(self, request: ModelRequest) -> dict[str, Any]:
        options = dict(request.options)
        policy = CachePolicy(options.pop("cache_policy", CachePolicy.AUTO))
        max_tokens = options.pop("max_tokens", None) or DEFAULT_MAX_TOKENS
        system = [
            {"type": "text", "text": message.content}
            for message in request.messages
            if message.role == "system" and message.content and message.content.strip()
        ]
        wire: dict[str, Any] = {
            "model": request.model,
            "max_tokens": max_tokens,
            "messages": wire_messages(request.messages),
        }
        if request.tools:
            wire["tools"] = [self._wire_tool(tool) for tool in request.tools]
        config: dict[str, Any] = {}
        if (output := request.output) is not None and output.strict is None:
            # This API has no words for it either: an object of any keys would be an empty one.
            system.append({"type": "text", "text": output.instruction})
        elif output is not None:
            schema = self._transform_schema(output.schema)
            config["format"] = {"type": "json_schema", "schema": schema}
        if system:
            wire["system"] = system
        thinking, effort = wire_thinking(request.model, request.reasoning, max_tokens)
        if thinking is not None:
            wire["thinking"] = thinking
        if effort is not None:
            config["effort"] = effort
        if config or "output_config" in options:
            wire["output_config"] = {**config, **options.pop("output_config", {})}
        if self._omitted:
            options["extra_headers"] = {**self._omitted, **(options.get("extra_headers") or {})}
        wire.update(options)
        add_breakpoints(wire, policy)
        return wire

    def _wire_tool(self, tool: ToolDefinition) -> dict[str, Any]:
        schema = tool.parameters or {"type": "object", "properties": {}}
        wire: dict[str, Any] = {"name": tool.name, "input_schema": schema}
        if tool.description:
            wire["description"] = tool.description
        if tool.strict:
            wire["input_schema"] = self._transform_schema(schema)
            wire["strict"] = True
        return wire

    async def _send(self, wire: dict[str, Any]) -> ChatCompletion:
        sdk, left = self._sdk, self._max_retries
        while True:
            stream = await self._open(sdk, wire)
            left -= int(stream.response.request.headers.get("x-stainless-retry-count", 0))
            try:
                async with contextlib.aclosing(self._following(stream)) as events:
                    *_, completion = [event async for event in events]
            except Exception as error:
                # Raised again when it is not one to try again after.
                delay = self._delay(error, left)
                if delay is None:
                    raise
            else:
                assert isinstance(completion, ChatCompletion)
                return completion
            await anyio.sleep(delay)
            left -= 1
            sdk = self._sdk.with_options(max_retries=left)

    async def _events(self, wire: dict[str, Any]) -> AsyncGenerator[StreamEvent, None]:
        stream = await self._open(self._sdk, wire)
        async with contextlib.aclosing(self._following(stream)) as events:
            async for event in events:
                yield event

    async def _open(self, sdk: AsyncAnthropic, wire: dict[str, Any]) -> Any:
        create = sdk.messages.create
        stream: Any = await create(**arguments(create, {**wire, "stream": True}))
        if not hasattr(stream, "response"):
            raise self._no_reply()
        return stream

    async def _following(self, stream: Any) -> AsyncGenerator[StreamEvent, None]:
        whole = ReplyAccumulator()
        ended = False
        try:
            # Not `async for`, which would make one more generator of the stream.
            while not whole.ended and (event := await anext(stream, None)) is not None:
                for piece in self._read(whole.add, event):
                    yield piece
            ended = await read_out(stream)
        finally:
            if not ended:
                await drained(stream.response, stream)
        yield self._complete(whole)

    def _complete(self, whole: ReplyAccumulator) -> ChatCompletion:
        if not whole.ended:
            raise self._broken_off() if whole.id else self._no_reply()
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
