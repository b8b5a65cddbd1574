"""A memory that summarises the beginning of a conversation when it becomes too long."""

from __future__ import annotations

import inspect
import json
import os
import uuid
from abc import abstractmethod
from collections.abc import Awaitable, Callable
from typing import Any, Self

import attrs

from motus.memory.base import MAX_TOOL_RESULT_TOKENS, TRUNCATION_SUFFIX, BaseMemory, now
from motus.memory.boundary import CompactionPlan, apply_plan, plan_compaction
from motus.memory.log import DEFAULT_LOG_PATH, ConversationLogStore, LocalConversationLogStore
from motus.memory.state import CompactionSessionState
from motus.memory.summary import summary_request
from motus.memory.tokens import estimate_text_tokens
from motus.memory.windows import known_context_window
from motus.messages import ChatCompletion, ChatMessage, message_from_json, message_to_json
from motus.models.base import BaseChatClient
from motus.runtime.agent_task import agent_task
from motus.runtime.types import MODEL_CALL

__all__ = [
    "CompactFunction",
    "CompactionBase",
    "CompactionMemory",
    "CompactionMemoryConfig",
]

CompactFunction = Callable[[list[ChatMessage], str], str | Awaitable[str]]


def _share(_: Any, attribute: Any, value: Any) -> None:
    if not 0 < value <= 1:
        raise ValueError(f"{attribute.name} must be more than 0 and at most 1, not {value!r}")


@attrs.frozen
class CompactionMemoryConfig:
    """When and how `CompactionMemory` compacts.

    It does from `token_threshold` tokens on; without one, from `safety_ratio` of the model's
    context window. `compact_model_name` writes the summary instead of the agent's own model.
    With `log_base_path` the conversation is logged in that directory, under `session_id` or a new
    one. The other two are those of `BaseMemory`.
    """

    safety_ratio: float = attrs.field(default=0.75, validator=_share)
    token_threshold: int | None = attrs.field(
        default=None, validator=attrs.validators.optional(attrs.validators.gt(0))
    )
    compact_model_name: str | None = None
    max_tool_result_tokens: int = MAX_TOOL_RESULT_TOKENS
    tool_result_truncation_suffix: str = TRUNCATION_SUFFIX
    session_id: str | None = None
    log_base_path: str | os.PathLike[str] | None = None


@agent_task(task_type=MODEL_CALL)
async def summarize_conversation(
    client: BaseChatClient, model: str, messages: list[ChatMessage]
) -> ChatCompletion:
    """The model call of a compaction."""
    return await client.create(model, messages)


