"""Names that infrastructure and runtime spell alike: buckets and clusters hold them, so they may not change."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from modelworks import contract
from modelworks.contract import Digest, RunId
from modelworks.errors import ModelworksError
from modelworks.settings import ModelName

HEX = "0123456789abcdef" * 4
DIGEST = Digest(f"sha256:{HEX}")
RUN = RunId(HEX[:16])


@pytest.mark.parametrize(
    ("key", "arguments", "expected"),
    [
        (contract.bundle_key, ("delays", DIGEST), f"bundles/delays/{HEX}.bento"),
        (contract.signature_key, ("delays", DIGEST), f"bundles/delays/{HEX}.bento.sig"),
        (contract.source_key, (DIGEST,), f"sources/{HEX}.tar.gz"),
        (contract.data_key, (DIGEST,), f"data/{HEX}.parquet"),
        (contract.project_key, (DIGEST,), f"projects/{HEX}.tar.gz"),
        (contract.run_key, ("delays", RUN, DIGEST), f"runs/delays/{RUN}/{HEX}.tar.gz"),
        (contract.run_key, ("delays", RUN), f"runs/delays/{RUN}/"),
        (contract.job_key, ("train-1",), "jobs/train-1/note.json"),
        (contract.job_run_key, ("train-1",), "jobs/train-1/run.tar.gz"),
    ],
)
def test_what_lies_in_a_bucket_lies_where_it_always_did(key, arguments, expected):
    assert key(*arguments) == expected


def test_a_digest_is_text_and_knows_its_digits():
    assert (DIGEST, DIGEST.hex, DIGEST.short) == (f"sha256:{HEX}", HEX, HEX[:12])
    assert json.loads(json.dumps({"digest": DIGEST})) == {"digest": f"sha256:{HEX}"}


@pytest.mark.parametrize(
    "text", ["", "..", "../../etc", f"{RUN}/..", f"{RUN}0", RUN[:-1], RUN.upper(), f"{RUN}\n", None, 7, b"0" * 16]
)
def test_a_run_id_that_climbs_or_is_none_is_refused(text):
    with pytest.raises(ModelworksError, match=r"^a run is called by 16 hex digits, got "):
        RunId(text)


@pytest.mark.parametrize("kind", [Digest, RunId])
@pytest.mark.parametrize("text", [None, 7, [], b"sha256:00"])
def test_what_is_no_text_is_no_identity(kind, text):
    with pytest.raises(ValueError, match="got "):
        kind(text)


@pytest.mark.parametrize("key", [contract.source_key, contract.data_key, contract.project_key])
def test_no_key_is_made_of_what_is_no_digest(key):
    with pytest.raises(ValueError, match="a digest must be"):
        key("../../runs/x")


def test_a_digest_is_shortened_to_its_first_twelve_digits():
    assert contract.short_digest(DIGEST) == "0123456789ab"


@pytest.mark.parametrize(
    "text",
    [
        "",
        HEX,
        f"sha512:{HEX}",
        DIGEST[:-1],
        f"{DIGEST}0",
        f"{DIGEST}:{HEX}",
        DIGEST.replace("a", ":"),
        DIGEST.upper(),
        f"{DIGEST}\n",
    ],
)
def test_what_is_no_digest_is_refused_with_the_rule_and_the_value(text):
    with pytest.raises(ValueError, match=r"^a digest must be sha256: and 64 hex digits, got ") as refused:
        contract.short_digest(text)
    assert str(refused.value).endswith(f"got {text!r}")


NAMES = st.text("aZ0-_\n", max_size=42)


def accepted_by_settings(name):
    try:
        TypeAdapter(ModelName).validate_python(name)
    except ValidationError:
        return False
    return True


@given(NAMES)
@example("a")
@example("a" * 40)
@example("a" * 41)
def test_settings_accept_the_names_that_a_model_may_have_and_no_others(name):
    assert accepted_by_settings(name) == bool(contract.MODEL_NAME.fullmatch(name))
