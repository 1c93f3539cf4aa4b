"""What happens when things die in the middle: the engine, the laptop's AWS, single calls of a provider."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import boto3
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fake_provider
from modelworks.deploy import process
from modelworks.laptop import environments, supervisor, toolchain
from modelworks.laptop.state_dir import StateDir
from programs import finished, started
from waiting import eventually

pytestmark = pytest.mark.e2e

BUCKETS = 12
PROGRAM = f"""
import pulumi
import pulumi_aws as aws

for number in range({BUCKETS}):
    aws.s3.Bucket(f"store-{{number}}")
"""


KEPT = """
import pulumi
import pulumi_aws as aws

key = aws.kms.Key("key", description="Encrypts", tags={"owner": "tests"})
secret = aws.secretsmanager.Secret("secret", kms_key_id=key.arn, recovery_window_in_days=0)
aws.secretsmanager.SecretVersion("value", secret_id=secret.id, secret_string=pulumi.Output.secret("hunter2"))
"""


@dataclass(frozen=True)
class OnLaptop:
    place: StateDir
    folder: Path
    variables: dict[str, str]

    def modelworks(self, *arguments: str, fine: tuple[int, ...] = (0,)) -> str:
        return finished(self.start(*arguments), fine)

    def pulumi(self, *arguments: str, fine: tuple[int, ...] = (0,)) -> str:
        variables = {**self.variables, **environments.environment_variables(self.place, "local")}
        return finished(started(["pulumi", *arguments], self.folder, variables), fine)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        command = str(Path(sys.executable).with_name("modelworks"))
        return started([command, *arguments], self.folder, self.variables)

    def aws(self, service: str):
        variables = environments.environment_variables(self.place, "local")
        return boto3.client(
            service,
            endpoint_url=variables["AWS_ENDPOINT_URL"],
            region_name=variables["AWS_REGION"],
            aws_access_key_id=variables["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=variables["AWS_SECRET_ACCESS_KEY"],
        )

    def buckets(self) -> set[str]:
        return {bucket["Name"] for bucket in self.aws("s3").list_buckets()["Buckets"]}

    def keys(self) -> set[str]:
        kms = self.aws("kms")
        described = [kms.describe_key(KeyId=key["KeyId"])["KeyMetadata"] for key in kms.list_keys()["Keys"]]
        return {key["KeyId"] for key in described if key["Enabled"] and key["KeyManager"] == "CUSTOMER"}

    def kept(self) -> set[str]:
        """Ids of keys that are not on their way out, of secrets, and of their versions."""
        secrets = self.aws("secretsmanager").list_secrets()["SecretList"]
        versions = {f"{each['ARN']}|{one}" for each in secrets for one in each.get("SecretVersionsToStages") or ()}
        return self.keys() | {each["ARN"] for each in secrets} | versions

    def recorded(self, *types: str) -> set[str]:
        state = json.loads(self.pulumi("stack", "export", "-s", "local"))["deployment"]
        assert not state.get("pending_operations")
        return {each["id"] for each in state["resources"] if each["type"] in (types or ("aws:s3/bucket:Bucket",))}

    def engine(self) -> int:
        locks = self.place.environment("local").glob("backend/.pulumi/locks/*/faults/local/*.json")
        return json.loads(next(locks).read_text())["pid"]


def make_project(folder: Path, program: str) -> None:
    (folder / "stacks").mkdir(parents=True)
    (folder / "Pulumi.yaml").write_text("name: faults\nruntime: python\nmain: stacks\nstackConfigDir: stacks\n")
    (folder / "stacks" / "__main__.py").write_text(program)


@pytest.fixture
def on_laptop(tmp_path: Path, aws_laptop: StateDir):
    make_project(tmp_path / "project", PROGRAM)
    (tmp_path / "project" / "stacks" / "Pulumi.local.yaml").write_text(
        'config:\n  aws:region: eu-central-1\n  aws:allowedAccountIds: ["000000000000"]\n'
    )
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PULUMI_", "AWS_"))}
    made = OnLaptop(aws_laptop, tmp_path / "project", {**kept, "MODELWORKS_HOME": str(aws_laptop.root)})
    yield made
    made.modelworks("destroy", "local", "--yes", "--skip-preview", fine=(0, 1, 6))
    made.pulumi("stack", "rm", "local", "--yes", "--force", fine=(0, 6))


@contextmanager
def spoiled(on_laptop: OnLaptop, fault: str):
    """Meanwhile the AWS plugin that an engine starts suffers a fault."""
    on_laptop.variables["MODELWORKS_PROVIDER_FAULT"] = fault
    try:
        yield
    finally:
        del on_laptop.variables["MODELWORKS_PROVIDER_FAULT"]


@pytest.mark.parametrize(("call", "made"), [("CreateKey", 1), ("CreateSecret", 2), ("PutSecretValue", 3)])
def test_what_has_an_id_of_awss_own_choice_is_taken_over_from_a_killed_engine(
    on_laptop: OnLaptop, call: str, made: int
):
    (on_laptop.folder / "stacks" / "__main__.py").write_text(KEPT)
    before = on_laptop.kept()
    with spoiled(on_laptop, f"hang:{call}"):
        process = on_laptop.start("up", "local", "--yes", "--skip-preview")
        eventually(lambda: len(on_laptop.kept() - before) == made)
        os.kill(on_laptop.engine(), signal.SIGKILL)
        process.communicate(timeout=60)

    said = on_laptop.modelworks("up", "local", "--yes", "--skip-preview")

    assert said.count("is there and is taken over") == 1
    stands = on_laptop.kept() - before
    assert len(stands) == 3
    assert stands == on_laptop.recorded(
        "aws:kms/key:Key", "aws:secretsmanager/secret:Secret", "aws:secretsmanager/secretVersion:SecretVersion"
    )
    on_laptop.pulumi("preview", "-s", "local", "--expect-no-changes")


@pytest.mark.parametrize(("first", "fault"), [("", "die:CreateBucket"), (PROGRAM, "die:PutBucketTagging")])
def test_up_converges_after_a_provider_that_died(on_laptop: OnLaptop, first: str, fault: str):
    before = on_laptop.buckets()
    main = on_laptop.folder / "stacks" / "__main__.py"
    main.write_text(first)
    on_laptop.modelworks("up", "local", "--yes", "--skip-preview")
    main.write_text(PROGRAM.replace('}")', '}", tags={"owner": "tests"})'))
    with spoiled(on_laptop, fault):
        # One at a time: what was made and not yet answered when the provider dies, no engine ever hears of.
        on_laptop.modelworks("up", "local", "--yes", "--skip-preview", "--parallel", "1", fine=(1, 4, 255))

    on_laptop.modelworks("up", "local", "--yes", "--skip-preview")

    assert len(on_laptop.buckets() - before) == BUCKETS
    assert on_laptop.buckets() - before == on_laptop.recorded()
    on_laptop.pulumi("preview", "-s", "local", "--expect-no-changes")


@pytest.mark.parametrize("made", [1, pytest.param(5, marks=pytest.mark.soak), 11])
def test_an_engine_killed_in_mid_up_leaves_nothing_orphaned_or_doubled(on_laptop: OnLaptop, made: int):
    before = on_laptop.buckets()
    process = on_laptop.start("up", "local", "--yes", "--skip-preview")
    eventually(lambda: len(on_laptop.buckets() - before) >= made)
    os.kill(on_laptop.engine(), signal.SIGKILL)
    process.communicate(timeout=60)

    on_laptop.modelworks("up", "local", "--yes", "--skip-preview")

    stands = on_laptop.buckets() - before
    assert len(stands) == BUCKETS
    assert stands == on_laptop.recorded()
    on_laptop.pulumi("preview", "-s", "local", "--expect-no-changes")
    backend = on_laptop.place.environment("local") / "backend"
    assert list(backend.rglob("*.attrs")) == [], "a kill between a state and its attributes would make it unreadable"


def kill_aws(place: StateDir) -> None:
    pid = next(info["pid"] for info in supervisor.processes(place) if info["name"] == "aws-local")
    os.kill(pid, signal.SIGKILL)
    port = environments.facts(place, "local")["aws_port"]
    eventually(lambda: not psutil.pid_exists(pid) and _answers(port))


def test_an_aws_that_died_comes_back_with_what_it_held(on_laptop: OnLaptop):
    (on_laptop.folder / "stacks" / "__main__.py").write_text(PROGRAM + KEPT)
    said = on_laptop.modelworks("up", "local", "--yes", "--skip-preview")
    bucket = min(on_laptop.recorded())
    kept = [path for path in on_laptop.place.root.rglob("*") if path.is_file()]
    assert [path for path in kept if b"hunter2" in path.read_bytes()] == [], "a secret is nowhere in the clear"
    assert "hunter2" not in said
    on_laptop.aws("s3").put_object(Bucket=bucket, Key="data", Body=b"precious")

    kill_aws(on_laptop.place)

    assert on_laptop.aws("s3").get_object(Bucket=bucket, Key="data")["Body"].read() == b"precious"
    on_laptop.pulumi("preview", "-s", "local", "--refresh", "--expect-no-changes")
    assert "aws-local was started again. AWS of local holds what it held" in on_laptop.modelworks("laptop", "status")


def test_an_aws_that_lost_everything_is_noticed_and_restored_by_the_next_up(on_laptop: OnLaptop):
    on_laptop.modelworks("up", "local", "--yes", "--skip-preview")
    (on_laptop.place.environment("local") / "aws-journal.jsonl").unlink()
    kill_aws(on_laptop.place)
    assert on_laptop.buckets() == set()

    on_laptop.modelworks("up", "local", "--yes", "--skip-preview")

    assert len(on_laptop.recorded()) == BUCKETS
    assert on_laptop.recorded() <= on_laptop.buckets()


def test_plain_pulumi_imports_what_stands_on_the_laptop_and_writes_its_code(on_laptop: OnLaptop):
    (on_laptop.folder / "stacks" / "__main__.py").write_text("")
    on_laptop.modelworks("up", "local", "--yes", "--skip-preview")
    url = on_laptop.aws("sqs").create_queue(QueueName="found", Attributes={"VisibilityTimeout": "77"})["QueueUrl"]

    said = on_laptop.pulumi("import", "aws:sqs/queue:Queue", "queue", url, "--yes", "--protect=false", "-s", "local")

    assert 'aws.sqs.Queue("queue"' in said
    assert "visibility_timeout_seconds=77" in said
    assert on_laptop.recorded("aws:sqs/queue:Queue") == {url}


def test_a_laptop_that_is_down_is_one_clear_sentence(tmp_path: Path, aws_laptop: StateDir):
    make_project(tmp_path / "project", PROGRAM)
    home = tmp_path / "home"
    folder = home / "environments" / "local"
    folder.mkdir(parents=True)
    for name in ("environment.json", "aws-credentials", "passphrase"):
        (folder / name).write_bytes((aws_laptop.environment("local") / name).read_bytes())
    facts = json.loads((folder / "environment.json").read_text())
    with socket.create_server(("127.0.0.1", 0)) as free:
        facts["aws_port"] = free.getsockname()[1]
    (folder / "environment.json").write_text(json.dumps(facts))
    variables = {**os.environ, "MODELWORKS_HOME": str(home)}
    command = str(Path(sys.executable).with_name("modelworks"))
    said = finished(started([command, "up", "local", "--yes"], tmp_path / "project", variables), (1,))
    assert "the laptop cloud is not running: nobody answers for AWS of local" in said
    assert "Traceback" not in said


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


# -- a fault on the Nth call of a provider, for any program and operation ------------------------------------------

THINGS = """
import json, pathlib, pulumi

