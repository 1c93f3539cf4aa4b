"""The form of a request for predictions and of its answer: JSON, or an Arrow IPC stream where its headers name that."""

from __future__ import annotations

from collections.abc import Mapping

JSON = b"application/json"
ARROW = b"application/vnd.apache.arrow.stream"
_ARROWS = (ARROW, b"application/vnd.apache.arrow.file")
"""The second is not understood; its refusal names the first."""


def is_arrow(headers: Mapping[bytes, bytes]) -> bool:
    """Whether a request with these headers is an Arrow IPC stream. Anything else is JSON: curl names another type."""
    content = headers.get(b"content-type")
    return content is not None and content != JSON and content.partition(b";")[0].strip().lower() in _ARROWS


def wants_arrow(headers: Mapping[bytes, bytes]) -> bool:
    """Whether the answer to it is to be one."""
    accept = headers.get(b"accept", b"").lower()
    return b"arrow" in accept and _prefers_arrow(accept)


def _prefers_arrow(accept: bytes) -> bool:
    """Whether a caller names Arrow, and likes JSON no better (RFC 9110, section 12.5.1)."""
    qualities = {}
    for part in accept.split(b","):
        media, _, parameters = part.partition(b";")
        qualities[media.strip()] = _quality(parameters)
    json = next((qualities[each] for each in (JSON, b"application/*", b"*/*") if each in qualities), 0.0)
    return qualities.get(ARROW, 0.0) >= max(json, 0.001)


def _quality(parameters: bytes) -> float:
    for parameter in parameters.split(b";"):
        name, _, value = parameter.partition(b"=")
        if name.strip() == b"q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0
