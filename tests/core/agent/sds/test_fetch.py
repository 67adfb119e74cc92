"""One fetch: everything asked for that there is, nothing else, and the same again next time."""

from __future__ import annotations

import pytest
from envoy.service.discovery.v3 import discovery_pb2
from hypothesis import given
from hypothesis import strategies as st

from meshpki.agent.sds.fetch import fetch
from meshpki.agent.sds.resources import Resources, resources_of, roots_secret, with_files
from meshpki.agent.sds.rules import MAX_NAME_BYTES, MAX_NAMES
from meshpki.errors import RefusedError
from meshpki.wire.methods import SECRET_TYPE_URL
from meshpki.wire.sds_pb2 import DiscoveryRequest, Secret
from support.snapshots import SPIFFE_ID, snapshot

FILE = roots_secret("file-root:/x", "v1", b"a file")
HELD = with_files(resources_of(snapshot(1)), {FILE.name: FILE})
NAMES = [*HELD.by_name, "unknown", "other", "*"]


def names(*wanted: str, version: str = "", resources: Resources = HELD) -> list[str]:
    response = fetch(DiscoveryRequest(resource_names=wanted, version_info=version), resources)
    assert (response.version_info, response.type_url, response.nonce) == (resources.version, SECRET_TYPE_URL, "")
    assert all(item.type_url == SECRET_TYPE_URL for item in response.resources)
    found = [Secret.FromString(item.value).name for item in response.resources]
    assert [item.value for item in response.resources] == [resources.by_name[name].body for name in found]
    return found


def test_what_is_asked_for_is_given_in_that_order() -> None:
    assert names("ROOTCA", str(SPIFFE_ID), FILE.name) == ["ROOTCA", str(SPIFFE_ID), FILE.name]


def test_no_names_and_a_star_mean_everything_and_no_files() -> None:
    assert names() == names("*") == ["default", "ROOTCA"]
    assert names("*", "ALL", "ROOTCA") == ["ALL", "ROOTCA", "default"]


def test_an_unknown_name_is_left_out() -> None:
    assert names("unknown", "default") == ["default"]
    assert names("unknown") == []
    assert names("default", resources=Resources("", {}, ())) == []


def test_a_client_that_has_the_present_version_is_answered_in_full() -> None:
    assert names("default", version=HELD.version) == ["default"]


@given(st.lists(st.sampled_from(NAMES), max_size=12))
def test_each_name_once_and_nobody_elses(wanted: list[str]) -> None:
    found = names(*wanted)
    assert len(set(found)) == len(found)
    every = set(HELD.everything) if not wanted or "*" in wanted else set()
    assert set(found) == {name for name in {*wanted, *every} if name in HELD.by_name}


def test_the_response_is_envoys_message_byte_for_byte() -> None:
    data = fetch(DiscoveryRequest(), HELD).SerializeToString(deterministic=True)
    assert discovery_pb2.DiscoveryResponse.FromString(data).SerializeToString(deterministic=True) == data


def test_what_is_refused() -> None:
    with pytest.raises(RefusedError, match="Cluster"):
        fetch(DiscoveryRequest(type_url="type.googleapis.com/envoy.config.cluster.v3.Cluster"), HELD)
    with pytest.raises(RefusedError, match="257 names"):
        fetch(DiscoveryRequest(resource_names=[str(number) for number in range(MAX_NAMES + 1)]), HELD)
    with pytest.raises(RefusedError, match="a name of"):
        fetch(DiscoveryRequest(resource_names=["x" * (MAX_NAME_BYTES + 1)]), HELD)
