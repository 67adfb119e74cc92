"""One stream against the rules of xDS: a table of situations, then random lives against a model of a client."""

from __future__ import annotations

import pytest
from envoy.service.discovery.v3 import discovery_pb2
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from meshpki.agent.sds.resources import Resources, resources_of, roots_secret, with_files
from meshpki.agent.sds.rules import MAX_LISTED, MAX_LOGGED, MAX_NAME_BYTES, MAX_NAMES
from meshpki.agent.sds.stream import SdsStream
from meshpki.errors import RefusedError
from meshpki.wire.methods import SECRET_TYPE_URL
from meshpki.wire.sds_pb2 import DiscoveryRequest, DiscoveryResponse, Secret, Status
from support.remarks import Heard
from support.snapshots import SPIFFE_ID, snapshot

FIRST = resources_of(snapshot(1))
SECOND = resources_of(snapshot(2))
NEW_ROOTS = resources_of(snapshot(2, bundle=b"other roots"))
NOTHING = Resources("", {}, ())


def ask(*names: str, nonce: str = "", nack: bool = False, type_url: str = SECRET_TYPE_URL) -> DiscoveryRequest:
    request = DiscoveryRequest(resource_names=names, response_nonce=nonce, type_url=type_url)
    if nack:
        request.error_detail.CopyFrom(Status(code=3, message="no good"))
    return request


def secrets(response: DiscoveryResponse | None) -> dict[str, str]:
    """Name and content of what was sent; a name twice in one response would be a NACK."""
    if response is None:
        return {}
    found = [Secret.FromString(item.value) for item in response.resources]
    assert len({secret.name for secret in found}) == len(found)
    assert all(item.type_url == SECRET_TYPE_URL for item in response.resources)
    return {
        secret.name: (
            secret.tls_certificate.certificate_chain.inline_bytes or secret.validation_context.trusted_ca.inline_bytes
        ).decode()
        for secret in found
    }


def sent(response: DiscoveryResponse | None) -> DiscoveryResponse:
    assert response is not None
    return response


def test_the_first_request_is_answered_and_its_ack_is_not() -> None:
    stream = SdsStream(FIRST)
    response = sent(stream.request(ask("default")))
    assert secrets(response) == {"default": "chain 1"}
    assert response.type_url == SECRET_TYPE_URL
    assert response.nonce
    assert response.version_info == FIRST.version
    assert stream.request(ask("default", nonce=response.nonce)) is None


def test_the_response_is_envoys_message_byte_for_byte() -> None:
    response = sent(SdsStream(FIRST).request(ask("default", "ROOTCA")))
    data = response.SerializeToString(deterministic=True)
    theirs = discovery_pb2.DiscoveryResponse.FromString(data)
    assert theirs.SerializeToString(deterministic=True) == data
    assert (theirs.version_info, theirs.nonce, len(theirs.resources)) == (FIRST.version, response.nonce, 2)


def test_a_rotation_is_pushed_once_and_only_what_changed() -> None:
    stream = SdsStream(FIRST)
    stream.request(ask("default", "ROOTCA"))
    assert secrets(stream.update(SECOND)) == {"default": "chain 2"}
    assert stream.update(SECOND) is None
    assert secrets(stream.update(NEW_ROOTS)) == {"ROOTCA": "other roots"}


def test_a_nack_is_not_answered_until_there_is_something_new() -> None:
    stream = SdsStream(FIRST)
    response = sent(stream.request(ask("default")))
    for _ in range(3):
        assert stream.request(ask("default", nonce=response.nonce, nack=True)) is None
    assert stream.update(FIRST) is None
    assert secrets(stream.update(SECOND)) == {"default": "chain 2"}


def test_a_nack_is_remarked_on_without_content() -> None:
    heard = Heard()
    stream = SdsStream(FIRST, heard.remarks)
    response = sent(stream.request(ask("default")))
    stream.request(ask("default", nonce=response.nonce, nack=True))
    ((kind, said),) = heard.rejected
    assert (kind, said) == ("3 no good", {"version": FIRST.version, "code": 3, "said": "no good"})


def test_a_stale_nonce_is_ignored() -> None:
    stream = SdsStream(FIRST)
    old = sent(stream.request(ask("default"))).nonce
    new = sent(stream.update(SECOND)).nonce
    assert old != new
    assert stream.request(ask("default", "ROOTCA", nonce=old)) is None
    assert stream.request(ask(nonce=old)) is None, "nor does it unsubscribe"
    assert secrets(stream.request(ask("default", "ROOTCA", nonce=new))) == {"ROOTCA": "roots"}


def test_a_newly_requested_name_is_answered_though_nothing_changed() -> None:
    stream = SdsStream(FIRST)
    nonce = sent(stream.request(ask("default"))).nonce
    assert secrets(stream.request(ask("default", "ROOTCA", nonce=nonce))) == {"ROOTCA": "roots"}


