"""Plain names of a wrong form, for every component alike."""

from __future__ import annotations

import re

import pytest

from mocks import declare
from modelworks import Environment, ModelEndpoint, _forms
from smallest import COMPONENTS, FULLEST, SMALLEST, hints_of, kind_of_arguments

WRONG = {
    "account_id": ["", "12", "1111111111112", "\N{ARABIC-INDIC DIGIT ONE}" * 12, "111111111111\n"],
    "alerts_topic_arn": ["alerts", "arn:aws:sqs:eu-central-1:111111111111:alerts", "arn:aws:sns::111111111111:alerts"],
    "artifact_bucket": ["", "ab", "Data", "s3://data", "x" * 64],
    "bundle_bucket": ["-bundles"],
    "host": ["", "http://x/y", "UP.example.com", "x" * 254, "-a", "a\n"],
    "image": ["", "runtime:latest", "runtime@sha256:0", f"run time@sha256:{'0' * 64}", f"runtime@sha256:{'0' * 65}"],
    "key_arn": ["alias/key", "arn:aws:kms:eu-central-1:111111111111:alias/key", "arn:aws:kms:eu-central-1:1:key/k"],
    "namespace": ["UP", "a_b", "-a", "x" * 64],
    "oidc_issuer": ["", "https://a", "a b"],
    "prediction_bucket": ["a_b"],
    "role_arn": ["deploy", "arn:aws:iam::111111111111:user/ada", "arn:aws:sts::111111111111:assumed-role/deploy/ada"],
}
CASES = [
    (component, name, text)
    for component in COMPONENTS
    for name, texts in WRONG.items()
    if name in hints_of(kind_of_arguments(component))
    for text in texts
]


@pytest.mark.parametrize(("component", "name", "text"), CASES)
def test_a_name_of_another_form_is_refused_with_the_form(component, name, text):
    message = f"{component.__name__} 'churn': {name} must be {_forms.OF_ARGUMENTS[name].meaning}, got {text!r}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        declare(lambda: component("churn", {**SMALLEST[component.__name__], name: text}))


def test_an_address_that_is_none_is_refused():
    with pytest.raises(ValueError, match=r"^Environment 'dev': alert_emails\[0\] must be an address .*, got 'nomail'$"):
        declare(lambda: Environment("dev", {**SMALLEST["Environment"], "alert_emails": ["nomail"]}))


def test_a_key_is_a_file():
    args = {**SMALLEST["ModelEndpoint"], "trusted_keys": {"a/b": "-----BEGIN PUBLIC KEY-----"}}
    with pytest.raises(ValueError, match=r"trusted_keys: must be the name of a file: .*, got 'a/b'"):
        declare(lambda: ModelEndpoint("churn", args))


@pytest.mark.parametrize("name", ["Churn_1", "x" * 41, "1churn", "churn-", ""])
def test_an_endpoint_is_called_as_a_model_may_be(name):
    with pytest.raises(ValueError, match=f"^ModelEndpoint {name!r}: an endpoint is called as its model: 1 to 40"):
        declare(lambda: ModelEndpoint(name, {**SMALLEST["ModelEndpoint"], **FULLEST["ModelEndpoint"]}))


def test_an_endpoint_may_have_the_longest_name():
    assert declare(lambda: ModelEndpoint("x" * 40, {**SMALLEST["ModelEndpoint"], **FULLEST["ModelEndpoint"]})).resources
