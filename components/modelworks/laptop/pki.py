"""Certificates of the laptop's control plane: two authorities, one certificate an identity, all private to the user.

etcd has its own authority, because the holder of a certificate that etcd trusts may read and write everything in the
cluster, regardless of RBAC.
"""

from __future__ import annotations

import base64
import ipaddress
import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from modelworks._files import write_whole

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

# A place lives from `up` to `down`; nothing of it outlives the laptop, so its certificates are never rotated.
LIFETIME = timedelta(days=3650)


@dataclass(frozen=True)
class Pair:
    """A private key and its certificate, both PEM."""

    key: str
    certificate: str

    @classmethod
    def read(cls, folder: Path, name: str) -> Pair | None:
        """The pair kept as `name.key` and `name.crt` in `folder`, or None where either is missing."""
        try:
            return cls((folder / f"{name}.key").read_text("ascii"), (folder / f"{name}.crt").read_text("ascii"))
        except FileNotFoundError:
            return None

    def write(self, folder: Path, name: str) -> Pair:
        """Keep the pair as `name.key` and `name.crt` in `folder`, readable by the user only."""
        write_whole(folder / f"{name}.key", self.key)
        write_whole(folder / f"{name}.crt", self.certificate)
        return self


def new_key() -> str:
    """A private key on P-256 as PEM: made in a millisecond, which is what lets a laptop come up in seconds."""
    return (
        ec.generate_private_key(ec.SECP256R1())
        .private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
        .decode()
    )


def public_key(private: str) -> str:
    """The public half of a PEM private key."""
    key = serialization.load_pem_private_key(private.encode(), None)
    encoding, form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(encoding, form).decode()


def new_authority(name: str) -> Pair:
    """A self-signed certificate authority that signs leaves only."""
    key = new_key()
    signer = _load(key)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    certificate = (
        _builder(subject, subject, signer)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(signer.public_key()), critical=False)
        .sign(signer, hashes.SHA256())
    )
    return Pair(key, _pem(certificate))


def issue(authority: Pair, name: str, *, groups: Sequence[str] = (), hosts: Sequence[str] = ()) -> Pair:
    """A certificate signed by `authority`: for a client, and for a server as well where `hosts` are given.

    Args:
        authority: Who signs.
        name: The common name, which Kubernetes reads as the user.
        groups: Organisations, which Kubernetes reads as the user's groups.
        hosts: Names and addresses the server answers to.
    """
    key = new_key()
    subject = x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
        + [x509.NameAttribute(NameOID.COMMON_NAME, name)]
    )
    parent = x509.load_pem_x509_certificate(authority.certificate.encode())
    signer = parent.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    uses = [ExtendedKeyUsageOID.CLIENT_AUTH, *([ExtendedKeyUsageOID.SERVER_AUTH] if hosts else [])]
    builder = (
        _builder(subject, parent.subject, _load(key))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        # RFC 5280, 4.2.1.1, which Python 3.13 insists on.
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(signer), critical=False)
    )
    if hosts:
        builder = builder.add_extension(x509.SubjectAlternativeName([_host(host) for host in hosts]), critical=False)
    return Pair(key, _pem(builder.sign(_load(authority.key), hashes.SHA256())))


def kubeconfig(server: str, authority: Pair, user: str, pair: Pair, *, namespace: str = "default") -> str:
    """A kubeconfig (as JSON, which is YAML) with one cluster, one user and one context, all in the one file."""

    def encoded(text: str) -> str:
        return base64.b64encode(text.encode()).decode()

    cluster = {"server": server, "certificate-authority-data": encoded(authority.certificate)}
    identity = {"client-certificate-data": encoded(pair.certificate), "client-key-data": encoded(pair.key)}
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "laptop", "cluster": cluster}],
        "users": [{"name": user, "user": identity}],
        "contexts": [{"name": "laptop", "context": {"cluster": "laptop", "user": user, "namespace": namespace}}],
        "current-context": "laptop",
    }
    return json.dumps(document, indent=2) + "\n"


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + LIFETIME)
    )


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _load(key: str) -> ec.EllipticCurvePrivateKey:
    loaded = serialization.load_pem_private_key(key.encode(), None)
    assert isinstance(loaded, ec.EllipticCurvePrivateKey)  # noqa: S101 - we wrote it
    return loaded


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()
