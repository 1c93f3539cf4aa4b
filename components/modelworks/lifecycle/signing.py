"""Keys that sign bundles: a file, or a key of AWS KMS that never leaves it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlsplit

from modelworks import contract
from modelworks._files import write_whole
from modelworks.contract import Digest
from modelworks.errors import ModelworksError
from modelworks.runtime import signature
from modelworks.runtime.signature import SigningKey

_T = TypeVar("_T")
_KMS = "awskms"
_KMS_ALGORITHM = "ECDSA_SHA_256"


def read_stored_signature(s3: Any, bucket: str, model: str, digest: Digest) -> bytes | None:
    """The signature of a bundle in a store; None if it has none.

    Args:
        s3: Client of boto3. It may list the bucket: without that right, what is missing looks like what is forbidden.
        bucket: The store.
        model: The model.
        digest: The bundle's.

    Raises:
        botocore.exceptions.BotoCoreError: The store cannot be reached.
        botocore.exceptions.ClientError: The store refuses.
    """
    try:
        return bytes(s3.get_object(Bucket=bucket, Key=contract.signature_key(model, digest))["Body"].read())
    except s3.exceptions.NoSuchKey:
        return None


def open_key(where: str | Path, session: Callable[[], Any] = lambda: None) -> SigningKey:
    """A key that signs bundles.

    Args:
        where: File of an Ed25519 private key in PEM, or a KMS key as Pulumi spells one: `awskms:///ID`,
            `awskms://alias/NAME` or `awskms:///ARN`, with `?region=REGION`.
        session: Makes a boto3 session; called for a KMS key alone.

    Raises:
        ModelworksError: The file is not such a key, or the text is not such an address.
    """
    text = str(where)
    if not text.startswith(f"{_KMS}:"):
        return read_key(Path(where).expanduser())
    parts = urlsplit(text)
    name = (parts.netloc + parts.path).strip("/")
    if not name or not text.startswith(f"{_KMS}://"):
        raise ModelworksError(
            f"{text} names no key of KMS",
            fix="Write awskms:///KEY-ID, awskms://alias/NAME or awskms:///ARN, with ?region=REGION behind it.",
        )
    stated = parse_qs(parts.query).get("region")
    return KmsKey(name, stated[0] if stated else _region_of(name), session())


def _region_of(name: str) -> str | None:
    """The region in a key's ARN; None for the session's own."""
    fields = name.split(":")
    return fields[3] if fields[0] == "arn" and len(fields) > 3 else None


@dataclass(frozen=True)
class KmsKey:
    """An asymmetric key of AWS KMS (`ECC_NIST_P256`, for signing)."""

    name: str
    """ID, ARN or alias."""
    region: str | None
    session: Any

    def public_key(self) -> Any:
        """Its public half.

        Raises:
            ModelworksError: There is no such key, it cannot sign, or KMS refuses.
        """
        return self._public

    def sign(self, data: bytes, /) -> bytes:
        """The signature of `data`, made by KMS.

        Raises:
            ModelworksError: KMS refuses.
        """
        answer = self._ask(
            lambda kms: kms.sign(KeyId=self.name, Message=data, MessageType="RAW", SigningAlgorithm=_KMS_ALGORITHM)
        )
        return bytes(answer["Signature"])

    @cached_property
    def _public(self) -> Any:
        from cryptography.hazmat.primitives.serialization import load_der_public_key  # only where bundles are signed

        found = self._ask(lambda kms: kms.get_public_key(KeyId=self.name))
        if found.get("KeyUsage") != "SIGN_VERIFY" or _KMS_ALGORITHM not in found.get("SigningAlgorithms", []):
            raise ModelworksError(
                f"the KMS key {self.name} cannot sign with {_KMS_ALGORITHM}: it is a {found.get('KeySpec')} for "
                f"{found.get('KeyUsage')}",
                fix="Make one: `aws kms create-key --key-spec ECC_NIST_P256 --key-usage SIGN_VERIFY`.",
            )
        return load_der_public_key(found["PublicKey"])

    def _ask(self, call: Callable[[Any], _T]) -> _T:
        from botocore.config import Config  # only where a key is in KMS
        from botocore.exceptions import BotoCoreError, ClientError

        config = Config(connect_timeout=5, read_timeout=15, retries={"total_max_attempts": 3})
        try:
            return call(
                self.session.client("kms", config=config, **({"region_name": self.region} if self.region else {}))
            )
        except (BotoCoreError, ClientError) as error:
            raise ModelworksError(
                f"the KMS key {self.name} cannot be used: {error}",
                fix="Check its name and region, and that your role may call kms:GetPublicKey and kms:Sign on it.",
            ) from error


# -- Files -----------------------------------------------------------------------------------------------------------
def make_key(folder: Path) -> Path:
    """The private key of an environment's pipeline in `folder`, made on first use; its public half is beside it.

    Returns:
        The private key's file, `signing.key`, readable by its owner only. The public one is `trusted/<identity>.pem`.

    Raises:
        ModelworksError: The folder cannot be written.
    """
    from cryptography.hazmat.primitives import serialization  # only where bundles are signed
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    path = folder / "signing.key"
    if not path.is_file():
        key = Ed25519PrivateKey.generate()
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        write_whole(path, private)  # the temporary file it is renamed from is private from the start
    public = read_key(path).public_key()
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    write_whole(folder / "trusted" / f"{signature.key_id(public)}.pem", pem)
    return path


def read_key(path: Path) -> SigningKey:
    """The Ed25519 private key in a file.

    Raises:
        ModelworksError: It cannot be read, or is another.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise ModelworksError(
            f"the signing key {path} cannot be read: {error}",
            fix="Name an Ed25519 private key in PEM without a passphrase, or a KMS key: awskms:///KEY-ID?region=REGION.",
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ModelworksError(
            f"the signing key {path} is not an Ed25519 key", fix="Make one: `openssl genpkey -algorithm ed25519`."
        )
    return key
