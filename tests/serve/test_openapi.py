"""The description of the API is valid, complete, and true; `contract.py` checks every answer."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from typing import Any

import attrs
import pytest
from jsonschema_rs import Draft202012Validator, ValidationError, meta
from trio.testing import MockClock

from motus.messages import ChatMessage
from motus.serve.apidocs import render
from motus.serve.openapi import FIELDS, describe
from motus.serve.schemas import RequestError, parse_message, parse_new_session, parse_resume
from tests.serve.contract import check
from tests.serve.fakes import house

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "trio", {"clock": MockClock(autojump_threshold=0)}


async def nobody(_: object) -> None:
    raise AssertionError("no turn runs here")


def operations(description: dict[str, Any]) -> dict[str, tuple[str, str, dict[str, Any]]]:
    return {
        operation["operationId"]: (method.upper(), path, operation)
        for path, item in description["paths"].items()
        for method, operation in item.items()
        if method != "parameters"
    }


def walk(value: Any) -> Any:
    yield value
    for inner in value.values() if isinstance(value, dict) else value:
        if isinstance(inner, dict | list):
            yield from walk(inner)


def test_the_document_is_valid_and_all_its_references_lead_somewhere() -> None:
    description = describe()
    schemas = description["components"]["schemas"]
    for schema in schemas.values():
        meta.validate(schema)
    referred = {one["$ref"] for one in walk(description) if isinstance(one, dict) and "$ref" in one}
    assert referred == {f"#/components/schemas/{name}" for name in schemas}
    links = [one["links"] for one in walk(description) if isinstance(one, dict) and "links" in one]
    assert links
    known = operations(description)
    assert {link["operationId"] for group in links for link in group.values()} <= set(known)
    # One place says how many there are; a name that is used twice would hide one here.
    assert len(known) == sum(len(item) - ("parameters" in item)
                             for item in description["paths"].values())  # fmt: skip
    assert json.loads(json.dumps(description)) == description


def test_what_is_said_of_a_field_is_said_of_one_that_exists() -> None:
    for kind, texts in FIELDS.items():
        assert set(texts) <= {field.name for field in attrs.fields(kind)}, kind


async def test_every_route_is_described_and_nothing_else() -> None:
    async with house(nobody) as h:
        served = {
            (method, re.sub(r"<session:(\w+)>", r"{\1}", rule.rule))
            for rule in h.http.app.url_map.iter_rules()
            for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
        }
    assert served == {(method, path) for method, path, _ in operations(describe()).values()}


async def test_the_description_and_its_page_are_served() -> None:
    async with house(nobody) as h:
        assert await h.ask("GET", "/openapi.json") == (200, describe())
        response = await h.http.get("/docs")
        text = await response.get_data(as_text=True)
        assert response.headers["content-type"] == "text/html; charset=utf-8"
        assert (
            response.headers["content-security-policy"]
            == render(describe()).content_security_policy
        )
    for _, path, operation in operations(describe()).values():
        assert path in text
        assert operation["summary"] in text


class Page(HTMLParser):
    """Which elements a page has, which anchors, and where its links lead."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.ids: list[str] = []
        self.links: set[str] = set()
        self.style = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            # Neither may run or load anything.
            assert name not in {"style", "src", "srcset"}
            assert not name.startswith("on")
            if name == "id":
                self.ids.append(value or "")
            if name == "href":
                self.links.add(value or "")

    def handle_data(self, data: str) -> None:
        if self.lasttag == "style" and not self.style:
            self.style = data


def test_the_page_is_static_and_its_links_lead_somewhere() -> None:
    page = render(describe())
    found = Page(page.html.decode())
    assert not found.tags & {"script", "iframe", "object", "form", "link", "img"}
    assert len(set(found.ids)) == len(found.ids)
    assert found.links == {"openapi.json", *(f"#{name}" for name in found.ids)}
    digest = base64.b64encode(hashlib.sha256(found.style.encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in page.content_security_policy
    assert page.content_security_policy.startswith("default-src 'none';")


def test_text_in_the_description_cannot_become_markup() -> None:
    description = describe()
    description["info"]["title"] = "<script>"
    description["paths"]["/health"]["get"]["summary"] = "<b>"
    found = Page(render(description).html.decode())
    assert not found.tags & {"script", "b"}


def test_defaults_and_needs_are_those_of_the_classes() -> None:
    schemas = describe()["components"]["schemas"]
    assert list(schemas["ChatMessage"]["properties"]) == [f.name for f in attrs.fields(ChatMessage)]
    assert schemas["ChatMessage"]["required"] == ["role"]
    assert "required" not in schemas["MessageBody"]
    assert schemas["MessageBody"]["properties"]["role"]["default"] == "user"
    assert schemas["ResumeBody"]["required"] == ["interrupt_id", "value"]
    assert schemas["Webhook"]["required"] == ["url"]


VALUES: list[Any] = [
    None, True, 5, 1.5, "", "text", "user", "http://x/", [], [5], [{}], {}, {"role": "user"},
    {"url": "http://x/"}, {"url": "http://x/", "token": "t", "include_messages": True},
    {"url": "x"}, {"url": "http://x/", "token": "\n"}, [{"role": "user"}], [{"role": "robot"}],
    [{"id": "1", "function": {"name": "f", "arguments": "{}"}}],
    [{"id": "1", "function": {"name": "f", "arguments": "{}"}, "type": None}],
]  # fmt: skip


def refusal(name: str, data: bytes) -> int | None:
    """The status with which a body is refused."""
    try:
        if name == "MessageBody":
            parse_message(data, "application/json")
        elif name == "ResumeBody":
            parse_resume(data, "application/json")
        else:
            parse_new_session(data, "application/json", max_state_size=1 << 20)
    except RequestError as error:
        return error.status
    return None


@pytest.mark.parametrize("name", ["MessageBody", "CreateSessionBody", "ResumeBody"])
def test_bodies_are_accepted_exactly_when_the_schema_accepts_them(name: str) -> None:
    description = describe()
    schema = {"$ref": f"#/components/schemas/{name}", "components": description["components"]}
    validator = Draft202012Validator(schema)
    fields = description["components"]["schemas"][name]["properties"]
    bodies: list[Any] = [{}, [], 5, "x", {"unknown": 1}]
    bodies += [{field: value} for field in fields for value in VALUES]
    bodies += [{"interrupt_id": "1", "value": value} for value in VALUES]
    verdicts = set()
    for body in bodies:
        data = json.dumps(body).encode()
        accepted = refusal(name, data) is None
        assert accepted == validator.is_valid(body), body
        verdicts.add(accepted)
    assert verdicts == {True, False}


def test_the_check_of_answers_can_fail() -> None:
    json_type = {"content-type": "application/json"}
    good = b'{"session_id": "x", "status": "idle", "cancelled": true}'
    check("POST", "/sessions/x/cancel", 200, json_type, good)
    with pytest.raises(AssertionError, match="not described"):
        check("POST", "/sessions/x/cancel", 500, json_type, good)
    with pytest.raises(ValidationError, match="extra"):
        check("POST", "/sessions/x/cancel", 200, json_type, good[:-1] + b', "extra": 1}')
    with pytest.raises(ValidationError, match="required"):
        check("POST", "/sessions/x/cancel", 200, json_type, b"{}")
    with pytest.raises(AssertionError, match="Retry-After"):
        check("POST", "/sessions", 503, json_type, b'{"detail": "x"}')
