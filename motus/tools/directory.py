"""Files in a directory, and no others; of the standard library alone.

Paths come from a model, which may have been told what to ask for by what it has read. Below a root,
every component is opened from the one above it, without following links, so that nothing can be
swapped in between; `..` and links are refused rather than resolved. Without a root every path is
open, but for what is no plain file.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

__all__ = ["MAX_FILE_BYTES", "Directory", "check_size"]

# Of a file that is read, written or edited.
MAX_FILE_BYTES: Final = 16 * 1024 * 1024
# What looks like a file below these is a device, or the memory of a process.
_KERNEL: Final = (("dev",), ("proc",), ("sys",))
# What the system takes as one path, in bytes.
_MAX_PATH: Final = 4096
# To pass through, not to list; where the system knows the difference.
_FOLDER: Final = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC


class Directory:
    """Access to the files below `root`; to all files, relative to the current directory, if None.

    Everything raises `OSError` or `ValueError` whose message names the path and the reason, for
    the model to read. Safe from any thread; changes are made one after the other.
    """

    def __init__(self, root: str | os.PathLike[str] | None = None) -> None:
        self.root: str | None = None
        self._names: tuple[str, ...] = ()
        if root is not None:
            # Links in the root itself are the choice of whoever named it.
            real = Path(root).resolve(strict=True)
            if not real.is_dir():
                raise NotADirectoryError(f"{root} is no directory")
            self.root = str(real)
            self._names = (self.root, str(Path(root).absolute()))
        self._changing = threading.Lock()

    @property
    def home(self) -> str:
        """What relative paths begin at."""
        return self.root or str(Path.cwd())

    def read(self, path: str) -> bytes:
        """The whole file, of at most `MAX_FILE_BYTES`."""
        with self._parent(path) as (folder, name):
            return _read(folder, name, path)

    def write(self, path: str, data: bytes) -> None:
        """Replace or create the file, all of it or nothing; missing directories are made."""
        check_size(len(data))
        with self._changing, self._parent(path, make=True) as (folder, name):
            _replace(folder, name, path, data)

    def edit(self, path: str, change: Callable[[bytes], bytes]) -> None:
        """Replace the file with what `change` makes of it; nothing happens if that raises."""
        with self._changing, self._parent(path) as (folder, name):
            _replace(folder, name, path, change(_read(folder, name, path)))

    @contextmanager
    def opened(self, path: str) -> Iterator[tuple[int, str]]:
        """A descriptor to read a file or a directory by, and the absolute path."""
        with self._parent(path) as (folder, name):
            if stat.S_ISDIR(_status(folder, name, path).st_mode):
                descriptor = _open(folder, name, path, os.O_RDONLY | os.O_DIRECTORY)
            else:
                descriptor = _open_file(folder, name, path)
        try:
            start, parts = self._parts(path)
            yield descriptor, str(Path(start, *parts))
        finally:
            os.close(descriptor)

    @contextmanager
    def _parent(self, path: str, make: bool = False) -> Iterator[tuple[int, str]]:
        """The open directory that the path's last name is in, and that name."""
        start, parts = self._parts(path)
        folder = os.open(start, _FOLDER)
        try:
            for part in parts[:-1]:
                inner = _open_folder(folder, part, path, make)
                os.close(folder)
                folder = inner
            yield folder, parts[-1] if parts else "."
        finally:
            os.close(folder)

    def _parts(self, path: str) -> tuple[str, list[str]]:
        """Where to begin, and the names on the way from there."""
        if not path or "\0" in path:
            raise ValueError(f"{path!r} is no path")
        _check_length(path, path)
        if self.root is None:
            # Nothing is out of bounds, so links may lead anywhere; what counts is where.
            start, inside = "/", os.path.realpath(path)[1:]
        else:
            start, inside = self.root, path
            for root in self._names:
                if (path + "/").startswith(root.rstrip("/") + "/"):
                    inside = path[len(root.rstrip("/")) :].lstrip("/")
                    break
        parts = [part for part in inside.split("/") if part not in {"", "."}]
        if inside.startswith("/") or ".." in parts:
            raise PermissionError(f"{path} is outside of {start}: use a path below it")
        whole = Path(start, *parts)
        if whole.parts[1:2] in _KERNEL:
            raise PermissionError(f"{path} is not a regular file")
        _check_length(str(whole), path)
        return start, parts


