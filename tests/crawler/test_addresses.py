"""Where a crawl may not go: private addresses, and hosts that cannot prove who they are."""

import datetime
import ssl
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from loopback import LOOPBACK, Crawl
from scrapy.settings import Settings
from twisted.internet.address import IPv4Address as TCPAddress
from twisted.internet.interfaces import IResolutionReceiver

from crawler import settings
from crawler.middlewares.addresses import MissingContact, Policy, PublicResolver, is_public


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1::1", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.0.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::1", False),
        ("::", False),
        ("fe80::1", False),
        ("fc00::1", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:93.184.216.34", True),
        ("2002:7f00:1::", False),
        ("64:ff9b::7f00:1", False),
        ("64:ff9b::5db8:d822", True),
        ("::7f00:1", False),
        ("fec0::1", False),
        ("2001:0:7f00:1::1", False),
        ("2001:db8::1", False),
        ("ff02::1", False),
    ],
)
def test_public_addresses(address: str, public: bool) -> None:
    assert is_public(ip_address(address)) is public


class Rebinding:
    """A resolver whose name is public when first asked for, and private from then on."""

    def __init__(self) -> None:
        self.answers = [["93.184.216.34"], ["127.0.0.1"], ["93.184.216.34", "10.0.0.1"], []]
        self.nameResolver = self

    def resolveHostName(self, receiver: IResolutionReceiver, *_: object) -> None:
        receiver.resolutionBegan(None)
        for host in self.answers.pop(0):
            receiver.addressResolved(TCPAddress("TCP", host, 80))
        receiver.resolutionComplete()


class Receiver:
    def __init__(self) -> None:
        self.hosts: list[str] = []
        self.complete = False

    def resolutionBegan(self, _: object) -> None: ...

    def addressResolved(self, address: TCPAddress) -> None:
        self.hosts.append(address.host)

    def resolutionComplete(self) -> None:
        self.complete = True


def test_a_connection_gets_the_addresses_that_were_checked_and_no_others() -> None:
    resolver = PublicResolver(Settings({"PRESS_CONTACT": "us@example.org"}), Rebinding())
    found = []
    for refused in (False, True, True, False):
        receiver = Receiver()
        resolver.resolveHostName(receiver, "rebinding.example")
        assert receiver.complete
        assert ("rebinding.example" in resolver.refused) is refused
        found.append(receiver.hosts)
    assert found == [["93.184.216.34"], [], [], []]


def test_a_public_host_is_not_requested_without_a_contact() -> None:
    policy = Policy(Settings({"PRESS_ALLOW_PRIVATE": True}))
    policy.check("localhost", ip_address("127.0.0.1"))
    with pytest.raises(MissingContact, match="is a public host"):
        policy.check("press.example", ip_address("93.184.216.34"))


@pytest.mark.parametrize(
    "url",
    [
        "http://127.1/rss",
        "http://2130706433/rss",
        "http://[::ffff:127.0.0.1]/rss",
        "http://169.254.169.254/latest",
    ],
)
def test_a_private_address_in_disguise_is_refused(url: str, crawl: Crawl, tmp_path: Path) -> None:
    done = crawl(url, tmp_path / "c", "-s", "DOWNLOAD_DELAY=0")
    assert done.returncode == 3, done.stderr
    assert "is not a public address" in done.stderr


def test_a_host_without_a_trusted_certificate_is_refused(crawl: Crawl, tmp_path: Path) -> None:
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = tmp_path / "server.pem"
    pem.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    url = f"https://localhost:{server.server_address[1]}/rss"
    try:
        done = crawl(url, tmp_path / "c", *LOOPBACK, "-s", "RETRY_ENABLED=False")
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert done.returncode == 4
    assert "certificate not trusted" in done.stderr
    assert asked == []


def test_settings_that_keep_the_crawler_closed() -> None:
    assert settings.ROBOTSTXT_OBEY
    assert settings.DOWNLOAD_VERIFY_CERTIFICATES
    assert settings.DOWNLOAD_DELAY >= 1
    assert settings.CONCURRENT_REQUESTS_PER_DOMAIN == 1
    assert not settings.TELNETCONSOLE_ENABLED
    assert not settings.REMOTE_CONTROL_ENABLED
    assert not settings.PRESS_ALLOW_PRIVATE
    assert {name for name, handler in settings.DOWNLOAD_HANDLERS.items() if handler} == {
        "http",
        "https",
    }
    assert settings.TWISTED_DNS_RESOLVER == "crawler.middlewares.addresses.PublicResolver"
