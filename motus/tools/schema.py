"""JSON schemas as providers want them: self-contained, short, closed where that is asked for."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

__all__ = ["strict_schema", "tidy_schema", "without_added_nulls"]

Schema = dict[str, Any]

# Where schemas are inside a schema. What is below any other keyword is data.
_ONE: Final = ("items", "additionalProperties", "contains", "propertyNames", "not")
_LIST: Final = ("anyOf", "oneOf", "allOf", "prefixItems")
_BY_NAME: Final = ("properties", "patternProperties", "dependentSchemas")
_NULL: Final = {"type": "null"}
# One of these says what a value is.
_KINDS: Final = {"type", "enum", "const", "anyOf", "oneOf", "allOf", "$ref"}
# What strict modes refuse the whole request for, and the formats for which they do not.
_UNENFORCED: Final = (
    "minLength", "maxLength", "uniqueItems", "minProperties", "maxProperties", "propertyNames",
    "contains", "minContains", "maxContains", "examples", "deprecated", "readOnly", "writeOnly",
    "contentEncoding", "contentMediaType",
)  # fmt: skip
_FORMATS: Final = {
    "date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid",
}  # fmt: skip


def tidy_schema(schema: Mapping[str, Any]) -> Schema:
    """The schema without `$ref`, titles, and branches that only say "or null" where null is what
    leaving the property out means.

    A class that contains itself is written out once; inside of itself it is any object.
    """
    definitions = schema.get("$defs", {})
    return _shortened(_inlined({k: v for k, v in schema.items() if k != "$defs"}, definitions, ()))


def _inlined(schema: Schema, definitions: Mapping[str, Schema], above: tuple[str, ...]) -> Schema:
    reference = schema.get("$ref")
    if reference is not None:
        name = reference.removeprefix("#/$defs/")
        # What stands beside a reference, such as a description, is nearer than what it leads to.
        beside = {key: value for key, value in schema.items() if key != "$ref"}
        if name in above:
            kind = definitions[name].get("type", "object")
            target = {"type": kind, "description": f"Another {name}, of the same form"}
        else:
            target = _inlined(definitions[name], definitions, (*above, name))
        return {**target, **_inlined(beside, definitions, above)}
    return _mapped(schema, lambda inner: _inlined(inner, definitions, above))


def _shortened(schema: Schema) -> Schema:
    schema = _mapped(schema, _shortened)
    # The mapping of a discriminator leads to definitions; the constants in the branches say it too.
    schema = {k: v for k, v in schema.items() if k not in {"title", "discriminator"}}
    required = schema.get("required", ())
    if "properties" in schema:
        schema["properties"] = {
            name: inner if name in required else _without_null(inner)
            for name, inner in schema["properties"].items()
        }
    return schema


def _without_null(schema: Schema) -> Schema:
    if schema.get("default", ...) is not None:
        return schema
    schema = {key: value for key, value in schema.items() if key != "default"}
    branches = [one for one in schema.get("anyOf", ()) if one != _NULL]
    if len(branches) == 1:
        del schema["anyOf"]
        return {**branches[0], **schema}
    if branches:
        schema["anyOf"] = branches
    return schema


def strict_schema(schema: Schema) -> Schema:
    """The schema in the subset of providers' strict modes: objects are closed, and every property
    is required, null standing for what may be left out. Limits that the subset does not know are
    told in the description.

    Takes a tidy schema. Raises `ValueError` for what the subset has no words for: objects of any
    keys, tuples, any value at all.
    """
    schema = _with_limits_told(_mapped(schema, strict_schema))
    if "oneOf" in schema:
        schema["anyOf"] = schema.pop("oneOf")
    if "prefixItems" in schema:
        raise ValueError("a strict schema cannot describe a tuple: use a list or a class")
    if schema.get("type") == "object" and "properties" not in schema:
        raise ValueError("a strict schema cannot describe an object of any keys: use a class")
    if not _KINDS & set(schema):
        raise ValueError("a strict schema cannot describe a value of any type: say which")
    if "properties" in schema:
        required = schema.get("required", ())
        schema["properties"] = {
            name: inner if name in required else _nullable(inner)
            for name, inner in schema["properties"].items()
        }
        schema["required"] = list(schema["properties"])
        schema["additionalProperties"] = False
    return schema


def _with_limits_told(schema: Schema) -> Schema:
    told: Schema = {key: schema.pop(key) for key in _UNENFORCED if key in schema}
    if schema.get("format") not in {None, *_FORMATS}:
        told["format"] = schema.pop("format")
    # With every property required there is none.
    schema.pop("default", None)
    if told:
        limits = ", ".join(f"{key}: {json.dumps(value)}" for key, value in told.items())
        schema["description"] = f"{schema.get('description', '')} ({limits})".lstrip()
    return schema


def _nullable(schema: Schema) -> Schema:
    if _takes_null(schema):
        return schema
    schema = dict(schema)
    description = {"description": schema.pop("description")} if "description" in schema else {}
    branches = schema["anyOf"] if set(schema) == {"anyOf"} else [schema]
    return {"anyOf": [*branches, _NULL], **description}


def without_added_nulls(value: Any, schema: Schema) -> Any:
    """The value without the nulls that `strict_schema` makes a model send for what it leaves out.

    `schema` is the one that was made strict.
    """
    if not isinstance(value, list | dict):
        return value
    schema = _branch(value, schema)
    if isinstance(value, list):
        return [without_added_nulls(one, schema.get("items", {})) for one in value]
    properties, required = schema.get("properties", {}), schema.get("required", ())
    return {
        name: without_added_nulls(inner, properties.get(name, {}))
        for name, inner in value.items()
        if inner is not None or name in required or _takes_null(properties.get(name, {}))
    }


def _branch(value: list[Any] | dict[str, Any], schema: Schema) -> Schema:
    """Of a union, the schema that the value is meant for: of its type, with its keys."""
    kind = "array" if isinstance(value, list) else "object"
    branches = [
        _branch(value, one)
        for one in [*schema.get("anyOf", ()), *schema.get("oneOf", ())]
        if one.get("type", kind) == kind
    ]
    for one in branches:
        if kind == "array" or set(one.get("properties", ())) == set(value):
            return one
    return branches[0] if branches else schema


def _takes_null(schema: Schema) -> bool:
    if not schema or schema.get("type") == "null" or None in schema.get("enum", ()):
        return True
    branches = [*schema.get("anyOf", ()), *schema.get("oneOf", ())]
    return any(_takes_null(one) for one in branches) or not _KINDS & set(schema)


def _mapped(schema: Schema, change: Callable[[Schema], Schema]) -> Schema:
    """A copy with the schemas directly inside of it changed."""
    result = dict(schema)
    for key in _ONE:
        if isinstance(schema.get(key), dict):
            result[key] = change(schema[key])
    for key in _LIST:
        if key in schema:
            result[key] = [change(one) if isinstance(one, dict) else one for one in schema[key]]
    for key in _BY_NAME:
        if key in schema:
            result[key] = {name: change(inner) for name, inner in schema[key].items()}
    return result
