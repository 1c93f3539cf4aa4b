from __future__ import annotations

import json

import pulumi
import pytest

from mocks import ACCOUNT, declare
from modelworks import ModelEndpoint, contract
from modelworks.laptop.network_policies import Connection, Policies
from modelworks.runtime.online_engine import read_tables

DIGEST = "sha256:" + "ab" * 32
ROLLOUT = "kubernetes:argoproj.io/v1alpha1:Rollout"
ANALYSIS = "kubernetes:argoproj.io/v1alpha1:AnalysisTemplate"
ALARM = "aws:cloudwatch/metricAlarm:MetricAlarm"
INGRESS = "kubernetes:networking.k8s.io/v1:Ingress"
FEATURE_TABLES = {
    view: f"arn:aws:dynamodb:eu-central-1:{ACCOUNT}:table/flights.{view}" for view in ("weather", "delays")
}


def arguments(**args):
    return {
        "environment": "dev",
        "account_id": ACCOUNT,
        "namespace": "modelworks-dev",
        "oidc_issuer": "oidc.example/id",
        "bundle_bucket": "store",
        "prediction_bucket": "predictions",
        "key_arn": "arn:aws:kms:eu-central-1:111111111111:key/k",
        "alerts_topic_arn": "arn:aws:sns:eu-central-1:111111111111:alerts",
        "image": "registry.example/runtime@sha256:" + "0" * 64,
        "host": "flight-delay.example.com",
        "release": {"digest": DIGEST, "version": 12},
        "allow_anonymous": True,
        **args,
    }


def endpoint(**args):
    return declare(lambda: ModelEndpoint("flight-delay", arguments(**args)))


def pod(declared):
    return declared.one(ROLLOUT)["spec"]["template"]["spec"]


def variables(declared) -> dict[str, str]:
    return {item["name"]: item.get("value") for item in pod(declared)["containers"][0]["env"]}


def test_without_a_release_there_is_an_identity_and_nothing_that_runs():
    kinds = {token for token, _ in endpoint(release=None).resources if token.startswith("kubernetes:")}
    assert kinds == {"kubernetes:core/v1:ServiceAccount"}


def test_a_pod_serves_the_released_digest():
    found = variables(endpoint())
    assert found[contract.ENV_BUNDLE_DIGEST] == DIGEST
    assert found[contract.ENV_BUNDLE_URI] == f"s3://store/bundles/flight-delay/{'ab' * 32}.bento"
    assert found[contract.ENV_VERSION] == "12"


def test_an_override_is_warned_of_and_changes_nothing_else(monkeypatch):
    said = []
    monkeypatch.setattr("pulumi.log.warn", lambda text, resource: said.append(text))
    plain = endpoint().resources
    assert said == []
    release = {"digest": DIGEST, "version": 12, "override": "the demo is today (ada)"}
    assert endpoint(release=release).resources == plain
    assert said == [f"flight-delay {contract.OVERRIDDEN}: the demo is today (ada)"]


def test_a_pod_that_ends_serves_on_and_is_not_killed_before_it_is_done():
    declared = endpoint()
    drain = int(variables(declared)[contract.ENV_DRAIN_SECONDS])
    assert 30 <= drain <= pod(declared)["terminationGracePeriodSeconds"] - 20 - 12


def test_a_new_release_changes_the_pods_and_nothing_else_of_the_address():
    first, second = endpoint(), endpoint(release={"digest": "sha256:" + "cd" * 32, "version": 13})
    changed = {key for key in first.resources if first.resources[key] != second.resources[key]}
    assert changed == {(ROLLOUT, "flight-delay")}


