"""Files for a model: what it may touch, and that a failure is an error and changes nothing."""

from __future__ import annotations

import errno
import os
import socket
import stat
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from motus.tools import directory as directory_module
from motus.tools.builtins.files import FileTools
from motus.tools.directory import Directory


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A directory with a secret beside it."""
    (tmp_path / "secret.txt").write_text("secret")
    inside = tmp_path / "root"
    (inside / "sub").mkdir(parents=True)
    (inside / "a.txt").write_text("one\ntwo\n")
    (inside / "sub" / "b.txt").write_text("b")
    return inside


@pytest.fixture
def tools(root: Path) -> FileTools:
    return FileTools(Directory(root))


def everything(root: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(root)): path.read_bytes() if path.is_file() else None
        for path in sorted(root.parent.rglob("*"), key=str)
        if path.is_relative_to(root)
    }


@pytest.fixture
def unchanged(root: Path) -> Iterator[None]:
    """The test changes nothing, in the root or beside it, and leaves no temporary files."""
    before = everything(root.parent)
    yield
    assert everything(root.parent) == before


# ---------------------------------------------------------------------- reading


def test_lines_come_with_their_numbers(tools: FileTools, root: Path) -> None:
    expected = "     1\tone\n     2\ttwo"
    assert tools.read_file("a.txt") == expected
    assert tools.read_file("./a.txt") == expected
    assert tools.read_file(str(root / "a.txt")) == expected
    assert tools.read_file("sub//b.txt") == "     1\tb"
    (root / "empty").touch()
    assert tools.read_file("empty") == "[the file is empty]"


def test_lines_end_where_searches_count_them(tools: FileTools, root: Path) -> None:
    (root / "odd").write_bytes("a\x0cb\u2028c\r\nd\n\n".encode())
    assert tools.read_file("odd") == "     1\ta\x0cb\u2028c\n     2\td\n     3\t"
    (root / "blank").write_text("\n")
    assert tools.read_file("blank") == "     1\t"


def test_long_files_are_read_in_parts(tools: FileTools, root: Path) -> None:
    (root / "long").write_text("".join(f"line {n}\n" for n in range(1, 5001)))
    lines = tools.read_file("long").split("\n")
    assert (len(lines), lines[1999]) == (2001, "  2000\tline 2000")
    assert lines[-1] == "[3000 more lines: continue with offset=2001]"
    lines = tools.read_file("long", offset=4999, limit=10).split("\n")
    assert lines == ["  4999\tline 4999", "  5000\tline 5000"]
    with pytest.raises(ValueError, match="long has 5000 lines: there is no line 5001"):
        tools.read_file("long", offset=5001)


def test_long_lines_are_cut_and_it_is_said(tools: FileTools, root: Path) -> None:
    (root / "wide").write_text("x" * 2000 + "\n" + "y" * 2001)
    first, second, note = tools.read_file("wide").split("\n")
    assert (len(first), len(second)) == (7 + 2000, 7 + 2000)
    assert note == "[lines of more than 2000 characters are cut]"


def test_a_line_is_cut_where_a_character_ends(tools: FileTools, root: Path) -> None:
    for character in ("x", "\u00e9", "\u5b57", "\U0001f600", "\u5b57x"):
        (root / "wide").write_text(character * 2001)
        line, note = tools.read_file("wide").split("\n")
        assert line == "     1\t" + (character * 2001)[:2000]
        assert note.endswith("are cut]")
    (root / "wide").write_bytes(b"\xff" * 2000 + b"\r\n")
    assert tools.read_file("wide") == "     1\t" + "\ufffd" * 2000


def test_reading_a_part_costs_no_more_than_the_file(
    tools: FileTools, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 256 * 1024
    # As much as this is read at once.
    monkeypatch.setattr(directory_module, "MAX_FILE_BYTES", size)
    (root / "many").write_bytes(b"\n" * size)
    tracemalloc.start()
    try:
        text = tools.read_file("many", offset=size - 1)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert text == f"{size - 1:6d}\t\n{size:6d}\t"
    assert most < 3 * size


def test_what_is_no_text(tools: FileTools, root: Path) -> None:
    (root / "binary").write_bytes(b"\x7fELF\0\0")
    (root / "latin").write_bytes("caf\xe9\n".encode("latin-1"))
    with pytest.raises(ValueError, match="binary is not a text file"):
        tools.read_file("binary")
    assert tools.read_file("latin") == "     1\tcaf\ufffd"
    with pytest.raises(ValueError, match=r"latin is not text in UTF-8 \(byte 3\)"):
        tools.edit_file("latin", "caf", "tea")


def test_large_files_are_refused(
    tools: FileTools, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directory_module, "MAX_FILE_BYTES", 100)
    (root / "large").write_bytes(b"x" * 101)
    before = everything(root)
    with pytest.raises(ValueError, match="large is larger than 100 bytes"):
        tools.read_file("large")
    with pytest.raises(ValueError, match="large is larger than 100 bytes"):
        tools.edit_file("large", "x", "y", replace_all=True)
    with pytest.raises(ValueError, match="101 bytes are more than 100"):
        tools.write_file("new", "y" * 101)
    with pytest.raises(ValueError, match="bytes are more than 100"):
        tools.edit_file("a.txt", "one", "y" * 101)
    assert everything(root) == before


# ---------------------------------------------------------------------- what is out of bounds


OUTSIDE = [
    "../secret.txt",
    "sub/../../secret.txt",
    "sub/..",
    "/etc/passwd",
    "{parent}/secret.txt",
    "{root}/../secret.txt",
    "{root}x/secret.txt",
    "/proc/self/environ",
    "//etc/passwd",
    "link",
    "linked/secret.txt",
    "linked/new.txt",
    "sub/loop",
    "dangling",
    "",
    "a\0b",
    "pipe",
    "socket",
    ".",
    "sub",
    "a.txt/x",
]


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("path", OUTSIDE, ids=range(len(OUTSIDE)))
def test_nothing_outside_of_the_root_is_touched(tools: FileTools, root: Path, path: str) -> None:
    # Made here, so that `unchanged` sees them go with the directory.
    (root / "link").symlink_to(root.parent / "secret.txt")
    (root / "linked").symlink_to(root.parent)
    (root / "dangling").symlink_to(root.parent / "new.txt")
    (root / "sub" / "loop").symlink_to("loop")
    os.mkfifo(root / "pipe")
    listener = socket.socket(socket.AF_UNIX)
    cwd = Path.cwd()
    try:
        os.chdir(root)
        listener.bind("socket")
    finally:
        os.chdir(cwd)
        listener.close()
    path = path.format(root=root, parent=root.parent)
    attempts: list[Callable[[], object]] = [
        lambda: tools.read_file(path),
        lambda: tools.write_file(path, "overwritten"),
        lambda: tools.edit_file(path, "secret", "public"),
    ]
    # To look into, there is nothing wrong with these.
    if path not in {".", "sub"}:
        attempts.append(lambda: Directory(root).opened(path).__enter__())
    for attempt in attempts:
        with pytest.raises((OSError, ValueError)) as caught:
            attempt()
        # For the model: what it asked for, and why not; and nothing of what is there.
        assert str(caught.value)
        assert "secret\n" not in str(caught.value)
    for name in ("link", "linked", "dangling", "sub/loop", "pipe", "socket"):
        (root / name).unlink()


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("../secret.txt", "../secret.txt is outside of {root}: use a path below it"),
        ("/etc/passwd", "/etc/passwd is outside of {root}: use a path below it"),
        ("link", "link is a symbolic link, which is not followed"),
        ("linked/b.txt", "linked/b.txt: linked is a symbolic link, which is not followed"),
        ("nowhere/x", "nowhere/x: No such file or directory"),
        ("a.txt/x", "a.txt/x: Not a directory"),
        ("sub", "sub is a directory"),
        ("pipe", "pipe is not a regular file"),
    ],
)  # fmt: skip
def test_refusals_say_why(tools: FileTools, root: Path, path: str, reason: str) -> None:
    (root / "link").symlink_to("a.txt")
    (root / "linked").symlink_to("sub")
    os.mkfifo(root / "pipe")
    with pytest.raises(OSError) as caught:
        tools.read_file(path)
    assert str(caught.value) == reason.format(root=root)


def test_a_root_may_be_named_by_a_link(root: Path) -> None:
    (root.parent / "named").symlink_to(root)
    tools = FileTools(Directory(root.parent / "named"))
    assert tools.read_file(str(root.parent / "named" / "a.txt")) == tools.read_file("a.txt")
    assert tools.read_file(str(root / "a.txt")) == tools.read_file("a.txt")


def test_a_root_must_be_a_directory(root: Path) -> None:
    with pytest.raises(OSError):
        Directory(root / "nowhere")
    with pytest.raises(NotADirectoryError, match=r"a\.txt is no directory"):
        Directory(root / "a.txt")


def test_without_a_root_links_lead_anywhere_but_devices_stay_closed(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    tools = FileTools(Directory())
    (root / "link").symlink_to(root.parent / "secret.txt")
    (root / "zero").symlink_to("/dev/zero")
    os.mkfifo(root / "pipe")
    assert tools.read_file("link") == "     1\tsecret"
    assert tools.read_file("../secret.txt") == "     1\tsecret"
    assert tools.read_file(str(root / "a.txt")) == tools.read_file("a.txt")
    for path in ("/dev/zero", "zero", "/proc/self/environ", "/sys/kernel/notes", "pipe"):
        with pytest.raises(PermissionError, match="is not a regular file"):
            tools.read_file(path)
        with pytest.raises(PermissionError, match="is not a regular file"):
            tools.write_file(path, "x")
    # What a link leads to is what is written.
    tools.write_file("link", "new")
    assert (root / "link").is_symlink()
    assert (root.parent / "secret.txt").read_text() == "new"
    assert Directory().home == str(root)


def test_even_a_root_of_everything_has_no_devices() -> None:
    tools = FileTools(Directory("/"))
    for path in ("/dev/null", "proc/self/environ", "/sys/kernel/notes"):
        with pytest.raises(PermissionError, match="is not a regular file"):
            tools.read_file(path)


def test_a_file_that_becomes_a_link_while_it_is_opened_is_not_followed(
    tools: FileTools, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between looking and opening, somebody puts a link in the place of the file."""
    real_open = os.open

    def swap_and_open(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        if path == "a.txt":
            (root / "a.txt").unlink()
            (root / "a.txt").symlink_to(root.parent / "secret.txt")
        if path == "sub":
            (root / "sub").rename(root / "old")
            (root / "sub").symlink_to(root.parent)
        return real_open(path, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", swap_and_open)
    for path in ("a.txt", "sub/secret.txt"):
        with pytest.raises(PermissionError, match="is a symbolic link, which is not followed"):
            tools.read_file(path)


# ---------------------------------------------------------------------- writing


def test_files_are_written_whole(tools: FileTools, root: Path) -> None:
    assert tools.write_file("new/deep/c.txt", "é\r\n") == "Wrote 4 bytes to new/deep/c.txt"
    assert (root / "new/deep/c.txt").read_bytes() == "é\r\n".encode()
    assert tools.write_file("a.txt", "") == "Wrote 0 bytes to a.txt"
    assert (root / "a.txt").read_bytes() == b""


def test_names_may_be_as_long_as_the_system_takes(tools: FileTools, root: Path) -> None:
    name = "字" * 85
    tools.write_file(f"{name}/{name}", "x")
    assert (root / name / name).read_text() == "x"


@pytest.mark.usefixtures("unchanged")
def test_a_write_that_is_refused_makes_no_directories(tools: FileTools, root: Path) -> None:
    with pytest.raises(ValueError, match="bytes are more than"):
        tools.write_file("new/deep/c.txt", "x" * (directory_module.MAX_FILE_BYTES + 1))
    # Each of these names is fine, and all of them are more than one path can be.
    for path in ("d/" * 5000 + "f", "x" * 256, "n" * 10_000_000):
        with pytest.raises((OSError, ValueError)) as caught:
            tools.write_file(path, "x")
        assert len(str(caught.value)) < 500


def test_a_replaced_file_keeps_its_mode_and_a_new_one_gets_the_usual(
    tools: FileTools, root: Path
) -> None:
    (root / "a.txt").chmod(0o750)
    tools.write_file("a.txt", "#!")
    tools.write_file("new.txt", "x")
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE((root / "a.txt").stat().st_mode) == 0o750
    (root / "a.txt").chmod(0o666)
    tools.write_file("a.txt", "#!")
    assert stat.S_IMODE((root / "a.txt").stat().st_mode) == 0o666
    assert stat.S_IMODE((root / "new.txt").stat().st_mode) == 0o666 & ~umask


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
def test_a_write_that_fails_says_so_and_leaves_the_old_file(
    tools: FileTools, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def full(*args: Any, **kwargs: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    if step == "write":
        monkeypatch.setattr(os, "fdopen", lambda fd, mode: _Full(fd, full))
    else:
        monkeypatch.setattr(os, step, full)
    attempts: list[Callable[[], object]] = [
        lambda: tools.write_file("a.txt", "new"),
        lambda: tools.write_file("new.txt", "new"),
    ]
    if step != "write":
        attempts.append(lambda: tools.edit_file("a.txt", "one", "new"))
    for attempt in attempts:
        with pytest.raises(OSError, match=r"\.txt: No space left on device"):
            attempt()


class _Full:
    """A file on a full disk."""

    def __init__(self, descriptor: int, write: Any) -> None:
        self._descriptor = descriptor
        self.write = write

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)


@pytest.mark.usefixtures("unchanged")
def test_a_read_only_file_is_not_replaced(
    tools: FileTools, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The tests may run as root, to whom everything is writable.
    monkeypatch.setattr(os, "access", lambda *args, **kwargs: False)
    with pytest.raises(PermissionError, match=r"a\.txt is read-only"):
        tools.write_file("a.txt", "x")


# ---------------------------------------------------------------------- editing


def test_a_text_is_replaced_exactly(tools: FileTools, root: Path) -> None:
    (root / "crlf").write_bytes(b"one\r\ntwo\r\n")
    assert tools.edit_file("crlf", "two", "2") == "Replaced 1 place in crlf"
    assert (root / "crlf").read_bytes() == b"one\r\n2\r\n"
    assert tools.edit_file("crlf", "\r\n", "\n", replace_all=True) == "Replaced 2 places in crlf"
    assert (root / "crlf").read_bytes() == b"one\n2\n"
    # What spans lines is found as it was shown, and the file keeps its kind of line.
    (root / "crlf").write_bytes(b"one\r\ntwo\r\nend\r\n")
    tools.edit_file("crlf", "one\ntwo", "1\n2\n3")
    assert (root / "crlf").read_bytes() == b"1\r\n2\r\n3\r\nend\r\n"
    # No part of it means anything but itself.
    tools.write_file("r", "a.c \\1 abc")
    tools.edit_file("r", "a.c", "\\1")
    assert (root / "r").read_text() == "\\1 \\1 abc"


@pytest.mark.parametrize(
    ("before", "old", "new", "after"),
    [
        # What the model writes itself is not made longer.
        ("a\r\nb\r\n", "a", "x\r\ny", "x\r\ny\r\nb\r\n"),
        ("a\r\nb\r\n", "a\nb", "x\r\ny", "x\r\ny\r\n"),
        # Of both kinds: the lines that are there, and what most are.
        ("a\nb\nc\r\nd\r\ne\r\n", "a\nb\n", "x\ny\n", "x\ny\nc\r\nd\r\ne\r\n"),
        ("a\nb\nc\nd\r\ne\r\n", "d\ne\n", "x\ny\n", "a\nb\nc\nx\r\ny\r\n"),
        ("a\nb\r\nc\r\n", "c", "x\ny", "a\nb\r\nx\r\ny\r\n"),
        ("a\nb\nc\r\n", "c", "x\ny", "a\nb\nx\ny\r\n"),
        # Without a line end at the end, and with a byte order mark.
        ("\ufeffa\nb", "b", "c", "\ufeffa\nc"),
    ],
    ids=range(7),
)
def test_the_ends_of_lines_are_kept(
    tools: FileTools, root: Path, before: str, old: str, new: str, after: str
) -> None:
    (root / "f").write_bytes(before.encode())
    tools.edit_file("f", old, new)
    assert (root / "f").read_bytes().decode() == after


@pytest.mark.usefixtures("unchanged")
def test_an_edit_does_not_make_what_does_not_fit(tools: FileTools, root: Path) -> None:
    # 64 GiB, if it were made.
    (root / "sub" / "b.txt").write_text("b" * 65_536)
    try:
        with pytest.raises(ValueError, match="68719476736 bytes are more than 16777216"):
            tools.edit_file("sub/b.txt", "b", "x" * 1_048_576, replace_all=True)
    finally:
        (root / "sub" / "b.txt").write_text("b")


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    ("path", "old", "new", "reason"),
    [
        ("a.txt", "three", "x", r"old_string is not in a\.txt: read the file and copy it exactly"),
        ("a.txt", "o", "x", r"old_string is 2 times in a\.txt: give more of the text around it"),
        ("a.txt", "", "x", "old_string is empty: write_file makes a new file"),
        ("a.txt", "one", "one", "old_string and new_string are the same"),
        ("nowhere.txt", "one", "x", r"nowhere\.txt: No such file or directory"),
        ("sub", "one", "x", "sub is a directory"),
    ],
    ids=range(6),
)
def test_an_edit_that_fails_changes_nothing(
    tools: FileTools, path: str, old: str, new: str, reason: str
) -> None:
    with pytest.raises((OSError, ValueError), match=reason):
        tools.edit_file(path, old, new)


def test_edits_at_the_same_time_are_all_there(tools: FileTools, root: Path) -> None:
    (root / "many").write_text("".join(f"<{n}>\n" for n in range(40)))
    failed: list[Exception] = []

    def edit(n: int) -> None:
        try:
            tools.edit_file("many", f"<{n}>", f"[{n}]")
        except Exception as error:  # noqa: BLE001  # shown below
            failed.append(error)

    threads = [threading.Thread(target=edit, args=(n,)) for n in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert (root / "many").read_text() == "".join(f"[{n}]\n" for n in range(40))
