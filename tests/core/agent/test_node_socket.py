"""One node agent on a real socket before the real CA: whoever comes gets what its own token is good for, or nothing."""

from __future__ import annotations

import contextlib
import statistics
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import grpc
import pytest

from meshpki.agent.node.token import ISTIO_HEADER
from meshpki.agent.sds.service import sds_methods
from meshpki.agent.socket.server import Kind, Method
from meshpki.agent.workload.service import workload_methods
from meshpki.ca.config_values import HostPort
from meshpki.ca.server.ca_server import CaServer
from meshpki.wire import methods
from meshpki.wire.workload_pb2 import X509SVIDResponse
from support import ca_server
from support.agent_process import wait_until
from support.authority import make_authority
from support.node_agent import NodeAgentProcess, Stream, free_ports, leaf_of, put_token, spiffe_id_of, with_token
from support.tokens import TokenMaker

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.ca_server import RunningCa

pytestmark = pytest.mark.e2e

OPAQUE = "the token of this call is not accepted"
TABLE = (*sds_methods(), *workload_methods())


@dataclass
class Node:
    ca: RunningCa
    agent: NodeAgentProcess

    def token(self, name: str = "web", *, lifetime: int = 3600, maker: TokenMaker | None = None) -> bytes:
        maker = maker or self.ca.maker
        return maker.token(now=time.time(), name=name, pod=f"{name}-0", lifetime=lifetime)

    def stream(self, token: bytes | str, *names: str, seconds: float = 60) -> Stream:
        return Stream(self.agent.socket, with_token(token), *(names or ("default", "ROOTCA")), seconds=seconds)

    def raw(self, path: str, kind: Kind, *metadata: tuple[str, str | bytes]) -> bytes:
        """Call any method with an empty message; its first answer's bytes."""
        with grpc.insecure_channel(f"unix:{self.agent.socket}") as channel:
            if kind is Kind.UNARY:
                unary: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(path)
                return unary(b"", metadata=metadata, timeout=60)
            if kind is Kind.SERVER_STREAM:
                served: grpc.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(path)
                return next(served(b"", metadata=metadata, timeout=60))
            both: grpc.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(path)
            return next(both(iter((b"",)), metadata=metadata, timeout=60))


