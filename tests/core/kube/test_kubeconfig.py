"""Which kubeconfig is read, which context of it, and the one line for everything that is wrong with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meshpki.errors import MachineError, MeshpkiError, UsageError
from meshpki.kube import kubeconfig
from meshpki.kube.credentials import TokenText
from meshpki.kube.errors import KubeCredentialError
from meshpki.kube.kubeconfig_file import parse
from support.kubeconfigs import CA_PEM, SECRET, document, encoded, write


def test_a_good_one_becomes_an_access(tmp_path: Path) -> None:
    path = write(tmp_path / "config", document(cluster={"tls-server-name": "kube.example"}))
    made = kubeconfig.load(path, None)
    assert made.server == "https://10.0.0.1:6443"
    assert made.ca_pem == CA_PEM.encode()
    assert made.tls_server_name == "kube.example"
    assert made.where == f"context 'prod' of {path}"
    assert isinstance(made.credential, TokenText)
    assert made.credential.token == SECRET


def test_yaml_as_kubectl_writes_it_is_read(tmp_path: Path) -> None:
    whole = document(extensions=[{"name": "x", "extension": {"last-update": "Mon"}}])
    path = write(tmp_path / "config", yaml.safe_dump(whole))
    assert kubeconfig.load(path, "prod").server == "https://10.0.0.1:6443"


def test_empty_lists_as_kubectl_writes_them_are_no_error(tmp_path: Path) -> None:
    path = write(tmp_path / "config", "apiVersion: v1\nkind: Config\nclusters: null\nusers: null\ncontexts: null\n")
    with pytest.raises(UsageError, match="has no current-context; to do: choose one with --context: there is none"):
        kubeconfig.load(path, None)


def test_without_roots_those_of_the_system_count(tmp_path: Path) -> None:
    path = write(tmp_path / "config", document(cluster={"certificate-authority-data": None}))
    assert kubeconfig.load(path, None).ca_pem is None


NO_CURRENT = document() | {"current-context": None}
OLD_CURRENT = document() | {"current-context": "old"}
TWICE = document()
TWICE["users"] = [*TWICE["users"], *TWICE["users"]]  # type: ignore[misc]

BAD: list[tuple[str, object, str]] = [
    ("empty", "", "is empty; wanted: what `kubectl config view --raw` prints"),
    ("a list", "- a\n- b\n", "is no kubeconfig"),
    ("not yaml", "a: b: c: [", "line 1, column 5: mapping values are not allowed here"),
    ("a tab", "a:\n\t- b", "line 2, column 1"),
    ("not utf-8", b"\xff\xfe\x00", "cannot be read as YAML"),
    ("a key twice", "kind: Config\nkind: Config\n", "the key 'kind' twice"),
    ("an alias", "a: &x [1]\nb: *x\n", "an alias"),
    ("two documents", "kind: Config\n---\nkind: Config\n", "expected a single document"),
    ("a tag", "a: !!python/object/apply:os.system [id]\n", "could not determine a constructor"),
    ("deep", "[" * 5000, "cannot be read as YAML"),
    ("another kind", document(kind="Pod"), "holds a 'Pod'"),
    ("another version", document(apiVersion="v2"), "of version 'v2'"),
    ("no list", document(users={"a": 1}), "'users' of "),
    ("no mapping", document(users=["a"]), "is no mapping"),
    ("a name twice", TWICE, "user 'u1' of "),
    ("no current context", NO_CURRENT, "has no current-context; to do: choose one with "
                                                                  "--context: prod"),
    ("current context gone", OLD_CURRENT, "has no context 'old', though its "
                                                                     "current-context says so"),
    ("no cluster named", document(context={"cluster": None}), "names no cluster"),
    ("cluster gone", document(context={"cluster": "c9"}), "names the cluster 'c9', which is not there"),
    ("user gone", document(context={"user": "u9"}), "names the user 'u9', which is not there"),
    ("no user named", document(context={"user": None}), "names no user"),
    ("no server", document(cluster={"server": None}), "names no server"),
    ("server is a number", document(cluster={"server": 6443}), "is no text"),
    ("http", document(cluster={"server": "http://10.0.0.1:8080"}), "without TLS"),
    ("insecure", document(cluster={"insecure-skip-tls-verify": True}), "has insecure-skip-tls-verify"),
    ("insecure in words", document(cluster={"insecure-skip-tls-verify": "yes"}), "is neither true nor false"),
    ("proxy", document(cluster={"proxy-url": "http://proxy:3128"}), "has a proxy-url; proxies are not used; to do: "),
    ("unknown key", document(cluster={"insecure-skip-tls": True}), "has 'insecure-skip-tls', which is not known here"),
    ("ca is no base64", document(cluster={"certificate-authority-data": "%%%"}), "is no base64"),
    ("ca is no pem", document(cluster={"certificate-authority-data": encoded("x")}), "is no PEM of certificates"),
    ("context with unknown key", document(context={"as": "x"}), "which is not known here"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "says"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_what_is_wrong_is_said_in_one_line(content: str | bytes | dict[str, object], says: str, tmp_path: Path) -> None:
    path = write(tmp_path / "config", content)
    with pytest.raises(UsageError) as caught:
        kubeconfig.load(path, None)
    text = str(caught.value)
    assert says in text
    assert str(path) in text
    assert "\n" not in text
    assert caught.value.wanted or caught.value.todo
    assert not _mentions(caught.value, SECRET)


def test_a_context_that_is_not_there_names_those_that_are(tmp_path: Path) -> None:
    path = write(tmp_path / "config", document())
    with pytest.raises(UsageError, match="has no context 'prd'; to do: choose one with --context: prod"):
        kubeconfig.load(path, "prd")


def test_a_file_that_is_not_there_says_how_to_name_one(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match=r"there is no kubeconfig at .*nowhere.*to do: name it with --kubeconfig"):
        kubeconfig.load(tmp_path / "nowhere", None)


def test_a_directory_and_a_giant_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MachineError):
        kubeconfig.load(tmp_path, None)
    write(tmp_path / "giant", b"#" * (kubeconfig.MAX_KUBECONFIG_BYTES + 1))
    with pytest.raises(MachineError, match="is larger than"):
        kubeconfig.load(tmp_path / "giant", None)


def test_no_parser_error_with_the_text_around_is_chained(tmp_path: Path) -> None:
    path = write(tmp_path / "config", f"users:\n- user:\n    token: {SECRET}\n  bad: : {SECRET}: [")
    with pytest.raises(UsageError) as caught:
        kubeconfig.load(path, None)
    assert not _mentions(caught.value, SECRET)


def _mentions(error: BaseException | None, secret: str) -> bool:
    """Whether any error of the chain shows it, as a traceback would."""
    if error is None:
        return False
    shown = f"{error!s} {error!r} {error.args!r}"
    return secret in shown or _mentions(error.__cause__, secret) or _mentions(error.__context__, secret)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(st.binary(max_size=300) | st.text(max_size=200).map(str.encode))
def test_any_bytes_are_a_kubeconfig_or_a_usage_error(content: bytes) -> None:
    try:
        parse(content, Path("/config"))
    except UsageError as error:
        assert "/config" in str(error)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(part=st.sampled_from(["cluster", "user", "context"]), key=st.text(max_size=12), value=_JSON)
def test_any_value_anywhere_is_taken_or_a_meshpki_error(tmp_path: Path, part: str, key: str, value: object) -> None:
    known = {"cluster": ["server", "proxy-url"], "user": ["token", "exec", "client-key-data"], "context": ["user"]}
    for name in [key, *known[part]]:
        path = write(tmp_path / "config", json.dumps(document(**{part: {name: value}})))
        try:
            kubeconfig.load(path, None)
        except MeshpkiError as error:
            assert "\n" not in str(error)


# --- which files


def test_kubeconfig_lists_are_put_together_as_kubectl_does(tmp_path: Path) -> None:
    first = document(clusters=[]) | {"current-context": None}
    second = document(cluster={"server": "https://second"}, user={"token": "other"}, contexts=[])
    second["current-context"] = "prod"
    one, two = write(tmp_path / "one", first), write(tmp_path / "two", second)
    made = kubeconfig.load(None, None, environment={"KUBECONFIG": f"{one}::{tmp_path / 'missing'}:{two}"})
    assert made.server == "https://second"
    assert isinstance(made.credential, TokenText)
    assert made.credential.token == SECRET, "the first file that has the name wins, whole"


def test_every_file_of_a_list_is_read_relative_to_itself(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "ca.crt").write_text(CA_PEM)
    one = write(tmp_path / "a" / "config", document(clusters=[]))
    roots = {"certificate-authority-data": None, "certificate-authority": "ca.crt"}
    two = write(tmp_path / "b" / "config", document(cluster=roots, users=[], contexts=[]))
    assert kubeconfig.load(None, None, environment={"KUBECONFIG": f"{one}:{two}"}).ca_pem == CA_PEM.encode()


def test_without_a_word_it_is_the_one_at_home(tmp_path: Path) -> None:
    (tmp_path / ".kube").mkdir()
    write(tmp_path / ".kube" / "config", document())
    assert kubeconfig.load(None, None, environment={"HOME": str(tmp_path)}).server == "https://10.0.0.1:6443"


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"KUBECONFIG": "/nowhere/config"}, r"no kubeconfig at /nowhere/config \(KUBECONFIG names it\)"),
        ({"HOME": "/nowhere"}, r"no kubeconfig at /nowhere/\.kube/config \(neither --kubeconfig nor KUBECONFIG"),
        ({}, "neither KUBECONFIG nor HOME is set"),
        ({"KUBECONFIG": ":".join(["/x"] * 65)}, "lists 65 files"),
    ],
)
def test_nothing_to_read_says_where_it_was_looked_for(environment: dict[str, str], says: str) -> None:
    with pytest.raises(MeshpkiError, match=says):
        kubeconfig.load(None, None, environment=environment)


def test_a_named_file_is_the_only_one(tmp_path: Path) -> None:
    path = write(tmp_path / "config", document())
    other = write(tmp_path / "other", document(cluster={"server": "https://other"}))
    assert kubeconfig.load(path, None, environment={"KUBECONFIG": str(other)}).server == "https://10.0.0.1:6443"


def test_contexts_are_listed_with_the_current_one_first(tmp_path: Path) -> None:
    whole = document()
    whole["contexts"] = [*whole["contexts"], {"name": "a", "context": {"cluster": "c1", "user": "u1"}}]  # type: ignore[misc]
    assert kubeconfig.contexts(write(tmp_path / "config", whole)) == ("prod", "a")


# --- files that a kubeconfig names


def test_relative_paths_begin_at_the_kubeconfig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pki").mkdir()
    (tmp_path / "pki" / "ca.crt").write_text(CA_PEM)
    roots = {"certificate-authority-data": None, "certificate-authority": "pki/ca.crt"}
    write(tmp_path / "config", document(cluster=roots))
    monkeypatch.chdir(tmp_path)
    assert kubeconfig.load(Path("config"), None).ca_pem == CA_PEM.encode()


@pytest.mark.parametrize("way", ["absolute", "dots", "link"])
def test_a_path_out_of_the_kubeconfigs_directory_is_refused(way: str, tmp_path: Path) -> None:
    outside, inside = tmp_path / "elsewhere.crt", tmp_path / "home"
    outside.write_text(CA_PEM)
    inside.mkdir()
    (inside / "link").symlink_to(outside)
    named = {"absolute": str(outside), "dots": "../elsewhere.crt", "link": "link"}[way]
    roots = {"certificate-authority-data": None, "certificate-authority": named}
    path = write(inside / "config", document(cluster=roots))
    with pytest.raises(KubeCredentialError, match=r"the kubeconfig names .*wanted: files below .*to do: "):
        kubeconfig.load(path, None)
    assert kubeconfig.load(path, None, allow_files=[tmp_path]).ca_pem == CA_PEM.encode()


def test_files_of_a_mounted_secret_are_inside_though_they_are_links(tmp_path: Path) -> None:
    mounted = tmp_path / "..2026_11_23"
    mounted.mkdir()
    (mounted / "ca.crt").write_text(CA_PEM)
    roots = {"certificate-authority-data": None, "certificate-authority": "ca.crt"}
    write(mounted / "config", document(cluster=roots))
    (tmp_path / "..data").symlink_to(mounted.name)
    for name in ("ca.crt", "config"):
        (tmp_path / name).symlink_to(f"..data/{name}")
    assert kubeconfig.load(tmp_path / "config", None).ca_pem == CA_PEM.encode()