def _check_length(whole: str, path: str) -> None:
    # Name by name one gets deeper than that, to where no other program can follow.
    if len(os.fsencode(whole)) >= _MAX_PATH:
        raise ValueError(f"{path[:80]}... is too long: a path has less than {_MAX_PATH} bytes")


def _open_folder(folder: int, name: str, path: str, make: bool) -> int:
    flags = _FOLDER | os.O_NOFOLLOW
    try:
        try:
            return os.open(name, flags, dir_fd=folder)
        except FileNotFoundError:
            if not make:
                raise
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, dir_fd=folder)
            return os.open(name, flags, dir_fd=folder)
    except OSError as error:
        raise _explained(error, folder, name, path) from None


def _status(folder: int, name: str, path: str) -> os.stat_result:
    try:
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except OSError as error:
        raise _explained(error, folder, name, path) from None
    if stat.S_ISLNK(found.st_mode):
        raise PermissionError(f"{path} is a symbolic link, which is not followed")
    return found


def _regular(folder: int, name: str, path: str) -> os.stat_result:
    found = _status(folder, name, path)
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(f"{path} is a directory")
    if not stat.S_ISREG(found.st_mode):
        raise PermissionError(f"{path} is not a regular file")
    return found


def _explained(error: OSError, folder: int, name: str, path: str) -> OSError:
    """The error with the whole path in it; its number alone says nothing of links."""
    with contextlib.suppress(OSError):
        if stat.S_ISLNK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
            return PermissionError(f"{path}: {name} is a symbolic link, which is not followed")
    return type(error)(f"{path}: {error.strerror}")


def _open(folder: int, name: str, path: str, flags: int) -> int:
    try:
        return os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    except OSError as error:
        raise _explained(error, folder, name, path) from None


def _open_file(folder: int, name: str, path: str) -> int:
    # Asked before it is opened, because opening some devices does something.
    _regular(folder, name, path)
    descriptor = _open(folder, name, path, os.O_RDONLY | os.O_NONBLOCK)
    # And after it, because it may be another one by now.
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise PermissionError(f"{path} is not a regular file")
    return descriptor


def _read(folder: int, name: str, path: str) -> bytes:
    with os.fdopen(_open_file(folder, name, path), "rb") as file:
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise ValueError(f"{path} is larger than {MAX_FILE_BYTES} bytes: look at parts of it")
    return data


def check_size(size: int) -> None:
    """Raises `ValueError` if that many bytes are too many for one file."""
    if size > MAX_FILE_BYTES:
        raise ValueError(f"{size} bytes are more than {MAX_FILE_BYTES}: write less at once")


def _replace(folder: int, name: str, path: str, data: bytes) -> None:
    # None is for the umask to say.
    mode: int | None = None
    with contextlib.suppress(FileNotFoundError):
        mode = stat.S_IMODE(_regular(folder, name, path).st_mode)
        if not os.access(name, os.W_OK, dir_fd=folder):
            raise PermissionError(f"{path} is read-only")
    # Of a length that any directory takes, whatever the file is called.
    temporary = f".motus-{secrets.token_hex(8)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(temporary, flags, 0o666 if mode is None else mode, dir_fd=folder)
        try:
            with os.fdopen(descriptor, "wb") as file:
                if mode is not None:
                    # Of the file that is replaced, whatever the umask.
                    os.fchmod(descriptor, mode)
                file.write(data)
                file.flush()
                os.fsync(descriptor)
            os.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary, dir_fd=folder)
            raise
    except OSError as error:
        raise _explained(error, folder, name, path) from None
