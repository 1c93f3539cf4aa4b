"""Access to an emulated AWS account: for requests that one of its keys signed, as at AWS.

Any program of the machine, and any web page in its browser, can reach a port on loopback. The signature keeps out both,
and the `Host` and `Origin` headers keep out pages that reach the port under a name of their own (DNS rebinding).

Signatures are those of Signature Version 4, in a header or in a presigned URL:
https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
"""

from __future__ import annotations

import hashlib
import hmac
import io
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import parse_qsl, quote, urlsplit
from xml.sax.saxutils import escape

from botocore.auth import UNSIGNED_PAYLOAD, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from modelworks.laptop.request_journal import request_body

_ALGORITHM: Final = "AWS4-HMAC-SHA256"
_HOSTS: Final = frozenset({"127.0.0.1", "localhost", "[::1]"})
_INTERNAL: Final = re.compile(r"/moto-api(/|$)")
"""The emulator's own interface, which resets the account and is no part of AWS."""

_CODES: Final = {
    # what is wrong: code of S3, of services that answer XML, of services that answer JSON
    "missing": ("AccessDenied", "MissingAuthenticationToken", "MissingAuthenticationTokenException"),
    "key": ("InvalidAccessKeyId", "InvalidClientTokenId", "UnrecognizedClientException"),
    "signature": ("SignatureDoesNotMatch", "SignatureDoesNotMatch", "InvalidSignatureException"),
    "expired": ("AccessDenied", "RequestExpired", "RequestExpired"),
    "forbidden": ("AccessDenied", "AccessDenied", "AccessDeniedException"),
}

VERIFIED: Final = "modelworks.signature"
"""In a WSGI request: key, token, service and region of its signature, once it is verified."""

_Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
Secret = Callable[[str, str], str | None]
"""The secret of an access key id and a session token (empty if there is none); None if the account has no such key."""


class RefusedError(Exception):
    """A request that does not reach the account: its kind in `_CODES`, and the reason."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True)
class _Signature:
    """The parts of a signature, from a header or from a query."""

    key: str
    date: str
    region: str
    service: str
    signed: tuple[str, ...]
    """Names of the headers that it covers, in lower case."""
    value: str
    timestamp: str
    token: str
    presigned_seconds: int | None = None
    """How long a presigned URL is valid; None for a signature in a header."""


def never(_: dict[str, Any]) -> bool:
    """No request may come without a signature."""
    return False


class Authenticated:
    """A WSGI application that lets requests through to `application` if they are signed with a known key.

    Args:
        application: The emulator.
        secret: Finds the secret of an access key.
        hint: How to get the right credentials, in a sentence; it ends every refusal.
        unsigned: Whether a request needs no signature.
    """

    def __init__(
        self,
        application: _Application,
        secret: Secret,
        hint: str,
        *,
        unsigned: Callable[[dict[str, Any]], bool] = never,
    ) -> None:
        self._application = application
        self._secret = secret
        self._hint = hint
        self._unsigned = unsigned

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        try:
            self._check(environ)
        except RefusedError as refused:
            body, content_type = _refusal(environ, refused, self._hint)
            # The body of a stranger's request is not read, so that the connection cannot be used again.
            headers = [("Content-Type", content_type), ("Content-Length", str(len(body))), ("Connection", "close")]
            start_response("403 Forbidden", headers)
            return [body]
        return self._application(environ, start_response)

    def _check(self, environ: dict[str, Any]) -> None:
        host = re.sub(r":\d*$", "", environ.get("HTTP_HOST", "")).lower()
        if host not in _HOSTS:
            raise RefusedError("forbidden", f"the Host header is {host!r}, and must be an address of this machine")
        if "HTTP_ORIGIN" in environ:
            raise RefusedError("forbidden", "the request comes from a web page (it has an Origin header)")
        if _INTERNAL.match(environ.get("PATH_INFO", "")):
            raise RefusedError("forbidden", "the emulator's own interface is closed")
        if "HTTP_AUTHORIZATION" not in environ and self._unsigned(environ):
            return
        signature = _signature(environ)
        secret = self._secret(signature.key, signature.token)
        if secret is None:
            raise RefusedError("key", f"the access key {signature.key!r} does not exist in this account")
        expected = _expected(environ, signature, secret)
        if not hmac.compare_digest(expected.encode(), signature.value.encode()):
            raise RefusedError("signature", f"the signature is not that of the access key {signature.key!r}")
        if signature.presigned_seconds is not None:
            _check_still_valid(signature.timestamp, signature.presigned_seconds)
        environ[VERIFIED] = (signature.key, signature.token, signature.service, signature.region)


def _signature(environ: Mapping[str, Any]) -> _Signature:
    header = environ.get("HTTP_AUTHORIZATION")
    query = dict(parse_qsl(environ.get("QUERY_STRING", ""), keep_blank_values=True))
    try:
        if header is not None:
            algorithm, _, rest = header.partition(" ")
            fields = dict(part.strip().split("=", 1) for part in rest.split(","))
            timestamp, token = environ.get("HTTP_X_AMZ_DATE", ""), environ.get("HTTP_X_AMZ_SECURITY_TOKEN", "")
            lifetime = None
        elif "X-Amz-Signature" in query:
            algorithm = query["X-Amz-Algorithm"]
            fields = {name: query[f"X-Amz-{name}"] for name in ("Credential", "SignedHeaders", "Signature")}
            timestamp, token = query["X-Amz-Date"], query.get("X-Amz-Security-Token", "")
            lifetime = int(query["X-Amz-Expires"])
        else:
            raise RefusedError("missing", "the request is not signed")
        # A key's id may have slashes; the other four parts have none.
        *key, date, region, service, _ = fields["Credential"].split("/")
        signed = tuple(fields["SignedHeaders"].lower().split(";"))
        found = _Signature(
            "/".join(key), date, region, service, signed, fields["Signature"], timestamp, token, lifetime
        )
    except (KeyError, ValueError) as error:
        raise RefusedError("signature", f"the signature has another form than that of {_ALGORITHM}") from error
    if algorithm != _ALGORITHM:
        raise RefusedError("signature", f"the signature is of the kind {algorithm!r}, and must be {_ALGORITHM}")
    if "host" not in found.signed or not timestamp.startswith(date):
        raise RefusedError("signature", "the signature does not cover the Host header and the date")
    return found


class _Signer(SigV4Auth):  # type: ignore[misc]  # botocore has no types
    """botocore's signature, over the headers and the digest of the body that the client chose."""

    def __init__(self, credentials: Credentials, service: str, region: str, payload: str) -> None:
        super().__init__(credentials, service, region)
        self._payload = payload

    def headers_to_sign(self, request: AWSRequest) -> Any:
        return request.headers

    def payload(self, request: AWSRequest) -> str:  # noqa: ARG002 - botocore's signature
        return self._payload

    def _normalize_url_path(self, path: str) -> str:
        # S3 signs the path as it is sent; all others sign it encoded once more.
        return path if self._service_name.startswith("s3") else str(super()._normalize_url_path(path))


