from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mocks import ROOT
from modelworks.laptop.agent.isolation import Mount
from modelworks.laptop.agent.mount_paths import TOKENS, Command, translate

RECORDS = ROOT / "tests" / "stacks" / "declared"
DATA = Mount(Path("/home/me/pod/volumes/data"), "/data")
KEYS = Mount(Path("/home/me/pod/volumes/keys"), "/etc/app/keys/", read_only=True)


def value_of(value, *mounts, name="X"):
    return translate(Command([], {name: value}, "/"), mounts or [DATA]).variables[name]


@pytest.mark.parametrize(
    ("value", "translated"),
    [
        ("/data", "/home/me/pod/volumes/data"),
        ("/data/", "/home/me/pod/volumes/data/"),
        ("/data/a b/ü%20", "/home/me/pod/volumes/data/a b/ü%20"),
        ("/usr/lib:/data/lib", "/usr/lib:/home/me/pod/volumes/data/lib"),
        ("file:///data/x", "file:///home/me/pod/volumes/data/x"),
        ("sqlite:////data/x.db", "sqlite:////home/me/pod/volumes/data/x.db"),
    ],
)
def test_a_path_below_a_mount_is_that_of_the_volume(value, translated):
    assert value_of(value) == translated


@pytest.mark.parametrize(
    ("value", "translated"),
    [
        ("file:///data/a%20b", "file:///home/m%C3%BC%20del%2050%25/a%20b"),
        ("sqlite:////data/x.db", "sqlite:////home/mü del 50%/x.db"),
        ("/data/x", "/home/mü del 50%/x"),
    ],
)
def test_the_folder_of_a_volume_may_have_any_name(value, translated):
    assert value_of(value, Mount(Path("/home/mü del 50%"), "/data")) == translated


@pytest.mark.parametrize(
    "value",
    ["/database", "/dat", "data", "https://host/data", "s3://data/data", "a /data b", "{/data}", "/x/data", ""],
)
def test_what_is_no_path_below_a_mount_stays_as_it_is(value):
    translated = translate(Command(["/data"], {"X": value}, "/"), [DATA])
    assert translated.variables["X"] == value


def test_an_option_and_the_working_directory_name_a_path_too():
    command = Command(["serve", "--keys=/etc/app/keys/a.pem", "-d=/data", "--name=data"], {}, "/data/work")
    translated = translate(command, [DATA, KEYS])
    assert translated.argv == ["serve", f"--keys={KEYS.source}/a.pem", f"-d={DATA.source}", "--name=data"]
    assert translated.workdir == f"{DATA.source}/work"


def test_the_deepest_mount_is_the_one_of_a_path():
    cache = Mount(Path("/cache"), "/data/cache")
    assert value_of("/data/cache/x:/data/x", DATA, cache) == f"/cache/x:{DATA.source}/x"


def test_a_volume_that_nothing_names_is_an_error_that_says_so():
    with pytest.raises(ValueError, match="names /etc/app/keys/, and this machine allows no mount namespace"):
        translate(Command(["cat", "/data"], {}, "/"), [DATA, KEYS])


def test_the_token_of_a_service_account_and_a_probe_need_no_name():
    translate(Command(["true"], {}, "/"), [Mount(Path("/token"), TOKENS)])
    assert translate(Command(["ls", "/data"], {}, "/"), [DATA, KEYS], partly=True).argv == ["ls", str(DATA.source)]


@pytest.mark.parametrize("record", sorted(RECORDS.glob("*.json")), ids=lambda path: path.stem)
def test_every_container_of_the_reference_program_is_led_to_its_volumes(record):
    containers = [*_containers(json.loads(record.read_text()))]
    dumps = {"restore", "backup"} if record.stem == "dev" else set()  # of the embedded database
    assert {container["name"] for container in containers} == {"serve", "mlflow", "materialize", "verify"} | dumps
    for container in containers:
        variables = {each["name"]: each.get("value", "") for each in container["env"]}
        mounts = [Mount(Path("/volume"), mount["mountPath"]) for mount in container["volumeMounts"]]
        argv = [*container["command"], *container.get("args", [])]
        translate(Command(argv, variables, container.get("workingDir", "/")), mounts)


def _containers(declared):
    """What runs in pods, wherever it is in a stack's record."""
    if isinstance(declared, dict):
        for kind in ("initContainers", "containers"):
            yield from (each for each in declared.get(kind, []) if "volumeMounts" in each)
    children = declared.values() if isinstance(declared, dict) else declared if isinstance(declared, list) else ()
    for child in children:
        yield from _containers(child)


@given(st.text(alphabet="/data:.x=", max_size=20))
def test_a_translated_value_names_no_mount_path_any_more(value):
    """What a process could open below a mount path would be the machine's own."""
    translated = translate(Command(["/data"], {"X": value}, "/"), [DATA]).variables["X"]
    parts = translated.split(":")
    if all(part.startswith("/") for part in parts):
        assert not any(part == "/data" or part.startswith("/data/") for part in parts)
