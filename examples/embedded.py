"""A server inside a trio program, beside what else the program does.

    python -m examples.embedded

The block serves while it runs; leaving it, in whatever way, ends the server and its workers.
"""

from __future__ import annotations

import httpx
import trio

from motus.serve import AgentServer


async def main() -> None:
    server = AgentServer("examples.code_census:agent", max_workers=2, timeout=60)
    async with server.serving("127.0.0.1", 0) as serving:
        print(f"Serving on {serving.url}", flush=True)
        async with httpx.AsyncClient(base_url=serving.url) as http, trio.open_nursery() as nursery:
            for package in ("json", "email"):
                nursery.start_soon(ask, http, package)
    print("The server is gone.")


async def ask(http: httpx.AsyncClient, text: str) -> None:
    """One conversation of one message."""
    session = (await http.post("/sessions")).headers["Location"]
    await http.post(f"{session}/messages", json={"content": text})
    view = (await http.get(session, params={"wait": True}, timeout=None)).json()
    print(view["error"] or view["response"]["content"].splitlines()[0])
    await http.delete(session)


if __name__ == "__main__":
    trio.run(main)
