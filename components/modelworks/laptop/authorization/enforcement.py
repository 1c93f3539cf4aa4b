"""Requests that the policies of an emulated account forbid are refused, in the words of AWS, and written down.

The key of the environment is the account's owner, who may do everything. All others are users and roles.
"""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from xml.sax.saxutils import escape

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from modelworks.laptop.authentication import VERIFIED
from modelworks.laptop.authorization import policies, storage
from modelworks.laptop.authorization.actions import Call, questions, read
from modelworks.laptop.authorization.conditions import PolicyError
from modelworks.laptop.authorization.evaluation import Policies, Principal, Question, decide
from modelworks.laptop.authorization.policies import Caller
from modelworks.laptop.request_journal import operation, request_body

AUDIENCE: Final = "sts.amazonaws.com"

_Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class DeniedError(Exception):
    """A request that AWS would refuse: its code, its HTTP status, and the sentence."""

    def __init__(self, code: str, message: str, status: str = "403 Forbidden") -> None:
        super().__init__(message)
        self.code = code
        self.status = status


class Denials:
    """The log of refused requests, one a line."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()

    def note(self, call: Call, who: str, error: DeniedError) -> None:
        """Append one."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        line = f"{now} {error.code} {who} {call.service}:{call.operation} {call.path}: {error}\n"
        with self._lock, self._path.open("a", encoding="utf-8") as file:
            file.write(line)


class Enforced:
    """A WSGI application that lets requests through to `application` if IAM allows them.

    Args:
        application: The emulator.
        account: 12 digits.
        owner: The access key that may do everything.
        issuer_key: The file with the public key of the cluster's tokens, in PEM; without it no token is valid.
        denials: The log of refusals.
    """

    def __init__(self, application: _Application, account: str, owner: str, issuer_key: Path, denials: Denials) -> None:
        self._application = application
        self._account = account
        self._owner = owner
        self._issuer_key = issuer_key
        self._denials = denials

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        key, token, service, region = environ.get(VERIFIED) or ("", "", "sts", "us-east-1")
        body = request_body(environ)
        environ["wsgi.input"] = io.BytesIO(body)
        call = read(environ, body, service, region, self._account)
        who = "anonymous"
        try:
            if not key:
                self._check_web_identity(call)
            elif key != self._owner or token:
                caller = policies.caller(self._account, key, token)
                who = caller.principal.arn
                self._check(call, caller)
            _check_keys(call)
        except DeniedError as error:
            self._denials.note(call, who, error)
            return _answer(call, error, start_response)
        return self._application(environ, start_response)

    def _check(self, call: Call, caller: Caller) -> None:
        context = {**_known(call), **caller.context}
        asked = questions(call, policies.resolve)
        for question in asked:
            self._check_one(call, caller, question, context)
        if storage.missing(call):
            # Who may not list a bucket is not told what is not in it; AWS asks for a listing of that key alone:
            # https://github.com/ceph/ceph/pull/68577
            listing = Question("s3:ListBucket", f"arn:aws:s3:::{call.bucket}", {"s3:prefix": [call.key]})
            self._check_one(call, caller, listing, context)
        for question in storage.key_uses(call):
            self._check_one(call, caller, question, {**context, "aws:CalledVia": [f"{call.service}.amazonaws.com"]})

    def _check_one(self, call: Call, caller: Caller, question: Question, context: dict[str, list[str]]) -> None:
        of_resource, resource_decides = policies.of_resource(call, question.resource)
        applied = Policies(caller.identity, caller.boundary, caller.session, of_resource, resource_decides)
        whole = Question(question.action, question.resource, {**context, **question.context})
        try:
            decision = decide(caller.principal, whole, applied)
        except PolicyError as error:
            raise DeniedError(
                "AccessDenied", f"A policy that applies to {caller.principal.arn} cannot be evaluated: {error}"
            ) from error
        if not decision.allowed:
            resource = f'"{question.resource}"' if call.service == "s3" else question.resource
            raise DeniedError(
                _denied_code(call),
                f"User: {caller.principal.arn} is not authorized to perform: {question.action} on resource: {resource} "
                f"{decision.because(question.action)}",
                status="403 Forbidden" if call.service in _FORBIDDING else "400 Bad Request",
            )

    def _check_web_identity(self, call: Call) -> None:
        """Check a request for a session by a token of the cluster."""
        if call.operation != "AssumeRoleWithWebIdentity":
            raise DeniedError("MissingAuthenticationToken", "Request is missing Authentication Token")
        claims = self._claims(call.text("WebIdentityToken"))
        document = policies.trust(self._account, role := call.text("RoleArn"))
        action = "sts:AssumeRoleWithWebIdentity"
        refusal = DeniedError("AccessDenied", f"Not authorized to perform {action}")
        if document is None:
            raise refusal
        context = {**_known(call)}
        for issuer in _providers(document):
            context |= {f"{issuer}:sub": [claims["sub"]], f"{issuer}:aud": claims["aud"]}
        trusted = Policies(resource=document, resource_decides=True)
        asked = Question(action, role, context)
        if not decide(Principal(claims["sub"], federated=True), asked, trusted).allowed:
            raise refusal

    def _claims(self, token: str) -> dict[str, Any]:
        """The claims of a token of the cluster, once its signature, time and audience are verified."""
        try:
            claims = _verified(token, self._issuer_key.read_bytes())
            until = float(claims["exp"])
        except (ValueError, KeyError, OSError, InvalidSignature) as error:
            raise DeniedError(
                "InvalidIdentityToken", f"Couldn't verify the token with the cluster's key: {error or 'signature'}",
                status="400 Bad Request",
            ) from error  # fmt: skip
        if until < time.time():
            raise DeniedError("ExpiredTokenException", "Token expired", status="400 Bad Request")
        if AUDIENCE not in claims["aud"]:
            raise DeniedError("InvalidIdentityToken", "Incorrect token audience", status="400 Bad Request")
        return claims


