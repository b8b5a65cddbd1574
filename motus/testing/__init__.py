"""Testing agents without a server and without a network."""

from __future__ import annotations

from motus.models.requests import ModelRequest
from motus.testing.errors import (
    RealModelCallError,
    ReplayMissError,
    ScriptExhaustedError,
    UnforeseenError,
)
from motus.testing.guard import forbid_model_calls
from motus.testing.interrupts import AskedInterrupts, answer_interrupts
from motus.testing.recorded import RecordingClient, ReplayingClient
from motus.testing.scripted import ScriptedClient, call

__all__ = [
    "AskedInterrupts",
    "ModelRequest",
    "RealModelCallError",
    "RecordingClient",
    "ReplayMissError",
    "ReplayingClient",
    "ScriptExhaustedError",
    "ScriptedClient",
    "UnforeseenError",
    "answer_interrupts",
    "call",
    "forbid_model_calls",
]
