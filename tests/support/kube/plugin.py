"""The fixtures: `api_server` makes servers for one test; the others are shared by all tests of one process.

A test that asks for any of them is marked `e2e` and `kube`, and all tests of one age run in one worker.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support.kube import ground
from support.kube.flags import DEFAULT_ISSUER
from support.kube.pool import ApiServerPool
from support.kube_assets.releases import Release

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    from _pytest.terminal import TerminalReporter

    from support.kube.api_server import ApiServer

ISSUERS = ("https://new.example/issuer", "https://old.example/issuer")
"""Of `kube_137_issuers`: as in the middle of a change of issuer, the first signs and both are accepted."""
OLD_ISSUER = "kubernetes.default.svc"
"""What Istio's documentation of that age told its readers to set: no URL."""
_GROUPS = {
    "kube_113": "kube-113",
    "kube_113_without_requests": "kube-113",
    "kube_113_old_issuer": "kube-113",
    "kube_130": "kube-130",
    "kube_137": "kube-137",
    "kube_137_issuers": "kube-137",
    "shared_api_servers": None,
    "api_server": None,
}


class _CheckedPool(ApiServerPool):
    """Looks at the ground first: a missing program is a skip, a server that does not start is a failure."""

    def __call__(
        self,
        release: str = Release.MODERN,
        *flags: str,
        issuers: Sequence[str] = (DEFAULT_ISSUER,),
        beside: ApiServer | None = None,
    ) -> ApiServer:
        ground.require(Release(release))
        return super().__call__(release, *flags, issuers=issuers, beside=beside)


@pytest.fixture
def api_server() -> Iterator[ApiServerPool]:
    """Makes API servers: `api_server("v1.13.0", "--flag=value", issuers=[...])`; they end with the test."""
    pool = _CheckedPool()
    yield pool
    pool.close()


@pytest.fixture(scope="session")
def shared_api_servers() -> Iterator[ApiServerPool]:
    """Makes the servers below; a test that changes a server's flags or ends it makes one for itself."""
    pool = _CheckedPool()
    yield pool
    pool.close()


@pytest.fixture(scope="session")
def kube_113(shared_api_servers: ApiServerPool) -> ApiServer:
    """1.13.0 with TokenRequest and an https issuer."""
    return shared_api_servers(Release.FOUNDING)


@pytest.fixture(scope="session")
def kube_113_without_requests(shared_api_servers: ApiServerPool) -> ApiServer:
    """1.13.0 as it comes: legacy tokens only."""
    return shared_api_servers(Release.FOUNDING, issuers=())


@pytest.fixture(scope="session")
def kube_113_old_issuer(shared_api_servers: ApiServerPool) -> ApiServer:
    """1.13.0 with TokenRequest and an issuer that is no URL."""
    return shared_api_servers(Release.FOUNDING, issuers=(OLD_ISSUER,))


@pytest.fixture(scope="session")
def kube_130(shared_api_servers: ApiServerPool) -> ApiServer:
    """1.30.14."""
    return shared_api_servers(Release.MIDDLE)


@pytest.fixture(scope="session")
def kube_137(shared_api_servers: ApiServerPool) -> ApiServer:
    """1.37.2."""
    return shared_api_servers(Release.MODERN)


@pytest.fixture(scope="session")
def kube_137_issuers(shared_api_servers: ApiServerPool) -> ApiServer:
    """1.37.2 with two issuers."""
    return shared_api_servers(Release.MODERN, issuers=ISSUERS)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what starts API servers, before anybody selects by marks and before xdist groups."""
    for item in items:
        used = [name for name in _names(item) if name in _GROUPS]
        if not used:
            continue
        item.add_marker(pytest.mark.e2e)
        item.add_marker(pytest.mark.kube)
        group = next((group for name in used if (group := _GROUPS[name])), None)
        if group and item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(group))


def _names(item: pytest.Item) -> tuple[object, ...]:
    """The fixtures that a test takes, and those that its parameters name, for `request.getfixturevalue`."""
    case = getattr(item, "callspec", None)
    given = () if case is None else tuple(value for value in case.params.values() if isinstance(value, str))
    return (*given, *getattr(item, "fixturenames", ()))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Give all skips for one missing fact one place, so that they are told as one."""
    report = yield
    if isinstance(report.longrepr, tuple) and ground.SKIPPED in report.longrepr[2]:
        report.longrepr = (ground.__file__, 0, report.longrepr[2])
    return report


def pytest_terminal_summary(terminalreporter: TerminalReporter) -> None:
    """Say once, and aloud, that the real servers were left out."""
    skipped = [
        report.longrepr[2]
        for report in terminalreporter.stats.get("skipped", [])
        if isinstance(report.longrepr, tuple) and ground.SKIPPED in report.longrepr[2]
    ]
    if skipped:
        terminalreporter.section("NOT TRIED ON REAL KUBERNETES", red=True, bold=True)
        terminalreporter.line(f"{len(skipped)} tests were left out. {skipped[0].removeprefix('Skipped: ')}", red=True)
