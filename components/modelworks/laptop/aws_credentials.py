"""The access key of an environment's emulated AWS account, in a file that AWS's own clients read too."""

from __future__ import annotations

import configparser
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from modelworks._files import write_whole
from modelworks.errors import ModelworksError
from modelworks.laptop.state_dir import StateDir


@dataclass(frozen=True)
class AwsCredentials:
    """An access key and its secret. It opens one emulated account, and nothing else."""

    key: str
    secret: str = field(repr=False)


def credentials_file(place: StateDir, environment: str) -> Path:
    """The file, in the form of `~/.aws/credentials`: for `AWS_SHARED_CREDENTIALS_FILE`."""
    return place.environment(environment) / "aws-credentials"


def new_credentials() -> AwsCredentials:
    """A key that nobody has yet."""
    return AwsCredentials(f"AKIA{secrets.token_hex(8).upper()}", secrets.token_urlsafe(30))


def create_credentials(place: StateDir, environment: str) -> None:
    """Write a new key for the account of `environment`."""
    new = new_credentials()
    text = f"[default]\naws_access_key_id = {new.key}\naws_secret_access_key = {new.secret}\n"
    write_whole(credentials_file(place, environment), text)


def read_credentials(place: StateDir, environment: str) -> AwsCredentials:
    """The key of the account of `environment`.

    Raises:
        ModelworksError: The file is missing, or has no key.
    """
    path = credentials_file(place, environment)
    try:
        parser = configparser.ConfigParser(interpolation=None)
        parser.read_string(path.read_text("utf-8"))
        profile = parser["default"]
        return AwsCredentials(profile["aws_access_key_id"], profile["aws_secret_access_key"])
    except (OSError, KeyError, configparser.Error) as error:
        raise ModelworksError(
            f"{path} does not hold the access key of the laptop's AWS account: {error}",
            fix="Run `modelworks laptop down` to start again.",
        ) from error
