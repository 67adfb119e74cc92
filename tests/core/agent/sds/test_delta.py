"""One delta stream against the rules of xDS: a table of situations, then random lives against a model of a client."""

from __future__ import annotations

from collections.abc import Set

import pytest
from envoy.service.discovery.v3 import discovery_pb2
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from meshpki.agent.sds.delta import DeltaStream
from meshpki.agent.sds.resources import Resources, resources_of, roots_secret, with_files
from meshpki.agent.sds.rules import MAX_NAME_BYTES, MAX_NAMES
from meshpki.errors import RefusedError
from meshpki.wire.methods import SECRET_TYPE_URL
from meshpki.wire.sds_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse, Secret, Status
from support.remarks import Heard
from support.snapshots import SPIFFE_ID, snapshot

FILE = "file-root:/x"
FIRST = resources_of(snapshot(1))
SECOND = resources_of(snapshot(2))
NEW_ROOTS = resources_of(snapshot(2, bundle=b"other roots"))
NOTHING = Resources("", {}, ())
ROOTED = with_files(FIRST, {FILE: roots_secret(FILE, "v1", b"a file")})
REJECTED = Status(code=3, message="no good")


def ask(
    *subscribe: str,
    leave: tuple[str, ...] = (),
    nonce: str = "",
    nack: bool = False,
    held: dict[str, str] | None = None,
    type_url: str = SECRET_TYPE_URL,
) -> DeltaDiscoveryRequest:
    return DeltaDiscoveryRequest(
        resource_names_subscribe=subscribe,
        resource_names_unsubscribe=leave,
        response_nonce=nonce,
        initial_resource_versions=held or {},
        type_url=type_url,
        error_detail=REJECTED if nack else None,
    )


def said(response: DeltaDiscoveryResponse | None) -> dict[str, str | None]:
    """Name and content of what was sent, None for what was said to be gone. A name twice would be a NACK."""
    if response is None:
        return {}
    told: dict[str, str | None] = {}
    for item in response.resources:
        secret = Secret.FromString(item.resource.value)
        assert item.name == secret.name not in told
        assert item.version
        assert item.resource.type_url == response.type_url == SECRET_TYPE_URL
        told[item.name] = (
            secret.tls_certificate.certificate_chain.inline_bytes or secret.validation_context.trusted_ca.inline_bytes
        ).decode()
    for name in response.removed_resources:
        assert name not in told
        told[name] = None
    assert told, "an empty response tells nothing"
    return told


def sent(response: DeltaDiscoveryResponse | None) -> DeltaDiscoveryResponse:
    assert response is not None
    return response


def test_the_first_request_is_answered_and_its_ack_is_not() -> None:
    stream = DeltaStream(FIRST)
    response = sent(stream.request(ask("default")))
    assert said(response) == {"default": "chain 1"}
    assert response.nonce
    assert response.system_version_info == FIRST.version
    assert stream.request(ask(nonce=response.nonce)) is None
    assert stream.names == ("default",)


def test_the_response_is_envoys_message_byte_for_byte() -> None:
    response = sent(DeltaStream(FIRST).request(ask("default", "unknown")))
    data = response.SerializeToString(deterministic=True)
    theirs = discovery_pb2.DeltaDiscoveryResponse.FromString(data)
    assert theirs.SerializeToString(deterministic=True) == data
    assert [(item.name, item.version) for item in theirs.resources] == [("default", "1")]
    assert list(theirs.removed_resources) == ["unknown"]


def test_a_change_is_pushed_once_and_only_what_changed() -> None:
    stream = DeltaStream(FIRST)
    stream.request(ask("default", "ROOTCA"))
    assert said(stream.update(SECOND)) == {"default": "chain 2"}
    assert stream.update(SECOND) is None
    assert said(stream.update(NEW_ROOTS)) == {"ROOTCA": "other roots"}


