"""Keys over https, from a real server on loopback that also misbehaves."""

from __future__ import annotations

import logging
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from meshpki.errors import UnavailableError, UsageError
from meshpki.tokens.jwks import HttpsKeySource
from meshpki.tokens.jwks_cache import CachePolicy
from meshpki.tokens.jwks_fetch import JwksEndpoint, fetch
from meshpki.tokens.keys import MAX_JWKS_BYTES, VerificationKey
from meshpki.tokens.policy import ClusterPolicy
from meshpki.tokens.reasons import TokenReason, TokenRefusedError, TokenUnjudgedError, UnjudgedReason
from meshpki.tokens.trusted_cluster import TrustedCluster
from meshpki.tokens.verify import TokenVerifier
from support.jwks_server import certificate, serving
from support.tokens import NOW, TokenMaker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from support.jwks_server import Handler, JwksServer

OLD = TokenMaker(kid="old")
NEW = TokenMaker(kid="new", slot=1)
POLICY = CachePolicy(refresh_seconds=60, unknown_kid_seconds=10, retry_seconds=5, stale_seconds=600)

MADE: list[HttpsKeySource] = []


def source(
    server: JwksServer,
    *,
    timeout: float = 60,
    policy: CachePolicy = POLICY,
    waiting: threading.Semaphore | None = None,
) -> HttpsKeySource:
    """One that is closed before its server goes, so that no late fetch is told in the midst of another test."""
    made = HttpsKeySource(server.url, server.root, policy=policy, timeout_seconds=timeout, waiting=waiting)
    MADE.append(made)
    return made


def eventually(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.005)


def names(keys: object) -> list[str | None]:
    assert isinstance(keys, tuple)
    return [key.kid for key in keys if isinstance(key, VerificationKey)]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[JwksServer]:
    with serving(tmp_path) as running:
        running.serve(OLD.jwks())
        yield running
        while MADE:
            MADE.pop().close()


# --- one fetch -----------------------------------------------------------------------------------------------------


def once(server: JwksServer, *, timeout: float = 60) -> bytes:
    return fetch(JwksEndpoint.parse(server.url, server.root, timeout_seconds=timeout))


def failure(server: JwksServer, *, timeout: float = 60) -> str:
    with pytest.raises(UnavailableError) as caught:
        once(server, timeout=timeout)
    return str(caught.value)


def test_fetch(server: JwksServer) -> None:
    assert once(server) == OLD.jwks()
    assert server.requests == ["/openid/v1/jwks"]


def test_the_query_is_sent_as_written(server: JwksServer) -> None:
    server.url += "?a=b%20c&d"
    assert once(server) == OLD.jwks()
    assert server.requests == ["/openid/v1/jwks?a=b%20c&d"]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_is_followed(server: JwksServer, status: int) -> None:
    server.serve(OLD.jwks(), status, Location=server.url)
    assert "redirects are not followed" in failure(server)
    assert len(server.requests) == 1


