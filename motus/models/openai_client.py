"""OpenAI, and every server that speaks its chat completions: `OpenAIChatClient`."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator
from typing import Any, ClassVar

from motus.messages import ChatCompletion
from motus.models.base import StreamEvent
from motus.models.errors import (
    ModelConnectionError,
    ModelError,
    ModelServerError,
    ModelTimeoutError,
)
from motus.models.openai_wire import (
    ReplyAccumulator,
    as_chunk,
    failure,
    wire_effort,
    wire_messages,
    wire_tool,
)
from motus.models.remote import (
    RemoteChatClient,
    arguments,
    drained,
    missing_sdk,
    read_out,
    retry_after_seconds,
)
from motus.models.requests import ModelRequest

__all__ = ["OpenAIChatClient"]

_OPENAI_HOST = re.compile(r"(^|\.)openai\.(com|azure\.com)$", re.ASCII)
# How the SDK identifies itself otherwise.
_OTHER_WAYS_IN = {"workload_identity", "provider"}


class OpenAIChatClient(RemoteChatClient):
    """A client of OpenAI, or of the server at `base_url`, which may want no key.

    Key and address default to the variables OPENAI_API_KEY and OPENAI_BASE_URL. `max_retries` is
    how often the SDK tries again after a rate limit, a server's failure or a broken connection,
    waiting as the server says; `timeout` is in seconds, 600 unless given. `http_client` is an
    `httpx2.AsyncClient` that the caller closes. Other keywords go to `openai.AsyncOpenAI`. Raises
    ImportError without the SDK, and `ModelAuthenticationError` without a key where one is needed.
    """

    provider: ClassVar[str] = "openai"
    title: ClassVar[str] = "OpenAI"
    key_variable: ClassVar[str] = "OPENAI_API_KEY"
    url_variable: ClassVar[str] = "OPENAI_BASE_URL"
    default_url: ClassVar[str] = "https://api.openai.com/v1"

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

        headers = sdk.get("default_headers") or {}
        super().__init__(api_key, base_url, http_client, max_retries, timeout, headers)
        key = self._key
        self._omitted: dict[str, Any] = {}
        if not key and not sdk.keys() & _OTHER_WAYS_IN:
            # The SDK insists on a key, also where there is a header for it, or no need of one.
            key = "none"
            if "authorization" not in {name.lower() for name in headers}:
                if not self._own_server:
                    raise self._no_key()
                self._omitted = {"Authorization": openai.Omit()}
        if timeout is not None:
            sdk["timeout"] = timeout
        self._sdk = openai.AsyncOpenAI(
            api_key=key,
            base_url=self._base_url,
            http_client=self._http,
            max_retries=max_retries,
            **sdk,
        )

    def _wire(self, request: ModelRequest) -> dict[str, Any]:
        # Breakpoints are for providers that do not cache by themselves.
        options = {key: value for key, value in request.options.items() if key != "cache_policy"}
        wire: dict[str, Any] = {
            "model": request.model,
            "messages": wire_messages(request.messages, with_thoughts=self._takes_thoughts()),
        }
        if request.tools:
            wire["tools"] = [wire_tool(tool) for tool in request.tools]
        if (output := request.output) is not None:
            wire["response_format"] = {
                "type": "json_schema",
                "json_schema": {
                    "name": output.name,
                    "schema": output.strict or output.schema,
                    "strict": output.strict is not None,
                },
            }
        self._add_reasoning(wire, request)
        if self._omitted:
            options["extra_headers"] = {**self._omitted, **(options.get("extra_headers") or {})}
        return {**wire, **options}

    def _add_reasoning(self, wire: dict[str, Any], request: ModelRequest) -> None:
        effort = wire_effort(request.model, request.reasoning)
        if effort is not None:
            wire["reasoning_effort"] = effort

    def _takes_thoughts(self) -> bool:
        # OpenAI itself refuses fields that it does not know, and sends none.
        return _OPENAI_HOST.search(self._sdk.base_url.host) is None

    async def _send(self, wire: dict[str, Any]) -> ChatCompletion:
        create = self._sdk.chat.completions.create
        reply: Any = await create(**arguments(create, wire))
        # The SDK does not check what it got.
        body = reply.to_dict(warnings=False) if hasattr(reply, "to_dict") else {}
        whole = ReplyAccumulator()
        if self._read(failure, body) or not body.get("choices"):
            raise self._bad_reply(body)
        self._read(whole.add, self._read(as_chunk, body))
        return self._checked(whole.completion)

    def _bad_reply(self, body: dict[str, Any]) -> ModelError:
        """For an answer with status 200 that holds an error, or nothing."""
        error = failure(body)
        if not error:
            return self._no_reply()
        error = error if isinstance(error, dict) else {"message": str(error)}
        code = str(error.get("code") or "")
        # OpenRouter sends on what the providers behind it have said.
        status = int(code) if code.isdecimal() else 500
        return self._status_error(status, str(error.get("message", "")), code=code)

    async def _events(self, wire: dict[str, Any]) -> AsyncGenerator[StreamEvent, None]:
        completions = self._sdk.chat.completions
        wire = {"stream_options": {"include_usage": True}, **wire, "stream": True}
        wire = arguments(completions.create, wire)
        whole = ReplyAccumulator()
        # Not the SDK's own stream: it leaves its generators hanging after the last event, which
        # trio then finds and warns of.
        async with completions.with_streaming_response.create(**wire) as response:
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
                    if self._read(failure, chunk):
                        raise self._bad_reply(chunk)
                    for event in self._read(whole.add, chunk):
                        yield event
                whole_body = await read_out(lines)
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
