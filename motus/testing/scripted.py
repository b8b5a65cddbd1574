"""A model that says what a test wants it to say."""

from __future__ import annotations

import inspect
import itertools
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, ClassVar

import attrs

from motus.memory.tokens import estimate_tokens
from motus.messages import ChatCompletion, ChatMessage, FunctionCall, ToolCall
from motus.models.requests import ModelRequest, RequestChatClient
from motus.testing.errors import ScriptExhaustedError
from motus.tools.results import encode_text

__all__ = ["Reply", "ScriptedClient", "call"]

# Text; one call or several; an error to be raised; a whole completion; or an object, which is sent
# as JSON.
Reply = Any
ReplyFunction = Callable[[list[ChatMessage]], Reply | Awaitable[Reply]]


def call(tool: str, /, **arguments: Any) -> ToolCall:
    """A reply that calls a tool; a list of them calls several at once. The client gives the ids."""
    return ToolCall("", FunctionCall(tool, json.dumps(arguments)))


class ScriptedClient(RequestChatClient):
    """A client whose replies are given: a list, or a function of the conversation.

    ::

        client = ScriptedClient([call("weather", city="Rome"), "It is sunny in Rome."])

    A reply is text, a `call(...)` or a list of them, an exception, which is raised, a
    `ChatCompletion`, or an object, which is sent as JSON. The function may be a coroutine function;
    it gets the conversation, the system prompt included. When a list has come to its end the next
    request raises `ScriptExhaustedError`.

    `requests` are what was asked, in order. `usage` is that of every reply; without it tokens are
    estimated. It works in every event loop, and for any number of agents.
    """

    wants_cache_policy: ClassVar[bool] = True
    _source = "scripted"

    def __init__(
        self, replies: Iterable[Reply] | ReplyFunction, *, usage: Mapping[str, Any] | None = None
    ) -> None:
        if isinstance(replies, str | Mapping):
            # It could be gone through, letter by letter or name by name.
            raise TypeError(f"the replies must be a list: pass [{replies!r:.80}]")
        self._function = replies if callable(replies) else None
        self._replies = [] if callable(replies) else list(replies)
        self._usage = usage
        self._ids = itertools.count(1)
        self.requests: list[ModelRequest] = []

    @property
    def replies_left(self) -> int:
        """How many replies of the list have not been asked for."""
        return len(self._replies)

    async def _reply(self, request: ModelRequest) -> ChatCompletion:
        self.requests.append(request)
        asked = request.messages
        number = len(self.requests)
        if self._function is not None:
            reply = self._function(asked)
            if inspect.isawaitable(reply):
                reply = await reply
        elif self._replies:
            reply = self._replies.pop(0)
        else:
            last = asked[-1] if asked else None
            raise ScriptExhaustedError(
                f"the script has no reply to request {number}, whose last message is {last!r:.300}"
            )
        if isinstance(reply, BaseException):
            raise reply
        return self._completion(f"scripted-{number}", request, reply)

    def _completion(self, identity: str, request: ModelRequest, reply: Reply) -> ChatCompletion:
        if isinstance(reply, ChatCompletion):
            # One object may be the answer to many; what the agent does to it must not be seen.
            completion = attrs.evolve(
                reply, id=reply.id or identity, model=reply.model or request.model
            )
        else:
            completion = ChatCompletion(identity, request.model)
            calls = [reply] if isinstance(reply, ToolCall) else reply
            if isinstance(calls, list) and calls and all(type(c) is ToolCall for c in calls):
                completion.tool_calls = calls
                completion.finish_reason = "tool_calls"
            else:
                completion.content = encode_text(reply)
        if completion.tool_calls:
            completion.tool_calls = [
                one if one.id else ToolCall(f"call_{next(self._ids)}", one.function)
                for one in completion.tool_calls
            ]
        if not completion.usage:
            estimated = _estimated(request.messages, completion.to_message())
            completion.usage = dict(self._usage or estimated)
        return completion


def _estimated(asked: list[ChatMessage], reply: ChatMessage) -> dict[str, int]:
    prompt, answer = sum(map(estimate_tokens, asked)), estimate_tokens(reply)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": answer,
        "total_tokens": prompt + answer,
    }
