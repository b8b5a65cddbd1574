"""What can go wrong with a model call: one class for each thing that a caller can do about it."""

from __future__ import annotations

from motus.errors import MotusError
from motus.messages import ChatCompletion

__all__ = [
    "ModelAuthenticationError",
    "ModelBadRequestError",
    "ModelConnectionError",
    "ModelContextOverflowError",
    "ModelError",
    "ModelRateLimitError",
    "ModelServerError",
    "ModelTimeoutError",
    "StructuredOutputError",
]


class ModelError(MotusError):
    """A model call failed; the exception of the provider's SDK is the cause.

    `provider` is its name, `status` the HTTP status where there was one, `retry_after` the seconds
    after which the provider wants to be asked again, where it said so. The text holds no key.
    """

    def __init__(
        self,
        message: str,
        *,
        provider: str | None = None,
        status: int | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.provider = provider
        self.status = status
        self.retry_after = retry_after


class ModelAuthenticationError(ModelError):
    """The key is missing, wrong, or not allowed to do this: change it."""


class ModelRateLimitError(ModelError):
    """Too many requests, or no credit left: wait, for `retry_after` seconds where it is known."""


class ModelContextOverflowError(ModelError):
    """The conversation is longer than the model's context window: shorten it."""


class ModelBadRequestError(ModelError):
    """The provider does not accept the request: an unknown model, a wrong parameter."""


class ModelServerError(ModelError):
    """The provider failed, or answered with something that is no reply: try again later."""


class ModelConnectionError(ModelError):
    """The provider was not reached, or the connection broke before the reply was whole."""


class ModelTimeoutError(ModelError):
    """The provider did not answer in the client's time."""


class StructuredOutputError(ModelError):
    """The reply is not of the asked-for type; `completion` is that reply, to answer it."""

    def __init__(
        self, message: str, completion: ChatCompletion, *, provider: str | None = None
    ) -> None:
        super().__init__(message, provider=provider)
        self.completion = completion
