"""Whether a request is allowed: the policy evaluation logic of IAM within one account.

Sources, all of the IAM user guide:
https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_evaluation-logic_policy-eval-denyallow.html
https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_evaluation-logic_policy-eval-basics-single-account.html
https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements_principal.html
https://docs.aws.amazon.com/kms/latest/developerguide/key-policy-default.html

There are no organizations here, so no service and resource control policies.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from modelworks.laptop.authorization.conditions import Context, PolicyError, holds, matches, substituted

Document = Mapping[str, Any]
"""A policy, as its JSON has it."""


@dataclass(frozen=True)
class Principal:
    """The caller: a user, a session of a role, or an identity of a provider that requests one."""

    arn: str
    account: str = ""
    """12 digits."""
    role: str = ""
    """ARN of the role of a session."""
    federated: bool = False
    """Whether it has no credentials of AWS, but a token of an identity provider."""


@dataclass(frozen=True)
class Question:
    """May this be done?"""

    action: str
    """For example `s3:GetObject`."""
    resource: str
    """An ARN; `*` for actions without resources."""
    context: Context = field(default_factory=dict)
    """Condition keys and their values."""


@dataclass(frozen=True)
class Policies:
    """All policies that apply to a principal and a resource."""

    identity: Sequence[Document] = ()
    """Of the user with its groups, or of the role."""
    boundary: Document | None = None
    session: Document | None = None
    """The policy that was passed when the role was assumed."""
    resource: Document | None = None
    """Of the bucket, key, topic, queue; or whom the role trusts."""
    resource_decides: bool = False
    """Whether nothing is allowed that the resource's own policy does not allow at least to the account: of keys, and of
    roles that are assumed."""


Kind = Literal["identity-based policy", "permissions boundary", "session policy", "resource-based policy"]


@dataclass(frozen=True)
class Decision:
    """The answer, and which policies are the reason of a refusal."""

    allowed: bool
    kind: Kind | None = None
    explicit: bool = False
    """Whether a statement denies it, and not only no statement allows it."""

    def because(self, action: str) -> str:
        """The end of AWS's sentence about a refusal."""
        article = "an" if (self.kind or "").startswith("i") else "a"
        if self.explicit:
            return f"with an explicit deny in {article} {self.kind}"
        return f"because no {self.kind} allows the {action} action"


_ALLOWED: Final = Decision(allowed=True)


def decide(principal: Principal, question: Question, policies: Policies) -> Decision:
    """Apply every policy: an explicit deny wins, and what nothing allows is denied.

    Raises:
        PolicyError: A policy has a part that cannot be evaluated.
    """
    by_kind: list[tuple[Kind, Sequence[Document]]] = [
        ("identity-based policy", policies.identity),
        ("permissions boundary", [policies.boundary] if policies.boundary else []),
        ("session policy", [policies.session] if policies.session else []),
    ]
    for kind, documents in by_kind:
        if any(_applies(each, "Deny", question) for each in documents):
            return Decision(allowed=False, kind=kind, explicit=True)
    granted = ""
    if policies.resource is not None:
        if _granted(policies.resource, "Deny", principal, question):
            return Decision(allowed=False, kind="resource-based policy", explicit=True)
        granted = _granted(policies.resource, "Allow", principal, question)
    if granted == "this":
        # A grant to a user, or to one session, is not narrowed by what limits its identity.
        return _ALLOWED
    by_identity = any(_applies(each, "Allow", question) for each in policies.identity)
    if policies.resource_decides and not granted:
        return Decision(allowed=False, kind="resource-based policy")
    if not by_identity and granted != "role":
        return Decision(allowed=False, kind="identity-based policy")
    for kind, documents in by_kind[1:]:
        if documents and not any(_applies(each, "Allow", question) for each in documents):
            return Decision(allowed=False, kind=kind)
    return _ALLOWED


def _statements(document: Document, effect: str) -> Iterator[tuple[Mapping[str, Any], bool]]:
    """Statements of one effect, each with whether it may have variables."""
    found = document.get("Statement") or []
    for statement in [found] if isinstance(found, Mapping) else found:
        if statement.get("Effect") == effect:
            yield statement, document.get("Version") == "2012-10-17"


def _applies(document: Document, effect: str, question: Question) -> bool:
    return any(_covers(statement, question, variables) for statement, variables in _statements(document, effect))


def _granted(document: Document, effect: str, principal: Principal, question: Question) -> str:
    """Whom a resource's policy names that is the principal: `this` one, its `role`, its `account`; else empty."""
    order = ("", "account", "role", "this")
    best = ""
    for statement, variables in _statements(document, effect):
        named = _named(statement, principal)
        if named and _covers(statement, question, variables):
            best = max(best, named, key=order.index)
    return best


def _named(statement: Mapping[str, Any], principal: Principal) -> str:
    if "NotPrincipal" in statement:
        others = _named({"Principal": statement["NotPrincipal"]}, principal)
        return "" if others else "role"
    named = statement.get("Principal")
    if named == "*":
        return "role"
    if not isinstance(named, Mapping):
        raise PolicyError("a statement of a resource's policy names no Principal")
    if principal.federated:
        return "this" if "Federated" in named else ""
    entries = _list(named.get("AWS"))
    if principal.arn in entries:
        return "this"
    if "*" in entries or (principal.role and principal.role in entries):
        return "role"
    account = principal.account
    if any(each == account or (each.endswith(":root") and each.split(":")[4] == account) for each in entries):
        return "account"
    return ""


def _covers(statement: Mapping[str, Any], question: Question, variables: bool) -> bool:
    """Whether action, resource and conditions of a statement are those of the question."""
    action = question.action.lower()
    if "NotAction" in statement:
        if any(matches(each.lower(), action) for each in _list(statement["NotAction"])):
            return False
    elif not any(matches(each.lower(), action) for each in _list(statement.get("Action"))):
        return False
    if "NotResource" in statement:
        if any(_is_resource(each, question, variables) for each in _list(statement["NotResource"])):
            return False
    elif "Resource" in statement and not any(
        _is_resource(each, question, variables) for each in _list(statement["Resource"])
    ):
        return False
    return holds(statement.get("Condition") or {}, question.context, variables=variables)


def _is_resource(pattern: str, question: Question, variables: bool) -> bool:
    wanted = substituted(pattern, question.context) if variables else pattern
    return wanted is not None and matches(wanted, question.resource)


def _list(value: Any) -> list[str]:
    if value is None:
        return []
    return [str(each) for each in value] if isinstance(value, list | tuple) else [str(value)]