def test_every_name_has_a_version_of_its_own() -> None:
    response = sent(DeltaStream(FIRST).request(ask("default", "ROOTCA", str(SPIFFE_ID))))
    versions = {item.name: item.version for item in response.resources}
    assert versions["default"] == versions[str(SPIFFE_ID)] != versions["ROOTCA"]


def test_a_nack_is_not_answered_until_there_is_something_new() -> None:
    stream = DeltaStream(FIRST)
    response = sent(stream.request(ask("default")))
    for _ in range(3):
        assert stream.request(ask(nonce=response.nonce, nack=True)) is None
    assert stream.request(ask("default", nonce=response.nonce, nack=True)) is None, "not even to one that insists"
    assert stream.update(FIRST) is None
    assert said(stream.update(SECOND)) == {"default": "chain 2"}


def test_a_nack_may_subscribe_to_something_else() -> None:
    stream = DeltaStream(FIRST)
    nonce = sent(stream.request(ask("default"))).nonce
    assert said(stream.request(ask("ROOTCA", nonce=nonce, nack=True))) == {"ROOTCA": "roots"}
    second = sent(stream.request(ask("default"))).nonce
    assert said(stream.request(ask("ROOTCA", nonce=second, nack=True))) == {"ROOTCA": "roots"}, "it was not rejected"


def test_a_nack_of_an_older_response_rejects_only_that() -> None:
    stream = DeltaStream(FIRST)
    nonce = sent(stream.request(ask("default"))).nonce
    stream.update(SECOND)
    assert said(stream.request(ask("default", nonce=nonce, nack=True))) == {"default": "chain 2"}


def test_a_nack_is_remarked_on_without_content() -> None:
    heard = Heard()
    stream = DeltaStream(FIRST, heard.remarks)
    response = sent(stream.request(ask("default")))
    stream.request(ask(nonce=response.nonce, nack=True))
    ((kind, said),) = heard.rejected
    assert (kind, said) == ("3 no good", {"version": FIRST.version, "code": 3, "said": "no good"})


def test_a_stale_nonce_still_subscribes_and_unsubscribes() -> None:
    stream = DeltaStream(FIRST)
    old = sent(stream.request(ask("default"))).nonce
    assert sent(stream.update(SECOND)).nonce != old
    assert said(stream.request(ask("ROOTCA", nonce=old))) == {"ROOTCA": "roots"}
    assert stream.request(ask(leave=("default", "ROOTCA"), nonce=old)) is None
    assert stream.update(NEW_ROOTS) is None


def test_who_subscribes_again_is_answered_though_nothing_changed() -> None:
    stream = DeltaStream(FIRST)
    nonce = sent(stream.request(ask("default", "ROOTCA", "unknown"))).nonce
    assert said(stream.request(ask("default", nonce=nonce))) == {"default": "chain 1"}
    assert said(stream.request(ask("unknown"))) == {"unknown": None}


def test_leaving_and_coming_back_in_one_request_is_coming_back() -> None:
    stream = DeltaStream(FIRST)
    stream.request(ask("default"))
    first = sent(stream.request(ask("default", leave=("default",))))
    assert said(first) == {"default": "chain 1"}
    assert said(stream.request(ask("default", leave=("default",), nonce=first.nonce, nack=True))) == said(first)
    assert said(stream.update(SECOND)) == {"default": "chain 2"}


def test_an_unsubscribed_name_is_pushed_no_more_and_sent_anew_when_asked_again() -> None:
    stream = DeltaStream(FIRST)
    stream.request(ask("default", "ROOTCA"))
    assert stream.request(ask(leave=("default", "never-had"))) is None
    assert stream.names == ("ROOTCA",)
    assert stream.update(SECOND) is None
    assert said(stream.request(ask("default"))) == {"default": "chain 2"}


def test_a_client_that_comes_back_is_not_sent_what_it_has() -> None:
    held = {"default": "1", "ROOTCA": FIRST.by_name["ROOTCA"].version}
    stream = DeltaStream(FIRST)
    assert stream.request(ask("default", "ROOTCA", held=held)) is None
    assert said(stream.update(SECOND)) == {"default": "chain 2"}


