"""Runs contracts on plugins that are broken on purpose: exactly one test may fail, with advice.

A table is a list of `Fault`. That its own test fails is checked of every entry; that no other test does
needs the whole contract, and is checked of some, and at night of all. Tests run by a pytest inside this
process, without the plugins that cost time, so that an entry costs what its contract's tests cost.
"""

from __future__ import annotations

import contextlib
import tempfile
import types
from dataclasses import dataclass

import hypothesis
import pytest

__all__ = [
    "Fault",
    "Outcomes",
    "check_caught",
    "check_fault",
    "check_healthy",
    "every",
    "fault",
    "parameters",
    "run_contract",
]

_QUIET = [
    *("-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:terminal", "-p", "no:faulthandler"),
    *("-p", "no:doctest", "-p", "no:junitxml", "-p", "no:hypothesispytest", "-p", "no:logging"),
    *("-p", "no:unraisableexception", "-p", "no:threadexception"),  # they collect garbage in each run
    *("--noconftest", "--import-mode=importlib", "--capture=no", "-W", "error"),
    *("-W", "ignore::pytest.PytestAssertRewriteWarning"),
    *("-o", "tmp_path_retention_policy=none"),
]

_EACH = 20
"""Of so many entries one runs its whole contract in the slow ring; all do in the nightly one."""

_EXAMPLES = 6
"""Examples of each property: the faults of a table are not rare ones."""


@dataclass(frozen=True)
class Fault:
    """One broken plugin.

    Args:
        contract: The contract's class, with the broken plugin as what is tested.
        test: Name of the only test that may fail.
        words: What the failure's message contains, so that the author knows what to change.
    """

    contract: type
    test: str
    words: tuple[str, ...]

    @property
    def name(self):
        return self.contract.__name__


def fault(contract, test, *words, name=None, **attributes):
    """Return the entry of a contract whose attributes are replaced, e.g. ``format=Broken()``.

    Args:
        contract: The contract with a healthy plugin.
        test: Name of the only test that may fail.
        words: What the failure's message contains.
        name: Name of the entry; by default that of the class of the first attribute.
        attributes: The attributes of the class.
    """
    first = next(iter(attributes.values()))
    return Fault(type(name or type(first).__name__, (contract,), attributes), test, words)


@dataclass(frozen=True)
class Outcomes:
    """What the tests of a contract came to.

    Args:
        passed: Names of tests that passed in every case.
        failed: Name of each test that failed -> the reports of its cases.
        messages: Name of each test that failed -> what its errors say, without the source text.
        skipped: Names of tests of which some case was skipped and none failed.
    """

    passed: frozenset[str]
    failed: dict[str, str]
    messages: dict[str, str]
    skipped: frozenset[str]


def every(table):
    """Return the parameters of `check_caught`, all in the slow ring."""
    return [pytest.param(one, id=one.name, marks=pytest.mark.slow) for one in table]


def parameters(table, sample=(), twice=()):
    """Return the parameters of `check_fault`: a sample runs always, some in the slow ring, the rest at night.

    Args:
        table: The entries.
        sample: Names of those that run always.
        twice: Names of those that break a second promise, too, and are left out.
    """
    names = [one.name for one in table]
    assert len(set(names)) == len(names), "two entries have one name"
    assert {*sample, *twice} <= set(names), "the sample names an entry that the table does not have"
    entries = []
    for number, one in enumerate(table):
        mark = pytest.mark.zoo if number % _EACH else pytest.mark.slow
        if one.name not in twice:
            entries.append(pytest.param(one, id=one.name, marks=() if one.name in sample else mark))
    return entries


def check_caught(one, folder):
    """Check that the fault's own test fails, and that it says what to change."""
    _check_words(one, run_contract(one.contract, folder, only=one.test))


