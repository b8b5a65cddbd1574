"""What needs no provider: options, prices, pictures, usage, errors, and clients being made."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

import motus.models
from motus.models import (
    AnthropicChatClient,
    CachePolicy,
    FunctionCall,
    GeminiChatClient,
    ModelAuthenticationError,
    ModelRateLimitError,
    OpenAIChatClient,
    OpenRouterChatClient,
    ReasoningConfig,
    ToolCall,
)
from motus.models.options import cache_control, thinks_adaptively
from motus.models.pricing import context_window, cost
from motus.models.remote import retry_after_seconds
from motus.models.wire import decoded_arguments, make_usage, split_image


def test_reasoning_config() -> None:
    assert ReasoningConfig() == ReasoningConfig.auto() == ReasoningConfig(True, None, None)
    assert ReasoningConfig.disabled() == ReasoningConfig(enabled=False)
    assert ReasoningConfig.light() == ReasoningConfig(effort="low")
    wrong: list[dict[str, Any]] = [
        {"effort": "much"}, {"budget_tokens": 0}, {"budget_tokens": True}, {"budget_tokens": "9"}
    ]  # fmt: skip
    for options in wrong:
        with pytest.raises(ValueError, match=r"Invalid (effort|budget_tokens)"):
            ReasoningConfig(**options)


def test_cache_policy() -> None:
    assert [policy.value for policy in CachePolicy] == ["none", "static", "auto", "auto_1h"]
    assert CachePolicy("auto_1h") is CachePolicy.AUTO_1H
    assert f"{CachePolicy.AUTO}" == "auto"
    assert [cache_control(policy) for policy in CachePolicy] == [
        None,
        {"type": "ephemeral"},
        {"type": "ephemeral"},
        {"type": "ephemeral", "ttl": "1h"},
    ]
    with pytest.raises(
        ValueError, match=r"'often': it must be one of none, static, auto, auto_1h$"
    ):
        CachePolicy("often")


@pytest.mark.parametrize(
    ("model", "adaptive"),
    [
        ("claude-opus-4-7", True),
        ("claude-opus-4-6", True),
        ("claude-opus-4-6-20260205", True),
        ("claude-sonnet-4-6", True),
        ("us.anthropic.claude-opus-4-6-v1:0", True),
        ("anthropic/claude-sonnet-4.6", True),
        ("claude-opus-5", True),
        ("claude-opus-4-5-20251101", False),
        ("claude-sonnet-4-20250514", False),
        ("claude-3-7-sonnet-20250219", False),
        ("gpt-5", False),
    ],
)
def test_which_models_think_adaptively(model: str, adaptive: bool) -> None:
    assert thinks_adaptively(model) is adaptive


USAGE = make_usage(1_000_000, 100_000, cache_read=2_000_000, cache_creation=500_000)


def test_usage() -> None:
    assert USAGE["total_tokens"] == 3_600_000
    assert "cache_creation_1h_input_tokens" not in USAGE
    assert make_usage(None, None)["total_tokens"] == 0


def test_cost() -> None:
    # By the prices of the package, in dollars for a million tokens: 5, 25, 0.5 and 6.25.
    assert cost("claude-opus-4-6", USAGE) == 5 + 2.5 + 1 + 3.125
    assert cost("claude-opus-4-6", USAGE, "anthropic") == 11.625
    assert cost("claude-opus-4-6", {}) == 0
    an_hour = {**USAGE, "cache_creation_1h_input_tokens": 500_000}
    assert cost("claude-opus-4-6", an_hour) == 11.625 + 0.5 * (10 - 6.25)
    assert cost("anthropic/claude-opus-4.6", USAGE, "openrouter") is not None
    assert cost("gemini-2.5-flash", USAGE, "gemini") is not None


@pytest.mark.parametrize(
    "names", [("input_tokens", "output_tokens"), ("prompt_tokens", "completion_tokens")]
)
def test_a_client_of_ones_own_may_count_under_either_name(names: tuple[str, str]) -> None:
    usage = {name: USAGE[name] for name in names}
    assert cost("claude-opus-4-6", usage) == 5 + 2.5


def test_an_unknown_model_has_no_price() -> None:
    for provider in (None, "openai", "nobody"):
        assert cost("our-own-model", USAGE, provider) is None
        assert context_window("our-own-model", provider) is None
    assert cost("local/model", USAGE) is None
    assert context_window("claude-opus-4-6", "anthropic") == 1_000_000


def test_without_the_package_there_are_no_prices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "genai_prices.data_snapshot", None)
    assert cost("gpt-4o", USAGE) is None
    assert context_window("gpt-4o") is None


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ("iVBORw0KGgoAAA", ("image/png", "iVBORw0KGgoAAA")),
        ("/9j/4AAQ", ("image/jpeg", "/9j/4AAQ")),
        ("R0lGODlh", ("image/gif", "R0lGODlh")),
        ("UklGRg==", ("image/webp", "UklGRg==")),
        ("AAAA", ("image/png", "AAAA")),
        ("data:image/svg+xml;base64,AAAA", ("image/svg+xml", "AAAA")),
    ],
)
def test_pictures(image: str, expected: tuple[str, str]) -> None:
    assert split_image(image) == expected


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [('{"a": 1}', {"a": 1}), ("", {}), ("[1]", {"arguments": "[1]"}), ("{", {"arguments": "{"})],
)
def test_arguments_are_an_object(arguments: str, expected: dict[str, Any]) -> None:
    assert decoded_arguments(ToolCall("c1", FunctionCall("add", arguments))) == expected


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({"retry-after": "3"}, 3),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "3", "retry-after-ms": "2500"}, 2.5),
        (
            {
                "date": "Fri, 20 Nov 2026 18:00:00 GMT",
                "retry-after": "Fri, 20 Nov 2026 18:01:30 GMT",
            },
            90,
        ),
    ],
)
def test_retry_after(headers: dict[str, str], expected: float | None) -> None:
    assert retry_after_seconds(headers) == expected


CLIENTS: list[tuple[Any, str, str]] = [
    (OpenAIChatClient, "openai", "OPENAI_API_KEY"),
    (OpenRouterChatClient, "openai", "OPENROUTER_API_KEY"),
    (AnthropicChatClient, "anthropic", "ANTHROPIC_API_KEY"),
    (GeminiChatClient, "google.genai", "GEMINI_API_KEY"),
]


@pytest.mark.parametrize(("make", "sdk", "variable"), CLIENTS)
def test_a_client_without_its_sdk(
    make: Any, sdk: str, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, sdk, None)
    # `from google import genai` looks here first.
    monkeypatch.delattr("google.genai", raising=False)
    wanted = r"needs the package .*pip install 'motus-agents\[(\w+)\]', .*pip install '\.\[\1\]'"
    with pytest.raises(ImportError, match=wanted):
        make("a-key")


@pytest.mark.parametrize(("make", "sdk", "variable"), CLIENTS)
def test_a_client_without_a_key(make: Any, sdk: str, variable: str) -> None:
    with pytest.raises(ModelAuthenticationError, match=f"pass api_key=, or set {variable}"):
        make()


@pytest.mark.parametrize(("make", "sdk", "variable"), CLIENTS)
def test_a_client_does_not_show_its_key(
    make: Any, sdk: str, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "sk-planted-secret")
    client = make()
    assert "planted" not in f"{client!r}{client!s}"


@pytest.mark.realtime
def test_no_sdk_is_loaded_before_a_client_is_made() -> None:
    program = """
import sys
from motus.models import (
    AnthropicChatClient, GeminiChatClient, OpenAIChatClient, OpenRouterChatClient
)
loaded = {name.split(".")[0] for name in sys.modules}
assert not loaded & {"openai", "anthropic", "google", "httpx2", "genai_prices"}
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_credentials_on_the_machine_that_cannot_be_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    monkeypatch.setenv("ANTHROPIC_CONFIG_DIR", str(tmp_path))
    with pytest.raises(ModelAuthenticationError, match="anthropic: "):
        AnthropicChatClient()


def test_the_error_keeps_what_the_provider_said() -> None:
    error = ModelRateLimitError("slow", provider="openai", status=429, retry_after=3)
    assert (error.provider, error.status, error.retry_after, str(error)) == (
        "openai", 429, 3, "slow"
    )  # fmt: skip


def test_everything_that_is_exported_is_there() -> None:
    for name in motus.models.__all__:
        assert getattr(motus.models, name) is not None
    assert motus.models.VolcEngineChatClient is None
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        _ = motus.models.Nonsense
