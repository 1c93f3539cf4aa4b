"""What a killed engine left, and what a preview says: decided in plain values."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
from pathlib import Path

import pytest

from modelworks import contract
from modelworks.cli import quickstart
from modelworks.deploy import pending_operations, process, stack
from modelworks.deploy.preview import Preview
from modelworks.deploy.stack_file import forget_wiped, read_config
from modelworks.deploy.stack_lock import StackLock
from modelworks.errors import ModelworksError
from waiting import eventually

WHERE = pending_operations.Where("222222222222", "eu-central-1", "http://127.0.0.1:5000")
SECRET = {"4dabf18193072939515e22adb298388d": "1b47061264138c4ac30d75fd1eb44270", "plaintext": '"hunter2"'}


def operation(kind: str, name: str, inputs: dict, **more) -> dict:
    urn = f"urn:pulumi:dev::p::{kind}::{name}"
    return {"type": "creating", "resource": {"urn": urn, "type": kind, "custom": True, "inputs": inputs, **more}}


@pytest.mark.parametrize(
    ("kind", "inputs", "identity"),
    [
        ("aws:s3/bucket:Bucket", {"bucket": "b-1"}, "b-1"),
        ("aws:iam/rolePolicy:RolePolicy", {"role": "r", "name": "p"}, "r:p"),
        ("aws:iam/policy:Policy", {"name": "p"}, "arn:aws:iam::222222222222:policy/p"),
        ("aws:sns/topic:Topic", {"name": "t"}, "arn:aws:sns:eu-central-1:222222222222:t"),
        ("aws:sqs/queue:Queue", {"name": "q"}, "http://127.0.0.1:5000/222222222222/q"),
        ("kubernetes:apps/v1:Deployment", {"metadata": {"name": "d", "namespace": "n"}}, "n/d"),
        ("kubernetes:core/v1:Namespace", {"metadata": {"name": "n"}}, "n"),
        ("aws:kms/key:Key", {"description": "no name tells its id"}, None),
        ("aws:iam/policy:Policy", {"name": SECRET}, None),
    ],
)
def test_the_id_of_a_half_made_resource_is_told_by_its_name(kind: str, inputs: dict, identity: str | None):
    assert pending_operations.physical_id({"type": kind, "inputs": inputs}, WHERE) == identity


def test_a_pending_create_becomes_a_resource_that_a_refresh_decides_about():
    made = operation("aws:s3/bucket:Bucket", "b", {"bucket": "b-1", "__defaults": ["bucket"]})
    lost = operation("aws:kms/key:Key", "k", {})
    resolution = pending_operations.resolve(
        {"deployment": {"resources": [], "pending_operations": [made, lost]}}, WHERE
    )
    (resource,) = resolution.deployment["deployment"]["resources"]
    assert resource["id"] == "b-1"
    assert resource["inputs"] == {"bucket": "b-1", "__defaults": ["bucket"]}
    assert resolution.asked == {made["resource"]["urn"]: "b-1"}
    assert resolution.forgotten == (lost["resource"]["urn"],)
    assert resolution.deployment["deployment"]["pending_operations"] == []


def test_the_old_side_of_a_killed_replacement_goes_next():
    new = operation("aws:s3/bucket:Bucket", "b", {"bucket": "b-2"})
    old = {"urn": new["resource"]["urn"], "type": "aws:s3/bucket:Bucket", "id": "b-1"}
    resolution = pending_operations.resolve({"deployment": {"resources": [old], "pending_operations": [new]}}, WHERE)
    resources = resolution.deployment["deployment"]["resources"]
    assert [(resource["id"], resource.get("delete", False)) for resource in resources] == [
        ("b-1", True),
        ("b-2", False),
    ]


def lock(pid: int, since: str, host: str | None = None) -> StackLock:
    return StackLock(Path("lock.json"), pid, "me", host or socket.gethostname(), since)


def test_a_lock_is_stale_when_its_engine_is_gone_from_this_host():
    assert lock(2**22 - 7, "2026-01-01T00:00:00.123456789Z").stale
    assert lock(os.getpid(), "2026-01-01T00:00:00Z").stale  # the number is taken, but not by an engine
    assert not lock(2**22 - 7, "2026-01-01T00:00:00Z", host="another").stale


def step(op: str, kind: str, name: str, **more) -> dict:
    return {"op": op, "urn": f"urn:pulumi:prod::p::{kind}::{name}", **more}


PREVIEW = {
    "steps": [
        step("create", "aws:sns/topic:Topic", "alerts"),
        step("same", "aws:s3/bucket:Bucket", "kept"),
        step("delete", "aws:s3/bucket:Bucket", "old"),
        step("delete", "aws:iam/role:Role", "role"),
        step("create-replacement", "aws:dynamodb/table:Table", "table"),
        step(
            "replace",
            "aws:dynamodb/table:Table",
            "table",
            oldState={"inputs": {"hashKey": "id"}},
            newState={"inputs": {"hashKey": "a|b"}},
            replaceReasons=["hashKey"],
            detailedDiff={"hashKey": {"kind": "update-replace", "inputDiff": True}},
        ),
        step("delete-replaced", "aws:dynamodb/table:Table", "table"),
        step(
            "update",
            "aws:ssm/parameter:Parameter",
            "parameter",
            oldState={"inputs": {"value": SECRET, "tier": "Standard"}},
            newState={"inputs": {"value": "04da6b54-80e4-46f7-96ec-b56ff0331ba9", "tier": "Standard"}},
            diffReasons=["value"],
            detailedDiff=None,
        ),
    ],
    "diagnostics": [{"severity": "error", "message": "a rule is broken\n"}, {"severity": "info", "message": "hello"}],
    "changeSummary": {"same": 1},
}


def test_a_preview_puts_danger_first_and_masks_secrets():
    preview = Preview.read("prod", "warning: noise\n" + json.dumps(PREVIEW))
    assert preview.counts() == {"replace": 1, "delete": 2, "update": 1, "create": 1}
    said = preview.markdown()
    assert "Data may be lost: `table`, `old`." in said
    rows = [line for line in said.splitlines() if line.startswith("|")][2:]
    assert rows == [
        "| **replace** | **`table`** | `aws:dynamodb/table:Table` | `hashKey`: `id` → `a\\|b` (forces it) |",
        "| **delete** | **`old`** | `aws:s3/bucket:Bucket` |  |",
        "| delete | `role` | `aws:iam/role:Role` |  |",
        "| update | `parameter` | `aws:ssm/parameter:Parameter` | `value`: `[secret]` → `known after apply` |",
        "| create | `alerts` | `aws:sns/topic:Topic` |  |",
    ]
    assert "a rule is broken" in said
    assert "hunter2" not in said + json.dumps(preview.facts())


def test_a_preview_that_a_comment_has_no_place_for_keeps_what_policies_refuse_and_says_what_is_left_out():
    steps = [step("create", "aws:sns/topic:Topic", f"topic-{number}-{'x' * 200}") for number in range(600)]
    refused = {"severity": "warning", "message": "[mandatory]  modelworks v0.0.1  required-tags: tags lack owner"}
    noise = [{"severity": "error", "message": f"{number}: {'y' * 300}"} for number in range(200)]
    said = Preview.read("prod", json.dumps({"steps": steps, "diagnostics": [*noise, refused]})).markdown()
    assert len(said) < 65_536
    lines = said.splitlines()
    assert "tags lack owner" in lines[lines.index("```text") + 1]
    shown = sum(line.startswith("| create") for line in lines)
    assert 0 < shown < 600
    assert f"**{600 - shown} changes are left out" in said
    assert "errors and warnings are left out" in said
    assert "left out" not in Preview.read("prod", json.dumps(PREVIEW)).markdown()


def test_a_message_longer_than_a_comment_is_cut_and_says_so():
    said = Preview("dev", (), 0, ("z" * 100_000,)).markdown(failed=True)
    assert len(said) < 65_536
    assert "(cut)" in said


def test_a_preview_without_changes_says_so():
    assert "No changes; 3 unchanged." in Preview.read("dev", '{"steps": [], "changeSummary": {"same": 3}}').markdown()


def test_a_preview_puts_what_is_released_in_spite_of_its_gates_above_the_changes_once():
    said = f"churn {contract.OVERRIDDEN}: the *demo*\nis today (ada)"
    warning = {"severity": "warning", "message": f"warning: {said}\n"}
    told = Preview.read("prod", json.dumps({**PREVIEW, "diagnostics": [warning, warning]}))
    assert told.facts()["overrides"] == [said]
    assert told.facts()["problems"] == []
    text = told.markdown()
    assert text.index(
        r"> :warning: **churn is released in spite of gates that do not hold: the \*demo\* is"
    ) < text.index("| resource |")
    assert text.count("is today (ada)") == 1


def test_a_preview_that_failed_is_not_taken_for_one_without_changes():
    with pytest.raises(ValueError):
        Preview.read("dev", "error: no stack named 'dev' found")
    told = Preview("dev", (), 0, ("the program raised an error",)).markdown(failed=True)
    assert "**The preview failed." in told
    assert "the program raised an error" in told
    assert "No changes" not in told


def test_a_program_that_ignores_ctrl_c_is_gone_all_the_same(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(process, "GRACE", 0.5)
    # It starts a child in a process group of its own, as the engine does with its plugins.
    script = (
        "import os, pathlib, signal, subprocess, sys, time; signal.signal(2, signal.SIG_IGN);"
        "child = subprocess.Popen(['sleep', '600'], process_group=0);"
        "pathlib.Path('half').write_text(f'{os.getpid()} {child.pid}'); os.rename('half', 'pids'); time.sleep(600)"
    )

    def interrupt():
        eventually((tmp_path / "pids").exists)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(process.Interrupted):
        process.run([sys.executable, "-c", script], cwd=tmp_path, env=dict(os.environ), log=tmp_path / "log")
    for pid in (tmp_path / "pids").read_text().split():
        state = Path(f"/proc/{pid}/stat")
        assert not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z"


def test_output_is_shown_and_kept_for_the_user_alone(tmp_path: Path, capfdbinary):
    code = process.run(["sh", "-c", "echo out; echo err >&2; exit 3"], cwd=tmp_path, env={}, log=tmp_path / "log")
    assert code == 3
    assert capfdbinary.readouterr().out == b"out\nerr\n"
    assert (tmp_path / "log").read_text() == "out\nerr\n"
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o600


def test_what_went_with_a_wiped_laptop_is_taken_out_of_the_stack_file_and_settings_stay(tmp_path):
    file = tmp_path / "Pulumi.local.yaml"
    file.write_text(
        "# mine\nconfig:\n  aws:region: eu-central-1\n  modelworks:settings:\n    owner: me  # kept\n"
        "  modelworks:releases:\n    m1: {digest: x}\n"
        "  modelworks:secrets:\n    registry_password:\n      secure: v1:a\n"
        "encryptionsalt: v1:b\n"
    )
    forget_wiped(file, lambda _: None)
    assert file.read_text() == (
        "# mine\nconfig:\n  aws:region: eu-central-1\n  modelworks:settings:\n    owner: me  # kept\n"
    )


def test_lines_are_told_while_they_are_written_and_the_last_one_too(tmp_path):
    path, told = tmp_path / "output", []
    with process.followed(path, told.append):
        path.write_text("first\nsecond\nhalf a li")
        with path.open("a") as file:
            file.write("ne\n")
    assert told == ["first", "second", "half a line"]


def test_what_an_update_has_done_is_told_from_the_engines_own_words():
    line = " +  aws:kms:Key local-key created (0.10s) "
    assert quickstart._DONE.match(line)[1] == "local-key"
    assert not quickstart._DONE.match("    59 unchanged")


def test_a_stack_file_that_is_not_yaml_is_one_clear_sentence(tmp_path):
    file = tmp_path / "Pulumi.local.yaml"
    file.write_text("config: [")
    with pytest.raises(ModelworksError, match=r"Pulumi\.local\.yaml is not YAML"):
        read_config(file)


class Backend(stack.StackEngine):
    """An engine whose backend has the stack `test` alone."""

    def ask(self, *arguments: str, **_) -> str:
        assert arguments[:2] == ("stack", "ls")
        return json.dumps([{"name": "organization/project/test"}])


def backend(folder: Path, environment: str) -> Backend:
    (folder / "Pulumi.yaml").write_text("name: project\nstackConfigDir: stacks\n")
    (folder / "stacks").mkdir(exist_ok=True)
    variables = {"PULUMI_BACKEND_URL": "s3://states"}
    return Backend(environment, folder, Path("pulumi"), variables, folder, on_laptop=False)


def test_a_stack_that_no_backend_has_is_refused_with_the_command_that_keeps_its_secrets_provider(tmp_path):
    engine = backend(tmp_path, "dev")
    engine.stack_file.write_text("secretsprovider: awskms://alias/a?region=eu-central-1&profile=dev\nconfig: {}\n")
    with pytest.raises(ModelworksError, match=r"the backend has no stack dev \(s3://states\)") as refused:
        engine.have_stack(print)
    command = "pulumi stack init dev --secrets-provider 'awskms://alias/a?region=eu-central-1&profile=dev'"
    assert command in refused.value.fix
    engine.stack_file.unlink()
    with pytest.raises(ModelworksError) as refused:
        engine.have_stack(print)
    assert refused.value.fix == "Create it: `modelworks bootstrap dev`, or `pulumi stack init dev`."


def test_a_stack_that_the_backend_has_is_left_alone(tmp_path):
    backend(tmp_path, "test").have_stack(print)
