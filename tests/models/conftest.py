"""No test sees a key or an address of the machine that it runs on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import pytest

VARIABLES = [
    f"{provider}_{what}"
    for provider in ("OPENAI", "OPENROUTER", "ANTHROPIC", "GEMINI", "GOOGLE")
    for what in ("API_KEY", "BASE_URL", "AUTH_TOKEN", "ADMIN_KEY", "ORG_ID", "PROJECT_ID")
]
PROXIES = ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"]
OTHERS = [
    "ANTHROPIC_PROFILE",
    "ANTHROPIC_CONFIG_DIR",
    "XDG_CONFIG_HOME",
    "GOOGLE_CLOUD_PROJECT",
    "GOOGLE_CLOUD_LOCATION",
]


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    for name in [*VARIABLES, *PROXIES, *(name.lower() for name in PROXIES), *OTHERS]:
        monkeypatch.delenv(name, raising=False)
    # Where the SDKs look for credentials.
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def anyio_backend(anyio_backend: tuple[str, Mapping[str, Any]]) -> tuple[str, Mapping[str, Any]]:
    """The SDKs ask for the platform's name on a thread, which virtual time knows nothing of."""
    name, options = anyio_backend
    loop = options.get("loop_factory")
    if loop is None:
        return anyio_backend

    class WithoutThreads(loop):  # type: ignore[misc, valid-type]  # a class, known at run time
        def run_in_executor(
            self, executor: object, function: Callable[..., Any], *args: Any
        ) -> asyncio.Future[Any]:
            future: asyncio.Future[Any] = self.create_future()
            future.set_result(function(*args))
            return future

    return name, {"loop_factory": WithoutThreads}