for name, value in json.loads(pathlib.Path("things.json").read_text()).items():
    pulumi.CustomResource("tiny:index:Thing", name, {"name": None, "made": None, "secret": None, **value})
"""

# A physical name belongs to one thing for ever: no provider can give it to another while the old one still stands.
programs = st.dictionaries(
    st.sampled_from("abcd"),
    st.fixed_dictionaries({"value": st.sampled_from(["v", "w"])}, optional={"name": st.sampled_from(["p", "q"])}),
    max_size=4,
).map(
    lambda things: {
        key: {**thing, "name": f"{key}-{thing['name']}"} if "name" in thing else thing for key, thing in things.items()
    }
)


@pytest.fixture(scope="module")
def small_cloud(tmp_path_factory: pytest.TempPathFactory):
    root = tmp_path_factory.mktemp("small")
    make_project(root / "project", THINGS)
    for name in ("cloud", "backend"):
        (root / name).mkdir()
    pulumi = toolchain.ensure(["pulumi"])["pulumi"]
    provider = Provider(root / "cloud")
    try:
        variables = {
            **{key: value for key, value in os.environ.items() if not key.startswith(("PULUMI_", "MODELWORKS_"))},
            "PATH": os.pathsep.join([str(pulumi.parent), str(Path(sys.executable).parent), os.environ["PATH"]]),
            "PULUMI_BACKEND_URL": f"file://{root / 'backend'}",
            "PULUMI_CONFIG_PASSPHRASE": "a passphrase",
            "PULUMI_HOME": str(root / "home"),
            "PULUMI_DEBUG_PROVIDERS": f"tiny:{provider.port}",
            "PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION": "true",
            "PULUMI_SKIP_UPDATE_CHECK": "true",
        }
        finished(started(["pulumi", "stack", "init", "dev"], root / "project", variables), (0,))
        yield SmallCloud(root / "project", variables, provider)
    finally:
        provider.process.kill()
        provider.process.wait()


class Provider:
    """The provider of a cloud of one folder, which may die and then comes back on its port."""

    def __init__(self, cloud: Path) -> None:
        self.cloud, self.port = cloud, "0"
        self.start()

    def start(self) -> None:
        command = [sys.executable, fake_provider.__file__, str(self.cloud), self.port]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.port = self.process.stdout.readline().strip()

    def come_back(self) -> None:
        if self.process.poll() is not None:
            self.start()


@dataclass(frozen=True)
class SmallCloud:
    project: Path
    variables: dict[str, str]
    provider: Provider

    def pulumi(self, *arguments: str, fine: tuple[int, ...] = (0,)) -> str:
        return finished(started(["pulumi", *arguments], self.project, self.variables), fine)

    def want(self, things: dict) -> None:
        (self.project / "stacks" / "things.json").write_text(json.dumps(things))


def converges(small: SmallCloud, first: dict, second: dict, fault: tuple[str, int], operation: str) -> None:
    cloud, (kind, number) = small.provider.cloud, fault
    small.want(first)
    small.pulumi("up", "--yes", "--skip-preview", "-s", "dev")
    small.want(second)
    (cloud / kind).write_text(str(number))
    # One at a time: what another call made when a provider dies, and could not tell any more, no engine ever hears of.
    small.pulumi(operation, "--yes", "--skip-preview", "--parallel", "1", "-s", "dev", fine=(0, 1, 4, 255))
    (cloud / kind).unlink(missing_ok=True)
    small.provider.come_back()
    small.pulumi("up", "--yes", "--skip-preview", "-s", "dev")

    state = json.loads(small.pulumi("stack", "export", "-s", "dev"))["deployment"]
    ids = sorted(resource["id"] for resource in state["resources"] if resource["type"] == "tiny:index:Thing")
    assert ids == sorted(fake_provider.things(cloud))
    assert len(ids) == len(second)
    assert {thing["name"] for thing in second.values() if "name" in thing} <= set(ids)


faults = given(
    first=programs,
    second=programs,
    fault=st.tuples(st.sampled_from(["fail", "die"]), st.integers(0, 4)),
    operation=st.sampled_from(["up", "destroy", "refresh"]),
)
slow = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]


@faults
@settings(max_examples=4, derandomize=True, deadline=None, suppress_health_check=slow, database=None)
def test_up_converges_after_a_fault_on_any_call(small_cloud, first, second, fault, operation):
    converges(small_cloud, first, second, fault, operation)


@pytest.mark.soak
@faults
@settings(
    max_examples=int(os.environ.get("SOAK_EXAMPLES", "100")), deadline=None, suppress_health_check=slow, database=None
)
def test_up_converges_after_a_fault_on_any_call_for_long(small_cloud, first, second, fault, operation):
    converges(small_cloud, first, second, fault, operation)


# -- disks and folders ---------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path):
    """A disk of 2 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "none", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("only root may mount a small disk to fill")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def _marked(home: Path) -> list[int]:
    mark = f"MODELWORKS_LAPTOP={home}\0".encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (entry / "environ").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


