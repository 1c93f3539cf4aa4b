"""The signature beside a bundle: who vouches for these bytes.

A detached Ed25519 signature over the model's name and the bundle's digest, in a small JSON file at
`contract.signature_key`. Trusted keys are public keys in PEM, one `*.pem` file each in a folder; the pipeline that
builds a bundle holds a private one.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from modelworks.contract import Digest
from modelworks.errors import ModelworksError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey


class Signature(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The content of the `.sig` file."""

    model: str
    digest: str
    key: str
    """Identity of the signing key: see `key_id`."""
    signature: str
    """Base64 of the 64 bytes."""
    algorithm: Literal["ed25519"] = "ed25519"


def sign(model: str, digest: Digest, key: Ed25519PrivateKey) -> bytes:
    """The bytes of the `.sig` file for the bundle of `model` with `digest` (`sha256:…`)."""
    signature = key.sign(_message(model, digest))
    made = Signature(
        model=model,
        digest=str(digest),  # msgspec writes plain text alone
        key=key_id(key.public_key()),
        signature=base64.b64encode(signature).decode(),
    )
    return msgspec.json.encode(made)


def key_id(key: Ed25519PublicKey) -> str:
    """A short name for a public key: the first 16 hex digits of the sha256 of its 32 raw bytes."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()[:16]


def verify(model: str, digest: Digest, data: bytes, trusted_keys: Path) -> str:
    """Check that a trusted key signed this bundle, and return which.

    Args:
        model: Name of the model that is about to be served.
        digest: Digest computed from the bytes.
        data: Contents of the `.sig` file.
        trusted_keys: Folder of `*.pem` public keys.

    Returns:
        The identity of the key.

    Raises:
        ModelworksError: The signature is malformed, for another bundle, by an untrusted key, or wrong.
    """
    from cryptography.exceptions import InvalidSignature  # only where signatures are asked for

    try:
        found = msgspec.json.decode(data, type=Signature)
        signature = base64.b64decode(found.signature, validate=True)
    except (msgspec.DecodeError, binascii.Error) as error:
        raise ModelworksError(f"the signature of {model} {digest} cannot be read: {error}") from error
    if (found.model, found.digest) != (model, digest):
        raise ModelworksError(f"the signature is for {found.model} {found.digest}, not for {model} {digest}")
    keys = load_keys(trusted_keys)
    if found.key not in keys:
        raise ModelworksError(
            f"{model} {digest} is signed by key {found.key}, which is not among the trusted ones: "
            f"{', '.join(sorted(keys)) or 'none'}",
            fix="Release a bundle that this environment's pipeline signed, or add the key to the trusted ones.",
        )
    try:
        keys[found.key].verify(signature, _message(model, digest))
    except InvalidSignature as error:
        raise ModelworksError(f"the signature of {model} {digest} by key {found.key} is wrong") from error
    return found.key


def load_keys(folder: Path) -> dict[str, Ed25519PublicKey]:
    """The public keys in `folder`, by identity.

    Raises:
        ModelworksError: The folder is not there, or a `*.pem` in it is not an Ed25519 public key.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    if not folder.is_dir():
        raise ModelworksError(f"the folder of trusted keys is not there: {folder}")
    keys = {}
    for path in sorted(folder.glob("*.pem")):
        try:
            key = load_pem_public_key(path.read_bytes())
        except ValueError as error:
            raise ModelworksError(f"{path} is not a public key in PEM: {error}") from error
        if not isinstance(key, Ed25519PublicKey):
            raise ModelworksError(f"{path} is not an Ed25519 key")
        keys[key_id(key)] = key
    return keys


def _message(model: str, digest: Digest) -> bytes:
    # The first line keeps a signature made for something else from ever passing as one of these.
    return f"modelworks bundle v1\n{model}\n{digest}\n".encode()
