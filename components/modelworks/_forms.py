"""Private and pure: what a name looks like, stated once: stack settings and components read it here."""

import re
from collections.abc import Mapping
from typing import Final, NamedTuple


class Form(NamedTuple):
    """The look of a text."""

    pattern: str
    """A regular expression for the whole of it."""
    meaning: str
    """In words."""

    @property
    def whole(self) -> str:
        """The expression, as Pydantic takes it."""
        return f"^{self.pattern}$"

    def fits(self, text: str) -> bool:
        """Whether a text has it."""
        return re.fullmatch(self.pattern, text, re.ASCII) is not None


def _arn(service: str, rest: str, example: str) -> Form:
    return Form(rf"arn:aws[a-z-]*:{service}:{rest}", f"an ARN such as arn:aws:{service}:{example}")


ACCOUNT: Final = Form(r"\d{12}", "12 digits")
BUCKET: Final = Form(
    r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]",
    "the name of a bucket: 3 to 63 lower-case letters, digits, '-' and '.', with a letter or a digit at its ends",
)
CERTIFICATE: Final = _arn("acm", r"[a-z0-9-]+:\d{12}:certificate/[\w-]+", "eu-central-1:111111111111:certificate/…")
EMAIL: Final = Form(r"[^@\s]+@[^@\s]+\.[^@\s]+", "an address such as team@example.com")
HOST: Final = Form(
    r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?", "a host name of lower-case letters, digits, '-' and '.', without a scheme"
)
IMAGE: Final = Form(
    r"[\w./:-]+@sha256:[0-9a-f]{64}", "an image by its digest: its name, then @sha256: and 64 hex digits"
)
KEY: Final = _arn("kms", r"[a-z0-9-]+:\d{12}:key/[\w-]+", "eu-central-1:111111111111:key/…")
ROLE: Final = _arn("iam", r":\d{12}:role/[\w+=,.@/-]+", ":111111111111:role/deploy")
TOPIC: Final = _arn("sns", r"[a-z0-9-]+:\d{12}:[\w-]{1,256}", "eu-central-1:111111111111:alerts")
ISSUER: Final = Form(r"[a-z0-9][\w./-]+", "an issuer without https://, such as oidc.eks.REGION.amazonaws.com/id/0123")
NAMESPACE: Final = Form(
    r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?",
    "a namespace: 1 to 63 lower-case letters, digits and '-', with a letter or a digit at its ends",
)

OF_ARGUMENTS: Final[Mapping[str, Form]] = {
    "account_id": ACCOUNT,
    "alert_emails": EMAIL,
    "alerts_topic_arn": TOPIC,
    "artifact_bucket": BUCKET,
    "bundle_bucket": BUCKET,
    "certificate_arn": CERTIFICATE,
    "control_plane_account_id": ACCOUNT,
    "host": HOST,
    "image": IMAGE,
    "key_arn": KEY,
    "namespace": NAMESPACE,
    "oidc_issuer": ISSUER,
    "prediction_bucket": BUCKET,
    "role_arn": ROLE,
}
"""The form of a plain text by the name of the argument, which is the same in all components."""
