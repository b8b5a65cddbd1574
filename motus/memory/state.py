"""What a memory is at one moment, to be kept somewhere and restored from."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import attrs

from motus.messages import ChatMessage, messages_from_json, messages_to_json

__all__ = ["CompactionSessionState", "SessionState"]


@attrs.define
class SessionState:
    """A conversation and its system prompt. `to_dict` gives JSON values, `from_dict` takes them."""

    # Filled by the subclasses themselves; what is stored says which of them it is.
    _kinds: ClassVar[dict[str, type[SessionState]]] = {}

    messages: list[ChatMessage]
    system_prompt: str = ""

    def __init_subclass__(cls) -> None:
        SessionState._kinds[cls.__name__] = cls

    def to_dict(self) -> dict[str, Any]:
        """JSON values only."""
        fields = attrs.asdict(self, recurse=False)
        messages = messages_to_json(self.messages, omit_none=True)
        return {"type": type(self).__name__, **fields, "messages": messages}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """The state that `to_dict` gave, of the class that it was of; other keys are ignored.

        `ValueError` for another class, or messages that are none.
        """
        name = data.get("type", cls.__name__)
        kind = cls if name == cls.__name__ else cls._kinds.get(name)
        if kind is None or not issubclass(kind, cls):
            raise ValueError(f"{name!r:.80} is not a kind of {cls.__name__}")
        known = {field.name for field in attrs.fields(kind)}
        fields = {key: value for key, value in data.items() if key in known}
        fields["messages"] = messages_from_json(data.get("messages", []))
        return kind(**fields)


@attrs.define
class CompactionSessionState(SessionState):
    """The same for `CompactionMemory`: which log it writes, how often it was compacted."""

    session_id: str = ""
    log_base_path: str | None = None
    compaction_count: int = 0
