"""The real engine with the toolchain's `pulumi`, a file backend, and the cloud of one folder in `fake_provider.py`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

import fake_provider
from modelworks.laptop import toolchain
from programs import output_of
from standing_provider import engine_variables, standing
from waiting import eventually

pytestmark = pytest.mark.e2e

PROGRAM = """
import pulumi


class Thing(pulumi.CustomResource):
    secret: pulumi.Output[str]

    def __init__(self, name, props, opts=None):
        super().__init__("tiny:index:Thing", name, {"name": None, "made": None, "secret": None, **props}, opts)


config = pulumi.Config()
pulumi.log.info("at " + pulumi.get_root_directory())
print("printed")
things = [Thing(f"t{i}", {"value": config.get("value") or "v"}) for i in range(config.get_int("n") or 2)]
keeper = Thing("keeper", {"value": "x", "secret": config.require_secret("pw")})
named = Thing("named", {"value": "x", "name": config.get("name") or "first"})
pulumi.export("ids", [thing.id for thing in things])
pulumi.export("secret", keeper.secret)
if config.get("boom"):
    raise ValueError("boom")
"""

PACK = """
from pulumi_policy import EnforcementLevel, PolicyPack, ResourceValidationPolicy


def check(args, report):
    if args.props.get("value") == "forbidden":
        report("this value is forbidden")


rule = ResourceValidationPolicy(name="value", description="No forbidden value.", validate=check)
PolicyPack(name="tiny", enforcement_level=EnforcementLevel.MANDATORY, policies=[rule])
"""


@dataclass(frozen=True)
class Project:
    folder: Path
    cloud: Path
    variables: dict[str, str]

    def pulumi(self, *arguments: str, fine: tuple[int, ...] = (0,)) -> str:
        return self._run(["pulumi", *arguments], fine)

    def modelworks(self, *arguments: str, fine: tuple[int, ...] = (0,)) -> str:
        return self._run([str(Path(sys.executable).with_name("modelworks")), *arguments], fine)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [str(Path(sys.executable).with_name("modelworks")), *arguments],
            cwd=self.folder,
            env=self.variables,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def _run(self, argv: list[str], fine: tuple[int, ...]) -> str:
        return output_of(argv, self.folder, self.variables, fine)

    def state(self) -> dict:
        return json.loads(self.pulumi("stack", "export", "-s", "dev"))["deployment"]

    def engines(self) -> list[int]:
        """Processes of any engine, host or plugin of this project."""
        mark = f"PULUMI_HOME={self.variables['PULUMI_HOME']}\0".encode()
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if mark in (entry / "environ").read_bytes() and entry.name not in self.variables["PROVIDER"]:
                    found.append(int(entry.name))
        return found


@pytest.fixture(scope="module")
def tools() -> Path:
    return toolchain.ensure(["pulumi"])["pulumi"]


@pytest.fixture
def project(tmp_path: Path, tools: Path):
    folder, cloud = tmp_path / "project", tmp_path / "cloud"
    for path in (folder / "stacks", cloud):
        path.mkdir(parents=True)
    (folder / "Pulumi.yaml").write_text("name: program\nruntime: python\nmain: stacks\nstackConfigDir: stacks\n")
    (folder / "stacks" / "__main__.py").write_text(PROGRAM)
    with standing(fake_provider.__file__, str(cloud)) as (pid, port):
        made = Project(folder, cloud, engine_variables(tmp_path, tools, f"tiny:{port}") | {"PROVIDER": str(pid)})
        made.pulumi("stack", "init", "dev")
        made.pulumi("config", "set", "--secret", "pw", "hunter2")
        yield made


def test_the_life_of_a_stack(project: Project):
    said = project.pulumi("up", "--yes", "--non-interactive")
    assert "printed" in said
    assert f"at {project.folder}" in said
    assert len(fake_provider.things(project.cloud)) == 4

    assert "4 unchanged" in project.pulumi("preview", "--expect-no-changes").replace("5 unchanged", "4 unchanged")

    outputs = json.loads(project.pulumi("stack", "output", "--json"))
    assert outputs["secret"] == "[secret]"
    assert sorted(outputs["ids"]) == [name for name in fake_provider.things(project.cloud) if name.startswith("t")]
    assert project.pulumi("stack", "output", "--show-secrets", "secret").strip() == "hunter2"
    assert "hunter2" not in "".join(path.read_text() for path in project.folder.parent.glob("backend/**/*.json"))

    behind = next(project.cloud.glob("t0-*.json"))
    behind.unlink()
    assert "1 deleted" in project.pulumi("refresh", "--yes", "--skip-preview")
    assert "1 created" in project.pulumi("up", "--yes", "--skip-preview")

    (project.cloud / "foreign.json").write_text(json.dumps({"name": "foreign", "value": "w"}))
    project.pulumi("import", "--yes", "--generate-code=false", "tiny:index:Thing", "adopted", "foreign")
    assert any(resource.get("id") == "foreign" for resource in project.state()["resources"])
    project.pulumi("state", "unprotect", "--all", "--yes")

    project.pulumi("destroy", "--yes", "--skip-preview")
    assert fake_provider.things(project.cloud) == {}
    assert project.engines() == []


def test_a_programs_exception_is_told_from_its_own_first_line(project: Project):
    project.pulumi("config", "set", "boom", "yes")
    said = project.pulumi("preview", "--non-interactive", fine=(1, 255))
    assert "ValueError: boom" in said
    assert "stacks/__main__.py" in said
    assert "pulumi-language-python" not in said


def test_a_policy_pack_refuses_what_it_forbids(project: Project, tmp_path: Path):
    pack = tmp_path / "pack"
    pack.mkdir()
    (pack / "PulumiPolicy.yaml").write_text("runtime: python\n")
    (pack / "__main__.py").write_text(PACK)
    project.pulumi("preview", "--policy-pack", str(pack))
    project.pulumi("config", "set", "value", "forbidden")
    assert "this value is forbidden" in project.pulumi("preview", "--policy-pack", str(pack), fine=(1, 5, 255))
    assert project.engines() == []


def test_the_automation_api_runs_local_and_inline_programs(project: Project, monkeypatch: pytest.MonkeyPatch):
    script = f"""