class CompactionBase(BaseMemory):
    """A memory that compacts at the boundaries of `motus.memory.boundary`.

    A subclass says when (`token_threshold`) and writes the summary (`summarize`).
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._compaction_count = 0
        self._counted = 0
        self._counted_tokens = 0

    @abstractmethod
    async def summarize(self, messages: list[ChatMessage]) -> str:
        """The summary that is to stand for these messages."""

    def _append_message(self, message: ChatMessage) -> None:
        super()._append_message(message)
        if self._counted == len(self._messages) - 1:
            self._counted += 1
            self._counted_tokens += self.estimate_message_tokens(self._messages[-1])

    def estimate_working_memory_tokens(self) -> int:
        """About how many tokens `get_context` takes."""
        # Counted along with each message: all of them at every step would be quadratic.
        if self._counted != len(self._messages):
            self._counted = len(self._messages)
            self._counted_tokens = sum(map(self.estimate_message_tokens, self._messages))
        system = self.construct_system_prompt()
        return self._counted_tokens + (
            self.estimate_message_tokens(system) if system.content else 0
        )

    async def _auto_compact(self) -> None:
        threshold = self.token_threshold()
        if threshold is not None and self.estimate_working_memory_tokens() > threshold:
            await self.compact()

    async def compact(self, **kwargs: Any) -> str | None:
        """Compact now, at the boundary that the conversation's end allows.

        None if there is none at the moment, or nothing to summarise. When the summary fails or is
        cancelled the conversation is what it was.
        """
        messages = self.messages
        plan = plan_compaction(messages)
        if plan is None:
            return None
        summary = await self.summarize(messages[: plan.messages_summarized])
        if self._messages[:1] != messages[:1]:
            # Reset, or compacted by somebody else, while the summary was written.
            return None
        number = self._compaction_count + 1
        stats = {
            "messages_compacted": plan.messages_compacted,
            "messages_replayed": plan.messages_replayed,
            "summary_tokens": estimate_text_tokens(summary),
            "compaction_number": number,
        }
        self._record_compaction(plan, summary, stats)
        self._compaction_count = number
        # Messages that came meanwhile are behind everything the plan speaks of.
        self._replace(apply_plan(self._messages, plan, summary))
        self._compacted({**stats, "summary": summary})
        return summary

    def _replace(self, messages: list[ChatMessage]) -> None:
        self._messages = messages
        self._counted = -1

    def _record_compaction(self, plan: CompactionPlan, summary: str, stats: dict[str, Any]) -> None:
        """Called before the messages are replaced."""
        self._trace_log.append({"type": "compaction", "timestamp": now(), **stats})

    def _compacted(self, stats: dict[str, Any]) -> None:
        """Called when they have been."""

    def clear_messages(self) -> None:
        """Forget the messages, and nothing else."""
        self._replace([])

    def reset(self) -> dict[str, int]:
        """Forget the messages, the trace and the count of compactions."""
        count = len(self._messages)
        self._replace([])
        self._trace_log.clear()
        self._compaction_count = 0
        return {"messages": count}


class CompactionMemory(CompactionBase):
    """Compacts with a summary that a model writes, or `compact_fn(messages, system_prompt)`.

    The model is the agent's, unless `client` and `model_name` are given. `on_compact` is called
    after each compaction with a dict: `messages_compacted`, `messages_replayed`, `summary_tokens`,
    `compaction_number`, `summary`.

    With a `conversation_log_store`, or a path in the config, everything is also logged, and the
    agent gets two tools to look it up in the log (not with `enable_memory_tools=False`).
    """

    def __init__(
        self,
        *,
        config: CompactionMemoryConfig | None = None,
        compact_fn: CompactFunction | None = None,
        on_compact: Callable[[dict[str, Any]], object] | None = None,
        conversation_log_store: ConversationLogStore | None = None,
        enable_memory_tools: bool = True,
        client: BaseChatClient | None = None,
        model_name: str | None = None,
    ) -> None:
        self.config = config or CompactionMemoryConfig()
        super().__init__(
            model_name=model_name,
            max_tool_result_tokens=self.config.max_tool_result_tokens,
            tool_result_truncation_suffix=self.config.tool_result_truncation_suffix,
            enable_memory_tools=enable_memory_tools,
        )
        if conversation_log_store is None and self.config.log_base_path is not None:
            conversation_log_store = LocalConversationLogStore(self.config.log_base_path)
        self._client = client
        self._compact_fn = compact_fn
        self._on_compact = on_compact
        self._log_store = conversation_log_store
        self._session_id = self.config.session_id or str(uuid.uuid4())
        self._parent_session_id: str | None = None
        self._is_log_begun = False
        self._summaries: list[dict[str, Any]] = []

    @property
    def session_id(self) -> str:
        """Which session of the log store this is."""
        return self._session_id

    @property
    def log_store(self) -> ConversationLogStore | None:
        """Where the conversation is logged, if it is."""
        return self._log_store

    def set_model(self, *, client: BaseChatClient, model_name: str) -> None:
        """Called by the agent: the model to summarise with, unless there is one already."""
        super().set_model(client=client, model_name=model_name)
        if self._client is None:
            self._client = client

    def token_threshold(self) -> int:
        """From how many tokens on the conversation is compacted."""
        if self.config.token_threshold is not None:
            return self.config.token_threshold
        window = known_context_window(self._model_name, self._client)
        return int(window * self.config.safety_ratio)

    async def summarize(self, messages: list[ChatMessage]) -> str:
        """By `compact_fn`, or by the model. `ValueError` if there is neither, or no summary."""
        if self._compact_fn is not None:
            written = self._compact_fn(messages, self._system_prompt)
            return await written if inspect.isawaitable(written) else written
        model = self.config.compact_model_name or self._model_name
        if self._client is None or model is None:
            raise ValueError(
                "CompactionMemory needs a client and a model_name, or a compact_fn: give it one, "
                "or give the memory to an agent"
            )
        request = summary_request(messages, self._system_prompt)
        completion = await summarize_conversation(self._client, model, request)
        self._usage_by_model.append((model, completion.usage))
        if not completion.content:
            raise ValueError(f"model {model!r} wrote no summary of the conversation")
        return completion.content

    def _record_compaction(self, plan: CompactionPlan, summary: str, stats: dict[str, Any]) -> None:
        super()._record_compaction(plan, summary, stats)
        entry = {**stats, "has_request": plan.has_request, "summary": summary}
        self._log_entry({"type": "compaction", "ts": now(), **entry})
        self._summaries.append({**stats, "summary": summary})

    def _compacted(self, stats: dict[str, Any]) -> None:
        if self._on_compact is not None:
            self._on_compact(stats)

    def reset(self) -> dict[str, int]:
        """Forget everything but the log, which goes on under a new session id."""
        forgotten = super().reset()
        self._begin_session(str(uuid.uuid4()), parent=self._session_id)
        return forgotten

    def _detach(self) -> None:
        super()._detach()
        # A fork is logged as a session of its own that names this one.
        self._begin_session(str(uuid.uuid4()), parent=self._session_id)

    def _begin_session(self, session_id: str, parent: str) -> None:
        self._session_id, self._parent_session_id = session_id, parent
        self._is_log_begun = False
        self._summaries = []

    # ------------------------------------------------------------------ the log

    def _append_message(self, message: ChatMessage) -> None:
        super()._append_message(message)
        self._log_message(self._messages[-1])

    def _log_message(self, message: ChatMessage) -> None:
        entry = message_to_json(message, omit_none=True)
        self._log_entry({"type": "message", "ts": now(), "message": entry})

    def _log_entry(self, entry: dict[str, Any]) -> None:
        if self._log_store is None:
            return
        if not self._is_log_begun:
            self._is_log_begun = True
            config = attrs.asdict(self.config)
            del config["session_id"], config["log_base_path"]
            meta = {
                "type": "session_meta",
                "ts": now(),
                "session_id": self._session_id,
                "parent_session_id": self._parent_session_id,
                "system_prompt": self._system_prompt,
                "config": config,
            }
            self._log_store.append(self._session_id, meta)
            # A fork begins with messages that are in its parent's log only.
            known = self._messages[:-1] if entry["type"] == "message" else self._messages
            for message in known:
                self._log_message(message)
        self._log_store.append(self._session_id, entry)

    @classmethod
    def restore_from_log(
        cls,
        session_id: str,
        *,
        conversation_log_store: ConversationLogStore | None = None,
        log_base_path: str | os.PathLike[str] | None = None,
        config: CompactionMemoryConfig | None = None,
        system_prompt: str | None = None,
        **options: Any,
    ) -> Self:
        """The memory of a logged session, which goes on in the same log.

        The log is in the store, or in the directory (default: `~/.motus/conversation_logs`). Config
        and system prompt are those of the log unless they are given; the other options are those of
        the constructor. `ValueError` for a session that is not in the log, or an entry that makes
        no sense.
        """
        if conversation_log_store is None:
            path = log_base_path or (config and config.log_base_path) or DEFAULT_LOG_PATH
            conversation_log_store = LocalConversationLogStore(path)
        entries = conversation_log_store.read_entries(session_id)
        if not entries:
            raise ValueError(f"There is no session '{session_id}' in the log")
        meta = next((entry for entry in entries if entry.get("type") == "session_meta"), {})
        if config is None:
            known = {field.name for field in attrs.fields(CompactionMemoryConfig)}
            logged = meta.get("config", {})
            config = CompactionMemoryConfig(**{k: v for k, v in logged.items() if k in known})
        memory = cls(config=config, conversation_log_store=conversation_log_store, **options)
        memory.set_system_prompt(
            meta.get("system_prompt", "") if system_prompt is None else system_prompt
        )
        memory._restore(session_id, meta.get("parent_session_id"), entries)
        return memory

    def _restore(self, session_id: str, parent: str | None, entries: list[dict[str, Any]]) -> None:
        self._session_id, self._parent_session_id = session_id, parent
        self._is_log_begun = True
        messages: list[ChatMessage] = []
        for number, entry in enumerate(entries):
            try:
                messages = self._replayed(messages, entry)
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(
                    f"entry {number} of the log of session '{session_id}' makes no sense: {error}"
                ) from error
        self._replace(messages)

    def _replayed(self, messages: list[ChatMessage], entry: dict[str, Any]) -> list[ChatMessage]:
        if entry.get("type") == "message":
            message = message_from_json(entry["message"])
            self._add_trace_event(message)
            return [*messages, message]
        if entry.get("type") != "compaction":
            return messages
        names = ("messages_compacted", "messages_replayed", "summary_tokens", "compaction_number")
        stats = {name: int(entry[name]) for name in names}
        plan = CompactionPlan(
            stats["messages_compacted"], stats["messages_replayed"], bool(entry["has_request"])
        )
        if not 0 < plan.messages_compacted <= len(messages):
            raise ValueError("it speaks of messages that are not there")
        super()._record_compaction(plan, entry["summary"], stats)
        self._summaries.append({**stats, "summary": entry["summary"]})
        self._compaction_count = stats["compaction_number"]
        return apply_plan(messages, plan, entry["summary"])

    # ------------------------------------------------------------------ state

    def session_state(self) -> CompactionSessionState:
        """What the memory is now, to be kept beside the log or instead of it."""
        path = self.config.log_base_path
        return CompactionSessionState(
            messages=self.messages,
            system_prompt=self._system_prompt,
            session_id=self._session_id,
            log_base_path=None if path is None else os.fspath(path),
            compaction_count=self._compaction_count,
        )

    # ------------------------------------------------------------------ tools

    def build_tools(self) -> list[Any]:
        """Two tools to look up what the summary left out; none without a log."""
        if not self._enable_memory_tools or self._log_store is None:
            return []
        return [self.search_conversation_log, self.read_compaction_summary]

    def search_conversation_log(self, query: str, max_results: int = 10) -> str:
        """Find earlier messages of this conversation that contain a text, in upper or lower case.

        Use it only when the conversation begins with a summary and a detail is missing in it.
        """
        assert self._log_store is not None
        found = self._log_store.search_messages(self._session_id, query, max_results)
        return json.dumps({"query": query, "count": len(found), "results": found})

    def read_compaction_summary(self, compaction_number: int = -1) -> str:
        """Read one of the summaries that this conversation was shortened with.

        1 is the first, -1 the latest.
        """
        count = len(self._summaries)
        index = count if compaction_number == -1 else compaction_number
        if not 1 <= index <= count:
            return json.dumps({"error": f"there is no summary {compaction_number}, but {count}"})
        return json.dumps(self._summaries[index - 1])