def test_a_redirect_elsewhere_opens_no_socket(server: JwksServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as metadata:
        metadata.settimeout(0)
        server.serve(b"", 302, Location=f"http://127.0.0.1:{metadata.getsockname()[1]}/latest/meta-data")
        failure(server)
        with pytest.raises(BlockingIOError):
            metadata.accept()


@pytest.mark.parametrize("status", [201, 204, 401, 403, 404, 500, 503])
def test_only_200_will_do(server: JwksServer, status: int) -> None:
    server.serve(b"" if status == 204 else OLD.jwks(), status)
    assert str(status) in failure(server)


def test_no_proxy_of_the_environment(server: JwksServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert once(server) == OLD.jwks()


def test_another_root_is_not_believed(server: JwksServer, tmp_path: Path) -> None:
    server.root = certificate(tmp_path, "theirs")[0]
    assert "CERTIFICATE_VERIFY_FAILED" in failure(server)
    assert server.requests == []


def test_another_host_name_is_not_believed(server: JwksServer) -> None:
    server.url = server.url.replace("127.0.0.1", "localhost")
    assert "CERTIFICATE_VERIFY_FAILED" in failure(server)
    assert server.requests == []


@pytest.mark.parametrize(
    "content", [None, b"", b"x", "ä".encode(), b"-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"]
)
def test_without_roots_nothing_is_fetched(
    server: JwksServer, content: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty file must not mean the roots of the system, which here would do."""
    monkeypatch.setenv("SSL_CERT_FILE", str(server.root))
    server.root = server.root.with_name("other.pem")
    if content is not None:
        server.root.write_bytes(content)
    failure(server)
    assert server.requests == []


def test_the_roots_are_read_again(server: JwksServer, tmp_path: Path) -> None:
    right = server.root.read_bytes()
    server.root.write_bytes(certificate(tmp_path, "theirs")[0].read_bytes())
    failure(server)
    server.root.write_bytes(right)
    assert once(server)


def test_nobody_listens(server: JwksServer) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        server.url = f"https://127.0.0.1:{nobody.getsockname()[1]}/"
        assert "could not be fetched" in failure(server)


def test_too_much_is_cut(server: JwksServer) -> None:
    server.serve(b" " * (MAX_JWKS_BYTES + 1))
    assert "larger than" in failure(server)


def test_fifty_megabytes_without_a_length_are_cut(server: JwksServer) -> None:
    sent = []

    def flood(handler: Handler) -> None:
        handler.send_response(200)
        handler.end_headers()
        handler.close_connection = True
        for _ in range(50):
            handler.wfile.write(b" " * (1 << 20))
            sent.append(1)

    server.behaviour = flood
    assert "larger than" in failure(server)
    assert len(sent) < 50


def test_compressed_is_refused(server: JwksServer) -> None:
    server.serve(b"\x1f\x8b", Content_Encoding="gzip")
    assert "compressed" in failure(server)


def test_an_answer_cut_short(server: JwksServer) -> None:
    def cut(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "5000")
        handler.end_headers()
        handler.wfile.write(OLD.jwks())
        handler.close_connection = True

    server.behaviour = cut
    assert "could not be fetched" in failure(server)


def test_a_server_that_is_silent(server: JwksServer) -> None:
    server.behaviour = lambda handler: (server.finished.wait(60), None)[1]
    begin = time.monotonic()
    failure(server, timeout=0.3)
    assert time.monotonic() - begin < 50


@pytest.mark.parametrize("in_headers", [True, False], ids=["headers", "body"])
def test_a_server_that_drips(server: JwksServer, in_headers: bool) -> None:
    """Every byte comes in time, all of them never: only a deadline for the whole ends this."""

    def drip(handler: Handler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n" + (b"" if in_headers else b"\r\n"))
        while not server.finished.wait(0.05):
            handler.wfile.write(b"a")

    server.behaviour = drip
    begin = time.monotonic()
    failure(server, timeout=0.5)
    assert time.monotonic() - begin < 50


def test_a_listener_that_never_shakes_hands(server: JwksServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        server.url = f"https://127.0.0.1:{mute.getsockname()[1]}/"
        begin = time.monotonic()
        failure(server, timeout=0.3)
        assert time.monotonic() - begin < 50


@pytest.mark.parametrize(
    "url",
    [
        "",
        "http://127.0.0.1/jwks",
        "file:///etc/passwd",
        "https://",
        "https:///jwks",
        "https://user:secret@127.0.0.1/jwks",
        "https://127.0.0.1/jwks#x",
        "https://127.0.0.1:99999/jwks",
        "https://127.0.0.1:x/jwks",
        "https://127.0.0.1/a b",
        "https://127.0.0.1/a\r\nX: y",
        "https://ä.test/",
        "https://[::1/jwks",
    ],
)
def test_addresses_that_are_none(url: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        HttpsKeySource(url, tmp_path / "root.pem")


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("https://a.test", "https://a.test:443/"),
        ("https://a.test:6443/x?y", "https://a.test:6443/x?y"),
        ("https://[::1]:6443/x", "https://[::1]:6443/x"),
    ],
)
def test_addresses(url: str, text: str, tmp_path: Path) -> None:
    assert str(JwksEndpoint.parse(url, tmp_path)) == text


# --- the source ----------------------------------------------------------------------------------------------------


def test_keys_are_fetched_once(server: JwksServer) -> None:
    keys = source(server)
    for now in range(NOW, NOW + 60, 5):
        assert names(keys.keys("old", now)) == ["old"]
    assert len(server.requests) == 1


def test_whether_anybody_would_have_to_be_waited_for(server: JwksServer) -> None:
    keys = source(server)
    assert not keys.at_once("old", NOW)
    assert not server.requests
    keys.keys("old", NOW)
    assert keys.at_once("old", NOW)
    assert keys.at_once("old", NOW + 60)  # a refresh that is due is made beside the call
    assert not keys.at_once("other", NOW + 60)
    assert not keys.at_once("old", NOW + 100_000)


def test_a_new_key_is_found_at_its_first_use(server: JwksServer) -> None:
    keys = source(server)
    assert names(keys.keys("old", NOW)) == ["old"]
    server.serve(OLD.jwks(NEW))
    assert names(keys.keys("new", NOW + 30)) == ["new"]
    assert len(server.requests) == 2


def test_a_removed_key_is_gone_after_the_refresh(server: JwksServer) -> None:
    keys = source(server)
    assert names(keys.keys("old", NOW)) == ["old"]
    server.serve(NEW.jwks())
    keys.keys("old", NOW + 60)  # still answered from what is there; the refresh runs beside it
    eventually(lambda: names(keys.keys("old", NOW + 60)) == [])
    assert len(server.requests) == 2


def test_unknown_kids_cost_one_fetch_per_interval(server: JwksServer) -> None:
    keys = source(server)
    for tenth in range(300):
        assert names(keys.keys(f"stranger-{tenth}", NOW + tenth / 10)) == []
    assert len(server.requests) == 3


def test_stale_keys_are_used_to_the_bound_and_no_longer(server: JwksServer, caplog: pytest.LogCaptureFixture) -> None:
    keys = source(server)
    assert names(keys.keys("old", NOW)) == ["old"]
    server.serve(b"", 503)
    for age in (60, 300, 600):
        assert names(keys.keys("old", NOW + age)) == ["old"]
        eventually(lambda: len(server.requests) > 1)
    with pytest.raises(UnavailableError, match="503"):
        keys.keys("old", NOW + 601)
    server.serve(OLD.jwks())
    assert names(keys.keys("old", NOW + 700)) == ["old"]
    assert any("could not be fetched" in record.message for record in caplog.records)


def test_an_unknown_kid_while_the_server_is_away_is_no_refusal(server: JwksServer) -> None:
    check = TokenVerifier([TrustedCluster(ClusterPolicy("c1", NEW.issuer), source(server))])
    check.verify(OLD.token(), NOW)
    server.serve(b"", 503)
    with pytest.raises(UnavailableError):
        check.verify(NEW.token(), NOW + 20)
    check.verify(OLD.token(), NOW + 20)
    server.serve(OLD.jwks())
    with pytest.raises(TokenRefusedError) as caught:
        check.verify(NEW.token(), NOW + 50)
    assert caught.value.reason is TokenReason.UNKNOWN_KEY


def test_a_key_that_is_newer_than_our_last_look_is_no_refusal(server: JwksServer) -> None:
    check = TokenVerifier([TrustedCluster(ClusterPolicy("c1", NEW.issuer), source(server))])
    check.verify(OLD.token(), NOW)
    server.serve(NEW.jwks(OLD))
    for later in (0.5, 5, 9.9):
        with pytest.raises(TokenUnjudgedError) as unjudged:
            check.verify(NEW.token(), NOW + later)
        assert unjudged.value.reason is UnjudgedReason.KEY_NOT_SEEN_YET
    assert check.verify(NEW.token(), NOW + 30).cluster == "c1"
    assert len(server.requests) == 2


def test_a_token_that_is_older_than_that_is_refused_at_once(server: JwksServer) -> None:
    check = TokenVerifier([TrustedCluster(ClusterPolicy("c1", NEW.issuer), source(server))])
    check.verify(OLD.token(), NOW)
    for token in (NEW.token(now=NOW - 31), NEW.token(iat="1"), NEW.token(iat=True), NEW.token(now=NOW + 100)):
        with pytest.raises(TokenRefusedError) as caught:
            check.verify(token, NOW + 1)
        assert caught.value.reason is TokenReason.UNKNOWN_KEY
    assert len(server.requests) == 1


@pytest.mark.parametrize("body", [b"<html>", b'{"keys":5}', OLD.jwks(TokenMaker(kid="old", slot=1)), b""])
def test_an_answer_that_is_no_jwks_changes_nothing(server: JwksServer, body: bytes) -> None:
    keys = source(server)
    assert names(keys.keys("old", NOW)) == ["old"]
    server.serve(body)
    with pytest.raises(UnavailableError):
        keys.keys("other", NOW + 20)
    assert names(keys.keys("old", NOW + 20)) == ["old"]


def test_nothing_was_ever_fetched(server: JwksServer) -> None:
    keys = source(server)
    server.serve(b"", 500)
    for _ in range(3):
        with pytest.raises(UnavailableError, match="500"):
            keys.keys(None, NOW)
    assert len(server.requests) == 1


def test_many_callers_make_one_fetch(server: JwksServer) -> None:
    come = threading.Event()

    def late(handler: Handler) -> None:
        come.wait(60)
        handler.answer(OLD.jwks())

    server.behaviour = late
    keys = source(server, timeout=60)
    with ThreadPoolExecutor(16) as pool:
        answers = [pool.submit(keys.keys, "old", NOW) for _ in range(16)]
        eventually(lambda: len(server.requests) == 1)
        come.set()
        assert [names(answer.result()) for answer in answers] == [["old"]] * 16
    assert len(server.requests) == 1


def waits(keys: HttpsKeySource, kid: str, now: float, times: int) -> list[UnjudgedReason | str]:
    """What so many callers at once are told, in that order, without those who still wait."""
    told: list[UnjudgedReason | str] = []

    def ask() -> None:
        try:
            told.append(str(names(keys.keys(kid, now))))
        except TokenUnjudgedError as error:
            told.append(error.reason)
        except UnavailableError as error:
            told.append(str(error))

    for _ in range(times):
        threading.Thread(target=ask, daemon=True).start()
    return told


def test_not_all_may_wait_for_an_address_that_hangs(server: JwksServer) -> None:
    """A token with an unknown kid takes no key to make: whoever has none must not take all places of a server."""
    places = threading.Semaphore(3)
    keys = source(server, timeout=60, waiting=places)
    assert names(keys.keys("old", NOW)) == ["old"]
    come = threading.Event()
    server.behaviour = lambda handler: handler.answer(OLD.jwks()) if come.wait(60) else None
    told = waits(keys, "stranger", NOW + 30, 40)
    eventually(lambda: len(told) == 37)
    assert set(told) == {UnjudgedReason.KEY_NOT_SEEN_YET}
    assert names(keys.keys("old", NOW + 30)) == ["old"]
    eventually(lambda: len(server.requests) == 2)  # the fetch is under way when the others are told
    come.set()
    eventually(lambda: len(told) == 40)
    assert told[37:] == ["[]"] * 3
    assert [places.acquire(blocking=False) for _ in range(4)] == [True, True, True, False]


def test_sources_may_share_the_places_of_those_who_wait(server: JwksServer) -> None:
    server.behaviour = lambda handler: (server.finished.wait(60), None)[1]
    places = threading.Semaphore(3)
    one, other = (source(server, timeout=60, waiting=places) for _ in range(2))
    first = waits(one, "old", NOW, 3)
    eventually(lambda: not places._value)
    second = waits(other, "old", NOW, 3)
    eventually(lambda: len(second) == 3)
    assert not first
    assert set(second) == {UnjudgedReason.KEYS}


def test_after_a_fetch_that_hung_there_is_a_pause(tmp_path: Path) -> None:
    """It began as long ago as the pause is long: were that what counts, the next would begin at once, for ever."""
    quick = CachePolicy(refresh_seconds=60, unknown_kid_seconds=10, retry_seconds=0.4, stale_seconds=600)
    fetched: list[float] = []

    def fetch() -> bytes:
        fetched.append(time.monotonic())
        if len(fetched) > 1:
            time.sleep(0.5)
            raise UnavailableError("it hung")
        return OLD.jwks()

    keys = HttpsKeySource("https://127.0.0.1:1/", tmp_path / "root.pem", policy=quick, timeout_seconds=60, fetch=fetch)
    assert names(keys.keys("old", NOW)) == ["old"]
    for _ in range(3):
        with pytest.raises(UnavailableError):
            keys.keys("stranger", NOW + 30)  # the first one waits; those that came with it have their answer by now
        assert len(fetched) == 2
    with pytest.raises(UnavailableError):
        keys.keys("stranger", NOW + 30.6)
    assert len(fetched) == 2
    with pytest.raises(UnavailableError):
        keys.keys("stranger", NOW + 200)
    assert len(fetched) == 3
    keys.close()


def test_a_slow_refresh_delays_nobody(server: JwksServer) -> None:
    keys = source(server, timeout=60)
    assert names(keys.keys("old", NOW)) == ["old"]
    server.behaviour = lambda handler: (server.finished.wait(60), None)[1]
    begin = time.monotonic()
    for _ in range(100):
        assert names(keys.keys("old", NOW + 100)) == ["old"]
    assert time.monotonic() - begin < 50
    eventually(lambda: len(server.requests) == 2)


@pytest.mark.parametrize("brings", [b"no jwks", OLD.jwks()], ids=["fails", "succeeds"])
def test_what_a_fetch_comes_to_after_the_end_is_told_to_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, brings: bytes
) -> None:
    caplog.set_level(logging.INFO)
    hanging, going_on = threading.Event(), threading.Event()

    def fetch() -> bytes:
        hanging.set()
        assert going_on.wait(60)
        return brings

    keys = HttpsKeySource("https://127.0.0.1:1/", tmp_path / "root.pem", fetch=fetch)
    told = waits(keys, "old", NOW, 1)
    assert hanging.wait(60)
    keys.close()
    going_on.set()
    eventually(lambda: bool(told))
    assert caplog.records == []


def test_whatever_breaks_in_a_fetch_is_told(server: JwksServer) -> None:
    def burst() -> bytes:
        raise RuntimeError("burst")

    keys = HttpsKeySource(server.url, server.root, fetch=burst)
    with pytest.raises(UnavailableError, match="burst"):
        keys.keys("old", NOW)


def test_what_is_loaded_and_left_out_is_logged(server: JwksServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    server.serve(OLD.jwks(TokenMaker(kid="new", slot=1, algorithm="ES256")).replace(b"P-256", b"P-999"))
    assert names(source(server).keys("old", NOW)) == ["old"]
    assert [vars(record).get("kids") for record in caplog.records if record.message == "keys loaded"] == [["old"]]
    assert any(record.message == "keys left out" for record in caplog.records)


def test_headers_that_name_keys_open_no_socket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Jku and x5u are refused before anything is fetched, and the issuer is never an address."""

    def forbidden(*_args: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", forbidden)
    keys = HttpsKeySource("https://127.0.0.1:1/", tmp_path / "root.pem")
    check = TokenVerifier([TrustedCluster(ClusterPolicy("c1", OLD.issuer), keys)])
    for header in ({"jku": "https://127.0.0.1:1/"}, {"x5u": "https://127.0.0.1:1/"}, {"jwk": OLD.jwk()}):
        with pytest.raises(TokenRefusedError):
            check.verify(OLD.token(OLD.header(**header)), NOW)
    with pytest.raises(TokenRefusedError):
        check.verify(OLD.token(iss="https://127.0.0.1:1/"), NOW)
