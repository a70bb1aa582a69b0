"""The ``webhook`` field: the address to call when a prediction has ended."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from latentsync.errors import InvalidField, shorten
from latentsync.fields import Text
from latentsync.jobs.job import Webhook

_URL_CHARACTERS_MAX = 2000
_ALLOWED = 'an http(s) address, or {"url": …, "events": [succeeded, failed, canceled]}'


class WebhookField(BaseModel):
    """The address to call, and for which ends."""

    model_config = ConfigDict(extra="forbid")

    url: Annotated[Text, Field(pattern=r"^https?://[^\s/]\S*$", max_length=_URL_CHARACTERS_MAX)] = (
        Field(
            description="Called with a signed POST (Standard Webhooks). Private addresses are "
            "refused."
        )
    )
    events: list[Literal["succeeded", "failed", "canceled"]] = Field(
        default=["succeeded", "failed", "canceled"],
        min_length=1,
        max_length=3,
        description="Final states for which to call it.",
    )


def parse_webhook(value: Any) -> Webhook | None:
    """Return the webhook of a request's field: an address, an object, or null for none.

    Raises:
        InvalidField: anything else.
    """
    if value is None:
        return None
    try:
        field = WebhookField.model_validate({"url": value} if isinstance(value, str) else value)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_context=False)[0]
        name = ".".join(["webhook", *(str(part) for part in problem["loc"])])
        given = shorten(problem["input"])
        raise InvalidField(f"{name} is {given}. Allowed: {_ALLOWED}.", field="webhook") from None
    return Webhook(field.url, tuple(dict.fromkeys(field.events)))
