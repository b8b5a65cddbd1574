"""What can be served, and how it is found: import paths and the objects behind them.

The server works with import paths only; the object itself is looked up in the worker.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, cast, runtime_checkable

import attrs

from motus.errors import MotusError
from motus.messages import ChatMessage

__all__ = [
    "AgentLoadError",
    "AgentTarget",
    "LoadedAgent",
    "ServableAgent",
    "choose_backend",
    "load_agent",
    "locate_agent",
    "parse_import_path",
]

BACKENDS = ("trio", "asyncio")


@runtime_checkable
class ServableAgent(Protocol):
    """Anything that answers a message and says what to remember; inheritance is not required."""

    async def run_turn(
        self, message: ChatMessage, state: list[ChatMessage]
    ) -> tuple[ChatMessage, list[ChatMessage]]:
        """Answer `message`; `state` is what the last turn returned, an empty list at first."""
        ...


class AgentLoadError(MotusError):
    """There is no agent at that import path. The message is for the operator."""


@attrs.frozen
class AgentTarget:
    """Where a worker finds the agent.

    `search_path` is a directory to import from beside the working directory, for agents that
    were given as objects.
    """

    import_path: str
    search_path: str | None = None


@attrs.frozen
class LoadedAgent:
    """What serves a turn, and the event loop it runs in: "trio" or "asyncio"."""

    call: Callable[..., Any]
    backend: str


def parse_import_path(import_path: str) -> tuple[str, str]:
    """Module and attribute of "package.module:attribute". Raises `AgentLoadError`."""
    module, _, attribute = import_path.partition(":")
    names = [*module.split("."), *attribute.split(".")]
    if not all(name.isidentifier() for name in names):
        raise AgentLoadError(
            f"Invalid import path '{import_path}': expected module:name, such as myapp:agent for "
            "`agent` in myapp.py"
        )
    return module, attribute


def load_agent(import_path: str) -> Callable[..., Any]:
    """The callable that serves a turn: `run_turn` of an object, or the function itself.

    A class is instantiated without arguments. Raises `AgentLoadError` for whatever is wrong,
    also for what cannot take a message and a state, and for an exception that the agent's module
    raises, which is the `__cause__`.
    """
    module_name, attribute = parse_import_path(import_path)
    try:
        found: Any = importlib.import_module(module_name)
    # A module may raise anything, and sys.exit() in one is no reason to stop without a word.
    except (Exception, SystemExit) as error:  # as said above
        raise AgentLoadError(
            f"Could not import module '{module_name}': {_explained(error, module_name, attribute)}"
        ) from error
    for name in attribute.split("."):
        try:
            found = getattr(found, name)
        except AttributeError as error:
            raise AgentLoadError(
                f"Module '{module_name}' has no attribute '{attribute}'" + _nearest(found, name)
            ) from error
    return _servable(found, import_path)


def _explained(error: BaseException, module: str, attribute: str) -> str:
    """What is wrong with a module that cannot be imported."""
    if not isinstance(error, ImportError):
        return f"{type(error).__name__}: {error}"
    if isinstance(error, ModuleNotFoundError) and module.endswith(".py"):
        return f"leave out '.py': {module.removesuffix('.py')}:{attribute}"
    if isinstance(error, ModuleNotFoundError) and error.name == module.partition(".")[0]:
        return f"{error} in the current directory or on PYTHONPATH"
    return str(error)


def _nearest(found: object, name: str) -> str:
    """The name that may be meant, as the end of a sentence; nothing if none is like it."""
    from difflib import get_close_matches  # for those who have mistyped only

    near = get_close_matches(name, dir(found), 1)
    return f": did you mean '{near[0]}'?" if near else ""


def _servable(found: Any, import_path: str) -> Callable[..., Any]:
    if isinstance(found, type) and (hasattr(found, "run_turn") or "__call__" in vars(found)):
        try:
            found = found()
        except Exception as error:  # the agent's own code, which may raise anything
            raise AgentLoadError(
                f"Could not create '{import_path}': {type(error).__name__}: {error}"
            ) from error
    if isinstance(found, ServableAgent):
        # The result may be anything that can be called or awaited: it is checked at the turn.
        return _taking_turns(cast(Callable[..., Any], found.run_turn), import_path)
    if callable(found) and not isinstance(found, type):
        return _taking_turns(cast(Callable[..., Any], found), import_path)
    raise AgentLoadError(f"'{import_path}' is not a ServableAgent, OpenAI Agent, or callable")


def _taking_turns(call: Callable[..., Any], import_path: str) -> Callable[..., Any]:
    """The same callable, if it can be called with a message and a state, as far as one can see."""
    try:
        signature = inspect.signature(call)
    except (TypeError, ValueError):
        return call  # not everything that can be called says how
    try:
        signature.bind("message", "state")
    except TypeError as error:
        raise AgentLoadError(
            f"'{import_path}' takes no message and state ({error}); is it a factory? Serve what it "
            "returns"
        ) from None
    return call


def choose_backend(agent: Callable[..., Any], setting: str | None, variable: str | None) -> str:
    """The event loop for an agent: "trio" or "asyncio".

    The operator's setting goes first, then the attribute `motus_backend` of the agent or of the
    object whose `run_turn` it is, then the value of MOTUS_BACKEND, then trio. Raises
    `AgentLoadError` for another name.
    """
    own = getattr(agent, "motus_backend", None)
    if own is None:
        own = getattr(getattr(agent, "__self__", None), "motus_backend", None)
    for source, name in (
        ("The setting of the backend", setting),
        ("The agent's motus_backend", own),
        ("MOTUS_BACKEND", variable or None),
    ):
        if name in BACKENDS:
            return str(name)
        if name is not None:
            raise AgentLoadError(f"{source} must be 'trio' or 'asyncio', not {name!r:.40}")
    return BACKENDS[0]


def locate_agent(agent: object) -> AgentTarget:
    """Where a worker finds this import path, function, class or object.

    Raises `ValueError` for what no other process could import, and for an import path that is
    not one.
    """
    if isinstance(agent, str):
        try:
            parse_import_path(agent)
        except AgentLoadError as error:
            raise ValueError(str(error)) from error
        return AgentTarget(agent)
    module, name = _find(agent)
    module_name = _importable_name(module)
    path, root = _file_of(module), None
    if path is not None:
        file = Path(path).resolve()
        depth = module_name.count(".") + (1 if file.name == "__init__.py" else 0)
        root = str(file.parents[depth])
    return AgentTarget(f"{module_name}:{name}", root)


def _find(agent: object) -> tuple[ModuleType, str]:
    """The module, and the name in it, under which the object is found again."""
    described = getattr(agent, "__qualname__", None) or f"an object of {type(agent).__qualname__}"
    if not callable(agent) and not hasattr(agent, "run_turn"):
        # Something like None is in many modules.
        raise ValueError(f"Agent function must be a module-level function, got {described}")
    if inspect.isroutine(agent) or isinstance(agent, type):
        qualified = getattr(agent, "__qualname__", "")
        module = sys.modules.get(getattr(agent, "__module__", None) or "")
        if module is not None and vars(module).get(qualified) is agent:
            return module, qualified
    # The script that is being run comes first: it is where most agents are made. Only exact
    # module objects are looked into: some packages put lazy ones there, that import on a look.
    for module in [sys.modules.get("__main__"), *list(sys.modules.values())]:
        if type(module) is not ModuleType:
            continue
        for name, value in list(vars(module).items()):
            if value is agent and name.isidentifier():
                return module, name
    raise ValueError(f"Agent function must be a module-level function, got {described}")


def _importable_name(module: ModuleType) -> str:
    if module.__name__ != "__main__":
        return module.__name__
    if module.__spec__ is not None:
        return module.__spec__.name
    path = _file_of(module)
    if path is None:
        raise ValueError(
            "Agent function must be a module-level function, got one of an interactive session"
        )
    return Path(path).stem


def _file_of(module: ModuleType) -> str | None:
    """Its file; built-in modules and what is typed in have none, nor the attribute."""
    return getattr(module, "__file__", None)
