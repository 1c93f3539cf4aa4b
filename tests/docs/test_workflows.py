"""The workflows of GitHub: what they call exists, and what they need is in the documents."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
import typer
import yaml

from mocks import ROOT
from modelworks import cli

cli._register()

WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
GUIDE = (ROOT / "docs/guides/pull-requests.md").read_text()


def scripts(path) -> list[str]:
    jobs = yaml.safe_load(path.read_text())["jobs"].values()
    return [step["run"] for job in jobs for step in job.get("steps", []) if "run" in step]


def commands(script: str) -> list[list[str]]:
    """Calls of modelworks, each as its words."""
    return [call.split() for call in re.findall(r"\.venv/bin/modelworks ([^\n|>]*)", script)]


def command_of(group, words):
    inner = group.commands[words[0]]
    return command_of(inner, words[1:]) if getattr(inner, "commands", None) else inner


CALLS = [call for path in WORKFLOWS for script in scripts(path) for call in commands(script)]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_every_script_is_one_that_bash_reads(path):
    for script in scripts(path):
        plain = re.sub(r"\$\{\{.*?\}\}", "expression", script)
        assert subprocess.run(["bash", "-n"], input=plain, text=True, capture_output=True, check=False).stderr == ""


@pytest.mark.parametrize("call", CALLS, ids=" ".join)
def test_every_call_is_a_command_with_options_that_it_has(call):
    command = command_of(typer.main.get_command(cli.app), call)
    known = {option for parameter in command.params for option in parameter.opts}
    # These pass on what they do not know to the engine.
    passed_on = (
        {"--refresh", "--expect-no-changes"} if command.context_settings.get("ignore_unknown_options") else set()
    )
    assert {word for word in call if word.startswith("--")} <= known | passed_on


def jobs_of_stacks():
    """Scripts of every job that calls modelworks for a stack, in their order."""
    for path in WORKFLOWS:
        for name, job in yaml.safe_load(path.read_text())["jobs"].items():
            found = [step.get("run", step.get("uses", "")) for step in job.get("steps", [])]
            if any(re.search(r'/modelworks (up|status|preview|destroy|verify) "\$STACK"', each) for each in found):
                yield pytest.param(found, id=f"{path.stem}-{name}")


@pytest.mark.parametrize("steps", list(jobs_of_stacks()))
def test_a_job_writes_the_kubeconfig_of_its_stack_when_it_has_credentials_and_before_it_needs_the_cluster(steps):
    credentials = next(index for index, each in enumerate(steps) if "configure-aws-credentials" in each)
    written = steps.index('.venv/bin/python .github/kubeconfig.py "$STACK"')
    needed = next(index for index, each in enumerate(steps) if "/modelworks " in each)
    assert credentials < written < needed


def test_the_jobs_of_stacks_are_those_of_three_workflows():
    assert [each.id for each in jobs_of_stacks()] == ["deploy-deploy", "drift-drift", "preview-preview"]


def calls_of_aws(folder, config: str) -> list[list[str]]:
    """The arguments of every call of the AWS CLI that writes the kubeconfig of a stack."""
    (folder / "stacks").mkdir()
    (folder / "stacks/Pulumi.dev.yaml").write_text(config)
    (folder / ".venv").symlink_to(sys.prefix)
    aws = folder / "bin/aws"
    aws.parent.mkdir()
    aws.write_text(f'#!/bin/sh\necho "$@" >> {folder}/calls\n')
    aws.chmod(0o755)
    script = [f"{folder}/.venv/bin/python", str(ROOT / ".github/kubeconfig.py"), "dev"]
    subprocess.run(script, cwd=folder, env=os.environ | {"PATH": f"{aws.parent}:{os.defpath}"}, check=True)
    record = folder / "calls"
    return [line.split() for line in record.read_text().splitlines()] if record.exists() else []


@pytest.mark.parametrize("stack", ["dev", "staging", "prod"])
def test_the_kubeconfig_gets_the_context_that_the_stacks_file_names(tmp_path, stack):
    text = (ROOT / f"stacks/Pulumi.{stack}.yaml").read_text()
    context = yaml.safe_load(text)["config"]["kubernetes:context"]
    named = ["--region", "eu-central-1", "--name", f"modelworks-{stack}", "--alias", context]
    assert calls_of_aws(tmp_path, text) == [["eks", "update-kubeconfig", *named]]


def test_a_context_may_be_the_arn_of_the_cluster(tmp_path):
    arn = "arn:aws:eks:eu-central-1:111111111111:cluster/shared"
    (call,) = calls_of_aws(tmp_path, f"config: {{aws:region: eu-central-1, kubernetes:context: {arn}}}")
    assert call[-4:] == ["--name", "shared", "--alias", arn]


def test_a_stack_that_names_no_context_needs_none(tmp_path):
    assert calls_of_aws(tmp_path, "config: {aws:region: eu-central-1}") == []


def test_updates_are_never_cancelled_and_take_turns():
    deploy = yaml.safe_load((ROOT / ".github/workflows/deploy.yml").read_text())
    assert deploy["concurrency"] == {"group": "deploy", "cancel-in-progress": False}
    assert deploy["jobs"]["deploy"]["strategy"]["max-parallel"] == 1


@pytest.mark.parametrize("name", ["preview", "deploy", "drift", "promote"])
def test_every_variable_that_a_workflow_reads_is_documented(name):
    read = set(re.findall(r"vars\.(\w+)", (ROOT / f".github/workflows/{name}.yml").read_text()))
    assert {variable for variable in read if f"`{variable}`" not in GUIDE} == set()


def test_a_job_that_runs_what_was_not_reviewed_is_in_no_environment_that_the_deploy_role_trusts():
    found = {}
    for path in WORKFLOWS:
        for job in yaml.safe_load(path.read_text())["jobs"].values():
            uses = [step.get("with", {}).get("role-to-assume", "") for step in job.get("steps", [])]
            for role in filter(None, uses):
                found.setdefault(role, set()).add(job["environment"])
    assert found == {
        "${{ vars.AWS_DEPLOY_ROLE_ARN }}": {"${{ matrix.stack }}"},
        "${{ vars.AWS_IMAGES_ROLE_ARN }}": {"images"},
        "${{ vars.AWS_PREVIEW_ROLE_ARN }}": {"${{ matrix.stack }}-preview"},
        "${{ vars.AWS_PROMOTE_ROLE_ARN }}": {"${{ inputs.to }}-promote"},
    }
