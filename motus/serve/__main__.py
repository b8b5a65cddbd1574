"""`python -m motus.serve ...` is `motus serve ...`."""

from __future__ import annotations

from motus.serve.cli import serve

if __name__ == "__main__":
    serve(prog_name="python -m motus.serve")