import pulumi
from pulumi import automation as auto

local = auto.select_stack("dev", work_dir={str(project.folder)!r})
print(local.up(on_output=lambda _: None).summary.resource_changes)
print(local.destroy(on_output=lambda _: None).summary.resource_changes)

def program():
    pulumi.CustomResource("tiny:index:Thing", "inline", {{"value": "v", "name": None}})
    pulumi.export("answer", 42)

inline = auto.create_or_select_stack("inline", project_name="other", program=program)
print(inline.up(on_output=lambda _: None).outputs["answer"].value)
print(inline.destroy(on_output=lambda _: None).summary.result)
"""
    said = project._run([sys.executable, "-c", script], (0,)).splitlines()
    assert "'create': 5" in said[0]
    assert "'delete': 5" in said[1]
    assert said[2:4] == ["42", "succeeded"]
    assert fake_provider.things(project.cloud) == {}


def test_up_after_a_killed_engine_orphans_and_doubles_nothing(project: Project):
    (project.cloud / "slow").write_text("60")
    process = project.start("up", "dev", "--yes", "--skip-preview")
    eventually(lambda: len(fake_provider.things(project.cloud)) == 4)
    lock = json.loads(next(project.folder.parent.glob("backend/.pulumi/locks/*/program/dev/*.json")).read_text())
    os.kill(lock["pid"], signal.SIGKILL)
    process.communicate(timeout=60)
    eventually(lambda: project.engines() == [])
    (project.cloud / "slow").unlink()
    made = fake_provider.things(project.cloud)
    next(project.cloud.glob("t1-*.json")).unlink()  # this one, let us say, was never made
    pending = {operation["resource"]["urn"] for operation in project.state()["pending_operations"]}
    assert len(pending) == 4
    # Killed a moment earlier, it would have left this: it writes a state's attributes before the state.
    (project.folder.parent / "backend" / ".pulumi" / "stacks" / "program" / "dev.json.attrs").write_text("")
    assert "EOF" in project.pulumi("stack", "export", "-s", "dev", fine=(1, 255))

    said = project.modelworks("up", "dev", "--yes", "--skip-preview")

    assert f"process {lock['pid']}" in said
    assert "dev.json.attrs, which a killed update left empty, is taken away" in said
    assert said.count("is there and is taken over") == 3
    assert said.count("was not made, and is forgotten") == 1
    stands = fake_provider.things(project.cloud)
    assert len(stands) == 4
    assert {name: thing for name, thing in made.items() if name in stands}.items() <= stands.items()
    ids = {resource.get("id") for resource in project.state()["resources"] if resource["type"] == "tiny:index:Thing"}
    assert ids == set(stands)
    assert not project.state().get("pending_operations")
    project.pulumi("preview", "--expect-no-changes")


def test_up_after_a_replacement_was_killed_leaves_one(project: Project):
    project.pulumi("up", "--yes", "--skip-preview")
    project.pulumi("config", "set", "name", "second")
    (project.cloud / "slow").write_text("60")
    process = project.start("up", "dev", "--yes", "--skip-preview")
    eventually(lambda: "second" in fake_provider.things(project.cloud))
    lock = json.loads(next(project.folder.parent.glob("backend/.pulumi/locks/*/program/dev/*.json")).read_text())
    os.kill(lock["pid"], signal.SIGKILL)
    process.communicate(timeout=60)
    (project.cloud / "slow").unlink()
    made = fake_provider.things(project.cloud)["second"]

    project.modelworks("up", "dev", "--yes", "--skip-preview")

    assert "first" not in fake_provider.things(project.cloud)
    assert fake_provider.things(project.cloud)["second"] == made
    project.pulumi("preview", "--expect-no-changes")


def test_a_second_up_says_who_holds_the_lock_and_spoils_nothing(project: Project):
    (project.cloud / "slow").write_text("60")
    first = project.start("up", "dev", "--yes", "--skip-preview")
    eventually(lambda: fake_provider.things(project.cloud))
    lock = json.loads(next(project.folder.parent.glob("backend/.pulumi/locks/*/program/dev/*.json")).read_text())
    said = project.modelworks("up", "dev", "--yes", fine=(1,))
    assert f"{lock['username']}@{lock['hostname']}, process {lock['pid']}" in said
    (project.cloud / "slow").unlink()
    said, _ = first.communicate(timeout=90)
    assert first.returncode == 0, said
    assert len(fake_provider.things(project.cloud)) == 4
    project.pulumi("preview", "--expect-no-changes")


def test_ctrl_c_leaves_no_process_and_a_state_that_knows_what_was_made(project: Project):
    (project.cloud / "slow").write_text("3")
    process = project.start("up", "dev", "--yes", "--skip-preview")
    eventually(lambda: fake_provider.things(project.cloud))
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=90)
    assert process.returncode == 130, said
    assert "no process is left running" in said
    assert project.engines() == []
    (project.cloud / "slow").unlink()
    ids = {resource.get("id") for resource in project.state()["resources"] if resource["type"] == "tiny:index:Thing"}
    assert ids == set(fake_provider.things(project.cloud))
    project.modelworks("up", "dev", "--yes", "--skip-preview")
    assert len(fake_provider.things(project.cloud)) == 4


@pytest.mark.parametrize(
    "moment",
    [
        lambda project: len(project.engines()) > 1,  # the command itself, and the first engine that it asks
        lambda project: list(project.folder.parent.glob("backend/.pulumi/locks/*/program/dev/*.json")),
        lambda project: len(fake_provider.things(project.cloud)) == 4,
    ],
    ids=["asking", "locked", "all made"],
)
def test_ctrl_c_at_any_moment_leaves_no_process_and_no_traceback(project: Project, moment):
    process = project.start("up", "dev", "--yes", "--skip-preview")
    eventually(lambda: moment(project))
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=90)
    # Python's last moment, when the command is done, belongs to no handler: there the signal itself ends it.
    assert process.returncode in (0, 1, 130, -signal.SIGINT), said
    assert "Traceback" not in said
    assert project.engines() == []
    project.modelworks("up", "dev", "--yes", "--skip-preview")
    assert len(fake_provider.things(project.cloud)) == 4


def test_a_fault_of_the_provider_leaves_a_state_from_which_up_converges(project: Project):
    (project.cloud / "fail").write_text("2")
    assert "the cloud had a hiccup" in project.modelworks("up", "dev", "--yes", "--skip-preview", fine=(1, 4))
    project.modelworks("up", "dev", "--yes", "--skip-preview")
    assert len(fake_provider.things(project.cloud)) == 4
    project.pulumi("preview", "--expect-no-changes")


def test_a_preview_is_a_table_that_masks_secrets(project: Project):
    project.pulumi("up", "--yes", "--skip-preview")
    project.pulumi("config", "set", "name", "second")
    project.pulumi("config", "set", "n", "1")
    project.pulumi("config", "set", "value", "w")
    project.pulumi("config", "set", "--secret", "pw", "correct horse")
    said = project.modelworks("preview", "dev", "--format", "markdown")
    assert "1 replaced, 1 deleted, 2 changed" in said
    assert "| replace | `named` | `tiny:index:Thing` | `name`: `first` → `second` (forces it) |" in said
    assert "`secret`: `[secret]` → `[secret]`" in said
    assert "hunter2" not in said
    assert "correct horse" not in said
    facts = json.loads(project.modelworks("preview", "dev", "--json"))
    assert facts["summary"] == {"replace": 1, "delete": 1, "update": 2, "unchanged": 1}
    assert project.modelworks("preview", "dev", "--json", "--expect-no-changes", fine=(7,))