def _check_keys(call: Call) -> None:
    if refusal := storage.unusable(call, list(storage.key_uses(call))):
        raise DeniedError(*refusal, status="400 Bad Request")


def asks_for_a_session(environ: dict[str, Any]) -> bool:
    """Whether a request is `AssumeRoleWithWebIdentity`, which a token signs and no key."""
    if not str(environ.get("CONTENT_TYPE", "")).startswith("application/x-www-form-urlencoded"):
        return False
    body = request_body(environ)
    environ["wsgi.input"] = io.BytesIO(body)
    return operation(environ, body) == "AssumeRoleWithWebIdentity"


_FORBIDDING: Final = {"s3", "iam", "sts", "sns", "cloudwatch", "elasticloadbalancing", "sqs"}
"""Services that refuse with 403; those that speak JSON do so with 400."""


def _denied_code(call: Call) -> str:
    if call.service == "sns":
        return "AuthorizationError"
    return "AccessDenied" if call.service in _FORBIDDING else "AccessDeniedException"


def _known(call: Call) -> dict[str, list[str]]:
    """Condition keys of every request. Loopback stands for an encrypted connection, and for the network of the pods."""
    now = datetime.now(UTC)
    return {
        "aws:CurrentTime": [now.isoformat(timespec="seconds").replace("+00:00", "Z")],
        "aws:EpochTime": [str(int(now.timestamp()))],
        "aws:PrincipalIsAWSService": ["false"],
        "aws:RequestedRegion": [call.region],
        "aws:ResourceAccount": [call.account],
        "aws:SecureTransport": ["true"],
        "aws:SourceIp": ["127.0.0.1"],
        "aws:UserAgent": [call.headers.get("user-agent", "")],
        "aws:ViaAWSService": ["false"],
    }


def _providers(document: Mapping[str, Any]) -> list[str]:
    """The issuers that a trust policy names: each stands for the one cluster of the laptop."""
    found = document.get("Statement") or []
    named = [(each.get("Principal") or {}) for each in ([found] if isinstance(found, Mapping) else found)]
    federated = [each.get("Federated") or [] for each in named if isinstance(each, Mapping)]
    arns = [arn for each in federated for arn in ([each] if isinstance(each, str) else each)]
    return [arn.partition(":oidc-provider/")[2] for arn in arns if ":oidc-provider/" in arn]


def _verified(token: str, public: bytes) -> dict[str, Any]:
    """The claims of a token that the key signed with ES256, the one algorithm of the laptop's cluster."""
    head, body, signature = token.split(".")
    raw, key = _decoded(signature), serialization.load_pem_public_key(public)
    if not isinstance(key, ec.EllipticCurvePublicKey) or json.loads(_decoded(head)).get("alg") != "ES256":
        raise ValueError("it is not signed with ES256")
    both = encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))
    key.verify(both, f"{head}.{body}".encode(), ec.ECDSA(hashes.SHA256()))
    claims: dict[str, Any] = json.loads(_decoded(body))
    return claims | {"aud": [claims["aud"]] if isinstance(claims["aud"], str) else list(claims["aud"])}


def _decoded(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


# -- Answers ---------------------------------------------------------------------------------------------------------
def _answer(call: Call, error: DeniedError, start_response: Callable[..., Any]) -> list[bytes]:
    kind = call.headers.get("content-type", "")
    headers = [("x-amzn-RequestId", "laptop")]
    if "cbor" in kind:
        # The awsQuery-compatible header carries the code that clients of the old protocol know.
        body = _cbor({"__type": f"com.amazonaws.{call.service}#{error.code}", "message": str(error)})
        headers += [("Content-Type", "application/cbor"), ("smithy-protocol", "rpc-v2-cbor")]
        headers += [("x-amzn-query-error", f"{error.code};Sender")]
    elif "json" in kind:
        body = json.dumps({"__type": error.code, "message": str(error)}).encode()
        headers += [("Content-Type", "application/x-amz-json-1.1"), ("x-amzn-query-error", f"{error.code};Sender")]
    elif call.service == "s3":
        body = f"<Error><Code>{error.code}</Code><Message>{escape(str(error))}</Message></Error>".encode()
        headers += [("Content-Type", "application/xml")]
    else:
        inner = f"<Type>Sender</Type><Code>{error.code}</Code><Message>{escape(str(error))}</Message>"
        body = f"<ErrorResponse><Error>{inner}</Error></ErrorResponse>".encode()
        headers += [("Content-Type", "text/xml")]
    body = b"" if call.method == "HEAD" else body
    start_response(error.status, [*headers, ("Content-Length", str(len(body)))])
    return [body]


def _cbor(texts: Mapping[str, str]) -> bytes:
    """A map of texts in CBOR (RFC 8949): botocore writes requests in it, and no answers."""

    def head(major: int, size: int) -> bytes:
        return bytes([major << 5 | 25]) + size.to_bytes(2, "big")

    parts = [head(3, len(raw)) + raw for pair in texts.items() for raw in (each.encode()[:65_535] for each in pair)]
    return head(5, len(texts)) + b"".join(parts)
