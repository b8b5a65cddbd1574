"""What the clients of all providers share: the order of a call, and the one place for errors."""

from __future__ import annotations

import contextlib
import inspect
import json
import re
from abc import abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from email.utils import parsedate_to_datetime
from typing import Any, ClassVar, Protocol, TypeVar

import anyio

from motus.messages import (
    ChatCompletion,
    ChatMessage,
    ToolDefinition,
    message_from_json,
    message_to_json,
)
from motus.models.base import BaseChatClient, ChatStream, StreamEvent
from motus.models.errors import (
    ModelAuthenticationError,
    ModelBadRequestError,
    ModelConnectionError,
    ModelContextOverflowError,
    ModelError,
    ModelRateLimitError,
    ModelServerError,
    ModelTimeoutError,
)
from motus.models.options import AUTO_REASONING, ReasoningConfig
from motus.models.structured import StructuredOutput, structured_output

__all__ = [
    "MAX_RETRY_AFTER",
    "RemoteChatClient",
    "arguments",
    "drained",
    "missing_sdk",
    "retry_after_seconds",
]

T = TypeVar("T")

# What providers say, in a status 400, where others have an error code.
_OVERFLOW = re.compile(
    r"context.?(length|window|limit)|too many (input )?tokens|(prompt|input)( token count)? .{0,40}"
    r"(is too long|exceeds the (maximum|limit))|maximum context",
    re.IGNORECASE | re.ASCII,
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")
# A provider may quote the whole request in its error.
MAX_TEXT = 500
# A provider that wants to be left alone for longer, in seconds, is not waited for.
MAX_RETRY_AFTER = 120.0


class Response(Protocol):
    """What is needed of an HTTP response here."""

    async def aclose(self) -> None: ...


class RemoteChatClient(BaseChatClient):
    """A client over the SDK of a provider.

    A subclass says how a request looks (`_request`), sends it (`_send`, `_events`), and knows the
    errors of its SDK (`_explain`).
    """

    provider: ClassVar[str]

    def __init__(self, *secrets: str | None) -> None:
        self._secrets = tuple(secret for secret in secrets if secret and len(secret) > 3)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    async def create(
        self,
        model: str,
        messages: Sequence[ChatMessage],
        tools: Sequence[ToolDefinition] | None = None,
        reasoning: ReasoningConfig = AUTO_REASONING,
        **kwargs: Any,
    ) -> ChatCompletion:
        request = self._request(model, messages, tools or (), reasoning, None, kwargs)
        with self._translated():
            return await self._send(request)

    async def parse(
        self,
        model: str,
        messages: Sequence[ChatMessage],
        response_format: type[Any],
        tools: Sequence[ToolDefinition] | None = None,
        reasoning: ReasoningConfig = AUTO_REASONING,
        **kwargs: Any,
    ) -> ChatCompletion:
        output = structured_output(response_format)
        request = self._request(model, messages, tools or (), reasoning, output, kwargs)
        with self._translated():
            completion = await self._send(request)
        return output.fill(completion, self.provider)

    def stream(
        self,
        model: str,
        messages: Sequence[ChatMessage],
        tools: Sequence[ToolDefinition] | None = None,
        reasoning: ReasoningConfig = AUTO_REASONING,
        **kwargs: Any,
    ) -> ChatStream:
        request = self._request(model, messages, tools or (), reasoning, None, kwargs)
        return ChatStream(self._stream(request))

    async def _stream(self, request: dict[str, Any]) -> AsyncGenerator[StreamEvent, None]:
        with self._translated():
            async with contextlib.aclosing(self._events(request)) as events:
                async for event in events:
                    yield event

    @abstractmethod
    def _request(
        self,
        model: str,
        messages: Sequence[ChatMessage],
        tools: Sequence[ToolDefinition],
        reasoning: ReasoningConfig,
        output: StructuredOutput | None,
        kwargs: dict[str, Any],
    ) -> dict[str, Any]:
        """The arguments for the SDK; what the caller gave as keywords wins."""

    @abstractmethod
    async def _send(self, request: dict[str, Any]) -> ChatCompletion:
        """The reply."""

    @abstractmethod
    def _events(self, request: dict[str, Any]) -> AsyncGenerator[StreamEvent, None]:
        """The reply in pieces, its `ChatCompletion` last."""

    @abstractmethod
    def _explain(self, error: Exception) -> ModelError | None:
        """What an error of the SDK means; `None` if it is not one."""

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except ModelError:
            raise
        # Each SDK has a family of its own, and lets those of its HTTP stack through; whatever is
        # none of them goes on as it is.
        except Exception as error:
            explained = self._explain(error) or self._explain_transport(error)
            if explained is None:
                raise
            self._redact(error)
            raise explained from error

    def _explain_transport(self, error: Exception) -> ModelError | None:
        import httpx2  # with the SDK, it is loaded already

        if isinstance(error, httpx2.TimeoutException):
            return self._error(ModelTimeoutError, "no answer in time")
        if isinstance(error, httpx2.TransportError | httpx2.StreamError):
            return self._error(ModelConnectionError, f"the connection failed: {error}")
        if isinstance(error, json.JSONDecodeError | UnicodeDecodeError | httpx2.DecodingError):
            return self._error(ModelServerError, "the answer is not JSON")
        return None

    def _error(
        self,
        kind: type[ModelError],
        text: str,
        *,
        status: int | None = None,
        retry_after: float | None = None,
    ) -> ModelError:
        return kind(
            f"{self.provider}: {self._clean(text)}",
            provider=self.provider,
            status=status,
            retry_after=retry_after,
        )

    def _status_error(
        self, status: int, text: str, *, code: str = "", retry_after: float | None = None
    ) -> ModelError:
        """The error for an HTTP status; `code` is the provider's own name for the case."""
        kind: type[ModelError]
        if (
            status == 413
            or code == "context_length_exceeded"
            or (status in (400, 422) and _OVERFLOW.search(text))
        ):
            kind = ModelContextOverflowError
        elif status in (401, 403) or code == "API_KEY_INVALID":
            kind = ModelAuthenticationError
        elif status in (402, 429):
            kind = ModelRateLimitError
        elif status == 408:
            kind = ModelTimeoutError
        elif status >= 500:
            kind = ModelServerError
        else:
            kind = ModelBadRequestError
        return self._error(kind, f"{status}: {text}", status=status, retry_after=retry_after)

    def _read(self, read: Callable[..., T], *answer: Any) -> T:
        """Read what has arrived; it may be of any form, since a server may be of any kind."""
        try:
            return read(*answer)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise self._error(ModelServerError, f"the answer is no reply: {error!r}") from error

    def _checked(self, completion: Callable[[], ChatCompletion]) -> ChatCompletion:
        """The reply, when everything in it is of the kind that it must be."""
        whole = self._read(completion)
        self._read(message_from_json, message_to_json(whole.to_message()))
        return whole

    def _broken_off(self) -> ModelError:
        return self._error(ModelConnectionError, "the stream ended before the reply was whole")

    def _no_reply(self) -> ModelError:
        return self._error(ModelServerError, "the answer holds no reply")

    def _clean(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        text = _CONTROL.sub(" ", text)
        return text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + "..."

    def _redact(self, error: BaseException) -> None:
        """Take our keys out of the texts of an error and its causes, should a server quote them."""
        seen: BaseException | None = error
        for _ in range(10):
            if seen is None:
                return
            if any(secret in str(seen) for secret in self._secrets):
                seen.args = (self._clean(str(seen)),)
                if hasattr(seen, "message"):
                    seen.message = self._clean(str(seen.message))
            seen = seen.__cause__ or seen.__context__


def arguments(function: Callable[..., Any], request: dict[str, Any]) -> dict[str, Any]:
    """The request for a function of an SDK: what that has no parameter for goes into the body.

    A provider, or a server that speaks like it, may know more than the SDK does.
    """
    parameters = inspect.signature(function).parameters
    more = {name: value for name, value in request.items() if name not in parameters}
    if not more:
        return request
    known = {name: value for name, value in request.items() if name in parameters}
    return {**known, "extra_body": {**more, **(request.get("extra_body") or {})}}


def retry_after_seconds(headers: Any) -> float | None:
    """What an answer's Retry-After says, in seconds from now."""
    for header, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = headers.get(header)
        if value is None:
            continue
        try:
            seconds = float(value) * unit
        except ValueError:
            try:
                now = parsedate_to_datetime(headers["date"])
                seconds = (parsedate_to_datetime(value) - now).total_seconds()
            except (KeyError, TypeError, ValueError):
                continue
        if 0 <= seconds < float("inf"):
            return seconds
    return None


async def drained(response: Response, rest: AsyncIterator[Any]) -> None:
    """Close a response that is no longer wanted, and then what the SDK made to read it.

    The SDKs read through generators inside each other, which are left hanging when the outermost
    is closed; only the end of the response, here that of its connection, ends them all.
    """
    with anyio.move_on_after(2.0, shield=True):
        await response.aclose()
        # Whatever the SDK makes of the end: nobody asked for the rest.
        with contextlib.suppress(Exception):
            while await anext(rest, None) is not None:
                pass


def missing_sdk(provider: str, package: str, extra: str) -> ImportError:
    return ImportError(
        f"the {provider} client needs the package '{package}': pip install 'motus-agents[{extra}]'"
    )
