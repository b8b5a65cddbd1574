"""Noticing that imported files change, without looking again and again. Linux only."""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from pathlib import Path

__all__ = ["SourceWatch"]

# <sys/inotify.h>
IN_CLOSE_WRITE = 0x8
IN_MOVED = 0xC0
IN_CREATE = 0x100
IN_DELETE = 0x200
WATCHED = IN_CLOSE_WRITE | IN_MOVED | IN_CREATE | IN_DELETE
EVENT = struct.Struct("iIII")
READ_BYTES = 1 << 16
FOREIGN = ("site-packages", "dist-packages")


class SourceWatch:
    """Watches the folders from which modules were imported, but not those of installed packages.

    Folders, because most editors replace a file instead of writing to it. `beside` is one more,
    for a process that has imported nothing.
    """

    def __init__(self, beside: str | None = None) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.descriptor: int = self._libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        if self.descriptor < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        for folder in _folders() | ({Path(beside)} if beside is not None else set()):
            # A folder that is gone again is no reason not to watch the others.
            self._libc.inotify_add_watch(self.descriptor, os.fsencode(folder), WATCHED)

    def changed(self) -> bool:
        """Whether what has happened since the last call concerns Python's files."""
        found = False
        while True:
            try:
                data = os.read(self.descriptor, READ_BYTES)
            except BlockingIOError:
                return found
            found = found or any(name.endswith(b".py") for name in _names(data))


def _names(data: bytes) -> list[bytes]:
    names = []
    offset = 0
    while offset < len(data):
        _, _, _, length = EVENT.unpack_from(data, offset)
        offset += EVENT.size + length
        names.append(data[offset - length : offset].rstrip(b"\0"))
    return names


def _folders() -> set[Path]:
    library = Path(os.__file__).parent
    found = {Path.cwd()}
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if isinstance(file, str) and file.endswith(".py"):
            folder = Path(file).resolve().parent
            if library not in (folder, *folder.parents) and not set(FOREIGN) & set(folder.parts):
                found.add(folder)
    return found