def spiffe_id(name: str) -> str:
    return f"spiffe://mesh.local/ns/default/sa/{name}"


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    import shutil
    import tempfile
    from pathlib import Path as RealPath

    path = RealPath(tempfile.mkdtemp(prefix="mpn-", dir="/tmp"))
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def node(directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """An agent that serves `web`, so that there is something to steal."""
    with ca_server.running(tmp_path_factory.mktemp("ca")) as ca:
        agent = NodeAgentProcess(directory, ca.server.address)
        agent.roots.write_bytes(ca.authority.root_pem)
        with agent:
            made = Node(ca, agent)
            with made.stream(made.token()) as stream:
                stream.secrets()
                yield made


@pytest.fixture
def own(short_dir: Path, node: Node) -> Iterator[NodeAgentProcess]:
    """A further agent of the same CA, not started, for tests that end it or change its limits."""
    agent = NodeAgentProcess(short_dir, node.ca.server.address)
    agent.roots.write_bytes(node.ca.authority.root_pem)
    yield agent
    if agent.process is not None:
        agent.stop()


def refusal(stream: Stream) -> tuple[grpc.StatusCode, str]:
    with stream, pytest.raises(grpc.RpcError) as caught:
        stream.secrets()
    return caught.value.code(), caught.value.details() or ""


def test_each_stream_gets_the_identity_of_its_own_token(node: Node) -> None:
    names = [f"w{number}" for number in range(8)]
    streams = {name: node.stream(node.token(name)) for name in names}
    serials = set()
    for name, stream in streams.items():
        secrets = stream.secrets()
        assert set(secrets) == {"default", "ROOTCA"}
        assert spiffe_id_of(secrets["default"]) == spiffe_id(name)
        assert secrets["ROOTCA"].validation_context.trusted_ca.inline_bytes == node.ca.authority.root_pem
        serials.add(leaf_of(secrets["default"]).serial_number)
        stream.close()
    assert len(serials) == len(names)


def test_streams_of_one_token_share_one_certificate(node: Node) -> None:
    token = node.token("shared")
    with node.stream(token) as one, node.stream(token + b"\n") as two, node.stream(b"Bearer " + token) as three:
        leaves = {leaf_of(stream.secrets()["default"]).serial_number for stream in (one, two, three)}
    assert len(leaves) == 1


def test_two_tokens_of_one_account_share_nothing(node: Node) -> None:
    one, two = node.token("same", lifetime=3600), node.token("same", lifetime=3601)
    with node.stream(one) as first, node.stream(two) as second:
        a, b = first.secrets()["default"], second.secrets()["default"]
    assert spiffe_id_of(a) == spiffe_id_of(b) == spiffe_id("same")
    assert leaf_of(a).public_key() != leaf_of(b).public_key()


@pytest.mark.parametrize("number", range(len(TokenMaker().broken())))
def test_a_wrong_token_gets_nothing_though_its_claims_name_who_is_being_served(node: Node, number: int) -> None:
    broken = node.ca.maker.broken(time.time())[number]
    if broken.reason.value == "token_malformed" and len(broken.token) == 0:
        pytest.skip("an empty header is tried below")
    code, said = refusal(node.stream(broken.token))
    if broken.name == "one mebibyte":
        assert code is grpc.StatusCode.UNAVAILABLE  # nobody keeps so long a header, not even to refuse it
        return
    assert code is grpc.StatusCode.UNAUTHENTICATED
    assert said == OPAQUE or "header" in said, broken.name
    assert broken.reason.value not in said


def test_the_forged_signature_is_judged_anew_while_the_true_token_is_served(node: Node) -> None:
    """The same header and payload, byte by byte; only the signature is another's, or a bit of it is turned."""
    claims = node.ca.maker.claims(now=time.time(), name="victim")
    true = node.ca.maker.sign(claims)
    forged = TokenMaker(slot=1).sign(claims)
    head, _, signature = true.rpartition(b".")
    turned = head + b"." + (b"B" if signature[:1] == b"A" else b"A") + signature[1:]
    assert forged.rpartition(b".")[0] == head
    with node.stream(true) as stream:
        assert spiffe_id_of(stream.secrets()["default"]) == spiffe_id("victim")
        for wrong in (forged, turned, head + b"."):
            assert refusal(node.stream(wrong)) == (grpc.StatusCode.UNAUTHENTICATED, OPAQUE)
        with node.stream(true) as again:
            assert spiffe_id_of(again.secrets()["default"]) == spiffe_id("victim")


@pytest.mark.parametrize("name", [spiffe_id("web"), "spiffe://mesh.local/ns/default/sa/none", "file-root:system"])
def test_with_its_own_token_nobody_gets_what_is_anothers(node: Node, name: str) -> None:
    """The other's name is unknown, as one is that nobody has: it cannot be told from that."""
    with node.stream(node.token("mallory"), name, seconds=2) as stream:
        with pytest.raises(grpc.RpcError) as caught:
            stream.secrets()
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    with node.stream(node.token("mallory"), name, "default") as stream:
        assert set(stream.secrets()) == {"default"}


def test_files_of_the_node_are_nobodys_secret(node: Node) -> None:
    name = f"file-cert:{node.agent.roots}~{node.agent.roots}"
    with node.stream(node.token("mallory"), name, f"file-root:{node.agent.roots}", "ROOTCA") as stream:
        assert set(stream.secrets()) == {"ROOTCA"}


@pytest.mark.parametrize(
    "metadata",
    [
        (),
        ((ISTIO_HEADER, b""),),
        (("authorization", "Bearer "),),
        (("x-token", "e30.e30.x"),),
    ],
)
@pytest.mark.parametrize("row", [row for row in TABLE if row.path.endswith("Secrets")], ids=lambda row: row.path)
def test_no_method_of_discovery_serves_who_brings_no_token(
    node: Node, row: Method, metadata: tuple[tuple[str, str | bytes], ...]
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        node.raw(row.path, row.kind, *metadata)
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_several_tokens_are_none(node: Node) -> None:
    token = node.token()
    both = ((ISTIO_HEADER, token), ("authorization", f"Bearer {node.token('other').decode()}"))
    for metadata in (both, ((ISTIO_HEADER, token), (ISTIO_HEADER, token))):
        with pytest.raises(grpc.RpcError) as caught:
            node.raw(methods.STREAM_SECRETS, Kind.STREAM, *metadata)
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize("path", [methods.FETCH_X509_SVID, methods.FETCH_X509_BUNDLES])
def test_a_spiffe_client_has_no_token_and_so_no_identity_here(node: Node, path: str) -> None:
    """Unless its gRPC client can be told to send one."""
    spiffe = ("workload.spiffe.io", "true")
    wrong = TokenMaker(slot=1).token(now=time.time()).decode()
    for metadata in ((spiffe,), (spiffe, ("authorization", f"Bearer {wrong}"))):
        with pytest.raises(grpc.RpcError) as caught:
            node.raw(path, Kind.SERVER_STREAM, *metadata)
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    answer = node.raw(path, Kind.SERVER_STREAM, spiffe, ("authorization", f"Bearer {node.token('api').decode()}"))
    if path == methods.FETCH_X509_SVID:
        assert [svid.spiffe_id for svid in X509SVIDResponse.FromString(answer).svids] == [spiffe_id("api")]


def test_a_token_that_was_accepted_is_refused_once_it_has_expired(node: Node) -> None:
    token = node.token("brief", lifetime=12)
    ends = time.time() + 12
    with node.stream(token) as stream:
        assert spiffe_id_of(stream.secrets()["default"]) == spiffe_id("brief")
        with node.stream(token) as again:
            assert spiffe_id_of(again.secrets()["default"]) == spiffe_id("brief")
        wait_until(lambda: time.time() > ends + 0.1, "the end of the token")
        assert refusal(node.stream(token)) == (grpc.StatusCode.UNAUTHENTICATED, OPAQUE)
    wait_until(lambda: "call_with_expired_token" in reasons(node.agent), "our log says why: the CA was not asked")


def reasons(agent: NodeAgentProcess) -> list[str]:
    """Of calls that were refused."""
    return [line["reason"] for line in agent.lines() if line["message"] == "a call is refused"]


def test_a_stream_whose_token_is_spent_ends_with_a_clean_status_before_its_certificate_does(
    node: Node, own: NodeAgentProcess
) -> None:
    own.ttl = "30s"
    with own, Stream(own.socket, with_token(node.token("brief", lifetime=8)), "default") as stream:
        leaf = leaf_of(stream.secrets()["default"])
        with pytest.raises(StopIteration):
            while True:
                stream.secrets()
        assert stream.code() is grpc.StatusCode.OK
        assert time.time() < leaf.not_valid_after_utc.timestamp()


def test_other_roots_reach_every_stream_without_a_renewal(node: Node, own: NodeAgentProcess) -> None:
    other = make_authority().root_pem
    with own:
        streams = [Stream(own.socket, with_token(node.token(name)), "ROOTCA") for name in ("a", "b")]
        for stream in streams:
            assert stream.secrets()["ROOTCA"].validation_context.trusted_ca.inline_bytes.count(b"BEGIN") == 1
        took = []
        for count in (2, 1, 2, 1, 2):
            begun = time.monotonic()
            put_token(own.roots, node.ca.authority.root_pem + other * (count - 1))
            for stream in streams:
                roots = stream.secrets()["ROOTCA"].validation_context.trusted_ca.inline_bytes
                assert roots.count(b"BEGIN") == count
            took.append(time.monotonic() - begun)
        assert statistics.median(took) < 1, "the machine of the tests may stand still now and then, but not each time"
        for stream in streams:
            stream.close()


def test_a_node_takes_only_so_many(node: Node, own: NodeAgentProcess) -> None:
    own.options = ("--max-identities", "2")
    with own:
        held = [Stream(own.socket, with_token(node.token(name)), "default") for name in ("a", "b")]
        for stream in held:
            stream.secrets()
        code, said = refusal(Stream(own.socket, with_token(node.token("c")), "default"))
        assert (code, said) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "the agent is busy")
        with Stream(own.socket, with_token(node.token("a", lifetime=3601)), "default") as stream:
            assert refusal(stream)[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
        for stream in held:
            stream.close()


def test_another_header_can_be_chosen(node: Node, own: NodeAgentProcess) -> None:
    own.options = ("--token-header", "X-Workload-Token")
    with own:
        headers = {"x-workload-token": node.token("api").decode()}
        with Stream(own.socket, headers, "default") as stream:
            assert spiffe_id_of(stream.secrets()["default"]) == spiffe_id("api")
        assert refusal(Stream(own.socket, with_token(node.token("api")), "default"))[0] is (
            grpc.StatusCode.UNAUTHENTICATED
        )


def test_with_the_ca_away_who_was_accepted_is_served_and_who_was_not_waits(
    node: Node, own: NodeAgentProcess, tmp_path: Path
) -> None:
    with ca_server.running(tmp_path, authority=node.ca.authority) as ca:
        own.ca_address = ca.server.address
        own.start()
        token = ca.maker.token(now=time.time(), name="a")
        with Stream(own.socket, with_token(token), "default") as stream:
            stream.secrets()
            ca.server.stop()
            with Stream(own.socket, with_token(token), "default") as again:
                assert spiffe_id_of(again.secrets()["default"]) == spiffe_id("a")
            waiting = Stream(own.socket, with_token(ca.maker.token(now=time.time(), name="b")), "default")
            wait_until(lambda: own.status().get("tokens", {}).get("waiting") == 1, "one waits")
            assert [one["spiffe_id"] for one in own.status()["identities"]] == [spiffe_id("a")]
            assert own.stop() == 0
            with pytest.raises(StopIteration):
                stream.secrets()
            assert stream.code() is grpc.StatusCode.OK
            assert refusal(waiting)[0] is grpc.StatusCode.UNAVAILABLE
    assert not own.socket.exists()


def test_a_ca_that_rolls_with_the_wrong_keys_for_a_moment_ends_no_workloads_renewals(
    node: Node, own: NodeAgentProcess, tmp_path: Path
) -> None:
    """It refuses every token meanwhile, by the same key ID and another key."""
    own.ttl = "30s"
    with ca_server.running(tmp_path, authority=node.ca.authority) as ca:
        host, _, port = ca.server.address.rpartition(":")
        config = replace(ca.config, listen=HostPort(host, int(port)))
        (keys,) = tmp_path.glob("jwks-*.json")
        own.ca_address = ca.server.address
        token = with_token(ca.maker.token(now=time.time(), name="a"))
        with own, Stream(own.socket, token, "default") as stream:
            first = leaf_of(stream.secrets()["default"])
            ca.server.stop()
            keys.write_bytes(TokenMaker(slot=9).jwks())
            with CaServer(config):
                with pytest.raises(StopIteration):
                    stream.secrets()
                assert stream.code() is grpc.StatusCode.OK, "for a fresh token"
                with Stream(own.socket, token, "default") as again:
                    assert leaf_of(again.secrets()["default"]) == first, "there is none, and what is held is served"
            keys.write_bytes(ca.maker.jwks())
            with CaServer(config):
                seen = [first]
                while seen[-1] == first:  # asked back now and then, as an Envoy is whose token file has nothing fresher
                    with Stream(own.socket, token, "default") as again, contextlib.suppress(StopIteration):
                        while seen[-1] == first:
                            seen.append(leaf_of(again.secrets()["default"]))
                assert time.time() < first.not_valid_after_utc.timestamp(), "it was tried again in time"
                wait_until(lambda: own.status()["tokens"]["serving"] == 1, "all is well again")
            assert "token_bad_signature" in own.log.read_text()


def test_metrics_and_status_tell_of_the_accepted_only(node: Node, own: NodeAgentProcess) -> None:
    import urllib.request

    address = f"127.0.0.1:{free_ports(1)[0]}"
    own.options = ("--http", address)
    with own:
        assert refusal(Stream(own.socket, with_token(TokenMaker(slot=3).token(now=time.time(), name="evil")), "x"))
        with Stream(own.socket, with_token(node.token("api")), "default") as stream:
            stream.secrets()
            page = urllib.request.urlopen(f"http://{address}/metrics", timeout=60).read().decode()
            assert f'meshpki_agent_certificate_state{{spiffe_id="{spiffe_id("api")}",state="fresh"}} 1.0' in page
            assert "evil" not in page
            assert urllib.request.urlopen(f"http://{address}/readyz", timeout=60).status == 200
            wait_until(lambda: own.status().get("identities"), "the status")
            (standing,) = own.status()["identities"]
            assert (standing["spiffe_id"], standing["state"]) == (spiffe_id("api"), "fresh")
            assert (standing["phase"], standing["streams"]) == ("serving", 1)
            assert "evil" not in own.status_file.read_text()


def test_no_token_and_no_key_is_in_log_or_status(node: Node) -> None:
    """Last: by now the module's agent has met every kind of token, at log level debug."""
    written = node.agent.log.read_text() + node.agent.status_file.read_text()
    assert "a new certificate is served" in written
    assert "eyJ" not in written
    assert "PRIVATE KEY" not in written
    assert "Traceback" not in written
