from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelworks.laptop.agent.mount_paths import TOKENS, Command, translate
from modelworks.laptop.agent.sandbox import Mount

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


@given(st.text(alphabet="/data:.x=", max_size=20))
def test_a_translated_value_names_no_mount_path_any_more(value):
    """What a process could open below a mount path would be the machine's own."""
    translated = translate(Command(["/data"], {"X": value}, "/"), [DATA]).variables["X"]
    parts = translated.split(":")
    if all(part.startswith("/") for part in parts):
        assert not any(part == "/data" or part.startswith("/data/") for part in parts)
