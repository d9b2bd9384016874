"""The contract of file systems catches those that are broken in one way, each in the test meant for it."""

from __future__ import annotations

import pytest
from support.broken_filesystems import (
    BROKEN,
    BROKEN_COMMITS,
    COMMIT,
    Bare,
    CommitsContract,
    Store,
    StoreContract,
)
from support.broken_plugins import (
    check_caught,
    check_fault,
    check_healthy,
    every,
    fault,
    parameters,
    run_contract,
)

from bridge_core import default_registry


class NotListed(Bare):
    """A server without listings, versions and folders."""

    def entries(self, url):
        self.check(url)

    def folder(self, key):
        return None

    def version(self, content):
        return ""


class BareContract(StoreContract):
    system = NotListed()
    lists_folders = False
    has_versions = False


class EmptyLists(NotListed):
    def entries(self, url):
        self.check(url)
        return []


class CountsVersions(NotListed):
    def version(self, content):
        return str(len(content))


class OtherSchemes(Store):
    schemes = ("shop",)


LISTED = "test_a_folder_lists_what_is_directly_in_it"
TABLE = [
    *(fault(StoreContract, test, *words, system=broken()) for broken, test, *words in BROKEN),
    *(fault(CommitsContract, test, *words, system=broken()) for broken, test, *words in BROKEN_COMMITS),
    fault(
        StoreContract,
        "test_is_a_file_system_that_is_registered",
        "is not registered",
        name="NotRegistered",
        registry=default_registry(),
    ),
    fault(StoreContract, "test_its_urls_have_its_schemes", "shop://", system=OtherSchemes()),
    fault(BareContract, LISTED, "return None", system=EmptyLists()),
    fault(
        BareContract,
        "test_a_version_changes_with_the_content",
        "has_versions = True",
        system=CountsVersions(),
    ),
]


def test_a_healthy_file_system_passes(tmp_path):
    check_healthy(StoreContract, tmp_path, [one for one in TABLE if one.test != COMMIT])


def test_a_file_system_that_commits_folders_passes(tmp_path):
    check_healthy(CommitsContract, tmp_path, [one for one in TABLE if one.test == COMMIT])


def test_a_file_system_that_only_reads_passes(tmp_path):
    outcomes = run_contract(BareContract, tmp_path)
    assert not outcomes.failed, "\n".join(outcomes.failed.values())
    assert len(outcomes.passed) > 12


@pytest.mark.parametrize("one", every(TABLE))
def test_a_broken_file_system_is_caught(one, tmp_path):
    check_caught(one, tmp_path)


@pytest.mark.parametrize("one", parameters(TABLE, sample=("PinsAgain", "ShowsCauses")))
def test_a_broken_file_system_fails_no_other_test(one, tmp_path):
    check_fault(one, tmp_path)
