"""What `detect --rbac` prints: just what the files in deploy/ grant, for whoever is named."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from meshpki.errors import UsageError
from meshpki.provision.cluster.rbac import manifest, read_subject
from support.doc_pages import ROOT

FILES = ROOT / "deploy" / "kubernetes"
Document = dict[str, Any]  # Any: as YAML has it


def documents(*names: str) -> list[Document]:
    return [document for name in names for document in yaml.safe_load_all((FILES / name).read_text())]


def printed(namespace: str, who: str, *, canary: bool = False) -> list[Document]:
    items = manifest(namespace, read_subject(who), canary=canary)["items"]
    assert isinstance(items, list)
    return items


def without_names_of_bindings(document: Document) -> Document:
    if document["kind"].endswith("Binding"):
        document["metadata"].pop("name")
        for subject in document["subjects"]:
            subject.setdefault("apiGroup", "rbac.authorization.k8s.io")
    document.setdefault("apiVersion", "rbac.authorization.k8s.io/v1")
    return document


@pytest.mark.parametrize(
    ("canary", "files"),
    [(False, ("detect-rbac.yaml",)), (True, ("detect-rbac.yaml", "detect-canary-rbac.yaml"))],
    ids=["plain", "canary"],
)
def test_the_files_grant_the_same(canary: bool, files: tuple[str, ...]) -> None:
    ours = [without_names_of_bindings(one) for one in printed("default", "group:meshpki-detect", canary=canary)]
    assert ours == [without_names_of_bindings(one) for one in documents(*files)]


def test_the_namespace_is_the_one_of_the_account() -> None:
    assert {one["metadata"].get("namespace") for one in printed("other", "jane", canary=True)} == {"other", None}


@pytest.mark.parametrize(
    ("who", "kind", "name"),
    [
        ("jane", "User", "jane"),
        ("group:devs", "Group", "devs"),
        ("system:serviceaccount:ci:detect", "User", "system:serviceaccount:ci:detect"),
        ("https://idp.test/users#7%", "User", "https://idp.test/users#7%"),
    ],
)
def test_a_subject_is_bound_by_its_own_name(who: str, kind: str, name: str) -> None:
    bindings = [one for one in printed("default", who, canary=True) if "subjects" in one]
    assert len(bindings) == 3
    for one in bindings:
        assert [(subject["kind"], subject["name"]) for subject in one["subjects"]] == [(kind, name)]
        assert not {"/", "%"} & set(one["metadata"]["name"])


def test_granting_to_one_takes_nothing_from_another() -> None:
    names = [{one["metadata"]["name"] for one in printed("default", who) if "subjects" in one} for who in ("a", "b")]
    assert names[0].isdisjoint(names[1])


@pytest.mark.parametrize("who", ["", " ", "group:", "a\nb", " jane", "jane\t"])
def test_nobody_is_no_subject(who: str) -> None:
    with pytest.raises(UsageError) as told:
        read_subject(who)
    assert "kubectl auth whoami" in told.value.todo


@settings(deadline=None)
@given(st.text(min_size=1).filter(lambda text: text.isprintable() and text == text.strip()))
def test_any_name_can_be_written_down(name: str) -> None:
    items = printed("default", name)
    assert yaml.safe_load(yaml.safe_dump(items)) == items
