"""Names that infrastructure and runtime spell alike: buckets and clusters hold them, so they may not change."""

from __future__ import annotations

import pytest

from modelworks import contract

HEX = "0123456789abcdef" * 4
DIGEST = f"sha256:{HEX}"


@pytest.mark.parametrize(
    ("key", "arguments", "expected"),
    [
        (contract.bundle_key, ("delays", DIGEST), f"bundles/delays/{HEX}.bento"),
        (contract.signature_key, ("delays", DIGEST), f"bundles/delays/{HEX}.bento.sig"),
        (contract.source_key, (DIGEST,), f"sources/{HEX}.tar.gz"),
        (contract.data_key, (DIGEST,), f"data/{HEX}.parquet"),
        (contract.run_key, ("delays", "00ff", DIGEST), f"runs/delays/00ff/{HEX}.tar.gz"),
        (contract.run_key, ("delays", "00ff"), "runs/delays/00ff/"),
        (contract.job_key, ("train-1",), "jobs/train-1.json"),
    ],
)
def test_what_lies_in_a_bucket_lies_where_it_always_did(key, arguments, expected):
    assert key(*arguments) == expected


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
