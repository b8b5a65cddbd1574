"""Testing agents without a server and without a network."""

from __future__ import annotations

from motus.testing.interrupts import AskedInterrupts, answer_interrupts

__all__ = ["AskedInterrupts", "answer_interrupts"]
