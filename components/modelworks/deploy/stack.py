"""The real Pulumi engine against one environment: which one, with which variables, and what a killed one left."""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import yaml

from modelworks._files import write_whole
from modelworks._git import git_succeeds
from modelworks.deploy import pending_operations, process
from modelworks.deploy.lookup import search_of
from modelworks.deploy.stack_file import forget_wiped, read_config, read_file
from modelworks.deploy.stack_lock import StackLock, locks_in
from modelworks.errors import ModelworksError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from modelworks.deploy.account import Account

_ASK_BOUND = 120
"""Seconds for a question to the engine that changes nothing (an export, a list)."""


@dataclass(frozen=True)
class Protected:
    """A resource that the engine refuses to delete."""

    urn: str
    identity: str
    """Its ID at the provider."""

    def __str__(self) -> str:
        return f"{_short(self.urn)} ({self.identity})"


@dataclass(frozen=True)
class StackEngine:
    """The engine, aimed at one environment of one project."""

    environment: str
    project: Path
    """The folder of `Pulumi.yaml`."""

    pulumi: Path
    variables: Mapping[str, str]
    """The whole environment of its processes."""

    logs: Path
    on_laptop: bool

    def check(self) -> None:
        """Fail at once if the laptop cloud of the environment is not running.

        Raises:
            ModelworksError: Its AWS account does not answer.
        """
        if not self.on_laptop:
            return
        port = int(self.variables["AWS_ENDPOINT_URL"].rpartition(":")[2])
        try:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
        except OSError as error:
            raise ModelworksError(
                f"the laptop cloud is not running: nobody answers for AWS of {self.environment} on port {port}",
                fix=f"Run `modelworks laptop up {self.environment}`.",
            ) from error

    # -- the account it changes ------------------------------------------------------------------------------------

    @cached_property
    def account(self) -> Account:
        """The AWS account that the stack's provider changes.

        Raises:
            ModelworksError: It cannot be reached, is not one that the stack allows, or boto3 is not installed.
        """
        try:
            from modelworks.deploy.account import account_of  # slow, and needs an extra
        except ImportError as error:
            raise ModelworksError(
                f"the AWS account of {self.environment} cannot be reached: {error}",
                fix="Install boto3, or modelworks with the extra `models`.",
            ) from error
        return account_of(self.environment, {} if self.on_laptop else self._config_of("aws"), self.variables)

    def _config_of(self, namespace: str) -> dict[str, Any]:
        """The stack's config of one namespace, by full key, as the engine resolves and decrypts it."""
        found = json.loads(self.ask("config", "--json", "--stack", self.environment))
        return {
            key: _structured(self.ask("config", "get", key, "--stack", self.environment))
            if each["secret"]
            else each.get("objectValue") or _structured(each["value"])
            for key, each in found.items()
            if key.startswith(f"{namespace}:")
        }

    # -- running it ------------------------------------------------------------------------------------------------

    def run(self, verb: str, options: Sequence[str] = (), *, terminal: bool = False) -> int:
        """Run `pulumi VERB` on the environment's stack and return its exit code.

        Args:
            verb: `up`, `preview`, `refresh`, `destroy`, ...
            options: Passed on as they are.
            terminal: Let the engine draw and prompt on the terminal; its log is then its own list of events.

        Raises:
            Interrupted: Ctrl-C. Nothing is left running; what was in flight is recorded in the state.
        """
        log = self.log(verb)
        argv = [str(self.pulumi), verb, "--stack", self.environment, *options]
        variables = dict(self.variables)
        if terminal:
            argv += ["--event-log", str(log)]
            variables["PULUMI_DEBUG_COMMANDS"] = "true"  # where the engine hides that option
        return process.run(argv, cwd=self.project, env=variables, log=None if terminal else log)

    def capture(
        self, verb: str, options: Sequence[str] = (), *, heard: Callable[[str], None] | None = None
    ) -> tuple[int, str]:
        """Run `pulumi VERB` and return its exit code and what it wrote to stdout; stderr is in the log.

        Args:
            verb: `up`, `preview`, ...
            options: Passed on as they are.
            heard: Called with each line of stdout.

        Raises:
            Interrupted: Ctrl-C.
        """
        output = self.logs / f".pulumi-{verb}-{self.environment}.{os.getpid()}"
        argv = [str(self.pulumi), verb, "--stack", self.environment, "--non-interactive", *options]
        try:
            with process.followed(output, heard):
                code = process.run(argv, cwd=self.project, env=self.variables, log=self.log(verb), output=output)
            return code, output.read_text(encoding="utf-8", errors="replace")
        finally:
            output.unlink(missing_ok=True)

    def ask(self, *arguments: str, feed: str | None = None, fine: Sequence[int] = (0,)) -> str:
        """The output of `pulumi ARGUMENTS`, for queries and for small changes of the state.

        Raises:
            ModelworksError: It failed; its own words and the log are in the message.
        """
        log = self.log(arguments[0])
        try:
            answer = subprocess.run(
                [str(self.pulumi), *arguments, "--non-interactive"],
                cwd=self.project,
                env=dict(self.variables),
                input=feed,
                stdin=None if feed is not None else subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_ASK_BOUND,
                check=False,
                start_new_session=True,
            )
        except subprocess.TimeoutExpired as error:
            raise ModelworksError(
                f"`pulumi {' '.join(arguments[:2])}` did not answer within {_ASK_BOUND} s",
                fix="Check that the backend can be reached: `pulumi whoami -v`.",
            ) from error
        if answer.returncode not in fine:
            write_whole(log, answer.stderr + answer.stdout)
            said = answer.stderr.strip().removeprefix("error: ") or f"exit code {answer.returncode}"
            raise ModelworksError(f"`pulumi {' '.join(arguments[:2])}` failed: {said}; log: {log}")
        return answer.stdout

    def log(self, verb: str) -> Path:
        """The newest log of a verb."""
        return self.logs / f"pulumi-{verb}-{self.environment}.log"

    def policy(self) -> list[str]:
        """The project's own policy pack, which every preview and update enforces."""
        return ["--policy-pack", str(self.project / "policy")] if (self.project / "policy").is_dir() else []

    # -- before an update ------------------------------------------------------------------------------------------

    def prepare(self, say: Callable[[str], None]) -> None:
        """Have a stack, free of what a killed engine left: its lock, and operations of which nobody knows the end.

        Raises:
            ModelworksError: Another update is running; the message names its process.
        """
        self.mend(say)
        self.have_stack(say)
        self.unlock(say)
        self.settle(say)

    def mend(self, say: Callable[[str], None]) -> None:
        """Take away attributes of a state that a killed engine left empty: Pulumi would refuse the state for them."""
        if (folder := self._backend_folder()) is None:
            return
        for attributes in (folder / ".pulumi" / "stacks" / self._project_file()["name"]).glob("*.attrs"):
            if attributes.stat().st_size == 0:
                attributes.unlink()
                say(f"{attributes.name}, which a killed update left empty, is taken away")

    def have_stack(self, say: Callable[[str], None]) -> None:
        """On the laptop, have the stack and its config file, so that there is something to preview and to update.

        Raises:
            ModelworksError: Elsewhere, the stack is not in the backend: where its state and secrets are to be is the
                user's decision.
        """
        if not self.on_laptop:
            self._require_stack()
            return
        file = self.stack_file
        template = file.with_name(f"{self.environment}.template.yaml")
        if not file.exists() and template.exists():
            write_whole(file, template.read_text(encoding="utf-8"), mode=0o644)
            say(f"{file.name} is made from {template.name}")
        if self.has_stack():
            self._have_secrets(file, template)
            return
        if file.exists() and not self._in_git(file):
            forget_wiped(file, say)
        kept = file.read_text(encoding="utf-8") if file.exists() else ""
        self.ask("stack", "init", self.environment, "--no-select")
        if "secretsprovider:" in kept:
            write_whole(file, kept, mode=0o644)  # it is the real environment's; `stack init` drops that line
        self._have_secrets(file, template)

    def has_stack(self) -> bool:
        """Whether the backend has a stack of this name."""
        stacks = json.loads(self.ask("stack", "ls", "--json"))
        return any(stack["name"].rsplit("/", 1)[-1] == self.environment for stack in stacks)

    def _require_stack(self) -> None:
        if self.has_stack():
            return
        # Without the option, Pulumi takes the provider of the shell and drops the line that names this one.
        provider = read_file(self.stack_file).get("secretsprovider") if self.stack_file.is_file() else None
        init = f"pulumi stack init {self.environment}" + (f" --secrets-provider '{provider}'" if provider else "")
        raise ModelworksError(
            f"the backend has no stack {self.environment} ({self.variables.get('PULUMI_BACKEND_URL', 'your login')})",
            fix=f"Create it: `modelworks bootstrap {self.environment}`, or `{init}`.",
        )

    def _in_git(self, file: Path) -> bool:
        with suppress(ModelworksError):  # a machine without git
            return git_succeeds(self.project, "ls-files", "--error-unmatch", str(file))
        return False

    def _have_secrets(self, file: Path, template: Path) -> None:
        """Make up the registry's password for a stack made from a template: nobody else could know it."""
        config = read_config(file) if file.exists() else {}
        wanted = "registry" in (config.get("modelworks:settings") or {})
        if template.exists() and wanted and "registry_password" not in (config.get("modelworks:secrets") or {}):
            path = ("--path", "modelworks:secrets.registry_password")
            password = secrets.token_urlsafe(24)
            self.ask("config", "set", "--secret", "--stack", self.environment, *path, feed=password)

    @property
    def stack_file(self) -> Path:
        """Where the stack's config is."""
        folder = self._project_file().get("stackConfigDir") or "."
        return self.project / folder / f"Pulumi.{self.environment}.yaml"

    def _project_file(self) -> dict[str, Any]:
        return yaml.safe_load((self.project / "Pulumi.yaml").read_text(encoding="utf-8")) or {}

    @property
    def backend_url(self) -> str:
        """The address of the backend that keeps the state; empty where the login of the shell decides."""
        return self.variables.get("PULUMI_BACKEND_URL") or (self._project_file().get("backend") or {}).get("url") or ""

    def _backend_folder(self) -> Path | None:
        """The folder of a backend in files; None for any other."""
        url = self.backend_url
        if not url.startswith("file://"):
            return None
        folder = unquote(url.removeprefix("file://").split("?")[0])
        return self.project / os.path.expanduser(folder)  # noqa: PTH111 (`~` in a URL)

    def locks(self) -> list[StackLock]:
        """Who holds the stack. Only a backend of files can be inspected; elsewhere the engine reports it."""
        if (folder := self._backend_folder()) is None:
            return []
        return locks_in(folder, self._project_file()["name"], self.environment)

    def unlock(self, say: Callable[[str], None]) -> None:
        """Take away the lock of an engine of this host that is gone.

        Raises:
            ModelworksError: A lock is held by a running engine, or by another host.
        """
        locks = self.locks()
        if held := [lock for lock in locks if not lock.stale]:
            elsewhere = held[0].host != socket.gethostname()
            raise ModelworksError(
                f"the stack {self.environment} is being updated by {'; '.join(map(str, held))}",
                fix="Wait for it to end"
                + (f", or if nothing runs there any more: `pulumi cancel {self.environment}`." if elsewhere else "."),
            )
        if locks:
            self.ask("cancel", "--yes", "--stack", self.environment)
            say(f"the lock of a killed update is taken away ({'; '.join(map(str, locks))})")

    def settle(self, say: Callable[[str], None]) -> None:
        """Find out about each operation that a killed engine did not see the end of; see `pending`.

        Raises:
            ModelworksError: A provider is unreachable.
        """
        exported = self._exported()
        if exported is None or not pending_operations.operations(exported):
            return
        resolution = self._resolution(exported)
        count = len(pending_operations.operations(exported))
        say(f"a killed update left {count} operation{'s' if count > 1 else ''} pending; looking up each resource")
        self.ask("stack", "import", "--stack", self.environment, feed=json.dumps(resolution.deployment))
        if resolution.asked:
            targets = [part for urn in resolution.asked for part in ("--target", urn)]
            self.ask("refresh", "--stack", self.environment, "--yes", "--skip-preview", *targets)
            after = json.loads(self.ask("stack", "export", "--stack", self.environment))
            there = {resource["urn"] for resource in after["deployment"].get("resources") or []}
            for urn, identity in resolution.asked.items():
                what = "is there and is taken over" if urn in there else "was not made, and is forgotten"
                say(f"  {_short(urn)} ({identity or 'no id'}) {what}")
        for urn in resolution.absent:
            say(f"  {_short(urn)} was not made, and is forgotten")
        for urn in resolution.forgotten:
            say(
                f"  {_short(urn)}: its inputs do not determine its id, so it is forgotten; if it was created, find "
                f"and delete it by its tags"
            )

    def _resolution(self, exported: dict[str, Any]) -> pending_operations.Resolution:
        pending = pending_operations.operations(exported)
        if not any(operation["resource"]["type"].startswith("aws:") for operation in pending):
            return pending_operations.resolve(exported, pending_operations.Where("", ""))  # the stack may have no AWS
        account = self.account
        where = pending_operations.Where(account.id, account.region, self.variables.get("AWS_ENDPOINT_URL", ""))
        return pending_operations.resolve(exported, where, search_of(account.session))

    def protected(self) -> list[Protected]:
        """The resources that the engine refuses to delete, without those that belong to another of them."""
        resources = ((self._exported() or {}).get("deployment") or {}).get("resources") or []
        guarded = {each["urn"]: each for each in resources if each.get("protect") and each.get("id")}
        return [Protected(urn, each["id"]) for urn, each in guarded.items() if each.get("parent") not in guarded]

    def _exported(self) -> dict[str, Any] | None:
        """The state as the engine writes it; None where there is no stack."""
        try:
            exported: dict[str, Any] = json.loads(self.ask("stack", "export", "--stack", self.environment))
        except ModelworksError as error:
            if "no stack named" in error.message:
                return None
            raise
        return exported


def _structured(text: str) -> Any:
    """A config value: a list or a mapping may be written as JSON, as `pulumi config set` does."""
    text = text.removesuffix("\n")
    if text.startswith(("[", "{")):
        with suppress(ValueError):
            return json.loads(text)
    return text


def _short(urn: str) -> str:
    kind, _, name = urn.rpartition("::")
    return f"{kind.rpartition('$')[2].rpartition('::')[2]} {name}"
