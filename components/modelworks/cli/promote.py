"""`promote`: what serves in one environment, taken to the next."""

from __future__ import annotations

import getpass
import shutil
import subprocess
import tempfile
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from modelworks import contract
from modelworks.cli.console import Model, Override, err, out, progress
from modelworks.cli.context import Target
from modelworks.cli.lineage import verdict
from modelworks.cli.release import (
    champion_of,
    hold,
    note_release,
    release_of,
    say_release,
    was_released,
    with_release,
    write_line,
)
from modelworks.errors import ModelworksError
from modelworks.project import project_root

if TYPE_CHECKING:
    from modelworks.lifecycle.registry import Version
    from modelworks.lifecycle.runs import Home

_OF_ONE_ENVIRONMENT = ("mlflow_run", "registered_at", "promoted_from", "promoted_by")
"""Facts that a promoted version does not take along."""
_GIT_BOUND = 120
"""Seconds for a step of git, the project's own commit hooks included."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("promote")(promote)


def promote(
    model: Model,
    *,
    source: Annotated[str, typer.Option("--from", help="Environment it serves in now.")],
    to: Annotated[str, typer.Option("--to", help="Environment it is to serve in.")],
    override: Override = "",
    pr: Annotated[
        bool, typer.Option("--pr", help="Commit the line on a branch of its own, for review; your checkout stays.")
    ] = False,
) -> None:
    """Take what serves in one environment to the next: gates, then bundle and lineage, then one line in git.

    It is judged against what serves in the target, on the same hold-out, and held to the target's policy. Bundle,
    signature, data and lineage are copied by digest into the target's own stores and registry and verified there; only
    then the target's stack file changes. Run `modelworks up` to roll it out.

    Example: `modelworks promote flight-delay --from dev --to staging`.
    """
    _check_order(source, to)
    here, there = Target.of(source), Target.of(to)
    line = release_of(here, model)
    if line is None:
        raise ModelworksError(f"{source} releases no {model}", fix=f"Run `modelworks release {model} --env {source}`.")
    branch = f"release/{to}-{model}-{contract.short_digest(line.digest)}"
    if pr:
        _refuse_branch(there.stack_file, branch)
    version = here.registry.find(model, line.digest)
    _require_champion(source, version)
    with tempfile.TemporaryDirectory(prefix="modelworks-promote-") as scratch:
        copied = _copy(here, there, version, override, Path(scratch))
    changed = _on_branch(there, copied, branch) if pr else write_line(there.stack_file, copied)
    note_release(there, copied, changed=changed)
    if changed or not was_released(version, to):
        here.registry.note(version, released=with_release(version, to))
    if pr and changed:
        push = f"git push --set-upstream origin {branch}"
        out.print(f"committed on the branch {branch}; next: [bold]{push}[/] and open the request", soft_wrap=True)
    else:
        say_release(there, copied, changed)


def _check_order(source: str, to: str) -> None:
    from modelworks.lifecycle.release import read_order

    order = read_order(project_root())
    if (source, to) in pairwise(order):
        return
    raise ModelworksError(
        f"a version is not promoted from {source} to {to}: it comes up through {' → '.join(order)}",
        fix="Promote one step at a time; what was tried in `local` is trained again in the first environment. "
        "Another order is stated in pyproject.toml: [tool.modelworks] order = [...].",
    )


def _require_champion(source: str, version: Version) -> None:
    from modelworks.lifecycle.registry import CHAMPION

    if CHAMPION not in version.aliases:
        raise ModelworksError(
            f"{source} releases {version.model} {version.version}, but its champion is another: it does not serve it",
            fix=f"Bring it up and wait until it has all traffic: `modelworks up {source}`, then "
            f"`modelworks status {source} --wait`.",
        )


def _copy(here: Target, there: Target, version: Version, override: str, scratch: Path) -> Version:
    """Have a version in the target's registry, with bundle, signature and data, if the target takes it."""
    from modelworks.lifecycle.runs import Home

    home = Home(scratch / "home")
    bundle, signature = here.registry.fetch(version.model, version.digest, scratch)
    data = _data(here, version, home)
    judged = _judged(there, version, bundle, home, scratch)
    facts = {name: value for name, value in version.facts.items() if name not in _OF_ONE_ENVIRONMENT} | judged
    decided = {"promoted_from": here.environment, "promoted_by": getpass.getuser(), **judged}
    decided |= hold(replace(version, facts=facts), there.environment, override)
    if data and not there.registry.has_data(version.facts["data"]):
        there.registry.keep_data(version.facts["data"], data)
    copied = there.registry.register({**facts, **decided}, bundle, signature)
    # A version that was there already learns who decided what this time.
    missing = {name: value for name, value in decided.items() if copied.facts.get(name) != value}
    copied = there.registry.note(copied, **missing)
    there.registry.fetch(version.model, version.digest, scratch / "copied")
    return copied


