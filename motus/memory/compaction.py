"""A memory that summarises the beginning of a conversation when it becomes too long."""

from __future__ import annotations

import inspect
import json
import os
import uuid
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Final, Self

import attrs

from motus.memory.base import MAX_TOOL_RESULT_TOKENS, TRUNCATION_SUFFIX, now
from motus.memory.boundary import CompactionPlan, apply_plan, plan_compaction
from motus.memory.compaction_base import CompactionBase
from motus.memory.log import DEFAULT_LOG_PATH, ConversationLogStore, LocalConversationLogStore
from motus.memory.state import CompactionSessionState, SessionState
from motus.memory.summary import summary_request
from motus.memory.tokens import estimate_text_tokens, estimate_tokens
from motus.memory.windows import known_context_window
from motus.messages import ChatCompletion, ChatMessage, message_from_json, message_to_json
from motus.models.base import BaseChatClient
from motus.models.errors import ModelContextOverflowError, ModelServerError
from motus.models.usage import count_usage
from motus.runtime.agent_task import agent_task
from motus.runtime.types import MODEL_CALL

__all__ = [
    "CompactFunction",
    "CompactionMemory",
    "CompactionMemoryConfig",
]

CompactFunction = Callable[[list[ChatMessage], str], str | Awaitable[str]]

# The material for a summary may take so much of the window of the model that writes it. That is an
# estimate: where it was wrong, half of that is tried, and so on, so many times in all.
MATERIAL_SHARE: Final = 0.9
MATERIAL_ATTEMPTS: Final = 4

# Escapes would take several times the tokens.
_dumps = partial(json.dumps, ensure_ascii=False)


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
    completion = await client.create(model=model, messages=messages)
    count_usage(client, model, completion.usage)
    return completion


