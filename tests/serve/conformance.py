"""schemathesis against a running server: `nox -s api`, or `python -m tests.serve.conformance`.

It reads /openapi.json and makes requests of it, valid and invalid, one by one and in sequences
along the links (G12): at least 1,000 at the size of the tests, 50,000 with MOTUS_TEST_SIZE=soak.
Arguments are handed on to `schemathesis run`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.serve.support import ServerProcess

SOAK = os.environ.get("MOTUS_TEST_SIZE") == "soak"
# For each operation and phase.
EXAMPLES = 4_000 if SOAK else 100
LEAST_CASES = 50_000 if SOAK else 1_000


def main() -> int:
    with tempfile.TemporaryDirectory() as directory:
        log = Path(directory) / "server.log"
        options = ("--allow-custom-ids", "--log-level", "error")
        with ServerProcess("ask_words", log, *options) as server:
            done = subprocess.run(
                ["schemathesis", "run", f"{server.url}/openapi.json", "--checks", "all",
                 "--phases", "examples,coverage,fuzzing,stateful", "--max-examples", str(EXAMPLES),
                 "--no-color", *sys.argv[1:]],
                stdout=subprocess.PIPE, text=True, cwd=directory,
            )  # fmt: skip
            sys.stdout.write(done.stdout)
            health = server.http.get("/health").json()
        sys.stderr.write(server.log)
    # A run that could not ask has found nothing wrong either.
    found = re.search(r"(\d+) generated", done.stdout)
    cases = 0 if found is None else int(found[1])
    if cases < LEAST_CASES or health["status"] != "ok":
        sys.exit(f"only {cases} cases, of at least {LEAST_CASES}")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
