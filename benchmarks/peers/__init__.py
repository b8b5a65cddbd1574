"""Other libraries that run graphs of tasks, each measured from an environment of its own."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

__all__ = ["BOTH", "OURS", "PEERS", "SHAPES", "SYNC", "Peer"]

SHAPES: Final = ("chain", "fan", "tree")
SYNC: Final = ("sync",)
BOTH: Final = ("sync", "async")


@dataclass(frozen=True)
class Peer:
    """What is installed, how it is used, and how much it is given to do."""

    label: str
    # What pip installs; nothing for Motus itself, which runs in the benchmark's environment.
    requirements: tuple[str, ...]
    packages: tuple[str, ...]
    # So many that a round takes a few seconds.
    nodes: int
    callers: tuple[str, ...]
    how: str
    # A version of Python other than the benchmark's own.
    python: str | None = None
    # Peers that share a requirement share an environment.
    environment: str = ""
    variables: dict[str, str] = field(default_factory=dict)
    # It listens on every interface: it runs in a network of its own, or not at all.
    listens: bool = False


OURS: Final = Peer("Motus", (), ("motus-agents",), 20_000, BOTH, "background trio; asyncio")

PEERS: Final[dict[str, Peer]] = {
    "original": Peer(
        "the original Motus",
        ("lithosai-motus",),
        ("lithosai-motus",),
        4000,
        BOTH,
        "async bodies, tracing off",
        python="3.12",
        # It logs every step of every task unless it is told not to.
        variables={"MOTUS_LOG_LEVEL": "WARNING", "MOTUS_COLLECTION_LEVEL": "disabled"},
    ),
    "dask_threaded": Peer(
        "dask, threaded",
        ("dask[distributed]",),
        ("dask",),
        4000,
        SYNC,
        "`delayed`, scheduler of threads",
        environment="dask",
    ),
    "dask_distributed": Peer(
        "dask distributed",
        ("dask[distributed]",),
        ("distributed",),
        400,
        BOTH,
        "in process, 2 threads",
        environment="dask",
    ),
    "ray": Peer(
        "Ray",
        ("ray",),
        ("ray",),
        1000,
        BOTH,
        "2 worker processes",
        variables={
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_DISABLE_MEMORY_MONITOR": "1",
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        },
        listens=True,
    ),
    "parsl": Peer("Parsl", ("parsl",), ("parsl",), 4000, SYNC, "executor of 2 threads"),
    "langgraph": Peer(
        "LangGraph, functional",
        ("langgraph",),
        ("langgraph",),
        2000,
        BOTH,
        "waits for each value",
        variables={"LANGSMITH_TRACING": "false", "LANGCHAIN_TRACING_V2": "false"},
    ),
    "prefect": Peer(
        "Prefect",
        # Newer versions of FastAPI, which it admits, end its server with a TypeError.
        ("prefect", "fastapi<0.150"),
        ("prefect",),
        60,
        SYNC,
        "thread-pool task runner, own server",
        variables={
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_LOGGING_LEVEL": "WARNING",
            "PREFECT_LOGGING_TO_API_ENABLED": "false",
        },
    ),
}
