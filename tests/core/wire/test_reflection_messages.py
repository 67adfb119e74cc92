"""Our messages of server reflection and their originals (PyPI `grpcio-reflection`): the same fields, the same bytes."""

from __future__ import annotations

import pytest
from grpc_reflection.v1alpha import reflection_pb2 as original  # type: ignore[import-untyped]  # ships no types

from meshpki.wire import methods, reflection_pb2

OURS = dict(reflection_pb2.DESCRIPTOR.message_types_by_name)


@pytest.mark.parametrize("name", sorted(OURS))
def test_fields_are_the_originals(name: str) -> None:
    def fields(descriptor: object) -> list[tuple[object, ...]]:
        return [
            (field.name, field.number, field.type, field.is_repeated, field.containing_oneof is not None)
            for field in descriptor.fields  # type: ignore[attr-defined]  # a Descriptor of either
        ]

    assert fields(OURS[name]) == fields(original.DESCRIPTOR.message_types_by_name[name])


def test_no_message_is_missing() -> None:
    assert set(OURS) == set(original.DESCRIPTOR.message_types_by_name)


def test_the_path_is_the_originals() -> None:
    (service,) = original.DESCRIPTOR.services_by_name.values()
    (method,) = service.methods
    assert f"/{service.full_name}/{method.name}" == methods.REFLECTION_ALPHA
    assert methods.REFLECTION_ALPHA.replace(".v1alpha.", ".v1.") == methods.REFLECTION
