"""The person who trains, approves or releases: by git, and by the account in which it has an effect."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from modelworks._git import git
from modelworks._user import user_name
from modelworks.errors import ModelworksError


def person() -> str:
    """The caller as their commits name them, such as `Ada <ada@example.org>`; without that, the user's name."""
    try:
        name, address = (git(Path.cwd(), "config", key).decode().strip() for key in ("user.name", "user.email"))
    except ModelworksError:
        return user_name()
    return f"{name} <{address}>"


def person_at(session: Any) -> str:
    """The caller, and the identity that the account authenticated: a name is stated, an ARN is proven.

    Args:
        session: A boto3 session of the account.

    Raises:
        ModelworksError: The account does not answer.
    """
    from botocore.exceptions import BotoCoreError, ClientError  # only where there is an account

    try:
        return f"{person()}, {session.client('sts').get_caller_identity()['Arn']}"
    except (BotoCoreError, ClientError) as error:
        raise ModelworksError(
            f"AWS does not state who calls: {error}", fix="Check the credentials: aws sts get-caller-identity."
        ) from error
