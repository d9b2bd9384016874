"""The part of a file system's contract on failures: errors of ckptbridge's own, and no secrets in them."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bridge_core.errors import AccessDenied, BridgeError, RemoteFailure, SourceNotFound
from bridge_core.io import RangeAnswer, RemoteEntry, child_url
from bridge_core.testing.file_system_harness import FileSystemHarness, Outcome, content_of, outcome_of

__all__ = ["FileSystemErrors"]

_SECRET = "Vq7-secret-Zx3"
_SIZE = 5000


class FileSystemErrors(FileSystemHarness):
    """What methods raise, and what that shows."""

    def test_reading_what_is_not_there_is_an_error_of_its_own(self, tmp_path: Path) -> None:
        """As of a file that was removed after it was listed."""
        url, entry = self._sound(tmp_path, content_of(_SIZE))
        for missing in (f"{url}-gone", child_url(f"{url}-gone", "x.bin")):
            outcome = outcome_of(self.system.read, missing, 0, 10, entry)
            assert isinstance(outcome.error, SourceNotFound), (
                f"reading a file that is not there gave {outcome}: raise SourceNotFound"
            )

    def test_odd_urls_are_answered_or_refused(self, tmp_path: Path) -> None:
        """Whatever a user writes: an answer, or a `BridgeError`."""
        folder = self.put(tmp_path, {"plain.bin": b"content"})
        for url in self._odd_urls(folder):
            for method, outcome in self._calls(url, RemoteEntry("plain.bin", 7)):
                assert not outcome.is_foreign, (
                    f"`{method}` of {url[:60]!r} raised {outcome} ({outcome.error}): raise SourceNotFound, "
                    "UsageError or RemoteFailure"
                )

    def _odd_urls(self, folder: str) -> Iterator[str]:
        for scheme in self.system.schemes:
            yield from (
                f"{scheme}://",
                f"{scheme}:///",
                f"{scheme}://x",
                f"{scheme}://[/x",
                f"{scheme}://:/x",
            )
        for end in ("//", "/../..", "/%", "/%zz", "/%00", "/%ff", "/\x00", "/a\nb", "?", "#"):
            yield folder.rstrip("/") + end
        yield f"{folder.rstrip('/')}/{'n' * 5000}"

    @pytest.mark.parametrize(
        ("fault", "expected"),
        [("denied", AccessDenied), ("unavailable", RemoteFailure), ("no ranges", RemoteFailure)],
    )
    def test_a_failing_server_is_an_error_of_its_class(
        self, fault: str, expected: type[BridgeError], tmp_path: Path
    ) -> None:
        """Which decides whether the request is repeated, and what the user reads."""
        url, entry = self._sound(tmp_path, content_of(_SIZE))
        context = self.failing(fault)
        if context is None:
            pytest.skip(f"failing({fault!r}) is not given")
        with context:
            calls = list(self._calls(url, entry))
        for method, outcome in calls:
            if method == "pinned" or (fault == "no ranges" and method != "read"):
                continue  # needs no server, or none that sends ranges
            if method == "entries" and not self.lists_folders:
                continue
            words = f"`{method}` from a server that fails ({fault!r}) gave {outcome}"
            assert type(outcome.error) is expected, f"{words}: raise {expected.__name__}"
            error: Any = outcome.error
            assert error.path is not None, f"{words} without path=: set path=shown_url(url)"
            if fault == "unavailable":
                assert error.is_temporary, f"{words} that is not repeated: set is_temporary=True"

    def test_a_cut_answer_is_not_filled_up(self, tmp_path: Path) -> None:
        """The core compares lengths: what is missing is missing, or a `RemoteFailure` that is temporary."""
        url, entry = self._sound(tmp_path, content_of(_SIZE))
        context = self.failing("cut")
        if context is None:
            pytest.skip("failing('cut') is not given")
        with context:
            outcome = outcome_of(self.system.read, url, 0, _SIZE, entry)
        if isinstance(outcome.value, RangeAnswer):
            assert len(outcome.value.data) < _SIZE, (
                "an answer that ended before its end was filled up to the length that was asked for: return "
                "what came, or raise RemoteFailure(..., is_temporary=True)"
            )
            return
        is_temporary = isinstance(outcome.error, RemoteFailure) and outcome.error.is_temporary
        assert is_temporary, f"a cut answer gave {outcome}: raise RemoteFailure(..., is_temporary=True)"

    def test_messages_hold_no_secrets(self, tmp_path: Path) -> None:
        """Neither a password nor a signature of the URL is in a message, its cause, or the log."""
        url, entry = self._sound(tmp_path, content_of(_SIZE))
        head, _, rest = url.partition("://")
        outcomes: list[tuple[str, str, Outcome]] = []
        handler = _Remembers()
        root, level = logging.getLogger(), logging.getLogger().level
        root.addHandler(handler)
        root.setLevel(logging.DEBUG)
        try:
            for fault in ("", "denied", "unavailable", "no ranges", "cut"):
                for secret_url in (
                    f"{head}://user:{_SECRET}@{rest}",
                    f"{head}://user:{_SECRET}@{rest}-missing",
                    f"{url}-missing?X-Signature={_SECRET}",
                    f"{url}?X-Signature={_SECRET}",
                ):
                    context = self.failing(fault) if fault else None
                    if fault and context is None:
                        continue
                    for method in ("pinned", "entry", "entries", "read"):
                        again = self.failing(fault) if fault else None
                        if again is None:
                            outcome = self._call(method, secret_url, entry)
                        else:
                            with again:
                                outcome = self._call(method, secret_url, entry)
                        outcomes.append((method, fault, outcome))
        finally:
            root.setLevel(level)
            root.removeHandler(handler)
        for method, fault, outcome in outcomes:
            error = outcome.error
            shown = "" if error is None else "".join(traceback.format_exception(error)) + repr(vars(error))
            assert _SECRET not in shown, (
                f"an error of `{method}`{f' ({fault})' if fault else ''}, a {outcome}, shows the password or "
                "the signature of the URL: use shown_url(url), leave out the texts of the client's errors, "
                "and raise ... from None"
            )
        assert not any(_SECRET in line for line in handler.lines), (
            "the log shows the password or the signature of the URL: write shown_url(url)"
        )

    def _calls(self, url: str, entry: RemoteEntry) -> Iterator[tuple[str, Outcome]]:
        for method in ("pinned", "entry", "entries", "read"):
            yield method, self._call(method, url, entry)

    def _call(self, method: str, url: str, entry: RemoteEntry) -> Outcome:
        given = (0, 5, entry) if method == "read" else ()
        return outcome_of(getattr(self.system, method), url, *given)


class _Remembers(logging.Handler):
    """Remembers what is logged."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())