def test_a_client_that_comes_back_is_sent_what_is_new_and_told_what_is_gone() -> None:
    stream = DeltaStream(SECOND)
    held = {"default": "1", "ROOTCA": SECOND.by_name["ROOTCA"].version, FILE: "v1", "not-asked-for": "1"}
    assert said(stream.request(ask("default", "ROOTCA", FILE, "ALL", held=held))) == {
        "default": "chain 2",
        FILE: None,
        "ALL": "roots",
    }


def test_a_client_with_a_wildcard_that_comes_back_is_told_what_is_gone() -> None:
    held = {"default": "1", "from-before": "7", "ROOTCA": FIRST.by_name["ROOTCA"].version}
    for names in ((), ("*",)):
        stream = DeltaStream(FIRST)
        assert said(stream.request(ask(*names, held=held))) == {"from-before": None}
        assert stream.update(FIRST) is None, "once"


def test_versions_in_a_later_request_are_nobodys() -> None:
    stream = DeltaStream(FIRST)
    stream.request(ask("default"))
    assert said(stream.request(ask("default", held={"default": "1"}))) == {"default": "chain 1"}


def test_an_unknown_name_is_said_to_be_unknown_once_and_pushed_when_it_appears() -> None:
    heard = Heard()
    stream = DeltaStream(FIRST, heard.remarks)
    assert said(stream.request(ask(FILE, "default"))) == {FILE: None, "default": "chain 1"}
    assert said(stream.update(SECOND)) == {"default": "chain 2"}
    assert [kind for kind, _ in heard.unknown] == [FILE]
    assert said(stream.update(ROOTED)) == {FILE: "a file", "default": "chain 1"}
    assert said(stream.update(FIRST)) == {FILE: None}, "and it is removed when it goes away"


def test_an_empty_first_subscription_is_a_wildcard_and_stays_one() -> None:
    stream = DeltaStream(FIRST)
    response = sent(stream.request(ask()))
    assert said(response) == {"default": "chain 1", "ROOTCA": "roots"}
    assert stream.request(ask(nonce=response.nonce)) is None
    assert said(stream.request(ask(str(SPIFFE_ID)))) == {str(SPIFFE_ID): "chain 1"}
    assert set(said(stream.update(SECOND))) == {"default", str(SPIFFE_ID)}, "naming something does not end it"
    assert stream.request(ask(leave=("*",))) is None
    assert set(said(stream.update(FIRST))) == {str(SPIFFE_ID)}


def test_a_first_request_that_only_leaves_something_is_no_wildcard() -> None:
    stream = DeltaStream(FIRST)
    assert stream.request(ask(leave=("default",))) is None
    assert stream.update(SECOND) is None


def test_a_named_wildcard_answers_again_when_asked_again() -> None:
    stream = DeltaStream(FIRST)
    assert set(said(stream.request(ask("*")))) == {"default", "ROOTCA"}
    assert set(said(stream.request(ask("*")))) == {"default", "ROOTCA"}
    assert stream.names == ()


@pytest.mark.parametrize(("name", "answer"), [("default", "chain 1"), (str(SPIFFE_ID), None), ("unknown", None)])
def test_leaving_a_name_but_not_the_wildcard_is_answered_with_what_the_wildcard_says(
    name: str, answer: str | None
) -> None:
    stream = DeltaStream(FIRST)
    stream.request(ask("*", name))
    assert said(stream.request(ask(leave=(name,)))) == {name: answer}
    assert stream.request(ask(leave=(name,))) is None, "who was not subscribed leaves nothing"
    assert (name in said(stream.update(SECOND))) == (name == "default")