def test_pods_pass_the_restricted_standard():
    spec = pod(endpoint())
    (container,) = spec["containers"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert set(container["resources"]) == {"requests", "limits"}


def test_pods_may_read_their_bundles_write_their_log_and_metrics_and_nothing_else():
    policy = json.loads(endpoint().one("aws:iam/rolePolicy:RolePolicy")["policy"])
    assert [(rule["Action"], rule["Resource"]) for rule in policy["Statement"]] == [
        (["s3:GetObject"], ["arn:aws:s3:::store/bundles/flight-delay/*"]),
        (["s3:PutObject"], ["arn:aws:s3:::predictions/predictions/flight-delay/*"]),
        (["kms:Decrypt", "kms:GenerateDataKey"], ["arn:aws:kms:eu-central-1:111111111111:key/k"]),
        (["cloudwatch:PutMetricData"], ["*"]),
    ]
    assert policy["Statement"][3]["Condition"] == {"StringEquals": {"cloudwatch:namespace": "modelworks"}}


def test_pods_log_predictions_below_their_models_name():
    assert variables(endpoint())[contract.ENV_PREDICTION_LOG] == "s3://predictions/predictions/flight-delay"


def test_without_a_bucket_for_it_there_is_no_prediction_log_and_nothing_may_be_written():
    declared = endpoint(prediction_bucket=None, feature_tables=FEATURE_TABLES)
    rules = json.loads(declared.one("aws:iam/rolePolicy:RolePolicy")["policy"])["Statement"]
    assert contract.ENV_PREDICTION_LOG not in variables(declared)
    assert "s3:PutObject" not in [action for rule in rules for action in rule["Action"]]
    assert rules[-1]["Resource"] == sorted(FEATURE_TABLES.values())


def test_pods_may_read_the_tables_of_the_views_that_are_named_and_no_others():
    declared = endpoint(feature_tables=FEATURE_TABLES)
    rules = json.loads(declared.one("aws:iam/rolePolicy:RolePolicy")["policy"])["Statement"]
    own = json.loads(endpoint().one("aws:iam/rolePolicy:RolePolicy")["policy"])["Statement"]
    assert rules == [
        *own,
        {"Effect": "Allow", "Action": ["dynamodb:BatchGetItem"], "Resource": sorted(FEATURE_TABLES.values())},
    ]
    # The key of the tables is that of the bucket, which the role may decrypt with already.
    assert any("kms:Decrypt" in rule["Action"] and rule["Resource"] == [arguments()["key_arn"]] for rule in rules)


def test_pods_get_the_name_of_each_views_table():
    found = variables(endpoint(feature_tables=FEATURE_TABLES))[contract.ENV_FEATURE_TABLES]
    assert found == '{"delays": "flights.delays", "weather": "flights.weather"}'
    assert read_tables(found) == {"weather": "flights.weather", "delays": "flights.delays"}


def test_the_order_in_which_views_are_named_changes_nothing():
    turned = dict(reversed(FEATURE_TABLES.items()))
    assert endpoint(feature_tables=turned).resources == endpoint(feature_tables=FEATURE_TABLES).resources


def test_an_endpoint_that_reads_no_features_has_neither_the_variable_nor_the_permission():
    declared = endpoint()
    assert contract.ENV_FEATURE_TABLES not in variables(declared)
    assert "dynamodb" not in declared.one("aws:iam/rolePolicy:RolePolicy")["policy"]
    assert endpoint(feature_tables={}).resources == declared.resources


def test_only_the_endpoints_service_account_may_assume_the_role():
    (trust,) = json.loads(endpoint().one("aws:iam/role:Role")["assumeRolePolicy"])["Statement"]
    assert trust["Condition"]["StringEquals"]["oidc.example/id:sub"] == (
        "system:serviceaccount:modelworks-dev:flight-delay-endpoint"
    )


def test_an_endpoint_is_closed_unless_it_is_said_to_be_open():
    with pytest.raises(ValueError, match="needs tokens, or allow_anonymous=True"):
        endpoint(allow_anonymous=False)


def test_tokens_reach_the_pods_as_a_file_and_not_as_a_variable():
    declared = endpoint(allow_anonymous=False, tokens="s3cret")
    assert variables(declared)[contract.ENV_TOKEN_FILE] == "/var/run/modelworks/tokens/tokens"
    assert "s3cret" not in json.dumps(declared.one(ROLLOUT))
    assert contract.ENV_ALLOW_ANONYMOUS not in variables(declared)


def test_tokens_and_trusted_keys_keep_their_names_when_they_change():
    declared = endpoint(
        allow_anonymous=False, tokens="s3cret", trusted_keys={"release.pem": "-----BEGIN PUBLIC KEY-----"}
    )
    assert declared.one("kubernetes:core/v1:Secret")["metadata"]["name"] == "flight-delay-tokens"
    assert declared.one("kubernetes:core/v1:ConfigMap")["metadata"]["name"] == "flight-delay-trusted-keys"


@pytest.mark.parametrize("tokens", ["", "\n", " \t\n "])
def test_tokens_without_a_token_are_refused(tokens):
    with pytest.raises(ValueError, match="tokens must have a bearer token on one line at least"):
        endpoint(allow_anonymous=False, tokens=tokens)


def test_tokens_that_turn_out_empty_are_refused():
    def program() -> None:
        ModelEndpoint("flight-delay", arguments(allow_anonymous=False, tokens=pulumi.Output.secret("\n")))

    with pytest.raises(ValueError, match="tokens must have a bearer token on one line at least"):
        declare(program)


def test_trusted_keys_make_a_signature_required():
    declared = endpoint(trusted_keys={"release.pem": "-----BEGIN PUBLIC KEY-----"})
    assert variables(declared)[contract.ENV_TRUSTED_KEYS] == "/etc/modelworks/keys"


def test_alarms_and_canary_judge_by_the_same_limits():
    declared = endpoint(limits={"error_ratio": 0.02})
    alarm = declared.all(ALARM)["flight-delay-errors"]
    metric = next(
        item for item in declared.all(ANALYSIS)["flight-delay-alarms"]["spec"]["metrics"] if item["name"] == "errors"
    )
    assert alarm["threshold"] == 0.02
    assert "> 0.02" in metric["failureCondition"]
    paged, judged = alarm["metricQueries"], metric["provider"]["cloudWatch"]["metricDataQueries"]
    assert paged[0]["expression"] == judged[0]["expression"] == "IF(bad >= 5, bad / requests, 0)"
    assert [(query["id"], query["metric"]["metricName"], query["metric"]["stat"]) for query in paged[1:]] == [
        (query["id"], query["metricStat"]["metric"]["metricName"], query["metricStat"]["stat"]) for query in judged[1:]
    ]


def test_an_endpoint_pages_for_its_limits_and_for_outages_and_only_limits_judge_a_canary():
    declared = endpoint(limits={"period_seconds": 10})
    judged = [item["name"] for item in declared.all(ANALYSIS)["flight-delay-alarms"]["spec"]["metrics"]]
    assert judged == ["errors", "slow", "rejected"]
    outages = {declared.all(ALARM).pop(f"flight-delay-{name}")["period"] for name in ("silent", "unanswered")}
    assert set(declared.all(ALARM)) == {f"flight-delay-{name}" for name in (*judged, "silent", "unanswered")}
    ratios = [alarm["metricQueries"] for alarm in declared.all(ALARM).values() if "metricQueries" in alarm]
    assert outages | {query["metric"]["period"] for each in ratios for query in each[1:]} == {10}


def test_every_alarm_pages_through_the_alerts_topic():
    topics = {tuple(alarm["alarmActions"]) for alarm in endpoint().all(ALARM).values()}
    assert topics == {("arn:aws:sns:eu-central-1:111111111111:alerts",)}


TRAFFIC = "flight-delay-traffic"


def told(step) -> int | str:
    """A step in a word: its weight, its pause, or its analysis."""
    if "analysis" in step:
        return step["analysis"]["templates"][0]["templateName"]
    return step["setWeight"] if "setWeight" in step else step["pause"]["duration"]


def steps_of(declared) -> list[int | str]:
    return [told(step) for step in declared.one(ROLLOUT)["spec"]["strategy"]["canary"]["steps"]]


@pytest.mark.parametrize(
    ("steps", "wanted"),
    [
        ([10], [10, TRAFFIC, "180s", TRAFFIC]),
        ([10, 50], [10, TRAFFIC, "180s", 50, "180s", TRAFFIC]),
        ([5, 25, 50], [5, TRAFFIC, "180s", 25, "180s", 50, "180s", TRAFFIC]),
    ],
)
def test_traffic_moves_in_steps_and_the_first_and_the_last_must_bring_evidence(steps, wanted):
    assert steps_of(endpoint(canary={"steps": steps, "step_seconds": 180})) == wanted


def test_the_last_evidence_counts_no_requests_of_the_steps_before():
    declared = endpoint(canary={"step_seconds": 240})
    (traffic,) = declared.all(ANALYSIS)["flight-delay-traffic"]["spec"]["metrics"]
    assert traffic["provider"]["cloudWatch"]["interval"] == "240s"


@pytest.mark.parametrize(("step", "period"), [(180, 60), (180, 300), (10, 10), (179, 10)])
def test_a_step_is_long_enough_for_cloudwatch_to_show_it(step, period):
    declared = endpoint(canary={"step_seconds": step}, limits={"period_seconds": period})
    assert f"{step}s" in steps_of(declared)


@pytest.mark.parametrize(("step", "period"), [(179, 60), (10, 60), (179, 300)])
def test_a_step_that_ends_before_cloudwatch_shows_it_is_refused(step, period):
    message = (
        rf"^canary\.step_seconds must be at least 180 with datapoints of {period} s, got {step}: "
        "CloudWatch may take two minutes to show the series of a new release$"
    )
    with pytest.raises(ValueError, match=message):
        endpoint(canary={"step_seconds": step}, limits={"period_seconds": period})


def test_no_service_changes_its_pods_while_it_has_traffic():
    declared = endpoint()
    canary = declared.one(ROLLOUT)["spec"]["strategy"]["canary"]
    assert canary["pingPong"] == {"pingService": "flight-delay-ping", "pongService": "flight-delay-pong"}
    assert canary["trafficRouting"]["alb"] == {
        "ingress": "flight-delay",
        "rootService": "flight-delay-ping",
        "servicePort": 80,
    }
    (rule,) = declared.one(INGRESS)["spec"]["rules"]
    (path,) = rule["http"]["paths"]
    assert path["backend"]["service"] == {"name": "flight-delay-ping", "port": {"name": "use-annotation"}}


def test_pods_publish_and_analyses_look_twice_a_datapoint():
    declared = endpoint(limits={"period_seconds": 10})
    intervals = {metric["interval"] for each in declared.all(ANALYSIS).values() for metric in each["spec"]["metrics"]}
    assert intervals == {"5s"}
    assert variables(declared)[contract.ENV_METRICS_SECONDS] == "5"


def probes(declared):
    (found,) = [
        each for each in declared.all(ANALYSIS)["flight-delay-alarms"]["spec"]["metrics"] if "job" in each["provider"]
    ]
    return found


PROBES = {"canary": {"probes": True}}
POLICY = "kubernetes:networking.k8s.io/v1:NetworkPolicy"


def test_probes_send_a_canary_four_times_what_its_steps_need_and_their_failure_is_the_analysis_s():
    metric = probes(endpoint(canary={"probes": True, "minimum_requests": 90, "step_seconds": 180}))
    (container,) = metric["provider"]["job"]["spec"]["template"]["spec"]["containers"]
    assert container["image"] == arguments()["image"]
    assert container["command"] == ["python", "-m", "modelworks.runtime.probe"]
    assert container["args"] == [
        "--release={{args.version}}",
        "--per-second=2",
        "--within-seconds=1200",
        "http://flight-delay-ping:80",
        "http://flight-delay-pong:80",
    ]
    assert metric["failureLimit"] == 0
    # One measurement, which lasts as long as the analysis: with an interval, each would be a Job of its own.
    assert not {"interval", "count"} & metric.keys()


def test_the_pod_of_probes_is_restricted_and_nobody_to_aws():
    spec = probes(endpoint(**PROBES))["provider"]["job"]["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    assert (spec["serviceAccountName"], spec["automountServiceAccountToken"]) == ("default", False)
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert set(container["resources"]) == {"requests", "limits"}
    assert spec["restartPolicy"] == "Never"


def test_probes_whose_node_goes_away_fail_no_release():
    job = probes(endpoint(**PROBES))["provider"]["job"]["spec"]
    assert job["podFailurePolicy"]["rules"] == [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    ]


def test_probes_carry_a_token_where_the_endpoint_needs_one():
    spec = probes(endpoint(**PROBES, allow_anonymous=False, tokens="t"))["provider"]["job"]["spec"]["template"]["spec"]
    assert spec["volumes"] == [{"name": "tokens", "secret": {"secretName": "flight-delay-tokens"}}]
    assert spec["containers"][0]["env"] == [
        {"name": contract.ENV_TOKEN_FILE, "value": "/var/run/modelworks/tokens/tokens"}
    ]
    assert probes(endpoint(**PROBES))["provider"]["job"]["spec"]["template"]["spec"]["volumes"] == []


def test_probes_run_where_the_endpoints_pods_do_without_their_devices():
    pod = {"extended_resources": {"nvidia.com/gpu": 1}, "image_pull_secrets": ["pull"]}
    spec = probes(endpoint(**PROBES, pod=pod))["provider"]["job"]["spec"]["template"]["spec"]
    assert spec["imagePullSecrets"] == [{"name": "pull"}]
    assert set(spec["containers"][0]["resources"]["limits"]) == {"cpu", "memory"}


def test_the_policies_of_an_endpoint_let_its_probes_pass_and_without_theirs_they_do_not():
    declared = endpoint(**PROBES)
    served, probe = (
        {**template, "metadata": {"namespace": "models", "name": name, "labels": template["metadata"]["labels"]}}
        for name, template in (
            ("served", declared.one(ROLLOUT)["spec"]["template"]),
            ("probe", probes(declared)["provider"]["job"]["spec"]["template"]),
        )
    )
    found = {
        name: {**each, "metadata": {"namespace": "models", "name": name}} for name, each in declared.all(POLICY).items()
    }
    deny = {"metadata": {"namespace": "models"}, "spec": {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}}
    connection = Connection(probe, served, contract.DEFAULT_PORT)
    assert Policies([deny, *found.values()], {}).allow(connection)
    assert not Policies([deny, found["flight-delay"]], {}).allow(connection)
    assert not Policies([deny, found["flight-delay-probes"]], {}).allow(connection)


def test_probes_connect_to_the_endpoints_pods_and_name_servers_alone():
    declared = endpoint(**PROBES)
    template = probes(declared)["provider"]["job"]["spec"]["template"]
    policy = declared.all(POLICY)["flight-delay-probes"]["spec"]
    selected, served = policy["podSelector"]["matchLabels"], declared.one(ROLLOUT)["spec"]["template"]["metadata"]
    assert selected.items() <= template["metadata"]["labels"].items()
    assert not selected.items() <= served["labels"].items()
    names, pods = policy["egress"]
    assert {port["port"] for port in names["ports"]} == {53}
    assert pods["to"][0]["podSelector"]["matchLabels"].items() <= served["labels"].items()
    assert pods["ports"] == [{"port": 80, "protocol": "TCP"}, {"port": 8080, "protocol": "TCP"}]
    assert "ingress" not in policy


def test_without_probes_nothing_of_them_is_declared():
    declared = endpoint()
    assert [
        m for each in declared.all(ANALYSIS).values() for m in each["spec"]["metrics"] if "job" in m["provider"]
    ] == []
    assert set(declared.all(POLICY)) == {"flight-delay", "flight-delay-uptime"}


def test_probes_that_would_be_a_load_test_are_refused():
    message = r"^probes would be 50\.1333 requests per second .*, and 50 is the most: state fewer minimum_requests"
    with pytest.raises(ValueError, match=message):
        endpoint(canary={"probes": True, "minimum_requests": 3760, "step_seconds": 300})
    assert "--per-second=50" in str(endpoint(canary={"probes": True, "minimum_requests": 3750}).all(ANALYSIS))
    assert endpoint(canary={"minimum_requests": 3760})


@pytest.mark.parametrize(("replicas", "canary"), [(1, 1), (2, 2), (5, 2)])
def test_a_canary_outlives_the_eviction_of_a_pod_where_the_endpoint_does(replicas, canary):
    declared = endpoint(minimum_replicas=replicas, maximum_replicas=5)
    assert declared.one(ROLLOUT)["spec"]["strategy"]["canary"]["minPodsPerReplicaSet"] == canary
    assert declared.one("kubernetes:policy/v1:PodDisruptionBudget")["spec"]["maxUnavailable"] == 1


def test_no_step_waits_for_ever():
    declared = endpoint()
    steps = declared.one(ROLLOUT)["spec"]["strategy"]["canary"]["steps"]
    assert all(step["pause"]["duration"] for step in steps if "pause" in step)
    (traffic,) = declared.all(ANALYSIS)["flight-delay-traffic"]["spec"]["metrics"]
    assert (traffic["count"], traffic["failureLimit"], traffic["consecutiveSuccessLimit"]) == (31, 30, 1)


def test_a_version_that_never_becomes_ready_is_given_up():
    spec = endpoint(canary={"progress_deadline_seconds": 90}).one(ROLLOUT)["spec"]
    assert (spec["progressDeadlineSeconds"], spec["progressDeadlineAbort"]) == (90, True)


CERTIFICATE = "arn:aws:acm:eu-central-1:111111111111:certificate/c"


def load_balancer(**args) -> dict[str, str]:
    annotations = endpoint(ingress=args).one(INGRESS)["metadata"]["annotations"]
    prefix = "alb.ingress.kubernetes.io/"
    return {name.removeprefix(prefix): value for name, value in annotations.items() if name.startswith(prefix)}


def grpc_endpoint(**args):
    return endpoint(grpc=True, ingress={"certificate_arn": CERTIFICATE}, **args)


def test_grpc_has_an_ingress_whose_weights_argo_writes_first():
    # Argo 1.8 stops at the first Ingress that has its weights already: the one that may be new comes first.
    declared = grpc_endpoint()
    routing = declared.one(ROLLOUT)["spec"]["strategy"]["canary"]["trafficRouting"]["alb"]
    assert routing == {
        "ingresses": ["flight-delay-grpc", "flight-delay"],
        "rootService": "flight-delay-ping",
        "servicePort": 80,
    }
    found = declared.all(INGRESS)
    assert {*found} == {"flight-delay", "flight-delay-grpc"}
    (rule,) = found["flight-delay-grpc"]["spec"]["rules"]
    assert rule["host"] == "flight-delay.example.com"
    backend = {"service": {"name": "flight-delay-ping", "port": {"name": "use-annotation"}}}
    assert rule["http"]["paths"] == [
        {"path": "/inference.GRPCInferenceService", "pathType": "Prefix", "backend": backend},
        {"path": "/grpc.health.v1.Health", "pathType": "Prefix", "backend": backend},
    ]


def test_grpc_shares_the_load_balancer_and_its_rules_come_before_those_for_all_paths():
    found = grpc_endpoint().all(INGRESS)
    prefix = "alb.ingress.kubernetes.io/"
    http, grpc = (found[name]["metadata"]["annotations"] for name in ("flight-delay", "flight-delay-grpc"))
    assert http[f"{prefix}group.name"] == grpc[f"{prefix}group.name"] == "modelworks-dev.flight-delay"
    assert int(grpc[f"{prefix}group.order"]) < int(http[f"{prefix}group.order"])
    differing = {name.removeprefix(prefix) for name in http.keys() | grpc.keys() if http.get(name) != grpc.get(name)}
    assert differing == {"group.order", "backend-protocol-version", "healthcheck-path", "success-codes"}
    assert (grpc[f"{prefix}backend-protocol-version"], grpc[f"{prefix}success-codes"]) == ("GRPC", "0")
    assert grpc[f"{prefix}healthcheck-path"] == "/grpc.health.v1.Health/Check"


def test_a_load_balancer_of_a_long_namespace_has_a_name_that_aws_takes():
    names = {
        grpc_endpoint(namespace=namespace).all(INGRESS)["flight-delay"]["metadata"]["annotations"][
            "alb.ingress.kubernetes.io/group.name"
        ]
        for namespace in ("n" * 52, "n" * 51 + "m")
    }
    assert {name[:13] for name in names} == {"flight-delay."}
    assert len(names) == 2
    assert max(map(len, names)) <= 63


def test_grpc_shares_the_load_balancer_of_the_group_that_its_host_belongs_to():
    declared = endpoint(grpc=True, ingress={"certificate_arn": CERTIFICATE, "group": "dev-models"})
    groups = {
        found["metadata"]["annotations"]["alb.ingress.kubernetes.io/group.name"]
        for found in declared.all(INGRESS).values()
    }
    assert groups == {"dev-models"}


def test_pods_answer_grpc_on_the_port_of_http():
    found = variables(grpc_endpoint())
    assert found[contract.ENV_GRPC_PORT] == found[contract.ENV_PORT]
    assert contract.ENV_GRPC_PORT not in variables(endpoint())


def test_an_endpoint_is_internal_and_without_tls_unless_it_is_stated():
    assert load_balancer() == {
        "target-type": "ip",
        "scheme": "internal",
        "healthcheck-path": "/readyz",
        "listen-ports": '[{"HTTP":80}]',
    }


def test_an_internal_endpoint_speaks_tls_with_a_certificate():
    found = load_balancer(certificate_arn=CERTIFICATE)
    assert (found["scheme"], found["listen-ports"]) == ("internal", '[{"HTTPS":443}]')
    assert found["certificate-arn"] == CERTIFICATE
    assert found["ssl-policy"].startswith("ELBSecurityPolicy-TLS13-1-2-")


def test_a_public_endpoint_is_for_the_networks_that_are_stated():
    found = load_balancer(
        visibility="public", certificate_arn=CERTIFICATE, inbound_cidrs=["192.0.2.0/24", "2001:db8::/32"]
    )
    assert (found["scheme"], found["inbound-cidrs"]) == ("internet-facing", "192.0.2.0/24,2001:db8::/32")


@pytest.mark.parametrize(
    ("ingress", "message"),
    [
        ({"visibility": "public"}, "public needs ingress.certificate_arn"),
        ({"visibility": "internet"}, "must be internal or public, got 'internet'"),
        ({"inbound_cidrs": ["10.0.0.1/8"]}, "10.0.0.1/8 has host bits set"),
        ({"inbound_cidrs": ["everyone"]}, "'everyone' does not appear to be an IPv4 or IPv6 network"),
        ({"inbound_cidr": ["10.0.0.0/8"]}, "ingress.inbound_cidr is an unknown argument; did you mean 'inbound_cidrs'"),
    ],
)
def test_a_load_balancer_that_aws_would_refuse_is_refused(ingress, message):
    with pytest.raises(ValueError, match=message):
        endpoint(ingress=ingress)


@pytest.mark.parametrize(("ingress", "scheme"), [({}, "http"), ({"certificate_arn": CERTIFICATE}, "https")])
def test_the_address_has_the_scheme_that_the_load_balancer_speaks(ingress, scheme):
    found = []
    declare(lambda: ModelEndpoint("flight-delay", arguments(ingress=ingress)).url.apply(found.append))
    assert found == [f"{scheme}://flight-delay.example.com"]


def test_every_object_lives_in_the_given_namespace():
    namespaces = {
        inputs["metadata"]["namespace"]
        for (token, _), inputs in endpoint(trusted_keys={"k": "v"}).resources.items()
        if token.startswith("kubernetes:")
    }
    assert namespaces == {"modelworks-dev"}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"image": "runtime:latest"}, r"image must be an image by its digest: .*, got 'runtime:latest'"),
        ({"minimum_replicas": 7}, r"minimum_replicas must be from 1 to maximum_replicas \(6\), got 7"),
        ({"canary": {"steps": [50, 10]}}, r"canary.steps must grow .* got \[50, 10\]"),
        ({"release": {"digest": "latest"}}, "a digest must be sha256: and 64 hex digits, got 'latest'"),
        ({"limits": {"period_seconds": 45}}, "period_seconds must be"),
        (
            {"feature_tables": {"weather": "flights.weather"}},
            r"feature_tables\['weather'\] must be the ARN of a DynamoDB table \(…:table/NAME\), got 'flights.weather'",
        ),
    ],
)
def test_bad_input_is_refused(args, message):
    with pytest.raises(ValueError, match=message):
        endpoint(**args)


def test_quantities_are_written_as_kubernetes_writes_them_back():
    (container,) = pod(endpoint(cpu_millicores=500, memory_mib=2048))["containers"]
    assert container["resources"] == {
        "requests": {"cpu": "500m", "memory": "2Gi"},
        "limits": {"cpu": "1", "memory": "2Gi"},
    }


@pytest.mark.parametrize(("memory_mib", "limit"), [(512, "2Gi"), (1024, "3Gi"), (8192, "17Gi"), (300, "1624Mi")])
def test_a_pod_has_room_for_a_bundle_as_large_as_its_memory_allows_packed_and_unpacked(memory_mib, limit):
    (scratch,) = [volume for volume in pod(endpoint(memory_mib=memory_mib))["volumes"] if volume["name"] == "scratch"]
    assert scratch["emptyDir"] == {"sizeLimit": limit}


def test_pods_of_one_version_are_spread_over_zones_whatever_another_version_has_there():
    (spread,) = pod(endpoint())["topologySpreadConstraints"]
    assert spread["matchLabelKeys"] == ["rollouts-pod-template-hash"]
    assert "rollouts-pod-template-hash" not in spread["labelSelector"]["matchLabels"]
