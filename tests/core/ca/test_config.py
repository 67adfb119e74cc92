"""The CA's configuration file: what it says, and every way to get it wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshpki.ca.config import CaConfig, load, parse
from meshpki.ca.config_values import HostPort, parse_duration
from meshpki.errors import InvalidValueError, MachineError, UsageError
from meshpki.identity import TrustDomain

BASE = Path("/etc/meshpki")
GOOD = """\
trust_domain: mesh.local
listen: 127.0.0.1:15012
http: '[::1]:15014'
server_names: [localhost, 127.0.0.1]
issuer: {certificate: ca/issuer-cert.pem, key: /keys/issuer-key.pem, root: ca/root-cert.pem}
audit: audit/issuance.jsonl
profile: {default_ttl: 1h, max_ttl: 2h, backdate: 90s, clamp_to_token: true}
limits: {in_flight: 32, threads: 8}
clusters:
  - name: local
    issuer: https://local.meshpki.internal
    audiences: [istio-ca, other]
    require_pod: false
    leeway: 10s
    max_token_lifetime: 2d
    jwks: {file: tokens/jwks.json}
  - name: far
    issuer: https://far.test
    jwks: {url: "https://far.test/openid/v1/jwks", ca_file: far.pem}
"""


def read(text: str) -> CaConfig:
    return parse(text.encode(), base=BASE, name="ca.yaml")


def test_everything_that_can_be_said() -> None:
    config = read(GOOD)
    assert config.trust_domain == TrustDomain("mesh.local")
    assert config.listen == HostPort("127.0.0.1", 15012)
    assert (config.http, str(config.http)) == (HostPort("::1", 15014), "[::1]:15014")
    assert config.server_names == ("localhost", "127.0.0.1")
    assert config.issuer.certificate == BASE / "ca/issuer-cert.pem"
    assert config.issuer.key == Path("/keys/issuer-key.pem")
    assert config.audit == BASE / "audit/issuance.jsonl"
    profile = config.certificate_profile()
    assert (profile.default_ttl_seconds, profile.max_ttl_seconds, profile.backdate_seconds) == (3600, 7200, 90)
    assert profile.clamp_to_token
    assert (config.limits.in_flight, config.limits.threads) == (32, 8)
    local, far = config.clusters
    policy = local.policy()
    assert (policy.cluster, policy.issuer) == ("local", "https://local.meshpki.internal")
    assert policy.audiences == ("istio-ca", "other")
    assert (policy.leeway_seconds, policy.max_lifetime_seconds, policy.require_pod) == (10, 172_800, False)
    assert local.jwks is not None
    assert far.jwks is not None
    assert local.jwks.file == BASE / "tokens/jwks.json"
    assert (far.jwks.url, far.jwks.ca_file) == ("https://far.test/openid/v1/jwks", BASE / "far.pem")
    assert far.policy().audiences == ("istio-ca",)
    assert far.policy().require_pod


def test_defaults() -> None:
    config = read("\n".join(line for line in GOOD.splitlines() if not line.startswith(("profile", "limits"))))
    assert config.certificate_profile().max_ttl_seconds == 86_400
    assert (config.limits.in_flight, config.limits.threads) == (64, 16)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("audit: audit", "audit_log: audit", "no such key: audit_log @ ca.yaml"),
        ("audit: audit/issuance.jsonl\n", "", "the key 'audit' is missing @ ca.yaml.audit"),
        ("require_pod", "requirepod", "no such key: requirepod @ ca.yaml.clusters[0]"),
        ("require_pod: false", "require_pod: 0", "'0'; wanted: true or false @ ca.yaml.clusters[0].require_pod"),
        ("require_pod: false", "require_pod: 'false'", "wanted: true or false"),
        ("threads: 8", "threads: '8'", "wanted: a whole number @ ca.yaml.limits.threads"),
        ("threads: 8", "threads: true", "wanted: a whole number"),
        ("threads: 8", "threads: 33", "33 threads and 32 calls in flight"),
        ("threads: 8", "threads: 0", "0 threads"),
        ("threads: 8", "threads: 8, connections: 0", "0 connections"),
        ("threads: 8", "threads: 8, connections: 1000001", "1000001 connections"),
        ("default_ttl: 1h", "default_ttl: 3600", "duration '3600'"),
        ("default_ttl: 1h", "default_ttl: 3h", "a default lifetime of 10800 s"),
        ("max_ttl: 2h", "max_ttl: 365d", "31536000 s"),
        ("leeway: 10s", "leeway: 10m", "leeway of 600 s"),
        ("trust_domain: mesh.local", "trust_domain: Mesh.Local", "trust domain 'Mesh.Local'"),
        ("trust_domain: mesh.local", "trust_domain: 1.5", "wanted: a text @ ca.yaml.trust_domain"),
        ("127.0.0.1:15012", "127.0.0.1", "address '127.0.0.1'"),
        ("127.0.0.1:15012", "127.0.0.1:99999", "wanted: HOST:PORT"),
        ("127.0.0.1:15012", "unix:/run/ca.sock:1", "wanted: HOST:PORT"),
        ("'[::1]:15014'", "'[::zz]:15014'", "wanted: HOST:PORT"),
        ("server_names: [localhost, 127.0.0.1]", "server_names: []", "no server name"),
        ("server_names: [localhost, 127.0.0.1]", "server_names: localhost", "'localhost'; wanted: a list"),
        ("server_names: [localhost, 127.0.0.1]", "server_names: [1]", "wanted: a text"),
        ("{file: tokens/jwks.json}", "{}", "not exactly one source"),
        ("{file: tokens/jwks.json}", "{file: a, url: 'https://b', ca_file: c}", "not exactly one source"),
        ("{file: tokens/jwks.json}", "{url: 'https://b'}", "not exactly one source"),
        ("{file: tokens/jwks.json}", "tokens/jwks.json", "wanted: a mapping"),
        ("name: far", "name: local", "two clusters with the same name"),
        ("https://far.test\n", "kubernetes/serviceaccount\n", "never kubernetes/serviceaccount"),
        ("audiences: [istio-ca, other]", "audiences: []", "audiences ()"),
        ("audit: audit", "trust_domain: x\naudit: audit", "ca.yaml, line 6, column 1: the key 'trust_domain' twice"),
        ("{in_flight: 32, threads: 8}", "{in_flight: 32, in_flight: 8}", "'in_flight' twice"),
        ("clusters:", "anchor: &a 1\nother: *a\nclusters:", "an alias"),
        ("clusters:", "1: x\nclusters:", "the key '1' that is no text"),
        ("clusters:", "clusters: !!python/object:os.system\nx:", "could not determine a constructor"),
        ("clusters:", "clusters: [", "ca.yaml, line"),
    ],
)
def test_every_fault_is_named(old: str, new: str, said: str) -> None:
    assert old in GOOD
    with pytest.raises(UsageError) as caught:
        read(GOOD.replace(old, new, 1))
    assert said in str(caught.value)


@pytest.mark.parametrize("text", ["", "5", "[]", "text", "\x00", "\xff", "[" * 5000, "a: {" * 5000, "--- a\n--- b"])
def test_what_is_no_configuration(text: str) -> None:
    with pytest.raises(UsageError):
        parse(text.encode("latin-1"), base=BASE)


def test_all_faults_are_named_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        read(GOOD.replace("1h", "1 hour").replace("mesh.local", "MESH"))
    assert "1 hour" in caught.value.seen
    assert "MESH" in caught.value.seen


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "ca.yaml").write_text(GOOD)
    assert load(tmp_path / "ca.yaml").audit == tmp_path / "audit/issuance.jsonl"


def test_a_file_that_is_missing_or_too_large(tmp_path: Path) -> None:
    with pytest.raises(MachineError):
        load(tmp_path / "ca.yaml")
    (tmp_path / "ca.yaml").write_text("#" * 300_000)
    with pytest.raises(MachineError, match="larger than"):
        load(tmp_path / "ca.yaml")


@pytest.mark.parametrize(("text", "seconds"), [("0s", 0), ("90s", 90), ("2m", 120), ("24h", 86_400), ("7d", 604_800)])
def test_durations(text: str, seconds: int) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "1", "h", "1.5h", "-1h", "1 h", "1h ", "1w", "1H", "١h", 5, None, "1h30m"])
def test_what_is_no_duration(text: object) -> None:
    with pytest.raises(InvalidValueError):
        parse_duration(text)


RENEWING = GOOD.replace("clamp_to_token: true", "clamp_to_token: false") + "renewal: {listen: '[::1]:15013'}\n"


def test_renewal_is_off_unless_it_is_named() -> None:
    config = read(GOOD)
    assert config.renewal is None
    assert config.certificate_profile().max_without_token_seconds is None


def test_renewal_by_certificate() -> None:
    config = read(RENEWING)
    assert config.renewal is not None
    assert config.renewal.listen == HostPort("::1", 15013)
    assert config.certificate_profile().max_without_token_seconds == 86_400
    longer = read(RENEWING.replace("15013'", "15013', max_without_token: 7d"))
    assert longer.certificate_profile().max_without_token_seconds == 7 * 86_400


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (RENEWING.replace("clamp_to_token: false", "clamp_to_token: true"), "clamp_to_token"),
        (RENEWING.replace("15013'", "15013', max_without_token: 2h"), "max_without_token"),
        (RENEWING.replace("15013'", "15013', max_without_token: 91d"), "90 days"),
        (RENEWING.replace("15013'", "15013', without_token: 3h"), "without_token"),
        (RENEWING.replace("listen: '[::1]:15013'", "max_without_token: 3h"), "listen"),
        (RENEWING.replace("[::1]:15013", "nowhere"), "HOST:PORT"),
        (RENEWING.replace("{listen: '[::1]:15013'}", "true"), "renewal"),
    ],
)
def test_renewal_that_cannot_be_meant(text: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        read(text)
    assert words in str(caught.value)


def test_what_the_page_on_renewal_shows_can_be_configured() -> None:
    page = (Path(__file__).parents[3] / "docs/renewal-by-certificate.md").read_text()
    shown = page.partition("```yaml\n")[2].partition("```")[0]
    base = GOOD.replace("profile: {default_ttl: 1h, max_ttl: 2h, backdate: 90s, clamp_to_token: true}\n", shown)
    config = read(base)
    assert base != GOOD
    assert config.certificate_profile().max_ttl_seconds == 3600
    assert config.renewal is not None
    assert "the default;" in shown
    assert read(base.replace("max_without_token: 24h", "")) == config