def test_what_a_wildcard_loses_is_removed() -> None:
    stream = DeltaStream(FIRST)
    stream.request(ask("*"))
    assert said(stream.update(NOTHING)) == {"default": None, "ROOTCA": None}
    assert stream.update(NOTHING) is None
    assert said(stream.update(SECOND)) == {"default": "chain 2", "ROOTCA": "roots"}


def test_a_name_asked_for_twice_is_answered_once() -> None:
    assert said(DeltaStream(FIRST).request(ask(*["default", "x"] * 200))) == {"default": "chain 1", "x": None}


def test_nothing_goes_to_a_client_that_has_not_spoken() -> None:
    assert DeltaStream(FIRST).update(SECOND) is None


def test_a_stream_does_not_grow_with_the_names_that_it_leaves() -> None:
    stream = DeltaStream(FIRST)
    stream.request(ask("*"))
    for number in range(1000):
        stream.request(ask(f"name-{number}", leave=(f"name-{number - 1}",)))
    assert stream.names == ("name-999",)
    assert len(stream._told) == 3


def test_another_type_is_refused_and_none_is_taken_for_ours() -> None:
    with pytest.raises(RefusedError, match="Cluster"):
        DeltaStream(FIRST).request(ask("default", type_url="type.googleapis.com/envoy.config.cluster.v3.Cluster"))
    assert said(DeltaStream(FIRST).request(ask("default", type_url="")))


def test_names_without_end_are_refused_on_the_whole_stream_and_not_by_request() -> None:
    stream = DeltaStream(FIRST)
    half = MAX_NAMES // 2
    stream.request(ask(*(f"a{number}" for number in range(half))))
    stream.request(ask(*(f"b{number}" for number in range(half))))
    assert len(stream.names) == MAX_NAMES
    stream.request(ask("new", leave=("a0",)))
    with pytest.raises(RefusedError, match="257 names"):
        stream.request(ask("newer"))
    with pytest.raises(RefusedError, match="a name of"):
        DeltaStream(FIRST).request(ask("x" * (MAX_NAME_BYTES + 1)))
    with pytest.raises(RefusedError, match="257 names"):
        DeltaStream(FIRST).request(ask("*", held={str(number): "1" for number in range(MAX_NAMES + 1)}))


NAMES = ["default", "ROOTCA", "ALL", str(SPIFFE_ID), "spiffe://mesh.test", FILE, "unknown", "*"]


