"""An AWS account of the laptop: who may use it, and what its next process holds after it was killed."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import re
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import boto3
import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import ClientError

from modelworks.laptop import aws, environments
from modelworks.laptop.aws_credentials import read_credentials
from modelworks.laptop.request_journal import Journal
from modelworks.laptop.state_dir import StateDir
from waiting import PATIENCE, eventually

LONG = b"a line of a file\n" * 20_000


class Account:
    """The account of `local` in a process of its own."""

    def __init__(self, place: StateDir) -> None:
        self.place, self.port = place, environments.create(place, "local")["aws_port"]
        services = ("cloudwatch", "dynamodb", "iam", "kms", "s3", "secretsmanager", "sns", "sts")
        self.own = read_credentials(place, "local")
        self.clients = {service: self.client_with(service, self.own.key, self.own.secret) for service in services}
        self.start()

    def start(self) -> None:
        arguments = ["--place", str(self.place.root), "--environment", "local"]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "modelworks.laptop.aws", *arguments],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        eventually(self.answers)

    def answers(self) -> bool:
        assert self.process.poll() is None
        with contextlib.suppress(ConnectionError, urllib.error.URLError):
            with pytest.raises(urllib.error.HTTPError, match="403"):
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/", timeout=PATIENCE)
            return True
        return False

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def client(self, service: str):
        return self.clients[service]

    def client_with(self, service: str, key: str, secret: str, token: str | None = None):
        return boto3.client(
            service,
            endpoint_url=f"http://127.0.0.1:{self.port}",
            region_name="eu-central-1",
            aws_access_key_id=key,
            aws_secret_access_key=secret,
            aws_session_token=token,
            # A request that was sent again would be another one to remember.
            config=Config(read_timeout=PATIENCE, retries={"total_max_attempts": 1}),
        )


@pytest.fixture(scope="module")
def account(tmp_path_factory):
    account = Account(StateDir(tmp_path_factory.mktemp("account") / "place"))
    yield account
    account.kill()


def make(account: Account, number: int) -> None:
    s3, kms, sns = (account.client(service) for service in ("s3", "kms", "sns"))
    bucket = f"bucket-{number}"
    kms.create_key(Description=f"key {number}")
    s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    s3.put_object(Bucket=bucket, Key="a/b c+ü", Body=LONG)
    s3.put_object(Bucket=bucket, Key="a/b c+ü", Body=f"second {number}".encode(), Metadata={"of_it": "x"})
    upload = s3.create_multipart_upload(Bucket=bucket, Key="large")["UploadId"]
    part = s3.upload_part(Bucket=bucket, Key="large", UploadId=upload, PartNumber=1, Body=LONG)
    parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
    s3.complete_multipart_upload(Bucket=bucket, Key="large", UploadId=upload, MultipartUpload=parts)
    account.client("iam").create_role(RoleName=f"role-{number}", AssumeRolePolicyDocument="{}")
    account.client("secretsmanager").create_secret(Name=f"secret-{number}", SecretString=f"hunter{number}")
    topic = sns.create_topic(Name=f"topic-{number}")["TopicArn"]
    sns.subscribe(TopicArn=topic, Protocol="email", Endpoint=f"{number}@example.com", ReturnSubscriptionArn=True)
    table = account.client("dynamodb")
    table.create_table(
        TableName=f"table-{number}", BillingMode="PAY_PER_REQUEST",
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
    )  # fmt: skip
    table.put_item(TableName=f"table-{number}", Item={"id": {"S": "x"}, "value": {"B": b"\0\xff"}})
    account.client("cloudwatch").put_metric_data(Namespace="n", MetricData=[{"MetricName": "m", "Value": 1}])


def holds(account: Account) -> dict:
    """All that a user could look at, dates apart."""
    s3, kms, manager = (account.client(service) for service in ("s3", "kms", "secretsmanager"))
    buckets = sorted(bucket["Name"] for bucket in s3.list_buckets()["Buckets"])
    versions = {name: s3.list_object_versions(Bucket=name).get("Versions", []) for name in buckets}
    tables = sorted(account.client("dynamodb").list_tables()["TableNames"])
    keys = [kms.describe_key(KeyId=key["KeyId"])["KeyMetadata"] for key in kms.list_keys()["Keys"]]
    return {
        "objects": {name: sorted((each["Key"], each["VersionId"], each["ETag"]) for each in listed)
                    for name, listed in versions.items()},
        "bytes": {name: s3.get_object(Bucket=name, Key="a/b c+ü")["Body"].read() for name in buckets},
        "large": {name: s3.get_object(Bucket=name, Key="large")["Body"].read() == LONG for name in buckets},
        "metadata": {name: s3.head_object(Bucket=name, Key="a/b c+ü")["Metadata"] for name in buckets},
        "keys": sorted((key["KeyId"], key["Description"]) for key in keys),
        "roles": sorted((role["RoleName"], role["RoleId"]) for role in account.client("iam").list_roles()["Roles"]),
        "secrets": sorted((each["ARN"], manager.get_secret_value(SecretId=each["ARN"])["SecretString"])
                          for each in manager.list_secrets()["SecretList"]),
        "subscriptions": sorted(each["SubscriptionArn"] for each in
                                account.client("sns").list_subscriptions()["Subscriptions"]),
        "items": [account.client("dynamodb").scan(TableName=name)["Items"] for name in tables],
    }  # fmt: skip


def test_an_account_that_was_killed_comes_back_with_ids_data_and_keys(account: Account):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: make(account, number), range(5)))
    before = holds(account)
    key = before["keys"][0][0]
    sealed = account.client("kms").encrypt(KeyId=key, Plaintext=b"a secret")["CiphertextBlob"]

    account.kill()
    account.start()

    assert holds(account) == before
    assert len(before["objects"]) == len(before["keys"]) == len(before["secrets"]) == 5
    assert account.client("kms").decrypt(CiphertextBlob=sealed)["Plaintext"] == b"a secret"
    assert account.client("cloudwatch").list_metrics(Namespace="n")["Metrics"] == []
    assert re.fullmatch(
        r"AWS of local holds what it held: 70 requests were replayed in [\d.]+ s",
        aws.memory(account.place, "local"),
    )


def test_what_was_deleted_stays_deleted_and_what_followed_is_kept(account: Account):
    account.client("s3").create_bucket(Bucket="later", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
    account.client("s3").delete_bucket(Bucket="later")
    later = account.client("secretsmanager").create_secret(Name="later", SecretString="1")["ARN"]
    account.kill()
    with (account.place.environment("local") / "aws-journal.jsonl").open("ab") as file:
        file.write(b'{"seed": "killed while it wrote th')
    account.start()
    assert "later" not in [bucket["Name"] for bucket in account.client("s3").list_buckets()["Buckets"]]
    account.client("secretsmanager").put_secret_value(SecretId=later, SecretString="2")
    account.kill()
    account.start()
    assert account.client("secretsmanager").get_secret_value(SecretId=later)["SecretString"] == "2"


def test_what_an_account_keeps_is_for_its_owner_alone(account: Account):
    folder = account.place.environment("local")
    bodies = re.findall(r'"body": "(\S*)"', (folder / "aws-journal.jsonl").read_text())
    assert any(b"hunter1" in base64.b64decode(body) for body in bodies)
    assert [path.name for path in folder.rglob("*") if path.stat().st_mode & 0o077] == []


def test_an_account_that_could_not_be_kept_says_what_restores_it(account: Account):
    account.kill()
    folder = account.place.environment("local")
    (folder / "aws-journal.jsonl").unlink()
    (folder / "aws-lost").write_text("it was asked too much")
    account.start()
    said = "AWS of local is empty, for it was asked too much: `modelworks up local` restores what is declared"
    assert aws.memory(account.place, "local").startswith(said)
    assert not (folder / "aws-lost").exists()


def ask(journal: Journal, body: bytes) -> None:
    environ = {"REQUEST_METHOD": "PUT", "CONTENT_LENGTH": str(len(body)), "wsgi.input": io.BytesIO(body)}
    list(journal(environ, lambda *_: None))


def answered(environ, start_response):
    start_response("200 OK", [])
    return [b""]


@pytest.mark.parametrize(
    ("bound", "why"),
    [({"largest": 2**20}, "its requests exceed 1 MiB"), ({"most": 1}, "it had more than 1 requests")],
)
def test_an_account_that_was_asked_too_much_is_kept_no_further_and_says_so(tmp_path, bound, why):
    lost: list[str] = []
    journal = Journal(answered, tmp_path / "journal", lost.append, **bound)
    ask(journal, b"x" * 1000)
    assert (tmp_path / "journal").exists()
    ask(journal, LONG * 4)
    ask(journal, b"x")
    assert not (tmp_path / "journal").exists()
    assert lost == [why]


def test_a_full_disk_costs_the_memory_and_not_the_request(tmp_path):
    lost: list[str] = []
    journal = Journal(answered, tmp_path / "journal", lost.append)
    journal._file = open("/dev/full", "ab")  # noqa: PTH123, SIM115 - the journal closes it
    ask(journal, b"x")
    assert not (tmp_path / "journal").exists()
    assert lost == ["its journal cannot be written: No space left on device"]


def test_requests_that_overlap_are_kept_in_the_order_in_which_the_account_saw_them(tmp_path):
    """The first is still at work when the second arrives, and would be written down after it."""
    seen, first_is_in, second_came = [], threading.Event(), threading.Event()

    def slow_first(environ, start_response):
        body = environ["wsgi.input"].read()
        if body == b"first":
            first_is_in.set()
            second_came.wait(0.5)  # it would come meanwhile, and be done
        else:
            second_came.set()
        seen.append(body)
        start_response("200 OK", [])
        return [b""]

    journal = Journal(slow_first, tmp_path / "journal", pytest.fail)
    first = threading.Thread(target=ask, args=(journal, b"first"))
    first.start()
    first_is_in.wait(PATIENCE)
    ask(journal, b"second")
    first.join()
    kept = [base64.b64decode(json.loads(line)["body"]) for line in (tmp_path / "journal").read_text().splitlines()]
    assert kept == seen == [b"first", b"second"]


# -- Who may use it --------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def kept(account: Account) -> str:
    """The path of an object with a space, a plus and an umlaut in its key."""
    account.client("s3").create_bucket(Bucket="kept", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
    account.client("s3").put_object(Bucket="kept", Key="a/b c+ü", Body=b"precious")
    return "kept"


def send(account: Account, request: urllib.request.Request | str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def refusal(call, **arguments) -> tuple[str, int]:
    with pytest.raises(ClientError) as refused:
        call(**arguments)
    response = refused.value.response
    return response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"]


@pytest.mark.parametrize(
    ("service", "call", "code"),
    [
        ("s3", "list_buckets", "InvalidAccessKeyId"),
        ("sns", "list_topics", "InvalidClientTokenId"),
        ("sts", "get_caller_identity", "InvalidClientTokenId"),
        ("dynamodb", "list_tables", "UnrecognizedClientException"),
        ("secretsmanager", "list_secrets", "UnrecognizedClientException"),
        ("kms", "list_keys", "UnrecognizedClientException"),
        ("cloudwatch", "list_metrics", "UnrecognizedClientException"),
    ],
)
def test_a_key_of_another_account_is_refused_as_aws_refuses_it(account: Account, service, call, code):
    other = account.client_with(service, "AKIAEXAMPLE", "laptop")
    assert refusal(getattr(other, call)) == (code, 403)


@pytest.mark.parametrize(
    ("service", "call", "code"),
    [
        ("s3", "list_buckets", "SignatureDoesNotMatch"),
        ("sns", "list_topics", "SignatureDoesNotMatch"),
        ("dynamodb", "list_tables", "InvalidSignatureException"),
    ],
)
def test_a_known_key_with_another_secret_is_refused(account: Account, service, call, code):
    guessed = account.client_with(service, account.own.key, "guessed")
    assert refusal(getattr(guessed, call)) == (code, 403)


def test_every_service_answers_its_own_key(account: Account):
    account.client("cloudwatch").put_metric_data(Namespace="asked", MetricData=[{"MetricName": "m", "Value": 1}])
    assert account.client("sts").get_caller_identity()["Account"] == "000000000000"
    assert "metrics" in {key.lower() for key in account.client("cloudwatch").list_metrics(Namespace="asked")}


@pytest.mark.parametrize("path", ["/moto-api/reset", "/moto-api/data.json", "/moto-api"])
def test_the_emulators_own_interface_is_closed(account: Account, kept, path):
    status, _ = send(account, urllib.request.Request(f"http://127.0.0.1:{account.port}{path}", method="POST"))
    assert status == 403
    assert account.client("s3").get_object(Bucket=kept, Key="a/b c+ü")["Body"].read() == b"precious"


def test_a_stranger_on_the_machine_can_neither_read_nor_delete(account: Account, kept):
    address = f"http://127.0.0.1:{account.port}/{kept}"
    assert send(account, address)[0] == 403
    assert send(account, urllib.request.Request(f"{address}/a/b%20c%2B%C3%BC", method="DELETE"))[0] == 403
    web_identity = b"Action=AssumeRoleWithWebIdentity&RoleArn=arn:aws:iam::1:role/x&RoleSessionName=xx"
    assert send(account, urllib.request.Request(f"http://127.0.0.1:{account.port}/", web_identity))[0] == 403
    assert account.client("s3").get_object(Bucket=kept, Key="a/b c+ü")["Body"].read() == b"precious"


def test_a_refusal_tells_how_to_get_the_right_key(account: Account):
    _, said = send(account, f"http://127.0.0.1:{account.port}/")
    assert 'eval "$(modelworks env local)"' in said


def presigned(account: Account, bucket: str, seconds: int = 60) -> str:
    arguments = {"Bucket": bucket, "Key": "a/b c+ü"}
    url: str = account.client("s3").generate_presigned_url("get_object", Params=arguments, ExpiresIn=seconds)
    return url


def test_a_presigned_url_opens_what_it_names_and_nothing_else(account: Account, kept):
    url = presigned(account, kept)
    assert send(account, url) == (200, "precious")
    assert send(account, url.replace("/kept/", "/other/"))[0] == 403
    assert send(account, urllib.request.Request(url, method="DELETE"))[0] == 403
    assert send(account, url.replace("Expires=60", "Expires=600"))[0] == 403


def test_a_presigned_url_expires(account: Account, kept):
    status, said = send(account, presigned(account, kept, seconds=-1))
    assert status == 403
    assert "was valid for -1 s" in said


@pytest.mark.parametrize(
    ("header", "value", "why"),
    [
        ("Origin", "https://example.com", "comes from a web page"),
        ("Host", "rebound.example.com", "must be an address of this machine"),
        ("Host", "127.0.0.1.example.com:80", "must be an address of this machine"),
    ],
)
def test_a_web_page_is_refused_whatever_it_has_signed(account: Account, kept, header, value, why):
    status, said = send(account, urllib.request.Request(presigned(account, kept), headers={header: value}))
    assert status == 403
    assert why in said


def test_no_answer_lets_a_web_page_read_it(account: Account, kept):
    with urllib.request.urlopen(presigned(account, kept), timeout=PATIENCE) as response:
        assert "Access-Control-Allow-Origin" not in response.headers


def test_a_body_that_was_changed_on_its_way_is_refused(account: Account, kept):
    signed = AWSRequest(
        "PUT", f"http://127.0.0.1:{account.port}/{kept}/changed", data=b"signed", headers={"Content-Type": "text/plain"}
    )
    S3SigV4Auth(Credentials(account.own.key, account.own.secret), "s3", "eu-central-1").add_auth(signed)
    request = urllib.request.Request(signed.url, b"forged", dict(signed.headers), method="PUT")
    assert send(account, request)[0] == 403


def test_keys_that_the_account_issued_open_it_until_they_are_deleted(account: Account):
    iam = account.client("iam")
    iam.create_user(UserName="ci")
    made = iam.create_access_key(UserName="ci")["AccessKey"]
    of_ci = account.client_with("sts", made["AccessKeyId"], made["SecretAccessKey"])
    assert of_ci.get_caller_identity()["Arn"] == "arn:aws:iam::000000000000:user/ci"
    iam.delete_access_key(UserName="ci", AccessKeyId=made["AccessKeyId"])
    assert refusal(of_ci.get_caller_identity) == ("InvalidClientTokenId", 403)


def test_the_keys_of_an_assumed_role_open_it_with_their_token_alone(account: Account):
    account.client("iam").create_role(RoleName="reader", AssumeRolePolicyDocument="{}")
    role = account.client("sts").assume_role(
        RoleArn="arn:aws:iam::000000000000:role/reader", RoleSessionName="session"
    )["Credentials"]
    keys = role["AccessKeyId"], role["SecretAccessKey"]
    assert account.client_with("s3", *keys, role["SessionToken"]).list_buckets()["Buckets"] is not None
    assert refusal(account.client_with("s3", *keys).list_buckets) == ("InvalidAccessKeyId", 403)


@pytest.mark.parametrize(
    "authorization",
    [
        "AWS AKIA:signature",
        "Bearer token",
        "AWS4-HMAC-SHA256",
        "AWS4-HMAC-SHA256 Credential=x, SignedHeaders=host, Signature=y",
        "AWS4-HMAC-SHA256 Credential=a/b/c/d/e, SignedHeaders=, Signature=y",
        "AWS4-ECDSA-P256-SHA256 Credential=a/20260101/s3/aws4_request, SignedHeaders=host, Signature=y",
    ],
)
def test_another_form_of_signature_is_refused_and_never_breaks_the_account(account: Account, authorization):
    request = urllib.request.Request(f"http://127.0.0.1:{account.port}/", headers={"Authorization": authorization})
    status, said = send(account, request)
    assert status == 403
    assert "SignatureDoesNotMatch" in said
