"""The program of the registry's pod: MLflow's server, whose administrator has the password of its configuration.

MLflow reads `admin_password` when it creates the user, and never again (3.17, `create_admin_user`): a rotated password
would lock everyone out. Arguments are those of `mlflow server`.
"""

from __future__ import annotations

import sys


def main(arguments: list[str]) -> None:
    """Give the administrator its password, then serve.

    Args:
        arguments: Of `mlflow server`.
    """
    from mlflow.cli import cli  # seconds to import, and in the image of the registry alone

    set_admin_password()
    cli(["server", *arguments])


def set_admin_password() -> None:
    """Let the password of the configuration (`MLFLOW_AUTH_CONFIG_PATH`) be the administrator's, and no earlier one.

    Raises:
        mlflow.exceptions.MlflowException: The configuration names no administrator, or the password is too short.
    """
    from mlflow.server import auth  # it reads its configuration as it is imported

    auth.bootstrap_admin_user()
    name, password = auth.auth_config.admin_username or "", auth.auth_config.admin_password or ""
    if not auth.store.authenticate_user(name, password, use_primary=True):
        auth.store.update_user(name, password=password)


if __name__ == "__main__":
    main(sys.argv[1:])
