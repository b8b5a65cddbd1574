"""Agents: a model, its tools and a conversation, in a loop that runs until there is an answer."""

from motus.agent.base import AgentBase
from motus.agent.limits import UsageLimitExceeded, UsageLimits
from motus.agent.react import ReActAgent
from motus.agent.tasks import model_serve_task

__all__ = ["AgentBase", "ReActAgent", "UsageLimitExceeded", "UsageLimits", "model_serve_task"]