def check_fault(one, folder):
    """Check that the fault's own test fails and no other, and that it says what to change."""
    outcomes = run_contract(one.contract, folder)
    others = {name: text for name, text in outcomes.failed.items() if name != one.test}
    assert not others, f"{one.name} fails other tests:\n\n" + "\n".join(others.values())
    _check_words(one, outcomes)


def _check_words(one, outcomes):
    assert one.test in outcomes.failed, f"{one.name} passes {one.test}"
    message = outcomes.messages[one.test]
    missing = [word for word in one.words if word not in message]
    assert not missing, f"the message of {one.test} lacks {missing}:\n\n{message}"


def check_healthy(contract, folder, table):
    """Check that a healthy plugin passes everything, and that each test of the table runs on it."""
    found = run_contract(contract, folder)
    assert not found.failed, "\n".join(found.failed.values())
    idle = {one.test for one in table if issubclass(one.contract, contract)} - found.passed
    assert not idle, f"these tests did not run to their end: {sorted(idle)}"


def run_contract(contract, folder, *, only=""):
    """Run the tests of a contract's class, and return what became of each.

    Args:
        contract: The class; its own name need not begin with ``Test``.
        folder: An empty folder.
        only: Name of the one test to run; by default all.
    """
    folder.joinpath("pytest.ini").write_text("[pytest]\n")
    recorder = _Recorder(contract, only)
    options = ["-c", str(folder / "pytest.ini"), "--rootdir", str(folder), "--basetemp", str(folder / "runs")]
    with _no_shrinking(contract), contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(folder))
        pytest.main([*_QUIET, *options, __file__], plugins=[recorder])
    assert recorder.outcomes, f"no test of {contract.__name__} was collected"
    failed, messages = (
        {name: "\n".join(texts) for name, texts in kept.items()}
        for kept in (recorder.failures, recorder.messages)
    )
    skipped = frozenset(recorder.skipped - failed.keys())
    return Outcomes(frozenset(recorder.outcomes) - skipped - failed.keys(), failed, messages, skipped)


class _Module(pytest.Module):
    """A module that holds nothing but one contract."""

    def _getobj(self):
        return self.given


class _Recorder:
    def __init__(self, contract, only):
        self.module = types.ModuleType("contract")
        # a class of its own: the collected one has to be named for tests
        others = {name: None for name in dir(contract) if name.startswith("test") and name != only}
        members = {"__module__": contract.__module__, **(others if only else {})}
        self.module.TestContract = type("TestContract", (contract,), members)
        self.outcomes, self.skipped, self.failures, self.messages = set(), set(), {}, {}

    def pytest_pycollect_makemodule(self, module_path, parent):
        collected = _Module.from_parent(parent, path=module_path)
        collected.given = self.module
        return collected

    def pytest_runtest_logreport(self, report):
        name = report.nodeid.rpartition("::")[2].partition("[")[0]
        self.outcomes.add(name)
        if report.skipped:
            self.skipped.add(name)
        if report.failed:
            self.failures.setdefault(name, []).append(report.longreprtext)
            crash = getattr(report.longrepr, "reprcrash", None)
            self.messages.setdefault(name, []).append(crash.message if crash else report.longreprtext)

    def pytest_collectreport(self, report):
        if report.failed:
            raise AssertionError(f"a contract cannot be collected:\n{report.longreprtext}")


@contextlib.contextmanager
def _no_shrinking(contract):
    """Let hypothesis stop at the first failure, always the same: the smallest one is of no use here."""
    changed = []
    for name in dir(contract):
        test = getattr(contract, name)
        if name.startswith("test") and hasattr(test, "hypothesis"):
            usual = test._hypothesis_internal_use_settings
            changed.append((test, usual))
            test._hypothesis_internal_use_settings = hypothesis.settings(
                usual,
                max_examples=min(usual.max_examples, _EXAMPLES),
                phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
                derandomize=True,
                database=None,
                report_multiple_bugs=False,
            )
    try:
        yield
    finally:
        for test, usual in changed:
            test._hypothesis_internal_use_settings = usual
