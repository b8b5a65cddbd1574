"""A client of any served agent, in plain HTTP.

    python -m examples.http_client http://127.0.0.1:8000 "hello"

What the agent asks is shown as it is, and answered with a line of JSON.
"""

from __future__ import annotations

import json
import sys

import httpx


def main(url: str, text: str) -> None:
    with httpx.Client(base_url=url, timeout=90) as http:
        session = http.post("/sessions").raise_for_status().headers["Location"]
        http.post(f"{session}/messages", json={"content": text}).raise_for_status()
        while True:
            # Answered as soon as there is something to do, and after 60 seconds in any case.
            view = http.get(session, params={"wait": True, "timeout": 60}).raise_for_status().json()
            for asked in view["interrupts"] or ():
                value = json.loads(input(f"{json.dumps(asked['payload'])}\n> "))
                answer = {"interrupt_id": asked["interrupt_id"], "value": value}
                http.post(f"{session}/resume", json=answer).raise_for_status()
            if view["status"] in ("idle", "error"):
                break
        http.delete(session)
    print(view["error"] or view["response"]["content"])


if __name__ == "__main__":
    main(*sys.argv[1:])
