"""`python -m motus.serve`, in a process that tests may look into whoever runs them."""

from __future__ import annotations

from contextlib import nullcontext
from unittest.mock import patch

from motus.serve.cli import serve

if __name__ == "__main__":
    with patch("motus.serve.server.unreadable_by_others", nullcontext):
        serve(prog_name="readable")
