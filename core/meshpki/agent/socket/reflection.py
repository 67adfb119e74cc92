"""gRPC server reflection as pure logic: what the services on our socket are, from the descriptors of our own messages.

Messages are described under the names that they have here (`meshpki.wire`): on the wire a message has no name.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final

from google.protobuf.descriptor_pb2 import FileDescriptorProto

from meshpki.errors import RefusedError
from meshpki.wire import methods
from meshpki.wire.reflection_pb2 import (
    ErrorResponse,
    ExtensionNumberResponse,
    FileDescriptorResponse,
    ListServiceResponse,
    ServerReflectionRequest,
    ServerReflectionResponse,
    ServiceResponse,
)
from meshpki.wire.sds_pb2 import (
    DeltaDiscoveryRequest,
    DeltaDiscoveryResponse,
    DiscoveryRequest,
    DiscoveryResponse,
    Secret,
)
from meshpki.wire.workload_pb2 import X509BundlesRequest, X509BundlesResponse, X509SVIDRequest, X509SVIDResponse

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from google.protobuf.descriptor import Descriptor
    from google.protobuf.message import Message

MAX_NAME: Final = 1024
"""Of what is asked for. Each answer repeats its question."""
NOT_FOUND: Final = 5
"""Of gRPC."""
MESSAGES: Final[Mapping[str, tuple[type[Message], type[Message]]]] = {
    methods.STREAM_SECRETS: (DiscoveryRequest, DiscoveryResponse),
    methods.DELTA_SECRETS: (DeltaDiscoveryRequest, DeltaDiscoveryResponse),
    methods.FETCH_SECRETS: (DiscoveryRequest, DiscoveryResponse),
    methods.FETCH_X509_SVID: (X509SVIDRequest, X509SVIDResponse),
    methods.FETCH_X509_BUNDLES: (X509BundlesRequest, X509BundlesResponse),
    methods.REFLECTION: (ServerReflectionRequest, ServerReflectionResponse),
    methods.REFLECTION_ALPHA: (ServerReflectionRequest, ServerReflectionResponse),
}
"""What each method takes and gives. A method without an entry, as of a profile that is off, is not described."""


@dataclass(frozen=True, slots=True)
class Served:
    """One method of our table."""

    path: str
    client_streams: bool
    server_streams: bool

    @property
    def service(self) -> str:
        """The service's full name."""
        return self.path.lstrip("/").split("/")[0]


@dataclass(frozen=True, slots=True)
class _File:
    body: bytes
    needs: tuple[str, ...]


class Reflection:
    """Answers any number of requests; made once, for it does not change."""

    def __init__(self, table: Iterable[Served]) -> None:
        self._files: dict[str, _File] = {}
        self._symbols: dict[str, str] = {}
        """The file in which each name is defined."""
        self._services: list[str] = []
        self._add_messages(Secret.DESCRIPTOR.file)
        by_service = sorted(table, key=lambda method: method.service)
        for service, served in groupby(by_service, key=lambda method: method.service):
            self._services.append(service)
            self._add_service(service, served)

    def answer(self, request: ServerReflectionRequest) -> ServerReflectionResponse:
        """Answer one request. What is not there is an answer too; raises RefusedError for what is no question."""
        if request.ByteSize() > MAX_NAME:
            raise RefusedError(f"a question of {request.ByteSize()} bytes", wanted=f"at most {MAX_NAME}")
        response = ServerReflectionResponse(valid_host=request.host, original_request=request)
        match request.WhichOneof("message_request"):
            case "list_services":
                known = [ServiceResponse(name=name) for name in self._services]
                response.list_services_response.CopyFrom(ListServiceResponse(service=known))
            case "file_by_filename":
                self._give(response, request.file_by_filename)
            case "file_containing_symbol":
                self._give(response, self._symbols.get(request.file_containing_symbol))
            case "all_extension_numbers_of_type" if request.all_extension_numbers_of_type in self._symbols:
                none = ExtensionNumberResponse(base_type_name=request.all_extension_numbers_of_type)
                response.all_extension_numbers_response.CopyFrom(none)
            case None:
                raise RefusedError("a request that asks nothing", wanted="one of the questions of server reflection")
            case _:  # proto3 has no extensions
                self._give(response, None)
        return response

    def _give(self, response: ServerReflectionResponse, name: str | None) -> None:
        """Put in a file and all that it needs, so that a client has no need to ask again."""
        if name not in self._files:
            response.error_response.CopyFrom(ErrorResponse(error_code=NOT_FOUND, error_message="not found"))
            return
        found = [self._files[needed].body for needed in self._with_needs(name)]
        response.file_descriptor_response.CopyFrom(FileDescriptorResponse(file_descriptor_proto=found))

    def _with_needs(self, name: str) -> dict[str, None]:
        found = {name: None}
        for needed in self._files[name].needs:
            found |= self._with_needs(needed)
        return found

    def _add_service(self, service: str, served: Iterable[Served]) -> None:
        """Write the file that a service would be defined in, if it were by our messages."""
        package, _, name = service.rpartition(".")
        file = FileDescriptorProto(name=f"meshpki/agent/{service}.proto", package=package, syntax="proto3")
        described = file.service.add(name=name)
        needs: dict[str, None] = {}
        for method in served:
            if method.path not in MESSAGES:
                continue
            request, response = (message.DESCRIPTOR for message in MESSAGES[method.path])
            described.method.add(
                name=method.path.rpartition("/")[2],
                input_type=f".{request.full_name}",
                output_type=f".{response.full_name}",
                client_streaming=method.client_streams,
                server_streaming=method.server_streams,
            )
            for descriptor in (request, response):
                self._add_messages(descriptor.file)
                needs[descriptor.file.name] = None
            self._symbols[f"{service}.{described.method[-1].name}"] = file.name
        file.dependency.extend(needs)
        self._files[file.name] = _File(file.SerializeToString(deterministic=True), tuple(needs))
        self._symbols[service] = file.name

    def _add_messages(self, file: Any) -> None:  # Any: a FileDescriptor, of one protobuf implementation or another
        if file.name in self._files:
            return
        self._files[file.name] = _File(file.serialized_pb, tuple(needed.name for needed in file.dependencies))
        self._symbols |= {
            name: file.name for message in file.message_types_by_name.values() for name in _names(message)
        }
        self._symbols |= {enum.full_name: file.name for enum in file.enum_types_by_name.values()}
        for needed in file.dependencies:
            self._add_messages(needed)


def _names(message: Descriptor) -> Iterator[str]:
    yield message.full_name
    yield from (enum.full_name for enum in message.enum_types)
    for nested in message.nested_types:
        yield from _names(nested)
