"""Envoy bootstrap configurations for two sidecars: one that calls, one that answers, mTLS between them (xDS v3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias

Json: TypeAlias = "str | int | float | bool | Sequence[Json] | Mapping[str, Json] | None"
"""What a bootstrap is made of. Values are never pasted into text: `json.dumps` is the only writer."""

LOOPBACK: Final = "127.0.0.1"
LISTENER: Final = "sidecar"
"""Name of the one listener of each sidecar; its port is picked by the kernel and read back from the admin socket."""
UPSTREAM: Final = "next"
SDS_CLUSTER: Final = "sds-grpc"
"""Istio's name for the agent's cluster (istio-agent's bootstrap), so that the configuration reads familiar."""
FILE_BASED_METADATA: Final = "envoy.grpc_credentials.file_based_metadata"
"""Envoy's call credentials that put a file's content into a header of every call."""
PEER_HEADERS: Final = {
    "x-tls-version": "%DOWNSTREAM_TLS_VERSION%",
    "x-peer-uri": "%DOWNSTREAM_PEER_URI_SAN%",
    "x-peer-serial": "%DOWNSTREAM_PEER_SERIAL%",
    "x-own-uri": "%DOWNSTREAM_LOCAL_URI_SAN%",
}
"""What the answering sidecar adds to each request out of its own TLS session."""
LONGEST: Final = "30s"
"""How long Envoy waits for an answer, and for a connection: for a machine that stands still for some seconds."""
REQUESTS_PER_CONNECTION: Final = 4
"""Few, so that a new certificate is seen at work soon after a rotation: a live connection keeps its old one."""


ApiType: TypeAlias = Literal["GRPC", "DELTA_GRPC"]
"""StreamSecrets or DeltaSecrets."""
NO_METADATA: Final[Mapping[str, Json]] = {}


@dataclass(frozen=True, slots=True)
class SdsSecrets:
    """Key, certificate and roots from an agent's SDS socket, under the names that Istio uses."""

    socket: Path
    certificate: str = "default"
    roots: str = "ROOTCA"
    api_type: ApiType = "GRPC"


@dataclass(frozen=True, slots=True)
class NodeSecrets:
    """The same from a node's agent, which serves many workloads: Envoy shows it the token in `token`, a file.

    Call credentials are a matter of Envoy's Google gRPC client; it reads the file anew for every stream.
    """

    socket: Path
    token: Path
    header: str = "istio_sds_credentials_header-bin"
    certificate: str = "default"
    roots: str = "ROOTCA"
    api_type: ApiType = "GRPC"


@dataclass(frozen=True, slots=True)
class FileSecrets:
    """Key, certificate and roots from PEM files, read once when Envoy starts."""

    chain: Path
    key: Path
    roots: Path


Secrets: TypeAlias = SdsSecrets | NodeSecrets | FileSecrets


@dataclass(frozen=True, slots=True)
class Address:
    """An IPv4 address and a port; port 0 lets the kernel pick."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


ANY_PORT: Final = Address(LOOPBACK, 0)


def server_bootstrap(
    *,
    node: str,
    admin: Path,
    secrets: Secrets,
    peer: str,
    app: Address,
    listen: Address = ANY_PORT,
    metadata: Mapping[str, Json] = NO_METADATA,
) -> Json:
    """Configure the sidecar that answers: it wants a client certificate with the SPIFFE ID `peer`, and calls `app`.

    XFCC is set from the verified certificate and never taken from the caller (SANITIZE_SET).
    """
    tls: Mapping[str, Json] = {
        "@type": _tls_type("DownstreamTlsContext"),
        "require_client_certificate": True,
        "common_tls_context": _common_tls(secrets, peer),
    }
    manager: Mapping[str, Json] = {
        "forward_client_cert_details": "SANITIZE_SET",
        "set_current_client_cert_details": {"uri": True},
    }
    route: Mapping[str, Json] = {"request_headers_to_add": [_set_header(*item) for item in PEER_HEADERS.items()]}
    listener = _listener(listen, manager=manager, route=route, transport=_transport_socket(tls))
    return _bootstrap(node, metadata, admin, listener, [_cluster(app), *_sds_clusters(secrets)])


def client_bootstrap(
    *,
    node: str,
    admin: Path,
    secrets: Secrets,
    peer: str,
    upstream: Address,
    listen: Address = ANY_PORT,
    metadata: Mapping[str, Json] = NO_METADATA,
) -> Json:
    """Configure the sidecar that calls: plaintext on loopback in, mTLS out, to a server with the SPIFFE ID `peer`.

    Nothing is retried: a failed request stays one.
    """
    tls: Mapping[str, Json] = {
        "@type": _tls_type("UpstreamTlsContext"),
        "max_session_keys": 0,  # every connection proves both certificates anew
        "common_tls_context": _common_tls(secrets, peer),
    }
    route: Mapping[str, Json] = {"response_headers_to_add": [_set_header("x-upstream-uri", "%UPSTREAM_PEER_URI_SAN%")]}
    cluster = _cluster(upstream, transport=_transport_socket(tls), requests=REQUESTS_PER_CONNECTION)
    return _bootstrap(node, metadata, admin, _listener(listen, route=route), [cluster, *_sds_clusters(secrets)])


def _bootstrap(node: str, metadata: Mapping[str, Json], admin: Path, listener: Json, clusters: Sequence[Json]) -> Json:
    about: dict[str, Json] = {"id": node, "cluster": node}
    if metadata:
        about["metadata"] = metadata
    return {
        "node": about,
        "admin": {"address": {"pipe": {"path": str(admin), "mode": 0o600}}},
        "static_resources": {"listeners": [listener], "clusters": clusters},
    }


def _listener(
    listen: Address,
    *,
    manager: Mapping[str, Json] | None = None,
    route: Mapping[str, Json] | None = None,
    transport: Json = None,
) -> Json:
    virtual_host: Json = {
        "name": "all",
        "domains": ["*"],
        "routes": [{"match": {"prefix": "/"}, "route": {"cluster": UPSTREAM, "timeout": LONGEST}}],
        **(route or {}),
    }
    connection_manager: Json = {
        "@type": _filter_type("http_connection_manager", "HttpConnectionManager"),
        "stat_prefix": LISTENER,
        "route_config": {"name": "all", "virtual_hosts": [virtual_host]},
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
            }
        ],
        **(manager or {}),
    }
    chain: dict[str, Json] = {
        "filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": connection_manager}]
    }
    if transport is not None:
        chain["transport_socket"] = transport
    return {
        "name": LISTENER,
        "stat_prefix": LISTENER,
        "address": _socket_address(listen),
        "filter_chains": [chain],
    }


def _cluster(to: Address, *, transport: Json = None, requests: int = 0) -> Json:
    common: dict[str, Json] = {"idle_timeout": "30s"}
    if requests:
        common["max_requests_per_connection"] = requests
    cluster: dict[str, Json] = {
        "name": UPSTREAM,
        "type": "STATIC",
        "connect_timeout": LONGEST,
        "load_assignment": _endpoint(UPSTREAM, _socket_address(to)),
        "typed_extension_protocol_options": _http_options({"http_protocol_options": {}}, common),
    }
    if transport is not None:
        cluster["transport_socket"] = transport
    return cluster


def _sds_clusters(secrets: Secrets) -> list[Json]:
    if not isinstance(secrets, SdsSecrets):
        return []
    pipe: Json = {"pipe": {"path": str(secrets.socket)}}
    return [
        {
            "name": SDS_CLUSTER,
            "type": "STATIC",
            "connect_timeout": LONGEST,
            "load_assignment": _endpoint(SDS_CLUSTER, pipe),
            "typed_extension_protocol_options": _http_options({"http2_protocol_options": {}}),
        }
    ]


def _common_tls(secrets: Secrets, peer: str) -> Json:
    expected: Mapping[str, Json] = {"match_typed_subject_alt_names": [{"san_type": "URI", "matcher": {"exact": peer}}]}
    common: dict[str, Json] = {
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"}
    }
    match secrets:
        case SdsSecrets() | NodeSecrets():
            common["tls_certificate_sds_secret_configs"] = [_sds_secret(secrets.certificate, secrets)]
            common["combined_validation_context"] = {
                "default_validation_context": expected,
                "validation_context_sds_secret_config": _sds_secret(secrets.roots, secrets),
            }
        case FileSecrets():
            common["tls_certificates"] = [
                {
                    "certificate_chain": {"filename": str(secrets.chain)},
                    "private_key": {"filename": str(secrets.key)},
                }
            ]
            common["validation_context"] = {**expected, "trusted_ca": {"filename": str(secrets.roots)}}
    return common


def _sds_secret(name: str, secrets: SdsSecrets | NodeSecrets) -> Json:
    return {
        "name": name,
        "sds_config": {
            "resource_api_version": "V3",
            "initial_fetch_timeout": "0s",  # wait for the agent, never open the port without a certificate
            "api_config_source": {
                "api_type": secrets.api_type,
                "transport_api_version": "V3",
                "set_node_on_first_message_only": True,
                "grpc_services": [_grpc_service(secrets)],
            },
        },
    }


def _grpc_service(secrets: SdsSecrets | NodeSecrets) -> Json:
    if isinstance(secrets, SdsSecrets):
        return {"envoy_grpc": {"cluster_name": SDS_CLUSTER}}
    plugin: Json = {
        "name": FILE_BASED_METADATA,
        "typed_config": {
            "@type": "type.googleapis.com/envoy.config.grpc_credential.v3.FileBasedMetadataConfig",
            "secret_data": {"filename": str(secrets.token)},
            "header_key": secrets.header,
        },
    }
    return {
        "google_grpc": {
            "target_uri": f"unix:{secrets.socket}",
            "stat_prefix": SDS_CLUSTER,
            "channel_credentials": {"local_credentials": {}},
            "call_credentials": [{"from_plugin": plugin}],
            "credentials_factory_name": FILE_BASED_METADATA,
        }
    }


def _socket_address(address: Address) -> Json:
    return {"socket_address": {"address": address.host, "port_value": address.port}}


def _endpoint(cluster: str, address: Json) -> Json:
    return {
        "cluster_name": cluster,
        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
    }


def _http_options(explicit: Json, common: Json = None) -> Json:
    options: dict[str, Json] = {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": explicit,
    }
    if common is not None:
        options["common_http_protocol_options"] = common
    return {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options}


def _transport_socket(tls: Json) -> Json:
    return {"name": "envoy.transport_sockets.tls", "typed_config": tls}


def _set_header(name: str, value: str) -> Json:
    return {"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}


def _tls_type(message: str) -> str:
    return f"type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.{message}"


def _filter_type(filter_name: str, message: str) -> str:
    return f"type.googleapis.com/envoy.extensions.filters.network.{filter_name}.v3.{message}"
