"""Paths and type URLs of the wire protocols, as their peers spell them."""

from __future__ import annotations

from typing import Final

CREATE_CERTIFICATE: Final = "/istio.v1.auth.IstioCertificateService/CreateCertificate"
REPORT_BUNDLE: Final = "/meshpki.agent.v1.TrustBundles/Report"
STREAM_SECRETS: Final = "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets"
DELTA_SECRETS: Final = "/envoy.service.secret.v3.SecretDiscoveryService/DeltaSecrets"
FETCH_SECRETS: Final = "/envoy.service.secret.v3.SecretDiscoveryService/FetchSecrets"
FETCH_X509_SVID: Final = "/SpiffeWorkloadAPI/FetchX509SVID"
FETCH_X509_BUNDLES: Final = "/SpiffeWorkloadAPI/FetchX509Bundles"
FETCH_JWT_SVID: Final = "/SpiffeWorkloadAPI/FetchJWTSVID"
FETCH_JWT_BUNDLES: Final = "/SpiffeWorkloadAPI/FetchJWTBundles"
VALIDATE_JWT_SVID: Final = "/SpiffeWorkloadAPI/ValidateJWTSVID"
FETCH_WIT_SVID: Final = "/SpiffeWorkloadAPI/FetchWITSVID"
FETCH_WIT_BUNDLES: Final = "/SpiffeWorkloadAPI/FetchWITBundles"
HEALTH_CHECK: Final = "/grpc.health.v1.Health/Check"
HEALTH_WATCH: Final = "/grpc.health.v1.Health/Watch"
REFLECTION: Final = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
REFLECTION_ALPHA: Final = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"

SECRET_TYPE_URL: Final = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
