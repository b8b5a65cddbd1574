"""OpenAI, and every server that speaks its chat completions: `OpenAIChatClient`."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncGenerator, Sequence
from typing import Any, ClassVar

import anyio

from motus.messages import ChatCompletion, ChatMessage, ToolDefinition
from motus.models.base import StreamEvent
from motus.models.errors import (
    ModelAuthenticationError,
    ModelConnectionError,
    ModelError,
    ModelServerError,
    ModelTimeoutError,
)
from motus.models.openai_wire import (
    ReplyAccumulator,
    as_chunk,
    wire_effort,
    wire_messages,
    wire_tool,
)
from motus.models.options import ReasoningConfig
from motus.models.remote import (
    RemoteChatClient,
    arguments,
    drained,
    missing_sdk,
    retry_after_seconds,
)
from motus.models.structured import StructuredOutput

__all__ = ["OpenAIChatClient"]

# How long the end of a stream's body may take after its last event, in seconds.
LAST_LINES = 0.1
# How the SDK identifies itself otherwise.
_OTHER_WAYS_IN = {"workload_identity", "provider"}


class OpenAIChatClient(RemoteChatClient):
    """A client of OpenAI, or of the server at `base_url`, which may want no key.

    Key and address default to the variables OPENAI_API_KEY and OPENAI_BASE_URL. `max_retries` is
    how often the SDK tries again after a rate limit, a server's failure or a broken connection,
    waiting as the server says; `timeout` is in seconds. `http_client` is an `httpx2.AsyncClient`
    that the caller closes. Other keywords go to `openai.AsyncOpenAI`. Raises ImportError without
    the SDK, and `ModelAuthenticationError` without a key where one is needed.
    """

    provider: ClassVar[str] = "openai"
    title: ClassVar[str] = "OpenAI"
    key_variable: ClassVar[str] = "OPENAI_API_KEY"
    url_variable: ClassVar[str] = "OPENAI_BASE_URL"
    default_url: ClassVar[str | None] = None

    def __init__(
        self,
        api_key: str | None = None,
        base_url: str | None = None,
        http_client: Any = None,
        *,
        max_retries: int = 2,
        timeout: float | None = None,
        **sdk: Any,
    ) -> None:
        try:
            # Half a second of imports, for those who talk to this provider.
            import openai
        except ImportError as error:
            raise missing_sdk(self.title, "openai", "openai") from error
        from motus.models.transport import LoopClient  # needs what comes with the SDK

        key = api_key or os.environ.get(self.key_variable)
        url = base_url or os.environ.get(self.url_variable)
        super().__init__(key)
        if timeout is not None:
            sdk["timeout"] = timeout
        headers = {name.lower() for name in sdk.get("default_headers") or {}}
        self._omitted: dict[str, Any] = {}
        if not key and "authorization" not in headers and not sdk.keys() & _OTHER_WAYS_IN:
            if url is None:
                raise ModelAuthenticationError(
                    f"{self.provider}: no key: pass api_key=, or set {self.key_variable}",
                    provider=self.provider,
                )
            # The SDK insists on a key that the server at `url` does not want.
            key = "none"
            self._omitted = {"Authorization": openai.Omit()}
        self._own_http = None if http_client is not None else LoopClient()
        self._sdk = openai.AsyncOpenAI(
            api_key=key,
            base_url=url or self.default_url,
            http_client=http_client or self._own_http,
            max_retries=max_retries,
            **sdk,
        )

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
        # Breakpoints are for providers that do not cache by themselves.
        kwargs = {key: value for key, value in kwargs.items() if key != "cache_policy"}
        request: dict[str, Any] = {"model": model, "messages": wire_messages(messages)}
        if tools:
            request["tools"] = [wire_tool(tool) for tool in tools]
        if output is not None:
            request["response_format"] = {
                "type": "json_schema",
                "json_schema": {
                    "name": output.name,
                    "schema": output.strict or output.schema,
                    "strict": output.strict is not None,
                },
            }
        self._add_reasoning(request, model, reasoning)
        if self._omitted:
            kwargs["extra_headers"] = {**self._omitted, **(kwargs.get("extra_headers") or {})}
        return {**request, **kwargs}

    def _add_reasoning(
        self, request: dict[str, Any], model: str, reasoning: ReasoningConfig
    ) -> None:
        effort = wire_effort(model, reasoning)
        if effort is not None:
            request["reasoning_effort"] = effort

    async def _send(self, request: dict[str, Any]) -> ChatCompletion:
        create = self._sdk.chat.completions.create
        reply: Any = await create(**arguments(create, request))
        # The SDK does not check what it got.
        body = reply.to_dict(warnings=False) if hasattr(reply, "to_dict") else {}
        if body.get("error") or not body.get("choices"):
            raise self._bad_reply(body)
        whole = ReplyAccumulator()
        self._read(whole.add, self._read(as_chunk, body))
        return self._checked(whole.completion)

    def _bad_reply(self, body: dict[str, Any]) -> ModelError:
        """For an answer with status 200 that holds an error, or nothing."""
        error = body.get("error")
        if not error:
            return self._no_reply()
        error = error if isinstance(error, dict) else {"message": str(error)}
        code = str(error.get("code") or "")
        # OpenRouter sends on what the providers behind it have said.
        status = int(code) if code.isdigit() else 500
        return self._status_error(status, str(error.get("message", "")), code=code)

    async def _events(self, request: dict[str, Any]) -> AsyncGenerator[StreamEvent, None]:
        completions = self._sdk.chat.completions
        request = {"stream_options": {"include_usage": True}, **request, "stream": True}
        request = arguments(completions.create, request)
        whole = ReplyAccumulator()
        # Not the SDK's own stream: it leaves its generators hanging after the last event, which
        # trio then finds and warns of.
        async with completions.with_streaming_response.create(**request) as response:
            lines = response.iter_lines()
            done = whole_body = False
            try:
                while (line := await anext(lines, None)) is not None:
                    data = _event_data(line)
                    done = data == "[DONE]"
                    if done:
                        break
                    if data is None:
                        continue
                    chunk = json.loads(data)
                    if isinstance(chunk, dict) and chunk.get("error"):
                        raise self._bad_reply(chunk)
                    for event in self._read(whole.add, chunk):
                        yield event
                with anyio.move_on_after(LAST_LINES):
                    while await anext(lines, None) is not None:
                        pass
                    whole_body = True
            finally:
                if not whole_body:
                    await drained(response.http_response, lines)
        if whole.finish_reason is None and not (done and whole.id):
            raise self._broken_off() if whole.id else self._no_reply()
        yield self._checked(whole.completion)

    def _explain(self, error: Exception) -> ModelError | None:
        import openai  # loaded already

        if isinstance(error, openai.APITimeoutError):
            return self._error(ModelTimeoutError, "no answer in time")
        if isinstance(error, openai.APIConnectionError):
            cause = error.__cause__ or error
            return self._error(ModelConnectionError, f"the connection failed: {cause}")
        if isinstance(error, openai.APIStatusError):
            return self._status_error(
                error.status_code,
                _message(error.body) or error.message,
                code=error.code or "",
                retry_after=retry_after_seconds(error.response.headers),
            )
        if isinstance(error, openai.OpenAIError):
            return self._error(ModelServerError, str(error))
        return None


def _message(body: object) -> str | None:
    message = body.get("message") if isinstance(body, dict) else None
    return message if isinstance(message, str) else None


def _event_data(line: str) -> str | None:
    """What a line of a stream of events carries; here, an event is a line."""
    return line[5:].strip() if line.startswith("data:") else None
