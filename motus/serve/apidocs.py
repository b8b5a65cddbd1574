"""The OpenAPI description as one static HTML page, for people."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Iterator
from html import escape
from typing import Any

import attrs

__all__ = ["Page", "render"]

Json = dict[str, Any]

STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --dim: #5d6878; --line: #dfe4ea; --paper: #fff;
  --card: #f7f8fa; --accent: #0b63ce; --get: #0b63ce; --post: #1a7f4b; --put: #9a6700;
  --delete: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ee; --dim: #97a3b4; --line: #2c343f;
  --paper: #12161c; --card: #1a2029; --accent: #6cb0ff; --get: #6cb0ff; --post: #5fcf95;
  --put: #e2b34d; --delete: #ff8a80; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2.5rem 1.5rem 5rem; max-width: 54rem; color: var(--ink);
  background: var(--paper); font: 16px/1.55 system-ui, sans-serif; }
h1 { margin: 0; font-size: 1.9rem; }
h2 { margin: 3rem 0 1rem; font-size: 1.3rem; }
h3 { margin: 0; font-size: 1.02rem; font-weight: 600; }
h4 { margin: 1.1rem 0 .3rem; color: var(--dim); font-size: .78rem; letter-spacing: .06em;
  text-transform: uppercase; }
p { margin: .5rem 0; }
a { color: var(--accent); text-decoration: none; }
a:hover { text-decoration: underline; }
code { font: .9em ui-monospace, monospace; }
.dim { color: var(--dim); }
.card { margin: 1rem 0; padding: 1.1rem 1.3rem; border: 1px solid var(--line); border-radius: 10px;
  background: var(--card); overflow-x: auto; }
.card:target { border-color: var(--accent); }
.route { display: flex; flex-wrap: wrap; gap: .3rem .8rem; align-items: baseline; }
.method { min-width: 4.2rem; font: 600 .82rem ui-monospace, monospace; }
.get { color: var(--get); } .post { color: var(--post); } .put { color: var(--put); }
.delete { color: var(--delete); }
nav { margin: 1.6rem 0; padding: 1rem 1.3rem; border: 1px solid var(--line); border-radius: 10px; }
table { width: 100%; border-collapse: collapse; font-size: .93rem; }
td { padding: .35rem .8rem .35rem 0; border-top: 1px solid var(--line); vertical-align: top; }
tr:first-child td { border-top: 0; }
td:first-child { width: 11rem; white-space: nowrap; }
td:nth-child(2) { width: 13rem; }
.answers td:first-child { width: 3.5rem; }
"""


@attrs.frozen
class Page:
    html: bytes
    content_security_policy: str


def render(description: Json) -> Page:
    """The page, and the policy with which to send it: it loads nothing and runs nothing."""
    info = description["info"]
    operations = [
        (method, path, operation)
        for path, item in description["paths"].items()
        for method, operation in item.items()
        if method != "parameters"
    ]
    parts = [
        f"<h1>{escape(info['title'])} <span class=dim>{escape(info['version'])}</span></h1>",
        *(f"<p>{_text(paragraph)}</p>" for paragraph in info["description"].split("\n\n")),
        '<p class=dim>The same for programs: <a href="openapi.json">openapi.json</a>.</p>',
        "<nav>",
        *(
            f'<a class=route href="#{operation["operationId"]}">{_route(method, path)}'
            f"<span class=dim>{escape(operation['summary'])}</span></a>"
            for method, path, operation in operations
        ),
        "</nav>",
        "<h2>Requests</h2>",
        *(_operation(method, path, operation) for method, path, operation in operations),
        "<h2>Bodies</h2>",
        *(
            f"<section class=card id={name}><h3>{name}</h3>{_fields(schema)}</section>"
            for name, schema in description["components"]["schemas"].items()
        ),
    ]
    digest = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    html = (
        "<!doctype html>\n<html lang=en>\n<meta charset=utf-8>\n"
        '<meta name=viewport content="width=device-width">\n'
        f"<title>{escape(info['title'])} API</title>\n<style>{STYLE}</style>\n<body>\n"
        + "\n".join(parts)
        + "\n</body>\n</html>\n"
    )
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; "
    return Page(html.encode(), policy + "form-action 'none'; frame-ancestors 'none'")


def _operation(method: str, path: str, operation: Json) -> str:
    parts = [f"<section class=card id={operation['operationId']}>"]
    parts += [f"<div class=route>{_route(method, path)}<h3>{escape(operation['summary'])}</h3>"]
    parts += ["</div>"]
    if "description" in operation:
        parts.append(f"<p>{_text(operation['description'])}</p>")
    if "parameters" in operation:
        parts += ["<h4>Parameters</h4>", _table(map(_parameter, operation["parameters"]))]
    if "requestBody" in operation:
        body = operation["requestBody"]
        needed = "" if body["required"] else " <span class=dim>(optional)</span>"
        parts.append(f"<h4>Body</h4><p>{_content(body['content'])}{needed}</p>")
    answers = (
        (
            f"<code>{status}</code>",
            _content(answer.get("content", {})),
            _text(answer["description"]),
        )
        for status, answer in operation["responses"].items()
    )
    return "\n".join([*parts, "<h4>Answers</h4>", _table(answers, "answers"), "</section>"])


def _route(method: str, path: str) -> str:
    return f"<span class='method {method}'>{method.upper()}</span><code>{escape(path)}</code>"


def _parameter(parameter: Json) -> tuple[str, str, str]:
    text = _text(parameter["description"]) + _default(parameter["schema"])
    return f"<code>{escape(parameter['name'])}</code>", _type(parameter["schema"]), text


def _fields(schema: Json) -> str:
    required = schema.get("required", [])

    def rows() -> Iterator[tuple[str, str, str]]:
        for name, field in schema["properties"].items():
            mark = "" if name in required else " <span class=dim>?</span>"
            text = _text(field.get("description", "")) + _default(field)
            yield f"<code>{escape(name)}</code>{mark}", _type(field), text

    return _table(rows())


def _default(schema: Json) -> str:
    if "default" not in schema:
        return ""
    return f" <span class=dim>Default: <code>{escape(str(schema['default']))}</code></span>"


def _table(rows: Iterable[tuple[str, str, str]], kind: str = "fields") -> str:
    lines = ("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table class={kind}>" + "".join(lines) + "</table>"


def _content(content: Json) -> str:
    if "application/json" in content:
        return _type(content["application/json"]["schema"])
    return escape(", ".join(content))


def _type(schema: Json) -> str:
    """A schema in a few words, with links to the bodies that it refers to."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f'<a href="#{name}">{name}</a>'
    if "anyOf" in schema:
        return " or ".join(map(_type, schema["anyOf"]))
    if "enum" in schema:
        return ", ".join(f"<code>{escape(str(value))}</code>" for value in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_type(schema['items'])}"
    kinds = schema.get("type", "any JSON value")
    return escape(" or ".join(kinds) if isinstance(kinds, list) else kinds)


def _text(text: str) -> str:
    """Text with `code` in it."""
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", escape(text))
