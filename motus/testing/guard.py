"""No test talks to a real model by mistake."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, NoReturn

from motus.models.remote import RemoteChatClient
from motus.testing.errors import RealModelCallError

__all__ = ["forbid_model_calls"]

_CALLS: Final = ("create", "parse", "stream")


@contextmanager
def forbid_model_calls() -> Iterator[None]:
    """While the block runs, calls of the providers' clients raise `RealModelCallError`.

    In the whole process, whatever thread or event loop they come from. Scripted and recorded
    clients work, and so do clients of your own. For all tests, in a `conftest.py`::

        @pytest.fixture(autouse=True)
        def no_real_models():
            with forbid_model_calls():
                yield
    """
    replaced: list[tuple[type[Any], str, Any]] = []
    for client in _family(RemoteChatClient):
        for name in _CALLS:
            # What the others inherit, they inherit from here.
            if name in vars(client) or client is RemoteChatClient:
                replaced.append((client, name, vars(client).get(name)))
                setattr(client, name, _refusal(name))
    try:
        yield
    finally:
        for client, name, method in reversed(replaced):
            if method is None:
                delattr(client, name)
            else:
                setattr(client, name, method)


def _family(client: type[Any]) -> list[type[Any]]:
    return [client, *(one for below in client.__subclasses__() for one in _family(below))]


def _refusal(name: str) -> Callable[..., NoReturn]:
    def refuse(self: object, model: str = "?", *args: Any, **kwargs: Any) -> NoReturn:
        raise RealModelCallError(
            f"{type(self).__name__}.{name}() of model {model!r} in a block that forbids real model "
            "calls: use motus.testing.ScriptedClient, or a recording"
        )

    return refuse
