"""What an agent remembers: everything, or as much as fits into the model's context window."""

from motus.memory.base import BaseMemory
from motus.memory.basic import BasicMemory
from motus.memory.boundary import CompactionPlan, plan_compaction
from motus.memory.compaction import CompactionMemory, CompactionMemoryConfig
from motus.memory.compaction_base import CompactionBase
from motus.memory.log import ConversationLogStore, LocalConversationLogStore
from motus.memory.state import CompactionSessionState, SessionState

__all__ = [
    "BaseMemory",
    "BasicMemory",
    "CompactionBase",
    "CompactionMemory",
    "CompactionMemoryConfig",
    "CompactionPlan",
    "CompactionSessionState",
    "ConversationLogStore",
    "LocalConversationLogStore",
    "SessionState",
    "plan_compaction",
]
