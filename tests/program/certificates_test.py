"""`offsite certificates`: what it makes, what it refuses to overwrite, and that OpenSSL takes it for what it is."""
import shutil
import stat
import subprocess

from harness import Skip, main, offsite, refuses, test


def secret(path):
    return stat.S_IMODE(path.stat().st_mode) == 0o600


@test
def makes_what_lacks(folder):
    """an authority, the owner's folder and one a client, then further clients of the same authority"""
    out = folder / "certificates"
    first = offsite("certificates", "--out", out, "--client", "lab-a", "--client", "lab-b")
    assert [made["name"] for made in first.json["made"]] == ["authority", "owner", "lab-a", "lab-b"]
    assert all(secret(path) for path in out.rglob("*") if path.is_file())
    assert sorted(path.name for path in (out / "lab-a").iterdir()) == ["authority.pem", "certificate.pem", "key.pem"]
    authority = (out / "authority.pem").read_text()
    second = offsite("certificates", "--out", out, "--client", "lab-c")
    assert [made["name"] for made in second.json["made"]] == ["lab-c"]
    assert (out / "lab-c/authority.pem").read_text() == authority == (out / "lab-a/authority.pem").read_text()


@test
def overwrites_nothing(folder):
    """what is there stays, unless it is to be renewed; then its key stays"""
    out = folder / "certificates"
    offsite("certificates", "--out", out, "--client", "lab-a")
    before = {path: path.read_text() for path in out.rglob("*.pem")}
    refuses("certificates", "--out", out, "--client", "lab-b", "lab-a", status=2, says="--renew lab-a")
    refuses("certificates", "--out", out, "--host", "example.org", status=2, says="--renew owner")
    refuses("certificates", "--out", out, "--renew", "lab-z", status=2, says="there is no certificate")
    refuses("certificates", "--out", out, "--client", "../up", status=2, says="cannot name a client")
    refuses("certificates", "--out", out, "--client", "owner", status=2, says="owner's own name")
    assert before == {path: path.read_text() for path in out.rglob("*.pem")}
    offsite("certificates", "--out", out, "--renew", "lab-a", "--days", 30)
    changed = {path.relative_to(out).as_posix() for path in before if path.read_text() != before[path]}
    assert changed == {"lab-a/certificate.pem"}


@test
def openssl_agrees(folder):
    """OpenSSL verifies each certificate for its own role only"""
    if not shutil.which("openssl"):
        raise Skip("needs the program openssl")
    out = folder / "certificates"
    offsite("certificates", "--out", out, "--client", "lab-a", "--host", "example.org", "--host", "192.0.2.1")

    def verifies(name, purpose):
        return subprocess.run(["openssl", "verify", "-CAfile", out / "authority.pem", "-purpose", purpose,
                               out / name / "certificate.pem"], capture_output=True).returncode == 0

    assert verifies("owner", "sslserver") and verifies("lab-a", "sslclient")
    assert not verifies("owner", "sslclient") and not verifies("lab-a", "sslserver")
    text = subprocess.run(["openssl", "x509", "-noout", "-text", "-in", out / "owner/certificate.pem"], capture_output=True,
                          text=True).stdout
    assert "DNS:owner, DNS:example.org, IP Address:192.0.2.1" in text


main()
