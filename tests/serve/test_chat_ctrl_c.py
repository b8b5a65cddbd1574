"""Ctrl+C comes where the program waits, once for each time that it was pressed."""

from __future__ import annotations

import signal

import pytest

from motus.serve.cli.ctrl_c import CtrlC


def press() -> None:
    signal.raise_signal(signal.SIGINT)


def test_it_arrives_while_waiting() -> None:
    with CtrlC() as ctrl_c, pytest.raises(KeyboardInterrupt), ctrl_c.waiting():
        press()


def test_in_between_it_is_kept_for_the_next_wait() -> None:
    with CtrlC() as ctrl_c:
        press()
        with pytest.raises(KeyboardInterrupt), ctrl_c.waiting():
            pytest.fail("nothing is waited for")
        with ctrl_c.waiting():
            pass


def test_a_second_one_waits_until_the_first_is_dealt_with() -> None:
    with CtrlC() as ctrl_c:
        with pytest.raises(KeyboardInterrupt), ctrl_c.waiting():
            try:
                press()
            finally:
                press()
        with pytest.raises(KeyboardInterrupt), ctrl_c.waiting():
            pytest.fail("nothing is waited for")


def test_afterwards_all_is_as_before() -> None:
    before = signal.getsignal(signal.SIGINT)
    with CtrlC():
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before