class CompactionMemory(CompactionBase):
    """Compacts with a summary that a model writes, or `compact_fn(messages, system_prompt)`.

    The model is the agent's, unless `client` and `model_name` are given. `on_compact` is called,
    and awaited, after each compaction with a dict: `messages_compacted`, `messages_replayed`,
    `summary_tokens`, `compaction_number`, `summary`.

    When a model fails to write a summary in time, that is logged, and the conversation goes on as
    it is; the next message tries again.

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
        if config is not None and not isinstance(config, CompactionMemoryConfig):
            raise TypeError(
                "config must be a CompactionMemoryConfig(token_threshold=..., ...), "
                f"not {config!r:.80}"
            )
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
        """By `compact_fn`, or by the model; of what is too long for it, the longest texts are cut.

        `ValueError` if there is neither, `TypeError` if the function returns no text, `ModelError`
        if the model writes no summary.
        """
        if self._compact_fn is not None:
            written = self._compact_fn(messages, self._system_prompt)
            summary = await written if inspect.isawaitable(written) else written
            if not isinstance(summary, str):
                raise TypeError(f"compact_fn must return a text, not {type(summary).__name__}")
            return summary
        model = self.config.compact_model_name or self._model_name
        if self._client is None or model is None:
            raise ValueError(
                "CompactionMemory needs a client and a model_name, or a compact_fn: give it one, "
                "or give the memory to an agent"
            )
        completion = await self._summary_call(self._client, model, messages)
        if not completion.content:
            raise ModelServerError(f"model {model!r} wrote no summary of the conversation")
        return completion.content

    async def _summary_call(
        self, client: BaseChatClient, model: str, messages: list[ChatMessage]
    ) -> ChatCompletion:
        room = int(known_context_window(model, client) * MATERIAL_SHARE)
        for attempt in range(MATERIAL_ATTEMPTS):
            request = summary_request(messages, self._system_prompt, room)
            call = summarize_conversation(client, model, request)
            try:
                return await call
            except ModelContextOverflowError:
                if attempt == MATERIAL_ATTEMPTS - 1:
                    raise
                room = min(room, sum(map(estimate_tokens, request))) // 2
            finally:
                # For a wait that was stopped, which by itself stops no task.
                call.af_cancel()
        raise AssertionError("the last attempt returns or raises")

    def _record_compaction(self, plan: CompactionPlan, summary: str, stats: dict[str, Any]) -> None:
        entry = {**stats, "has_request": plan.has_request, "summary": summary}
        self._log_entry({"type": "compaction", "ts": now(), **entry})
        super()._record_compaction(plan, summary, stats)
        self._summaries.append({**stats, "summary": summary})

    async def _compacted(self, stats: dict[str, Any]) -> None:
        if self._on_compact is not None:
            waiting = self._on_compact(stats)
            if inspect.isawaitable(waiting):
                await waiting

    def clear_messages(self) -> None:
        """Forget the messages, and nothing else; a log keeps them, and restores none of them."""
        if self._is_log_begun:
            self._log_entry({"type": "cleared", "ts": now()})
        super().clear_messages()

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

    def _record_message(self, message: ChatMessage) -> None:
        # Before it is in the conversation: a log with holes could not be restored.
        if self._log_store is not None:
            entry = message_to_json(message, omit_none=True)
            self._log_entry({"type": "message", "ts": now(), "message": entry})

    def _log_entry(self, entry: dict[str, Any]) -> None:
        if self._log_store is None:
            return
        if not self._is_log_begun:
            # What another memory has logged in this session before counts no more from here on.
            self._log_store.append(self._session_id, self._session_meta())
            self._is_log_begun = True
            # A fork begins with messages that are in its parent's log only.
            for message in self._messages:
                self._record_message(message)
        self._log_store.append(self._session_id, entry)

    def _session_meta(self) -> dict[str, Any]:
        config = attrs.asdict(self.config)
        del config["session_id"], config["log_base_path"]
        return {
            "type": "session_meta",
            "ts": now(),
            "session_id": self._session_id,
            "parent_session_id": self._parent_session_id,
            "system_prompt": self._system_prompt,
            "config": config,
        }

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
        metas = (entry for entry in reversed(entries) if entry.get("type") == "session_meta")
        meta: dict[str, Any] = next(metas, {})
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
        for number, entry in enumerate(entries):
            try:
                self._replay(entry)
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(
                    f"entry {number} of the log of session '{session_id}' makes no sense: {error}"
                ) from error

    def _replay(self, entry: dict[str, Any]) -> None:
        if entry.get("type") == "message":
            message = message_from_json(entry["message"])
            self._messages.append(message)
            self._add_trace_event(message)
            return
        if entry.get("type") in ("session_meta", "cleared"):
            self._replace([])
        if entry.get("type") != "compaction":
            return
        plan = _logged_plan(entry, self._messages)
        tokens = entry.get("summary_tokens", estimate_text_tokens(entry["summary"]))
        stats = {
            "messages_compacted": plan.messages_compacted,
            "messages_replayed": plan.messages_replayed,
            "summary_tokens": int(tokens),
            "compaction_number": int(entry["compaction_number"]),
        }
        if not 0 < plan.messages_compacted <= len(self._messages):
            raise ValueError("it speaks of messages that are not there")
        super()._record_compaction(plan, entry["summary"], stats)
        self._summaries.append({**stats, "summary": entry["summary"]})
        self._compaction_count = stats["compaction_number"]
        self._replace(apply_plan(self._messages, plan, entry["summary"]))

    # ------------------------------------------------------------------ state

    def get_session_state(self) -> CompactionSessionState:
        """What the memory is now, to be kept beside the log or instead of it."""
        path = self.config.log_base_path
        if path is None and isinstance(self._log_store, LocalConversationLogStore):
            path = self._log_store.path
        return CompactionSessionState(
            messages=self.messages,
            system_prompt=self._system_prompt,
            session_id=self._session_id,
            log_base_path=None if path is None else os.fspath(path),
            compaction_count=self._compaction_count,
        )

    @classmethod
    def restore(
        cls, state: SessionState, *, config: CompactionMemoryConfig | None = None, **options: Any
    ) -> Self:
        """The memory that the state was taken of; what was logged since then is passed over.

        Session and path of the log are those of the state; the other options are those of the
        constructor. `TypeError` for the state of another kind of memory.
        """
        if not isinstance(state, CompactionSessionState):
            raise TypeError(f"expected a CompactionSessionState, not {type(state).__name__}")
        config = attrs.evolve(
            config or CompactionMemoryConfig(),
            session_id=state.session_id or None,
            log_base_path=state.log_base_path,
        )
        memory = cls(config=config, **options)
        memory.set_system_prompt(state.system_prompt)
        memory._messages = state.messages.copy()
        memory._compaction_count = state.compaction_count
        return memory

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
        return _dumps({"query": query, "count": len(found), "results": found})

    def read_compaction_summary(self, compaction_number: int = -1) -> str:
        """Read one of the summaries that this conversation was shortened with.

        1 is the first, -1 the latest.
        """
        count = len(self._summaries)
        index = count if compaction_number == -1 else compaction_number
        if not 1 <= index <= count:
            return _dumps({"error": f"there is no summary {compaction_number}, but {count}"})
        return _dumps(self._summaries[index - 1])


def _logged_plan(entry: Mapping[str, Any], messages: list[ChatMessage]) -> CompactionPlan:
    """What a logged compaction has replaced of these messages.

    Other programs' logs may tell only how many were summarised, in `messages_compacted`. Which of
    the rest stayed follows from the conversation; where it does not, all of them, so that nothing
    is lost.
    """
    counted = int(entry["messages_compacted"])
    if "messages_replayed" in entry:
        return CompactionPlan(counted, int(entry["messages_replayed"]), bool(entry["has_request"]))
    plan = plan_compaction(messages)
    if plan is not None and plan.messages_summarized == counted:
        return plan
    return CompactionPlan(counted, len(messages) - counted)