def test_names_added_before_the_first_answer_arrived() -> None:
    stream = SdsStream(FIRST)
    stream.request(ask("default"))
    assert secrets(stream.request(ask("default", "ROOTCA"))) == {"ROOTCA": "roots"}


def test_an_unsubscribed_name_is_pushed_no_more_and_sent_anew_when_asked_again() -> None:
    stream = SdsStream(FIRST)
    nonce = sent(stream.request(ask("default", "ROOTCA"))).nonce
    assert stream.request(ask("ROOTCA", nonce=nonce)) is None
    assert stream.update(SECOND) is None
    assert secrets(stream.request(ask("default", "ROOTCA", nonce=nonce))) == {"default": "chain 2"}


def test_an_empty_later_list_unsubscribes_from_everything() -> None:
    stream = SdsStream(FIRST)
    nonce = sent(stream.request(ask("default"))).nonce
    assert stream.request(ask(nonce=nonce)) is None
    assert stream.update(SECOND) is None


def test_an_empty_first_list_is_a_wildcard_and_stays_one() -> None:
    stream = SdsStream(FIRST)
    response = sent(stream.request(ask()))
    assert secrets(response) == {"default": "chain 1", "ROOTCA": "roots"}
    assert stream.request(ask(nonce=response.nonce)) is None
    assert secrets(stream.update(SECOND)) == {"default": "chain 2"}


def test_a_named_wildcard_can_be_left() -> None:
    stream = SdsStream(FIRST)
    response = sent(stream.request(ask("*", str(SPIFFE_ID))))
    assert set(secrets(response)) == {"default", "ROOTCA", str(SPIFFE_ID)}
    assert stream.request(ask("ROOTCA", nonce=response.nonce)) is None
    assert stream.update(SECOND) is None


def test_a_name_asked_for_twice_is_answered_once() -> None:
    assert secrets(SdsStream(FIRST).request(ask(*["default"] * 300))) == {"default": "chain 1"}


@pytest.mark.parametrize("name", ["default", "ROOTCA", "ALL", str(SPIFFE_ID), "spiffe://mesh.test"])
def test_every_name_that_this_workload_has(name: str) -> None:
    assert set(secrets(SdsStream(FIRST).request(ask(name)))) == {name}


@pytest.mark.parametrize(
    "name", ["file-root:system", "", "kubernetes://x", "spiffe://mesh.test/ns/default/sa/other", "DEFAULT"]
)
def test_an_unknown_name_neither_ends_the_stream_nor_hides_the_others(name: str) -> None:
    heard = Heard()
    stream = SdsStream(FIRST, heard.remarks)
    response = sent(stream.request(ask(name, "default")))
    assert secrets(response) == {"default": "chain 1"}
    stream.request(ask(name, "default", nonce=response.nonce))
    assert secrets(stream.update(SECOND)) == {"default": "chain 2"}
    assert [kind for kind, _ in heard.unknown] == [name], "said once"


def test_names_that_a_client_makes_up_are_cut_short_and_remembered_within_bounds() -> None:
    heard = Heard()
    stream = SdsStream(
        with_files(FIRST, {f"file-root:{n}": roots_secret("f", "1", b"") for n in range(99)}), heard.remarks
    )
    for number in range(3 * MAX_NAMES):
        stream.request(ask(f"made-up-{number}" + "x" * 1000))
    assert len(heard.unknown) == 3 * MAX_NAMES, "each once: the log's bound is kept by whoever says it"
    assert len(stream._finder._told) <= MAX_NAMES
    assert all(len(kind) == MAX_LOGGED and len(said["has"]) == MAX_LISTED for kind, said in heard.unknown)  # type: ignore[arg-type]  # a list


def test_a_name_that_appears_later_is_pushed() -> None:
    stream = SdsStream(NOTHING)
    assert stream.request(ask("default")) is None
    assert secrets(stream.update(FIRST)) == {"default": "chain 1"}


def test_another_type_is_refused_and_none_is_taken_for_ours() -> None:
    with pytest.raises(RefusedError, match="Cluster"):
        SdsStream(FIRST).request(ask("default", type_url="type.googleapis.com/envoy.config.cluster.v3.Cluster"))
    assert secrets(SdsStream(FIRST).request(ask("default", type_url="")))


def test_endless_lists_are_refused() -> None:
    with pytest.raises(RefusedError, match="257 names"):
        SdsStream(FIRST).request(ask(*(str(number) for number in range(MAX_NAMES + 1))))


def test_a_name_without_end_is_refused() -> None:
    with pytest.raises(RefusedError, match="a name of"):
        SdsStream(FIRST).request(ask("x" * (MAX_NAME_BYTES + 1)))


