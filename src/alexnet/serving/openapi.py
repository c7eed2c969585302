"""What the service can be asked, as OpenAPI 3.1: the table of its endpoints, and the same as a description."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from alexnet.base.version import __version__


@dataclass(frozen=True)
class Parameter:
    """A word of an address."""

    name: str
    meaning: str
    schema: dict[str, Any]


def whole_document(least: int, usual: int) -> dict[str, Any]:
    return {"type": "integer", "minimum": least, "default": usual}


def one_of(*words: str | int) -> dict[str, Any]:
    return {"enum": list(words), "default": words[0]}


CLASS = {
    "type": "object",
    "required": ["rank", "label", "index", "probability", "wordnet"],
    "properties": {
        "rank": whole_document(1, 1),
        "label": {"type": "string"},
        "index": whole_document(0, 0),
        "probability": {"type": "number", "minimum": 0, "maximum": 1},
        "wordnet": {"type": ["string", "null"]},
    },
}
NEIGHBOUR = {
    "type": "object",
    "required": ["file", "row", "distance"],
    "properties": {
        "file": {"type": "string"},
        "row": whole_document(0, 0),
        "distance": {"type": "number", "minimum": 0},
    },
}
LAYERS = {
    "type": "object",
    "additionalProperties": {
        "type": "object",
        "required": ["shape", "values"],
        "properties": {
            "shape": {"type": "array", "items": {"type": "integer"}},
            "values": {"type": "array", "items": {"type": "number"}},
        },
    },
}
MODEL = Parameter("model", "The name or the number of a model, from 0.", {"type": "string", "default": "0"})
# POST: what it answers with a picture, its summary, its parameters.
QUESTIONS: dict[str, tuple[str, dict[str, Any], str, list[Parameter]]] = {
    "/predict": (
        "classes", {"type": "array", "items": CLASS}, "The most probable classes, best first",
        [
            MODEL, Parameter("topk", "How many classes.", whole_document(1, 5)),
            Parameter("views", "1: the central crop; 10: the paper's ten views, averaged.", one_of(1, 10)),
        ],
    ),
    "/features": (
        "layers", LAYERS, "What layers make of pictures",
        [
            MODEL,
            Parameter("layer", "A layer; repeatable. fc7 is before its ReLU, relu7 after it.",
                      {"type": "array", "items": {"type": "string"}, "default": ["fc7"]}),
            Parameter("pool", "One value a map; without it whole maps.", {"enum": ["mean", "max"]}),
            Parameter("format", "npy: one layer of one picture as a NumPy file.", one_of("json", "npy")),
        ],
    ),
    "/similar": (
        "neighbours", {"type": "array", "items": NEIGHBOUR}, "The nearest pictures of the index",
        [
            MODEL, Parameter("count", "How many neighbours.", whole_document(1, 5)),
            Parameter("distance", "By what they are near.", one_of("euclidean", "cosine")),
        ],
    ),
}  # fmt: skip
FACTS = {
    "/health": "Whether it answers, what it serves, and how many pictures wait",
    "/metrics": "Counts and times, as Prometheus reads them",
}
REFUSED = {
    "401": "The token is missing or wrong",
    "403": "Other sites' pages, and addresses that are not allowed",
    "404": "No model of that name",
    "408": "The upload took too long",
    "413": "Too many bytes or pixels",
    "422": "No picture, a broken one, or a parameter that is none",
    "503": "Too many pictures wait, or the answer took too long",
}


def description(names: Sequence[str], token: bool, upload: int) -> dict[str, Any]:
    """The OpenAPI document."""
    paths: dict[str, Any] = {path: {"post": _post(*asked, upload)} for path, asked in QUESTIONS.items()}
    for path, summary in FACTS.items():
        paths[path] = {"get": {"summary": summary, "responses": {"200": {"description": summary}}}}
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "alexnet", "version": __version__, "description": f"Models: {', '.join(names)}"},
        "paths": paths,
        "components": {
            "schemas": {
                "Refused": {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}
            }
        },
    }
    if token:
        document["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"token": []}]
    return document


def _post(field: str, schema: dict[str, Any], summary: str, parameters: list[Parameter], upload: int) -> dict[str, Any]:
    one = {"type": "object", "required": ["file", field], "properties": {"file": {"type": "string"}, field: schema}}
    failed = {
        "type": "object",
        "required": ["file", "error"],
        "properties": {"file": {"type": "string"}, "error": {"type": "string"}},
    }
    answer = {
        "type": "object",
        "required": ["model", "results", "failed"],
        "properties": {
            "model": {"type": "string"},
            "results": {"type": "array", "items": one},
            "failed": {"type": "array", "items": failed},
        },
    }
    refused = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Refused"}}}}
    form = {
        "type": "object",
        "properties": {"file": {"type": "array", "items": {"type": "string", "format": "binary"}}},
    }
    url = {"type": "object", "required": ["url"], "properties": {"url": {"type": "string", "format": "uri"}}}
    return {
        "summary": summary,
        "parameters": [
            {"name": one.name, "in": "query", "description": one.meaning, "schema": one.schema} for one in parameters
        ],
        "requestBody": {
            "description": f"A picture's bytes, a form with files, or an address; up to {upload:,} bytes",
            "required": True,
            "content": {
                "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
                "image/*": {"schema": {"type": "string", "format": "binary"}},
                "multipart/form-data": {"schema": form},
                "application/json": {"schema": url},
            },
        },
        "responses": {
            "200": {"description": summary, "content": {"application/json": {"schema": answer}}},
            **{status: {"description": words, **refused} for status, words in REFUSED.items()},
        },
    }