def _data(here: Target, version: Version, home: Home) -> Path | None:
    """The rows that a version was trained on, fetched into `home`; None, and told, if they are nowhere."""
    from modelworks.cli.lifecycle import home_here
    from modelworks.lifecycle.data import SnapshotStore

    digest = version.facts["data"]
    if here.registry.has_data(digest):
        return here.registry.fetch_data(digest, home.data)
    mine = home_here()
    try:
        kept = SnapshotStore(mine.data, mine.data_store).get(digest).path
    except ModelworksError as error:
        err.print(
            f"[yellow]warning:[/] {here.environment} does not keep the rows of {version.model} {version.version} "
            f"({escape(error.message)}): it cannot be compared on them, nor trained on them again",
            soft_wrap=True,
        )
        return None
    home.data.mkdir(parents=True)
    return Path(shutil.copy(kept, home.data))


def _judged(there: Target, version: Version, bundle: Path, home: Home, scratch: Path) -> dict[str, Any]:
    """The verdicts for the target and the champion they compare with, as its lineage keeps them."""
    from modelworks.lifecycle.promotion import judged_again

    line = release_of(there, version.model)
    if line and line.digest == version.digest:
        # It is what serves there: it was judged before it was, and would now be judged against itself.
        known = next((each for each in there.registry.versions(version.model) if each.digest == version.digest), None)
        return {name: (known or version).facts[name] for name in ("gates", "champion")}
    gates = judged_again(
        version.facts,
        bundle,
        lambda: champion_of(there, version.model, version.digest, scratch / "champion"),
        home,
        scratch,
        progress,
    )
    return {"gates": gates, "champion": line.digest if line else ""}


# -- For review ------------------------------------------------------------------------------------------------------
def _refuse_branch(file: Path, branch: str) -> None:
    """Find what would keep a commit from being made before anything else is done."""
    if _git(file, "rev-parse", "--verify", "--quiet", f"HEAD:./{file.name}", must=False) is None:
        raise ModelworksError(
            f"{file} is in no commit of a git repository: there is nothing to review a change against",
            fix="Commit it first, or leave out --pr.",
        )
    if _git(file, "rev-parse", "--verify", "--quiet", f"refs/heads/{branch}", must=False) is not None:
        raise ModelworksError(
            f"the branch {branch} is there already: this promotion waits for its review",
            fix=f"Push it, or drop it with `git branch -D {branch}` to make it anew.",
        )
    if _git(file, "var", "GIT_COMMITTER_IDENT", must=False) is None:
        raise ModelworksError(
            "git does not know who you are, and a commit needs an author",
            fix="Run `git config user.name NAME` and `git config user.email ADDRESS`.",
        )


def _on_branch(there: Target, version: Version, branch: str) -> bool:
    """Commit the release line on a branch of its own, off the commit that is checked out. Returns whether it changed.

    It is done in a working tree of its own: the user's keeps its branch, and whatever is being edited in it.
    """
    file = there.stack_file
    with tempfile.TemporaryDirectory(prefix="modelworks-review-") as scratch:
        checkout = Path(scratch) / "checkout"
        prefix = _git(file, "rev-parse", "--show-prefix") or ""
        _git(file, "worktree", "add", "--quiet", "--detach", str(checkout), "HEAD")
        try:
            copy = checkout / prefix.strip() / file.name
            if not write_line(copy, version):
                return False
            _git(copy, "commit", "--quiet", "--message", _message(there.environment, version), "--", copy.name)
            _git(copy, "branch", branch, "HEAD")
        finally:
            _git(file, "worktree", "remove", "--force", str(checkout))
    return True


def _message(environment: str, version: Version) -> str:
    facts = version.facts
    lines = [
        f"Release {version.model} {version.version} to {environment}",
        "",
        f"Promoted from {facts['promoted_from']} by {facts['promoted_by']}.",
        "",
        f"Bundle: {version.digest}",
        f"Data: {facts['data']}",
        f"Code: {facts['commit'] or 'no commit'}",
        f"Gates: {verdict(facts)}",
        *(f"Override: {each['reason']} ({each['by']}, for {each['environment']})" for each in facts["overrides"]),
    ]
    return "\n".join(lines)


def _git(file: Path, *arguments: str, must: bool = True) -> str | None:
    """What git says beside a file; None if it fails and need not go well."""
    command = ["git", "-C", str(file.parent), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_GIT_BOUND)
    if done.returncode and must:
        raise ModelworksError(
            f"`git {arguments[0]}` failed: {done.stderr.strip() or done.stdout.strip()}",
            fix="Put that right and promote again: what is copied already is found again.",
        )
    return None if done.returncode else done.stdout
