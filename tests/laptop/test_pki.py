"""The certificates of the laptop's control plane, as clients of every Python verify them."""

from __future__ import annotations

import ssl

import pytest

from modelworks.laptop import pki


@pytest.fixture
def server(tmp_path):
    """An authority, and a server's end of TLS with a certificate of it for 127.0.0.1."""
    authority = pki.new_authority("test")
    pki.issue(authority, "apiserver", hosts=["127.0.0.1"]).write(tmp_path, "server")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.crt", tmp_path / "server.key")
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=authority.certificate)
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    return authority, context


def handshake(client, server):
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [client.wrap_bio(back, there, server_hostname="127.0.0.1"), server.wrap_bio(there, back, server_side=True)]
    while ends:
        for end in list(ends):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            ends.remove(end)


def test_server_and_client_are_verified_to_the_letter_of_rfc_5280(server, tmp_path):
    """As Python 3.13 does by default."""
    authority, accepting = server
    pki.issue(authority, "somebody", groups=["users"]).write(tmp_path, "client")
    client = ssl.create_default_context(cadata=authority.certificate)
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    client.load_cert_chain(tmp_path / "client.crt", tmp_path / "client.key")
    handshake(client, accepting)


def test_a_certificate_of_another_authority_is_refused(server, tmp_path):
    _, accepting = server
    client = ssl.create_default_context(cadata=pki.new_authority("test").certificate)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(client, accepting)
