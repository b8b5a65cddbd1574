"""What a test's stand-ins raise when they are asked for what the test did not foresee."""

from __future__ import annotations

__all__ = ["RealModelCallError", "ReplayMissError", "ScriptExhaustedError", "UnforeseenError"]


class UnforeseenError(BaseException):
    """Something happened that the test does not provide for.

    No `Exception`: an SDK would try again, and a supervisor would take it for the failure of a
    tool; it is the test that has failed.
    """


class ScriptExhaustedError(UnforeseenError):
    """A scripted model was asked once more than there are replies."""


class ReplayMissError(UnforeseenError):
    """A request that was not recorded, or not so often: record again if it is right."""


class RealModelCallError(UnforeseenError):
    """A model call would have gone to a provider: give the agent a scripted or recorded client."""
