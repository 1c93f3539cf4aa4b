"""The signature beside a bundle: who vouches for these bytes.

A detached signature over the model's name and the bundle's digest, in a small JSON file at `contract.signature_key`:
Ed25519, or ECDSA on P-256 with SHA-256, which key management services sign with. Trusted keys are public keys in PEM,
by file name; whoever vouches for a bundle holds a private one.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import msgspec

from modelworks.contract import Digest
from modelworks.errors import ModelworksError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    PublicKey = Ed25519PublicKey | EllipticCurvePublicKey

ED25519 = "ed25519"


class SigningKey(Protocol):
    """A private key, wherever it is kept: an `Ed25519PrivateKey`, or one of a service that signs and never shows it."""

    def public_key(self) -> Any:
        """Its public half."""

    def sign(self, data: bytes, /) -> bytes:
        """The signature of `data`, by the one algorithm of its kind."""


class Signature(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The content of the `.sig` file."""

    model: str
    digest: str
    key: str
    """Identity of the signing key: see `key_id`."""
    signature: str
    """Base64 of its bytes."""
    algorithm: Literal["ed25519", "ecdsa-p256-sha256"] = "ed25519"


def sign(model: str, digest: Digest, key: SigningKey) -> bytes:
    """The bytes of the `.sig` file for the bundle of `model` with `digest` (`sha256:…`).

    Raises:
        ModelworksError: The key is of a kind that no server verifies.
    """
    public = key.public_key()
    made = Signature(
        model=model,
        digest=str(digest),  # msgspec writes plain text alone
        key=key_id(public),
        signature=base64.b64encode(key.sign(_message(model, digest))).decode(),
        algorithm=algorithm_of(public),
    )
    return msgspec.json.encode(made)


def key_id(key: PublicKey) -> str:
    """A short name for a public key: the first 16 hex digits of the sha256 of its bytes.

    Of an Ed25519 key these are its 32 raw bytes, of any other its DER (SubjectPublicKeyInfo).
    """
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    if algorithm_of(key) == ED25519:
        raw = key.public_bytes(Encoding.Raw, PublicFormat.Raw)
    else:
        raw = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(raw).hexdigest()[:16]


def algorithm_of(key: Any) -> Literal["ed25519", "ecdsa-p256-sha256"]:
    """How a public key's signatures are made.

    Raises:
        ModelworksError: It is of another kind.
    """
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    if isinstance(key, Ed25519PublicKey):
        return "ed25519"
    if isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1):
        return "ecdsa-p256-sha256"
    raise ModelworksError(
        "a key that signs bundles is an Ed25519 key, or one on the curve P-256 (ECC_NIST_P256 in KMS); this one is "
        "another",
        fix="Make one: `openssl genpkey -algorithm ed25519`.",
    )


def read_signature(model: str, digest: Digest, data: bytes) -> Signature:
    """Parse a `.sig` file, and check that it is about this bundle. That alone proves nothing: see `verify`.

    Raises:
        ModelworksError: It is malformed, or for another bundle.
    """
    try:
        found = msgspec.json.decode(data, type=Signature)
        base64.b64decode(found.signature, validate=True)
    except (msgspec.DecodeError, UnicodeDecodeError, binascii.Error) as error:
        raise ModelworksError(f"the signature of {model} {digest} cannot be read: {error}") from error
    if (found.model, found.digest) != (model, digest):
        raise ModelworksError(f"the signature is for {found.model} {found.digest}, not for {model} {digest}")
    return found


def verify(model: str, digest: Digest, data: bytes, trusted_keys: Path | Mapping[str, str]) -> str:
    """Check that a trusted key signed this bundle, and return which.

    Args:
        model: Name of the model that is about to be served.
        digest: Digest computed from the bytes.
        data: Contents of the `.sig` file.
        trusted_keys: Folder of `*.pem` public keys, or their texts by file name.

    Returns:
        The identity of the key.

    Raises:
        ModelworksError: The signature is malformed, for another bundle, by an untrusted key, or wrong.
    """
    from cryptography.exceptions import InvalidSignature  # only where signatures are asked for
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
    from cryptography.hazmat.primitives.hashes import SHA256

    found = read_signature(model, digest, data)
    keys = load_keys(trusted_keys)
    if found.key not in keys:
        raise ModelworksError(
            f"{model} {digest} is signed by key {found.key}, which is not among the trusted ones: "
            f"{', '.join(sorted(keys)) or 'none'}",
            fix="Sign it with a trusted key (`--signing-key`), or add its key to the environment's trusted ones.",
        )
    key: Any = keys[found.key]
    # How it is verified is the key's, whatever the signature states.
    rule = [] if algorithm_of(key) == ED25519 else [ECDSA(SHA256())]
    try:
        key.verify(base64.b64decode(found.signature), _message(model, digest), *rule)
    except InvalidSignature as error:
        raise ModelworksError(f"the signature of {model} {digest} by key {found.key} is wrong") from error
    return found.key


def load_keys(trusted: Path | Mapping[str, str]) -> dict[str, PublicKey]:
    """The public keys in a folder, or in texts, by identity.

    Args:
        trusted: Folder of `*.pem` files, or PEM by file name.

    Raises:
        ModelworksError: The folder is not there, or one is not a public key of a kind that signs bundles.
    """
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    if isinstance(trusted, Path):
        if not trusted.is_dir():
            raise ModelworksError(f"the folder of trusted keys is not there: {trusted}")
        found = {str(path): path.read_bytes() for path in sorted(trusted.glob("*.pem"))}
    else:
        found = {name: text.encode() for name, text in sorted(trusted.items())}
    keys = {}
    for name, pem in found.items():
        try:
            key: Any = load_pem_public_key(pem)
        except ValueError as error:
            raise ModelworksError(f"{name} is not a public key in PEM: {error}") from error
        try:
            keys[key_id(key)] = key
        except ModelworksError as error:
            raise ModelworksError(f"{name}: {error.message}", fix=error.fix) from error
    return keys


def _message(model: str, digest: Digest) -> bytes:
    # The first line keeps a signature made for something else from ever passing as one of these.
    return f"modelworks bundle v1\n{model}\n{digest}\n".encode()
