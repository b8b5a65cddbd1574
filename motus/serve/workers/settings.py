"""How the workers of a server are made, in the form in which a new process is told."""

from __future__ import annotations

from typing import Literal

import attrs
from cattrs import Converter

from motus.messages import make_converter
from motus.serve.strict_json import decode_json, encode_json

__all__ = ["Backend", "Mode", "WorkerSettings"]

Mode = Literal["auto", "fork", "exec"]
Backend = Literal["trio", "asyncio"]


@attrs.frozen(kw_only=True)
class WorkerSettings:
    """Which agent a worker serves, and within which limits.

    `memory` is in MiB of address space, `cpu` in seconds, `files` a number of descriptors; 0 means
    no limit. `backend` is the operator's word, which goes before the agent's own.
    """

    import_path: str
    search_path: str | None = None
    mode: Mode = "auto"
    backend: Backend | None = None
    reload: bool = False
    memory: int = 0
    cpu: int = 0
    files: int = 0

    def to_argument(self) -> str:
        """As one argument of a command line. There is nothing secret in it."""
        return encode_json(_converter().unstructure(self)).decode()

    @classmethod
    def from_argument(cls, argument: str) -> WorkerSettings:
        """The inverse of `to_argument`. Raises `ProtocolError` or cattrs' errors: a bug of ours."""
        return _converter().structure(decode_json(argument.encode()), cls)


def _converter() -> Converter:
    return make_converter(forbid_extra_keys=True)