def _expected(environ: dict[str, Any], signature: _Signature, secret: str) -> str:
    """The signature that the request would have if `secret` had signed it."""
    path, _, query = environ["RAW_URI"].partition("?")
    pairs = [pair for pair in parse_qsl(query, keep_blank_values=True) if pair[0] != "X-Amz-Signature"]
    encoded = "&".join(f"{quote(name, safe='-_.~')}={quote(value, safe='-_.~')}" for name, value in pairs)
    headers = {name: _header(environ, name) for name in signature.signed}
    request = AWSRequest(environ["REQUEST_METHOD"], f"http://host{urlsplit(path).path or '/'}?{encoded}", headers)
    request.context["timestamp"] = signature.timestamp
    credentials = Credentials(signature.key, secret)
    signer = _Signer(credentials, signature.service, signature.region, _payload(environ, signature))
    return str(signer.signature(signer.string_to_sign(request, signer.canonical_request(request)), request))


def _payload(environ: dict[str, Any], signature: _Signature) -> str:
    """The digest of the body that was signed, or a term of AWS for a body that the signature does not cover."""
    name = "x-amz-content-sha256"
    if name not in signature.signed:
        unsigned = signature.presigned_seconds is not None and signature.service.startswith("s3")
        return UNSIGNED_PAYLOAD if unsigned else _body_digest(environ)
    stated = _header(environ, name)
    if re.fullmatch(r"[0-9a-f]{64}", stated) and stated != _body_digest(environ):
        raise RefusedError("signature", f"the body is not the one that was signed ({name})")
    return stated


def _header(environ: Mapping[str, Any], name: str) -> str:
    variable = name.upper().replace("-", "_")
    if variable in {"CONTENT_TYPE", "CONTENT_LENGTH"}:
        return str(environ.get(variable, ""))
    return str(environ.get(f"HTTP_{variable}", ""))


def _body_digest(environ: dict[str, Any]) -> str:
    body = request_body(environ)
    environ["wsgi.input"] = io.BytesIO(body)
    return hashlib.sha256(body).hexdigest()


def _check_still_valid(timestamp: str, seconds: int) -> None:
    try:
        made = datetime.strptime(timestamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError as error:
        raise RefusedError("signature", f"X-Amz-Date is {timestamp!r}, and must look like 20260131T235959Z") from error
    if datetime.now(UTC) > made + timedelta(seconds=seconds):
        raise RefusedError(
            "expired", f"the URL was valid for {seconds} s, until {made + timedelta(seconds=seconds):%c} UTC"
        )


def _refusal(environ: Mapping[str, Any], refused: RefusedError, hint: str) -> tuple[bytes, str]:
    """The error in the form that the client of its service reads, and the content type of that form."""
    of_s3, of_xml, of_json = _CODES[refused.kind]
    message = f"{refused}. {hint}"
    if "HTTP_X_AMZ_TARGET" in environ or "json" in str(environ.get("CONTENT_TYPE", "")):
        return json.dumps({"__type": of_json, "message": message}).encode(), "application/x-amz-json-1.1"
    if str(environ.get("CONTENT_TYPE", "")).startswith("application/x-www-form-urlencoded"):
        error = f"<Error><Type>Sender</Type><Code>{of_xml}</Code><Message>{escape(message)}</Message></Error>"
        return f"<ErrorResponse>{error}</ErrorResponse>".encode(), "text/xml"
    return f"<Error><Code>{of_s3}</Code><Message>{escape(message)}</Message></Error>".encode(), "application/xml"


def emulated_secret(key: str, token: str) -> str | None:
    """The secret of a key that the emulator issued: of a user (no token), or of an assumed role."""
    from moto.iam.models import iam_backends  # only where moto runs
    from moto.sts.models import sts_backends  # only where moto runs

    if token:
        roles = (role for partitions in list(sts_backends.values()) for backend in list(partitions.values())
                 for role in backend.assumed_roles)  # fmt: skip
        return next((str(role.secret_access_key) for role in roles
                     if role.access_key_id == key and role.session_token == token), None)  # fmt: skip
    users = (user for partitions in list(iam_backends.values()) for backend in list(partitions.values())
             for user in list(backend.users.values()))  # fmt: skip
    keys = (each for user in users for each in user.access_keys)
    return next((str(each.secret_access_key) for each in keys
                 if each.access_key_id == key and each.status == "Active"), None)  # fmt: skip
