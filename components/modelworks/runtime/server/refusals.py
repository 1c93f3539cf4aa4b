"""Why requests are refused: each reason has the same words and the same status in every protocol."""

from __future__ import annotations

import msgspec

from modelworks.runtime.schema import explain

FULL = "the server is full; try again later"
FAILED = "the model failed to predict this request"
UNREAD = "the features cannot be read; try again later"
NO_TOKEN = "a bearer token is needed"  # noqa: S105 - words, no token
POST_ONLY = "this takes POST"
RETRY_SECONDS = 1
"""When a request that found the server full may be tried again."""
UNDECODABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""Errors of decoders; see `undecodable`."""


class InvalidRequestError(Exception):
    """A request that holds no rows of this model, or requests an output that it does not have.

    Args:
        field: The part of the request that is wrong, such as `inputs[2].data[5]`; empty if it is all of it.
        detail: The rule that it breaks.
        status: As HTTP has it.
    """

    def __init__(self, field: str, detail: str, status: int = 422) -> None:
        super().__init__(detail)
        self.field, self.detail, self.status = field, detail, status


def undecodable(error: Exception, at: str = "", subject: str = "") -> InvalidRequestError:
    """The refusal of JSON, or of values in it, that raised one of `UNDECODABLE`.

    Args:
        error: The error.
        at: The part of the request that was decoded; empty if it is all of it.
        subject: Its name, for the detail.
    """
    if isinstance(error, msgspec.ValidationError):
        where, what = explain(error)
        return InvalidRequestError(at + where, f"{subject}: {what}" if subject else what)
    if isinstance(error, RecursionError):
        return InvalidRequestError(at, "the body is nested too deeply", 400)
    return InvalidRequestError(at, f"the body is not JSON: {error}", 400)


def located(field: str, detail: str) -> str:
    """A refusal as one text, for protocols that have no place for the field."""
    return f"{field}: {detail}" if field else detail
