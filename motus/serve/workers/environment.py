"""Which of the server's environment variables its workers see."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

__all__ = ["SERVER_SECRETS", "worker_environment"]

# Whatever else is asked for: with these, an agent could act as the server, or for its operator.
SERVER_SECRETS = frozenset({"MOTUS_AUTH_TOKEN", "MOTUS_WEBHOOK_SECRET"})

# What programs need to find their way about, and what agents need to reach models and tools.
_ALLOWED = re.compile(
    r"""
    PATH | HOME | USER | LOGNAME | SHELL | LANG | LANGUAGE | LC_\w+ | TZ | TERM | HOSTNAME
    | TMPDIR | TEMP | TMP | XDG_\w+ | LD_LIBRARY_PATH | VIRTUAL_ENV | CONDA_\w+ | PYTHON\w+
    | (?i: (http | https | all | no)_proxy)
    | SSL_CERT_(FILE | DIR) | REQUESTS_CA_BUNDLE | CURL_CA_BUNDLE | NODE_EXTRA_CA_CERTS
    | \w+_API_(KEY | BASE | URL | TYPE | VERSION) | \w+_BASE_URL
    | (OPENAI | ANTHROPIC | GOOGLE | GEMINI | AZURE | AWS | OTEL | HF | HUGGINGFACE | OLLAMA)_\w+
    | (OMP | MKL | OPENBLAS | NUMEXPR)_NUM_THREADS | CUDA_\w+ | MALLOC_\w+
    | MOTUS_\w+
    """,
    re.VERBOSE,
)


def worker_environment(
    environment: Mapping[str, str], extra: Collection[str] = ()
) -> dict[str, str]:
    """The variables of `environment` that a worker gets: an allow-list, and those named `extra`."""
    return {
        name: value
        for name, value in environment.items()
        if (name in extra or _ALLOWED.fullmatch(name)) and name not in SERVER_SECRETS
    }
