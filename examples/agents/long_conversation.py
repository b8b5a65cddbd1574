"""A conversation longer than its limit: the beginning becomes a summary, and can be looked up."""

from __future__ import annotations

import tempfile
from typing import Any

import anyio

from examples.agents.model import real_model
from motus.agent import ReActAgent
from motus.memory import CompactionMemory, CompactionMemoryConfig
from motus.models import BaseChatClient

CHAPTERS = ["a lighthouse", "a storm", "a stranger", "a letter", "the morning after"]


def report(stats: dict[str, Any]) -> None:
    print(f"[{stats['messages_compacted']} messages became {stats['summary_tokens']} tokens]")


async def main(client: BaseChatClient, model: str) -> None:
    with tempfile.TemporaryDirectory() as logs:
        memory = CompactionMemory(
            config=CompactionMemoryConfig(token_threshold=600, log_base_path=logs),
            on_compact=report,
        )
        narrator = ReActAgent(
            client, model, memory=memory, system_prompt="Tell a story, 150 words at a time."
        )
        for chapter in CHAPTERS:
            await narrator(f"Go on with {chapter}.")
            print(chapter, narrator.context_window_usage["percent"])
        # The agent has a tool that searches the log for what the summary left out.
        print(await narrator("What did we first call the lighthouse? Look it up."))
        restored = CompactionMemory.restore_from_log(memory.session_id, log_base_path=logs)
        print(len(restored.messages) == len(memory.messages))


if __name__ == "__main__":
    anyio.run(main, *real_model(), backend="trio")
