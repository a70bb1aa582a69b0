"""The operations of an OpenAPI document, and calls made of their examples."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

Document = dict[str, Any]


@dataclass(frozen=True)
class Operation:
    """What the document says of one method of a path."""

    method: str
    path: str
    about: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.method.upper()} {self.path}"

    @property
    def id(self) -> str:
        """Its id."""
        return str(self.about.get("operationId", ""))

    @property
    def parameters(self) -> list[dict[str, Any]]:
        """Its parameters."""
        return list(self.about.get("parameters", []))

    @property
    def bodies(self) -> dict[str, dict[str, Any]]:
        """What its body may be, by content type."""
        return dict(self.about.get("requestBody", {}).get("content", {}))


def operations(document: Document) -> list[Operation]:
    """Return every operation of a document."""
    return [
        Operation(method, path, about)
        for path, methods in document["paths"].items()
        for method, about in methods.items()
    ]


def is_file(media_type: dict[str, Any]) -> bool:
    """Return whether a body is a plain file, for which documents have no example."""
    return media_type.get("schema", {}).get("format") == "binary"


def examples_of(about: dict[str, Any]) -> dict[str, Any]:
    """Return the examples of a parameter or of a body, by name."""
    named = {name: example["value"] for name, example in about.get("examples", {}).items()}
    return {"example": about["example"], **named} if "example" in about else named


@dataclass(frozen=True)
class Call:
    """A call as the document's examples have it.

    Attributes:
        operation: what is called.
        path: with its parameters.
        headers, query: those parameters that have an example.
        content_type: of the body; empty without one.
        body: the example; None without one, and for a file.
        name: for people.
    """

    operation: Operation
    path: str
    headers: dict[str, str]
    query: dict[str, str]
    content_type: str
    body: Any
    name: str


def example_calls(operation: Operation) -> Iterator[Call]:
    """Yield one call for each example of the body, or one if there is no body."""
    path, headers, query = operation.path, {}, {}
    for parameter in operation.parameters:
        for value in list(examples_of(parameter).values())[:1]:
            if parameter["in"] == "path":
                path = path.replace(f"{{{parameter['name']}}}", str(value))
            else:
                where = headers if parameter["in"] == "header" else query
                where[parameter["name"]] = str(value)
    if not operation.bodies:
        yield Call(operation, path, headers, query, "", None, str(operation))
    for kind, media_type in operation.bodies.items():
        bodies = {"file": None} if is_file(media_type) else examples_of(media_type)
        for name, body in bodies.items():
            title = f"{operation} ({kind}, {name})"
            yield Call(operation, path, headers, query, kind, body, title)
