"""A release is one line of a stack's file: everything else in it stays as it was, whoever edits at the same time."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelworks.errors import ModelworksError
from modelworks.lifecycle.release import read_order, read_releases, set_release
from modelworks.settings import Release
from waiting import PATIENCE

HEAD = """\
# What dev is.
secretsprovider: awskms://alias/dev?region=eu-central-1
config:
  aws:allowedAccountIds: ["111111111111"]   # and no other
  aws:region: 'eu-central-1'
  modelworks:settings:
    cost_centre: "4711"  # a text
    owner: ml
    alerts:
      emails: [a@example.com]
    registry: {}
    endpoints:
      churn: &open {allow_anonymous: true}
      seats: *open
      model-0: *open
      model-1: *open
      model-2: *open
      model-3: *open
  modelworks:secrets:
    registry_password:
      secure: v1:2quTDI4ire3RtR/G:n1llKgZ/4FWSZOXm6sScacKpM3smMenTExeHeAABSIKn6qD6xi/Obk2ZLxFgOYGi
"""
RELEASES = f"""\
  modelworks:releases:
    # agreed on Monday
    churn: {{digest: "sha256:{"0" * 64}", version: 1}}
"""
TAIL = """\
  # Whatever others keep here.
  other:list:
    - one
    - two
"""


def release(digit: str, version: int = 2) -> Release:
    return Release(digest=f"sha256:{digit * 64}", version=version)


@pytest.fixture
def stack(tmp_path):
    path = tmp_path / "Pulumi.dev.yaml"
    path.write_text(HEAD + RELEASES + TAIL)
    return path


def test_only_the_model_s_own_line_changes(stack):
    assert set_release(stack, "churn", release("a"))
    assert stack.read_text() == HEAD + RELEASES.replace("0" * 64, "a" * 64).replace("version: 1", "version: 2") + TAIL


def test_the_first_release_of_all_is_added_and_every_other_line_is_kept(tmp_path):
    path = tmp_path / "Pulumi.dev.yaml"
    path.write_text(HEAD)
    assert set_release(path, "seats", release("b"))
    line = f'  modelworks:releases:\n    seats: {{digest: "sha256:{"b" * 64}", version: 2}}\n'
    assert path.read_text() == HEAD + line


def test_a_release_that_is_there_already_changes_nothing(stack):
    before = stack.stat().st_mtime_ns
    assert not set_release(stack, "churn", release("0", 1))
    assert stack.stat().st_mtime_ns == before


def test_an_override_stands_in_the_line_and_goes_with_the_next_release_that_needs_none(stack):
    text = 'it is "late": #1 (ada)'
    set_release(stack, "churn", release("a").model_copy(update={"override": text}))
    assert read_releases(stack)["churn"].override == text
    assert stack.read_text().startswith(HEAD)
    set_release(stack, "churn", release("a"))
    assert "override" not in stack.read_text()


@pytest.mark.parametrize("model", ["Not A Name", "nobody-serves-it"])
def test_a_release_that_breaks_a_rule_leaves_the_file_untouched(stack, model):
    with pytest.raises(ModelworksError, match=model) as error:
        set_release(stack, model, release("a"))
    assert error.value.message.startswith(f"{stack}: config")
    assert stack.read_text() == HEAD + RELEASES + TAIL
    assert list(stack.parent.iterdir()) == [stack]


@pytest.mark.parametrize("text", ["", "config:\n", "config: []\n", "- a\n", "config: {a: [\n"])
def test_a_file_that_is_no_stack_config_is_refused_and_untouched(tmp_path, text):
    path = tmp_path / "Pulumi.dev.yaml"
    path.write_text(text)
    with pytest.raises(ModelworksError, match=r"Pulumi\.dev\.yaml"):
        set_release(path, "churn", release("a"))
    assert path.read_text() == text


def test_on_a_full_disk_the_file_stays_as_it_was_and_nothing_is_left_beside_it(stack, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ModelworksError, match="No space left on device") as error:
        set_release(stack, "churn", release("a"))
    assert error.value.fix.startswith("Free space")
    assert stack.read_text() == HEAD + RELEASES + TAIL
    assert list(stack.parent.iterdir()) == [stack]


def test_a_missing_file_is_refused_and_not_made(tmp_path):
    path = tmp_path / "Pulumi.dev.yaml"
    with pytest.raises(ModelworksError, match="does not exist"):
        set_release(path, "churn", release("a"))
    assert not path.exists()


def test_the_file_keeps_its_permissions(stack):
    stack.chmod(0o640)
    set_release(stack, "churn", release("a"))
    assert stack.stat().st_mode & 0o777 == 0o640


def _edit(path: Path, model: str, barrier) -> None:
    barrier.wait()
    for version in range(1, 6):
        set_release(path, model, release("c", version))


def test_of_processes_that_edit_at_once_none_is_lost(stack):
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(4)
    names = [f"model-{number}" for number in range(4)]
    editors = [context.Process(target=_edit, args=(stack, name, barrier)) for name in names]
    [each.start() for each in editors]
    [each.join(PATIENCE) for each in editors]
    assert [each.exitcode for each in editors] == [0, 0, 0, 0]
    found = read_releases(stack)
    assert {name: found[name].version for name in names} == dict.fromkeys(names, 5)
    assert found["churn"].version == 1


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    edits=st.lists(
        st.tuples(
            st.sampled_from(["churn", "seats", "model-0", "model-1"]),
            st.builds(release, st.sampled_from("0123456789abcdef"), st.integers(1, 10**6)),
        ),
        max_size=5,
    )
)
def test_whatever_is_edited_the_file_says_what_was_set_and_keeps_its_comments(tmp_path, edits):
    path = tmp_path / "Pulumi.dev.yaml"
    path.write_text(HEAD + RELEASES + TAIL)
    expected = {"churn": release("0", 1)} | dict(edits)
    for model, wanted in edits:
        set_release(path, model, wanted)
    assert read_releases(path) == expected
    text = path.read_text()
    assert text.startswith(HEAD)
    assert "  other:list:\n    - one\n    - two\n" in text


@pytest.mark.parametrize(
    "text", [None, "", '[project]\nname = "x"\n', "[tool.modelworks]\n", "[tool.other]\norder = 1\n"]
)
def test_a_project_that_states_no_order_has_the_usual_one(tmp_path, text):
    if text is not None:
        (tmp_path / "pyproject.toml").write_text(text)
    assert read_order(tmp_path) == ("dev", "staging", "prod")


def test_a_project_states_its_own_order(tmp_path):
    (tmp_path / "pyproject.toml").write_text('[tool.modelworks]\norder = ["test", "live-eu", "live-us"]\n')
    assert read_order(tmp_path) == ("test", "live-eu", "live-us")


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("order = 'dev'", "expected a list of environments, found 'dev'"),
        ("order = []", r"expected a list of environments, found \[\]"),
        ("order = ['dev', 7]", "expected names of stacks, found 7"),
        ("order = ['dev', 'a b']", "expected names of stacks, found 'a b'"),
        ("order = ['local', 'prod']", "'local' is where things are tried"),
        ("order = ['dev', 'prod', 'dev']", "'dev' is there twice"),
        ("oder = ['dev']", "tool.modelworks.oder: unknown key"),
        ("order = [", "is not TOML"),
    ],
)
def test_an_order_that_makes_no_sense_is_refused_and_named(tmp_path, said, told):
    (tmp_path / "pyproject.toml").write_text(f"[tool.modelworks]\n{said}\n")
    with pytest.raises(ModelworksError, match=rf"pyproject\.toml.*{told}"):
        read_order(tmp_path)
