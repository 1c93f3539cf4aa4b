"""A release is written into whatever shape a stack's file has: byte for byte nothing else changes, or it is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelworks.errors import ModelworksError
from modelworks.lifecycle.release import read_releases, set_release
from modelworks.lifecycle.release_line import with_release
from modelworks.settings import Release

OLD, NEW, OTHER = (f"sha256:{digit * 64}" for digit in "abc")
RELEASE = Release(digest=NEW, version=12)
LINE = f'{{digest: "{NEW}", version: 12}}'
TOP = """\
config:
  aws:allowedAccountIds: ["111111111111"]
  modelworks:settings:
    owner: ml
    cost_centre: "2020_1"
    registry: {}
    endpoints:
      churn: {allow_anonymous: true}
      seats: {allow_anonymous: true}
  modelworks:secrets:
    registry_password: {secure: "v1:a:b"}
"""


def edited(text: str, release: Release = RELEASE) -> str:
    return with_release(text, "churn", release, source="Pulumi.dev.yaml")


def refusal(text: str) -> ModelworksError:
    with pytest.raises(ModelworksError) as refused:
        edited(text)
    return refused.value


def wide(text: str) -> str:
    """The same with an indentation of four spaces."""
    lines = text.splitlines(keepends=True)
    return "".join(" " * (len(line) - len(line.lstrip(" "))) + line for line in lines)


# -- Where the line goes ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param("", f"  modelworks:releases:\n    churn: {LINE}\n", id="no releases"),
        pytest.param(
            "  modelworks:releases:\n  other: 1\n",
            f"  modelworks:releases:\n    churn: {LINE}\n  other: 1\n",
            id="nothing",
        ),
        pytest.param(
            "  modelworks:releases: ~  # none yet\n",
            f"  modelworks:releases:  # none yet\n    churn: {LINE}\n",
            id="a tilde",
        ),
        pytest.param("  modelworks:releases: null\n", f"  modelworks:releases:\n    churn: {LINE}\n", id="null"),
        pytest.param(
            f'  modelworks:releases:\n    # churn: {{digest: "{OLD}"}}\n',
            f'  modelworks:releases:\n    churn: {LINE}\n    # churn: {{digest: "{OLD}"}}\n',
            id="commented out",
        ),
        pytest.param("  modelworks:releases: {}\n", f"  modelworks:releases: {{churn: {LINE}}}\n", id="an empty flow"),
        pytest.param(
            f"  modelworks:releases: {{seats: {{digest: '{OTHER}'}}}}\n",
            f"  modelworks:releases: {{seats: {{digest: '{OTHER}'}}, churn: {LINE}}}\n",
            id="another in a flow",
        ),
        pytest.param(
            f"  modelworks:releases:\n    seats:\n      digest: {OTHER}  # first\n    # the end\n",
            f"  modelworks:releases:\n    seats:\n      digest: {OTHER}  # first\n    churn: {LINE}\n    # the end\n",
            id="another in a block",
        ),
        pytest.param(
            f"  modelworks:releases:\n    seats: &a {{digest: '{OTHER}'}}\n    model-1: *a\n",
            f"  modelworks:releases:\n    seats: &a {{digest: '{OTHER}'}}\n    model-1: *a\n    churn: {LINE}\n",
            id="behind an alias",
        ),
        pytest.param(
            "  modelworks:releases:\n    churn:\n", f"  modelworks:releases:\n    churn: {LINE}\n", id="empty"
        ),
        pytest.param(
            "  modelworks:releases:\n    churn: ~ # later\n",
            f"  modelworks:releases:\n    churn: {LINE} # later\n",
            id="a tilde as its release",
        ),
    ],
)
def test_a_model_gets_its_first_line(before, after):
    assert edited(TOP + before) == TOP + after


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param(f"{{digest: '{OLD}', version: 3}} # Monday", f"{LINE} # Monday", id="quotes of one kind"),
        pytest.param(f"{{digest: {OLD}, version: 3}}", LINE, id="no quotes"),
        pytest.param(f'{{"digest": "{OLD}", "version": 3}}', f'{{"digest": "{NEW}", "version": 12}}', id="JSON"),
        pytest.param(f'{{version: 3, digest: "{OLD}"}}', f'{{version: 12, digest: "{NEW}"}}', id="another order"),
        pytest.param(f'{{digest: "{OLD}"}}', LINE, id="no version"),
        pytest.param(f'{{digest: "{NEW}", version: "12"}}', LINE, id="a number in quotes"),
        pytest.param(f'{{digest: "{OLD}", version: ~}}', LINE, id="a tilde as version"),
        pytest.param(f'{{digest: "{OLD}", version: 3, override: "x, }} # y (ada)"}}', LINE, id="an override that ends"),
        pytest.param(f'{{override: "x", digest: "{OLD}", version: 3}}', LINE, id="an override in front"),
        pytest.param(f'&now {{digest: "{OLD}", version: 3}}', f"&now {LINE}", id="an anchor"),
        pytest.param("{}", LINE, id="nothing in it"),
        pytest.param("null", LINE, id="null"),
        pytest.param(
            f'\n      digest: "{OLD}" # Monday\n      version: 3',
            f'\n      digest: "{NEW}" # Monday\n      version: 12',
            id="a block",
        ),
        pytest.param(
            f"\n      digest: {OLD}", f'\n      digest: "{NEW}"\n      version: 12', id="a block without version"
        ),
        pytest.param(
            f'\n      digest: "{OLD}"\n      override: >-\n        it\n\n        was late\n      version: 3',
            f'\n      digest: "{NEW}"\n      version: 12',
            id="a folded override in a block",
        ),
        pytest.param(
            f'{{\n      digest: "{OLD}", # Monday\n      version: 3,\n    }}',
            f'{{\n      digest: "{NEW}", # Monday\n      version: 12,\n    }}',
            id="a flow over lines",
        ),
    ],
)
def test_a_line_changes_and_nothing_beside_it(before, after):
    rest = "  other:list: [2020_1, 0x1F, 1e3, .5, yes, 2020-01-01]  # whatever\n"
    text = f"{TOP}  modelworks:releases:\n    churn: {before}\n    seats: {{digest: '{OTHER}'}}\n{rest}"
    assert edited(text) == text.replace(f"churn: {before}\n", f"churn: {after}\n")


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(TOP + f"  modelworks:releases:\n    churn: {{digest: '{OLD}', version: 3}}\n", id="plain"),
        pytest.param(
            f"# ours\n---\n{TOP}  modelworks:releases:\n    churn: {{digest: '{OLD}'}}\n...\n", id="a document"
        ),
        pytest.param(TOP.replace("config:", '"config":') + "  'modelworks:releases': {}\n", id="quoted keys"),
        pytest.param(TOP + "  other:pem: |\n    -----BEGIN\n\n\n# the end\n", id="a literal block at the end"),
        pytest.param(TOP + "  other:list:\n  - 2020_1\n  - {a: ~, b: [\n      2]}\n", id="a list at the end"),
        pytest.param(TOP + "  other:list:\n  - - 1\n    - 2\nsecretsprovider: x\n", id="a list of lists, and more"),
        pytest.param(
            f"base: &base {{churn: {{digest: '{OLD}'}}}}\n{TOP}  modelworks:releases:\n    <<: *base\n"
            f"    seats: {{digest: '{OTHER}'}}\n",
            id="a merged one",
        ),
    ],
)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("indent", [str, wide])
def test_every_other_byte_of_a_file_stays_as_it_was(tmp_path, text, newline, mark, indent):
    path = tmp_path / "Pulumi.dev.yaml"
    before = (mark + indent(text)).replace("\n", newline).encode()
    path.write_bytes(before)
    assert set_release(path, "churn", RELEASE)
    assert read_releases(path)["churn"] == RELEASE
    after = path.read_bytes()
    assert after.count(b"\r\n") == (after.count(b"\n") if newline == "\r\n" else 0)
    kept, new = before.split(newline.encode()), after.split(newline.encode())
    changed = [line for line in new if line not in kept]
    assert all(NEW.encode() in line or line.strip() == b"modelworks:releases:" for line in changed)
    assert [line for line in kept if line not in new and OLD.encode() not in line and b"releases" not in line] == []
    assert not set_release(path, "churn", RELEASE)
    assert path.read_bytes() == after


def test_a_file_that_ends_without_a_newline_gets_whole_lines():
    assert edited(TOP.rstrip("\n")) == f"{TOP}  modelworks:releases:\n    churn: {LINE}\n"


def test_a_link_to_a_stack_file_stays_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    real, link = tmp_path / "real" / "Pulumi.dev.yaml", tmp_path / "Pulumi.dev.yaml"
    real.write_text(TOP)
    link.symlink_to(real)
    set_release(link, "churn", RELEASE)
    assert link.is_symlink()
    assert read_releases(real)["churn"] == RELEASE


@pytest.mark.parametrize("name", ["on", "null", "123", "1e3", "2020-01-01", "0x1f"])
def test_a_name_that_yaml_takes_for_another_type_is_quoted(name):
    line = with_release("config:\n  a: 1\n", name, RELEASE, source="x").splitlines()[-1]
    assert line == f'    "{name}": {LINE}'


@given(st.text(min_size=1))
def test_any_override_comes_back_as_it_was_given(reason):
    release = RELEASE.model_copy(update={"override": reason})
    try:
        text = edited(TOP, release)
    except ModelworksError:
        assert any(0xD800 <= ord(character) <= 0xDFFF for character in reason)  # no text can hold half a pair
        return
    assert len(text.splitlines()) == len(TOP.splitlines()) + 2
    assert edited(text, release) == text


# -- Refused ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "line", "why"),
    [
        pytest.param(
            f"{TOP}  modelworks:releases:\n    seats: &a {{digest: '{OLD}'}}\n    churn: *a\n",
            14, "the release of churn is an alias", id="an alias",
        ),
        pytest.param(
            f"{TOP}  modelworks:releases:\n    churn: &a {{digest: '{OLD}'}}\n    seats: *a\n",
            13, "without a change to another value", id="an anchor that another uses",
        ),
        pytest.param(
            f"base: &base {{churn: {{digest: '{OLD}'}}}}\n{TOP}  modelworks:releases: *base\n",
            13, "the releases are an alias", id="an alias of all",
        ),
        pytest.param(
            f"base: &base '{OLD}'\n{TOP}  modelworks:releases:\n    churn: {{digest: *base}}\n",
            14, "an alias (`*…`) in it", id="an alias within",
        ),
        pytest.param("config: {aws:region: x}\n", 1, "flow style", id="a flow of everything"),
        pytest.param(f"{TOP}  modelworks:releases:\n    - churn\n", 12, "not a mapping of models", id="a list"),
        pytest.param(
            f'{TOP}  modelworks:releases:\n    churn: {{\n      digest: "{OLD}", # Monday\n      override: "x"}}\n',
            13, "a comment is in the part", id="a comment on what goes",
        ),
        pytest.param(
            TOP + "  other:text: |\n    no newline at the end",
            1, "without a change to another value", id="a text without its newline",
        ),
    ],
)  # fmt: skip
def test_a_shape_that_cannot_be_edited_safely_is_refused_with_line_and_fix(tmp_path, text, line, why):
    told = refusal(text)
    assert told.message.startswith(f"Pulumi.dev.yaml, line {line}: ")
    assert why in told.message
    assert told.fix == f"Write this under modelworks:releases by hand: churn: {LINE}"
    path = tmp_path / "Pulumi.dev.yaml"
    path.write_text(text)
    with pytest.raises(ModelworksError):
        set_release(path, "churn", RELEASE)
    assert path.read_text() == text


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(TOP + "  modelworks:releases: {}\n  modelworks:releases: {}\n", id="twice"),
        pytest.param(TOP + "---\n" + TOP, id="two documents"),
        pytest.param("config:\n\taws:region: x\n", id="a tab"),
    ],
)
def test_text_that_is_not_one_document_is_refused_with_its_line(text):
    told = refusal(text)
    assert told.message.startswith("Pulumi.dev.yaml is not YAML")
    assert "line" in told.message


def test_a_file_of_another_encoding_is_refused_and_untouched(tmp_path):
    path = tmp_path / "Pulumi.dev.yaml"
    path.write_bytes(TOP.encode("utf-16"))
    with pytest.raises(ModelworksError, match="is not YAML"):
        set_release(path, "churn", RELEASE)
    assert path.read_bytes() == TOP.encode("utf-16")


@pytest.mark.parametrize("text", ["[]\n", "a: 1\n", "config:\n", "config: []\n"])
def test_a_file_that_is_no_stacks_is_refused_by_its_name(text):
    refused = refusal(text)
    assert refused.message == "Pulumi.dev.yaml has no mapping `config`"
    assert refused.fix == "It must be a stack's config file."


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param("config:\n a: 1\n", f"config:\n a: 1\n {{releases}}\n  churn: {LINE}\n", id="one space"),
        pytest.param("config:\n {releases} ~\n", f"config:\n {{releases}}\n  churn: {LINE}\n", id="one space, null"),
        pytest.param(
            "  config:\n    a: 1\n", f"  config:\n    a: 1\n    {{releases}}\n      churn: {LINE}\n", id="all"
        ),
        pytest.param(
            "  config:\n    {releases}\n", f"  config:\n    {{releases}}\n      churn: {LINE}\n", id="all, null"
        ),
    ],
)
def test_a_first_line_is_indented_as_its_file_is(before, after):
    def named(text: str) -> str:
        return text.replace("{releases}", "modelworks:releases:")

    assert edited(named(before)) == named(after)
