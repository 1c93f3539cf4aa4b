"""`modelworks schema`: every setting of a stack, for editors and for people."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from modelworks._files import write_whole
from modelworks.cli.console import ENVIRONMENTS
from modelworks.cli.exit_codes import epilog
from modelworks.project import project_root
from modelworks.stack_config import load, schema


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command("schema", rich_help_panel=ENVIRONMENTS, epilog=epilog("schema"))(_schema)
    app.command("check", rich_help_panel=ENVIRONMENTS, epilog=epilog("check"))(_check)


def _schema(
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write. Default: standard output.")
    ] = None,
) -> None:
    """Print the JSON Schema of a stack's config file: every setting with its meaning, unit and default.

    Editors complete and check `Pulumi.<stack>.yaml` with it:

        modelworks schema -o .modelworks-schema.json

    and, as the first line of the stack file:

        # yaml-language-server: $schema=../.modelworks-schema.json
    """
    text = json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"
    if output:
        write_whole(output, text, mode=0o644)
    else:
        print(text, end="")


def _check(
    files: Annotated[
        list[Path] | None, typer.Argument(help="Stack config files. Default: every stack of the project.")
    ] = None,
) -> None:
    """Check stack config files without an engine or a cloud; an error names the path of the setting.

    For example:

        modelworks check stacks/Pulumi.prod.yaml

    """
    for path in files or sorted((project_root() / "stacks").glob("Pulumi.*.yaml")):
        load(path)
        print(f"{path}: good")
