"""What the clients of all providers share: the order of a call, and the one place for errors."""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import random
import re
from abc import abstractmethod
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterator,
    Mapping,
)
from email.utils import parsedate_to_datetime
from typing import Any, ClassVar, Protocol, TypeVar
from urllib.parse import urlsplit

import anyio

from motus.messages import ChatCompletion, message_from_json, message_to_json
from motus.models.base import StreamEvent
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
from motus.models.requests import ModelRequest, RequestChatClient

__all__ = [
    "MAX_RETRY_AFTER",
    "RemoteChatClient",
    "arguments",
    "drained",
    "missing_sdk",
    "read_out",
    "retry_after_seconds",
]

T = TypeVar("T")

# What providers say, in a status 400, where others have an error code.
_OVERFLOW = re.compile(
    r"context.?(length|window|limit|size)|maximum (context|prompt length)|too many (input )?tokens|"
    r"(prompt|input)( token count)? .{0,40}(is too long|exceeds the (maximum|limit))",
    re.IGNORECASE | re.ASCII,
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")
# A provider may quote the whole request in its error.
MAX_TEXT = 500
# A provider that wants to be left alone for longer, in seconds, is not waited for.
MAX_RETRY_AFTER = 120.0
# As the SDKs do it.
FIRST_DELAY, MAX_DELAY = 0.5, 8.0
_WORTH_ANOTHER = (
    ModelRateLimitError,
    ModelServerError,
    ModelConnectionError,
    ModelTimeoutError,
)
# How long the end of a stream's body may take after its last event, in seconds.
LAST_LINES = 0.1
_SECRET_HEADER = re.compile(r"auth|key|token|secret|cookie", re.IGNORECASE)


class Response(Protocol):
    """What is needed of an HTTP response here."""

    async def aclose(self) -> None: ...


class RemoteChatClient(RequestChatClient):
    """A client over the SDK of a provider.

    A subclass says how a request looks (`_wire`), sends it (`_send`, `_events`), and knows the
    errors of its SDK (`_explain`).
    """

    provider: ClassVar[str]
    key_variable: ClassVar[str]
    url_variable: ClassVar[str] = ""
    default_url: ClassVar[str]
    # Whether the SDK goes there by itself.
    sdk_knows_url: ClassVar[bool] = True

    def __init__(
        self,
        api_key: str | None,
        base_url: str | None,
        http_client: Any,
        max_retries: int,
        timeout: float | None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Settle what the client of any provider is given; `headers` are those of every request.

        `_key` and `_base_url` come from the environment where they are not given, and
        `_own_server` says that there is such an address; `_http` sends through `http_client`, or
        through pools of its own.
        """
        from motus.models.transport import LoopClient  # needs what comes with the SDK

        if max_retries < 0:
            raise ValueError(f"Invalid max_retries {max_retries!r}: expected 0 or more")
        if timeout is not None and timeout <= 0:
            raise ValueError(f"Invalid timeout {timeout!r}: expected seconds, more than 0")
        self._source = self.provider
        self._key = self._usable(api_key or os.environ.get(self.key_variable))
        url = base_url or os.environ.get(self.url_variable)
        self._own_server = bool(url)
        # A variable that is set, but empty, is an address to the SDKs.
        self._base_url = url or (
            self.default_url if url is not None or not self.sdk_knows_url else None
        )
        self._secrets: list[str] = []
        self._keep_secret(self._key, urlsplit(url or "").password)
        self._max_retries = max_retries
        self._http = LoopClient(http_client)
        if self._base_url is not None:
            self._base_url = self._http.without_login(self._base_url)
        for name, value in (headers or {}).items():
            if _SECRET_HEADER.search(name):
                # Behind the name of the scheme, if there is one.
                self._keep_secret(value, value.strip().rpartition(" ")[2])

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    async def aclose(self) -> None:
        await self._http.aclose()

    def _keep_secret(self, *secrets: str | None) -> None:
        """Whatever holds one of these is shown without it."""
        stripped = [secret.strip() for secret in secrets if secret]
        self._secrets += [secret for secret in stripped if len(secret) > 3]

    def _usable(self, key: str | None) -> str | None:
        """The key without the line's end of its file; refused if a header cannot hold it.

        Whoever tried to send it would quote it in the error.
        """
        key = (key or "").strip()
        if not (key.isascii() and key.isprintable()):
            raise ModelAuthenticationError(
                f"{self.provider}: there are characters in the key that no key has: correct "
                f"api_key=, or {self.key_variable}",
                provider=self.provider,
            )
        return key or None

    def _no_key(self) -> ModelAuthenticationError:
        return ModelAuthenticationError(
            f"{self.provider}: no key: pass api_key=, or set {self.key_variable}",
            provider=self.provider,
        )

    async def _reply(self, request: ModelRequest) -> ChatCompletion:
        wire = self._wire(request)
        with self._translated():
            return await self._send(wire)

    def _pieces(self, request: ModelRequest) -> AsyncGenerator[StreamEvent, None]:
        # What is wrong with the request is said here, and not when the first piece is asked for.
        return self._streamed(self._wire(request))

    async def _streamed(self, wire: dict[str, Any]) -> AsyncGenerator[StreamEvent, None]:
        with self._translated():
            async with contextlib.aclosing(self._events(wire)) as events:
                async for event in events:
                    yield event

    @abstractmethod
    def _wire(self, request: ModelRequest) -> dict[str, Any]:
        """The arguments for the SDK; what the caller gave as keywords wins."""

    @abstractmethod
    async def _send(self, wire: dict[str, Any]) -> ChatCompletion:
        """The reply."""

    @abstractmethod
    def _events(self, wire: dict[str, Any]) -> AsyncGenerator[StreamEvent, None]:
        """The reply in pieces, its `ChatCompletion` last."""

    @abstractmethod
    def _explain(self, error: Exception) -> ModelError | None:
        """What an error of the SDK means; `None` if it is not one."""

    async def _trying(self, call: Callable[[], Awaitable[T]]) -> T:
        """Make the call, again after what may pass: for an SDK whose own retries are off."""
        left = self._max_retries
        while True:
            try:
                return await call()
            except Exception as error:
                # Raised again when it is not one to try again after.
                delay = self._delay(error, left)
                if delay is None:
                    raise
            left -= 1
            await anyio.sleep(delay)

    def _delay(self, error: Exception, left: int) -> float | None:
        """Seconds until the next of the attempts that are left; `None` if there is to be none."""
        explained = error if isinstance(error, ModelError) else self._explained(error)
        worth = isinstance(explained, _WORTH_ANOTHER) and explained.status != 402
        if isinstance(explained, ModelServerError) and explained.status is None:
            # An answer that is no reply would be none the next time.
            worth = False
        headers = getattr(getattr(error, "response", None), "headers", None) or {}
        if (advice := headers.get("x-should-retry")) is not None:
            worth = advice == "true"
        if explained is None or not worth or left <= 0:
            return None
        if explained.retry_after is not None:
            return explained.retry_after if explained.retry_after <= MAX_RETRY_AFTER else None
        jitter: float = 1 - 0.25 * random.random()  # noqa: S311  # it spreads clients, it hides nothing
        return min(FIRST_DELAY * 2.0 ** (self._max_retries - left), MAX_DELAY) * jitter

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except ModelError:
            raise
        # Each SDK has a family of its own, and lets those of its HTTP stack through; whatever is
        # none of them goes on as it is.
        except Exception as error:
            explained = self._explained(error)
            if explained is None:
                raise
            self._redact(error)
            raise explained from error

    def _explained(self, error: Exception) -> ModelError | None:
        return self._explain(error) or self._explain_transport(error)

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


async def read_out(rest: AsyncIterator[Any]) -> bool:
    """Read what follows the last event, so that the connection can be used again; False if not.

    A server may leave it open, or break it: the reply is whole all the same.
    """
    with anyio.move_on_after(LAST_LINES), contextlib.suppress(Exception):
        while await anext(rest, None) is not None:
            pass
        return True
    return False


def missing_sdk(provider: str, package: str, extra: str) -> ImportError:
    return ImportError(
        f"the {provider} client needs the package '{package}': "
        f"pip install 'motus-agents[{extra}]', or in a clone pip install '.[{extra}]'"
    )