@pytest.mark.parametrize("free", [0, 4096, 32768])
def test_a_full_disk_is_one_clear_sentence_and_leaves_no_process(small_disk: Path, tmp_path: Path, free: int):
    make_project(tmp_path / "project", PROGRAM)
    (small_disk / "filler").write_bytes(b"\0" * (2 * 2**20 - free))
    home = small_disk / "home"
    command = str(Path(sys.executable).with_name("modelworks"))
    variables = {**os.environ, "MODELWORKS_HOME": str(home)}
    said = finished(started([command, "laptop", "up", "--aws-only"], tmp_path / "project", variables), (1,))
    assert "No space left on device" in said or "is full" in said
    assert "fix:" in said
    assert "Traceback" not in said
    assert _marked(home) == []


def test_a_program_whose_log_fills_the_disk_goes_on_and_the_cut_is_told(small_disk: Path, capfdbinary):
    (small_disk / "filler").write_bytes(b"\0" * (2 * 2**20 - 32768))
    argv = ["head", "-c", "300000", "/dev/zero"]
    assert process.run(argv, cwd=small_disk, env=dict(os.environ), log=small_disk / "log") == 0
    said = capfdbinary.readouterr()
    assert len(said.out) == 300_000
    assert said.err.decode() == f"the log {small_disk / 'log'} ends here: No space left on device\n"


def test_a_folder_that_is_a_file_is_one_clear_sentence(tmp_path: Path):
    make_project(tmp_path / "project", PROGRAM)
    (tmp_path / "taken").write_text("not a folder")
    command = str(Path(sys.executable).with_name("modelworks"))
    variables = {**os.environ, "MODELWORKS_HOME": str(tmp_path / "taken" / "home")}
    said = finished(started([command, "laptop", "up", "--aws-only"], tmp_path / "project", variables), (1,))
    assert f"cannot make the folder {tmp_path / 'taken'}" in said
    assert "Traceback" not in said
