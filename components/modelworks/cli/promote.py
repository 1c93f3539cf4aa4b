"""`promote`: release the version of one environment in the next."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from modelworks import contract
from modelworks._git import GitError, git, git_succeeds
from modelworks.cli.console import RELEASES, Model, Override, SigningKeyOption, out, progress, warn
from modelworks.cli.context import EnvironmentContext
from modelworks.cli.exit_codes import epilog
from modelworks.cli.lineage import verdict
from modelworks.cli.release import key_of, say_release
from modelworks.errors import ModelworksError
from modelworks.project import project_root

if TYPE_CHECKING:
    from modelworks.lifecycle.version import Version


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("promote", rich_help_panel=RELEASES, epilog=epilog("promote"))(promote)


def promote(
    model: Model,
    *,
    source: Annotated[str, typer.Option("--from", help="The environment that serves it now.")],
    to: Annotated[str, typer.Option("--to", help="The environment to release it in.")],
    override: Override = "",
    signing_key: SigningKeyOption = "",
    source_role: Annotated[
        str, typer.Option("--from-role", metavar="ARN", help="Role to assume for everything of the source.")
    ] = "",
    pr: Annotated[
        bool, typer.Option("--pr", help="Commit the line on a new branch, for review; your checkout does not change.")
    ] = False,
) -> None:
    """Release the version that serves in one environment in the next: one line in git.

    The gates compare it with the version that serves in the target, on the same hold-out, under the target's policy.
    A signature that the target does not trust is refused; with --signing-key the command signs it for the target. The
    command copies bundle, signature, data and lineage by digest into the target's stores and registry, verifies
    them there, and only then edits the target's stack file. Run `modelworks up` to roll it out.

    Example: `modelworks promote flight-delay --from dev --to staging`.
    """
    from modelworks.cli.lifecycle import home_here
    from modelworks.lifecycle import promotion
    from modelworks.lifecycle.registration import write_release
    from modelworks.lifecycle.release import read_order, read_releases, require_next

    require_next(read_order(project_root()), source, to)
    here, there = EnvironmentContext.of(source), EnvironmentContext.of(to)
    if source_role:
        here = here.in_role(source_role)
    line = read_releases(here.stack_file).get(model)
    branch = f"release/{to}-{model}-{contract.short_digest(line.digest)}" if line else ""
    if pr and branch:
        _refuse_branch(there.stack_file, branch)
    version = promotion.prepare(
        model,
        here.registry,
        there.registry,
        source_file=here.stack_file,
        target_file=there.stack_file,
        home=home_here(),
        override=override,
        signing_key=key_of(there, signing_key),
        progress=progress,
        warn=warn,
    )
    if pr and _on_branch(there.stack_file, version, branch=branch, environment=to):
        _say_next(branch, to)
        return
    changed = not pr and write_release(there.stack_file, version)
    promotion.note_promotion(here.registry, there.registry, version, changed=changed)
    say_release(there, version, changed)


# -- For review ------------------------------------------------------------------------------------------------------
def _refuse_branch(file: Path, branch: str) -> None:
    """Raise before any other step if the commit cannot be made."""
    folder = file.parent
    if not git_succeeds(folder, "rev-parse", "--verify", "--quiet", f"HEAD:./{file.name}"):
        raise ModelworksError(
            f"{file} is not committed to a git repository, so a change cannot be reviewed",
            fix="Commit it first, or leave out --pr.",
        )
    if git_succeeds(folder, "rev-parse", "--verify", "--quiet", f"refs/heads/{branch}"):
        raise ModelworksError(
            f"the branch {branch} already exists: this promotion is under review",
            fix=f"Push it, or delete it with `git branch -D {branch}` and run the command again.",
        )
    if not git_succeeds(folder, "var", "GIT_COMMITTER_IDENT"):
        raise ModelworksError(
            "git has no user name and email, and a commit needs an author",
            fix="Run `git config user.name NAME` and `git config user.email ADDRESS`.",
        )


def _on_branch(file: Path, version: Version, *, branch: str, environment: str) -> bool:
    """Commit the release line on a new branch from the checked-out commit. Returns whether it changed.

    The commit is made in a temporary working tree: the user's keeps its branch and its edits.
    """
    from modelworks.lifecycle.registration import write_release

    try:
        with _checkout(file.parent) as folder:
            copy = folder / file.name
            if not write_release(copy, version):
                return False
            git(folder, "commit", "--quiet", "--message", _message(environment, version), "--", copy.name)
            git(folder, "branch", branch, "HEAD")
    except GitError as error:
        raise ModelworksError(
            error.message, fix="Put that right and promote again: what is copied already is found again."
        ) from error
    return True


def _say_next(branch: str, environment: str) -> None:
    push = f"git push --set-upstream origin {branch}"
    out.print(f"committed on the branch {branch}; next: [bold]{push}[/] and open the request", soft_wrap=True)
    out.print(
        f"it is released when it is merged: then [bold]modelworks up {environment}[/] and "
        f"[bold]modelworks status {environment} --wait[/], which records the release",
        soft_wrap=True,
    )


@contextmanager
def _checkout(folder: Path) -> Iterator[Path]:
    """A copy of `folder` in a working tree of its own, at the commit that is checked out."""
    with tempfile.TemporaryDirectory(prefix="modelworks-review-") as scratch:
        tree = Path(scratch) / "checkout"
        prefix = git(folder, "rev-parse", "--show-prefix").decode().strip()
        git(folder, "worktree", "add", "--quiet", "--detach", str(tree), "HEAD")
        try:
            yield tree / prefix
        finally:
            git(folder, "worktree", "remove", "--force", str(tree))


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