class Client(RuleBasedStateMachine):
    """A client by the protocol's text: it subscribes, leaves, ACKs, NACKs, lags, forgets and comes back at random.

    What it holds must be what it would get afresh; nothing may come unasked, twice, or again after a NACK.
    """

    def __init__(self) -> None:
        super().__init__()
        self.serial, self.roots, self.file, self.everything = 1, 0, 0, 0
        self.received: dict[str, tuple[str, bytes]] = {}
        self.connect()

    def connect(self) -> None:
        self.stream = DeltaStream(self.resources())
        self.subscribed: set[str] = set()
        self.legacy = self.asked = False
        self.gone: set[str] = set()
        self.last: set[str] = set()
        self.nonce = ""
        self.nonces: list[str] = []

    def resources(self) -> Resources:
        base = resources_of(snapshot(self.serial, bundle=b"roots %d" % self.roots))
        every = (("default", "ROOTCA"), ("default",), ("ROOTCA", "ALL"), ())[self.everything % 4]
        base = Resources(base.version, base.by_name, every)
        if self.file % 3 == 0:  # every third time there is no such file
            return base
        return with_files(base, {FILE: roots_secret(FILE, f"v{self.file}", b"file %d" % self.file)})

    @property
    def wildcard(self) -> bool:
        return self.legacy or "*" in self.subscribed

    @property
    def explicit(self) -> set[str]:
        return self.subscribed - {"*"}

    def wanted(self) -> set[str]:
        return self.explicit | (set(self.resources().everything) if self.wildcard else set())

    def take(
        self, response: DeltaDiscoveryResponse | None, owed: Set[str] = frozenset(), forgotten: Set[str] = frozenset()
    ) -> None:
        """Believe a response as a client does, and check that all of it has a reason.

        What is `owed` must be in it; what is `forgotten` may be.
        """
        if response is None:
            assert not owed
            return
        found = {item.name: (item.version, item.resource.value) for item in response.resources}
        removed = set(response.removed_resources)
        assert len(found) + len(removed) == len(response.resources) + len(response.removed_resources) > 0
        assert not found.keys() & removed
        assert owed <= found.keys() | removed
        assert response.nonce not in self.nonces, "a nonce is used once"
        self.nonces.append(response.nonce)
        self.nonce = response.nonce
        self.last = found.keys() | removed
        for name, item in found.items():
            assert name in self.wanted(), "nobody asked"
            assert name in owed | forgotten or self.received.get(name) != item, "the same content twice"
        for name in removed:
            assert name in self.explicit or self.wildcard, "nobody asked"
            assert name in owed | forgotten or name not in self.gone, "said twice"
        self.received = {name: item for name, item in self.received.items() if name not in removed} | found
        self.gone = (self.gone | removed & self.explicit) - found.keys()

    @precondition(lambda self: not self.asked)
    @rule(names=st.lists(st.sampled_from(NAMES), max_size=6), leave=st.lists(st.just("unknown"), max_size=1))
    def begin(self, names: list[str], leave: list[str]) -> None:
        """The first request of a stream, with the versions of what is still held from the last."""
        self.asked, self.subscribed = True, set(names)
        self.legacy = not names and not leave
        if not self.wildcard:
            self.received = {name: item for name, item in self.received.items() if name in self.explicit}
        held = {name: version for name, (version, _) in self.received.items()}
        self.take(self.stream.request(ask(*names, leave=tuple(leave), held=held)))

    @precondition(lambda self: self.asked)
    @rule(
        names=st.lists(st.sampled_from(NAMES), max_size=4),
        leave=st.lists(st.sampled_from(NAMES), max_size=4),
        nack=st.booleans(),
        stale=st.booleans(),
    )
    def request(self, names: list[str], leave: list[str], nack: bool, stale: bool) -> None:
        nonce = self.nonces[0] if stale and self.nonces else self.nonce
        nack = nack and bool(nonce)
        rejected = self.last - set(leave) if nack and nonce == self.nonce else set()
        before = dict(self.received)
        left = self.explicit & set(leave)
        self.legacy = self.legacy and "*" not in leave
        self.subscribed -= set(leave)
        if not self.wildcard:  # with one, the server has to say whether it holds what was left
            self.received = {name: item for name, item in self.received.items() if name in self.explicit}
            left = set()
        self.gone &= self.explicit
        self.subscribed |= set(names)
        again = set(self.resources().everything) if "*" in names else set()
        owed = (left | again | self.explicit & set(names)) - rejected
        response = self.stream.request(ask(*names, leave=tuple(leave), nonce=nonce, nack=nack))
        for item in response.resources if response else ():
            if item.name in rejected and "*" not in leave:
                assert before.get(item.name) != (item.version, item.resource.value), "the same after a NACK"
        self.take(response, owed, forgotten={*leave, *(before if "*" in leave else ())})

    @rule(part=st.sampled_from(["serial", "roots", "file", "everything"]))
    def change(self, part: str) -> None:
        setattr(self, part, getattr(self, part) + 1)
        self.take(self.stream.update(self.resources()))

    @rule()
    def nothing_new(self) -> None:
        assert self.stream.update(self.resources()) is None

    @precondition(lambda self: self.asked)
    @rule()
    def disconnect(self) -> None:
        self.connect()

    @invariant()
    def holds_the_newest_of_all_it_wants(self) -> None:
        if not self.asked:
            return
        have = self.resources().by_name
        newest = {name: (have[name].version, have[name].body) for name in self.wanted() if name in have}
        assert self.received == newest
        assert self.gone == {name for name in self.explicit if name not in have}


TestClient = Client.TestCase