def test_a_wildcard_that_was_named_is_left_by_an_empty_list() -> None:
    stream = SdsStream(FIRST)
    nonce = sent(stream.request(ask("*"))).nonce
    assert stream.request(ask(nonce=nonce)) is None
    assert stream.update(SECOND) is None


def test_the_old_wildcard_ends_with_the_first_name() -> None:
    stream = SdsStream(FIRST)
    nonce = sent(stream.request(ask())).nonce
    assert stream.request(ask("ROOTCA", nonce=nonce)) is None
    assert stream.update(SECOND) is None
    assert stream.request(ask(nonce=nonce)) is None, "from now on an empty list is nobody's wildcard"
    assert stream.update(NEW_ROOTS) is None


def test_a_nonce_of_another_stream_is_no_reason_for_silence() -> None:
    assert secrets(SdsStream(FIRST).request(ask("default", nonce="77"))) == {"default": "chain 1"}


def test_nothing_goes_to_a_client_that_has_not_spoken() -> None:
    assert SdsStream(FIRST).update(SECOND) is None


def test_a_file_is_served_by_its_name_and_not_to_a_wildcard() -> None:
    file = roots_secret("file-root:/x", "v1", b"from a file")
    stream = SdsStream(with_files(FIRST, {file.name: file}))
    assert set(secrets(stream.request(ask()))) == {"default", "ROOTCA"}
    assert secrets(stream.request(ask("file-root:/x"))) == {"file-root:/x": "from a file"}


NAMES = ["default", "ROOTCA", "ALL", str(SPIFFE_ID), "spiffe://mesh.test", "file-root:/x", "unknown", "*"]


class Client(RuleBasedStateMachine):
    """A client that subscribes, ACKs, NACKs and lags at random. What it holds must be what it would get afresh."""

    def __init__(self) -> None:
        super().__init__()
        self.serial, self.roots, self.file = 1, 0, 0
        self.stream = SdsStream(self.resources())
        self.subscribed: set[str] = set()
        self.nonce = ""
        self.stale: list[str] = []
        self.received: dict[str, bytes] = {}
        self.asked = self.named = False

    def resources(self) -> Resources:
        base = resources_of(snapshot(self.serial, bundle=b"roots %d" % self.roots))
        if self.file % 3 == 0:  # every third time there is no such file
            return base
        file = roots_secret("file-root:/x", f"v{self.file}", b"file %d" % self.file)
        return with_files(base, {file.name: file})

    @property
    def wanted(self) -> set[str]:
        every = {"default", "ROOTCA"} if self.asked and (not self.named or "*" in self.subscribed) else set()
        return every | (self.subscribed - {"*"})

    def take(self, response: DiscoveryResponse | None) -> None:
        if response is None:
            return
        if self.nonce:
            self.stale.append(self.nonce)
        assert response.nonce not in self.stale, "a nonce is used once"
        self.nonce = response.nonce
        assert response.resources, "an empty response tells nothing"
        names = [Secret.FromString(item.value).name for item in response.resources]
        assert len(set(names)) == len(names), "a name twice"
        for name, item in zip(names, response.resources, strict=True):
            assert name in self.wanted, "nobody asked"
            assert self.received.get(name) != item.value, "the same content twice"
            self.received[name] = item.value

    @rule(names=st.lists(st.sampled_from(NAMES), max_size=6), nack=st.booleans())
    def request(self, names: list[str], nack: bool) -> None:
        self.asked, self.named = True, self.named or bool(names)
        self.subscribed = set(names)
        self.received = {name: body for name, body in self.received.items() if name in self.wanted}
        self.take(self.stream.request(ask(*names, nonce=self.nonce, nack=nack and bool(self.nonce))))

    @rule(names=st.lists(st.sampled_from(NAMES), max_size=5), nack=st.booleans())
    def stale_request(self, names: list[str], nack: bool) -> None:
        if self.stale:
            assert self.stream.request(ask(*names, nonce=self.stale[-1], nack=nack)) is None

    @rule(part=st.sampled_from(["serial", "roots", "file"]))
    def change(self, part: str) -> None:
        setattr(self, part, getattr(self, part) + 1)
        self.take(self.stream.update(self.resources()))

    @rule()
    def nothing_new(self) -> None:
        assert self.stream.update(self.resources()) is None

    @invariant()
    def holds_the_newest_of_all_it_wants(self) -> None:
        have = self.resources().by_name
        newest = {name: have[name].body for name in self.wanted if name in have}
        gone = {name: body for name, body in self.received.items() if name not in have}
        assert self.received == newest | gone, "a secret that went away stays: this protocol has no word for it"


TestClient = Client.TestCase
