"""Google's Gemini, with a key or through Vertex AI: `GeminiChatClient`."""

from __future__ import annotations

import os
import re
from collections.abc import AsyncGenerator
from typing import Any, ClassVar

import anyio.to_thread

from motus.messages import ChatCompletion
from motus.models.base import StreamEvent
from motus.models.errors import (
    ModelAuthenticationError,
    ModelConnectionError,
    ModelError,
    ModelServerError,
)
from motus.models.gemini_wire import (
    ReplyAccumulator,
    model_version,
    wire_contents,
    wire_thinking,
    wire_tool,
)
from motus.models.remote import RemoteChatClient, drained, missing_sdk, retry_after_seconds
from motus.models.requests import ModelRequest

__all__ = ["GeminiChatClient"]

DEFAULT_TIMEOUT = 600.0
_SCOPE = "https://www.googleapis.com/auth/cloud-platform"


class GeminiChatClient(RemoteChatClient):
    """A client of Gemini, with `vertexai=True` through Vertex AI, or of the server at `base_url`.

    The key defaults to the variable GEMINI_API_KEY; Vertex AI takes Google's credentials of the
    machine unless `credentials` are given. `max_retries` is how often a call is tried again after
    a rate limit, a server's failure or a broken connection; `timeout` is in seconds, 600 unless
    given. `http_client` is an `httpx2.AsyncClient` that the caller closes. Other keywords go to
    `google.genai.Client`. Raises ImportError without the SDK, and `ModelAuthenticationError`
    without a key where one is needed.

    The retries are done here because the SDK takes no notice of Retry-After: its own are off.
    """

    provider: ClassVar[str] = "gemini"
    key_variable: ClassVar[str] = "GEMINI_API_KEY"

    def __init__(
        self,
        api_key: str | None = None,
        vertexai: bool = False,
        project: str | None = None,
        location: str | None = None,
        *,
        base_url: str | None = None,
        http_client: Any = None,
        max_retries: int = 2,
        timeout: float | None = None,
        **sdk: Any,
    ) -> None:
        try:
            # A third of a second of imports, for those who talk to this provider.
            import google.auth
            from google import genai  # as above
        except ImportError as error:
            raise missing_sdk("Gemini", "google-genai", "gemini") from error
        from motus.models.transport import certificates  # needs what comes with the SDK

        super().__init__(api_key, base_url, http_client, max_retries, timeout)
        # Vertex AI has other ways in: a key for it is one that was meant for it.
        key = api_key and self._key if vertexai else self._key
        if not key and not vertexai and base_url is None:
            raise self._no_key()
        self._vertexai = vertexai
        self._credentials = sdk.pop("credentials", None)
        if vertexai and not key and (base_url is None or project):
            location = location or os.environ.get("GOOGLE_CLOUD_LOCATION") or "us-central1"
            if self._credentials is None:
                with self._translated():
                    self._credentials, found = google.auth.default(scopes=[_SCOPE])
                project = project or found
        options: dict[str, Any] = {
            "timeout": int((timeout or DEFAULT_TIMEOUT) * 1000),
            # Its own async client belongs to asyncio.
            "httpx_async_client": self._http,
        }
        if self._base_url is not None:
            options["base_url"] = self._base_url
        if not vertexai:
            # It would read them three times over for clients that are not used.
            options["client_args"] = {"verify": certificates()}
            options["async_client_args"] = {"ssl": certificates()}
        options.update(_fields(sdk.pop("http_options", None)))
        if options.get("retry_options") is not None:
            raise ValueError("http_options has retry_options: use max_retries instead")
        self._sdk = genai.Client(
            vertexai=vertexai,
            # The SDK insists on a key that the server at `base_url` does not want.
            api_key=key or (None if vertexai else "none"),
            credentials=self._credentials,
            project=project,
            location=location,
            http_options=options,  # type: ignore[arg-type]  # a dictionary of its fields will do
            **sdk,
        )

    def _wire(self, request: ModelRequest) -> dict[str, Any]:
        # Breakpoints are for providers that do not cache by themselves.
        options = {key: value for key, value in request.options.items() if key != "cache_policy"}
        model, output = request.model, request.output
        version = model_version(model)
        system = [m.content for m in request.messages if m.role == "system" and m.content]
        config: dict[str, Any] = {"automatic_function_calling": {"disable": True}}
        if request.tools:
            declarations = [wire_tool(tool) for tool in request.tools]
            config["tools"] = [{"function_declarations": declarations}]
        if output is not None and request.tools and version < (3, 0):
            # These refuse to do both.
            system.append(output.instruction)
        elif output is not None:
            config["response_mime_type"] = "application/json"
            config["response_json_schema"] = output.schema
        if system:
            config["system_instruction"] = "\n\n".join(system)
        thinking = wire_thinking(model, version, request.reasoning)
        if thinking is not None:
            config["thinking_config"] = thinking
        if "max_tokens" in options:
            options["max_output_tokens"] = options.pop("max_tokens")
        contents = wire_contents(
            request.messages, signed=version >= (3, 0), with_ids=not self._vertexai
        )
        # Here, what is wrong with the caller's keywords is not taken for a wrong answer.
        from google.genai import types  # loaded already

        checked = types.GenerateContentConfig.model_validate({**config, **options})
        return {"model": model, "contents": contents, "config": checked}

    async def _send(self, wire: dict[str, Any]) -> ChatCompletion:
        whole = ReplyAccumulator()

        async def call() -> Any:
            await self._refresh_credentials()
            return await self._sdk.aio.models.generate_content(**wire)

        self._read(whole.add, await self._trying(call))
        return self._complete(whole)

    async def _events(self, wire: dict[str, Any]) -> AsyncGenerator[StreamEvent, None]:
        from motus.models.transport import responses  # loaded already

        whole = ReplyAccumulator()
        with responses() as opened:

            async def call() -> Any:
                await self._refresh_credentials()
                stream = await self._sdk.aio.models.generate_content_stream(**wire)
                return await anext(stream, None), stream

            chunk, stream = await self._trying(call)
        ended = False
        try:
            while chunk is not None:
                for event in self._read(whole.add, chunk):
                    yield event
                chunk = await anext(stream, None)
            ended = True
        finally:
            if not ended and opened:
                await drained(opened[-1], stream)
        yield self._complete(whole)

    def _complete(self, whole: ReplyAccumulator) -> ChatCompletion:
        if whole.finish_reason is None:
            raise self._broken_off() if whole.parts else self._no_reply()
        return self._checked(whole.completion)

    async def _refresh_credentials(self) -> None:
        """Fetch a token before the SDK does so, which it can only in asyncio."""
        if self._credentials is not None and not self._credentials.valid:
            import google.auth.transport.requests  # for those who use Vertex AI

            request = google.auth.transport.requests.Request()
            await anyio.to_thread.run_sync(
                self._credentials.refresh, request, abandon_on_cancel=True
            )

    def _explain(self, error: Exception) -> ModelError | None:
        import pydantic  # loaded already
        from google.auth import exceptions  # loaded already
        from google.genai import errors  # loaded already

        if isinstance(error, errors.APIError):
            details = _error_details(error.details)
            headers = getattr(error.response, "headers", None) or {}
            return self._status_error(
                error.code or 500,
                error.message or str(error.status),
                code=details.get("reason", ""),
                retry_after=retry_after_seconds(headers) or details.get("retry_after"),
            )
        if isinstance(error, errors.UnknownApiResponseError | pydantic.ValidationError):
            return self._error(ModelServerError, "the answer is no reply")
        if isinstance(error, exceptions.TransportError):
            return self._error(ModelConnectionError, f"no token: {error}")
        if isinstance(error, exceptions.GoogleAuthError):
            return self._error(ModelAuthenticationError, f"no token: {error}")
        # Where the SDK reads an answer of a form that it does not expect.
        if isinstance(error, AttributeError | LookupError | TypeError):
            return self._error(ModelServerError, f"the answer is no reply: {error!r}")
        return None


def _fields(options: Any) -> dict[str, Any]:
    """What is set in the SDK's options for HTTP, which may be an object or a dictionary."""
    if options is None or isinstance(options, dict):
        return options or {}
    return {name: getattr(options, name) for name in options.model_fields_set}


def _error_details(body: Any) -> dict[str, Any]:
    """The reason and the delay that Google puts into the body of an error."""
    error = body.get("error") if isinstance(body, dict) else None
    details = error.get("details") if isinstance(error, dict) else None
    found: dict[str, Any] = {}
    for detail in details if isinstance(details, list) else []:
        if not isinstance(detail, dict):
            continue
        if isinstance(detail.get("reason"), str):
            found["reason"] = detail["reason"]
        delay = re.fullmatch(r"(\d+(?:\.\d+)?)s", str(detail.get("retryDelay", "")), re.ASCII)
        if delay is not None:
            found["retry_after"] = float(delay[1])
    return found
