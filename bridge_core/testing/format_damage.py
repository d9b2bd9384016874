"""The contract of damaged and hostile content: refused with a `BridgeError`, and not believed."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from bridge_core.errors import BridgeError
from bridge_core.state import Array, Key, full
from bridge_core.testing.bounded_computing import MOST_SECONDS, Endless, bounded_computing
from bridge_core.testing.comparison import snapshot
from bridge_core.testing.harness import MB, FormatHarness, traced_memory
from bridge_core.testing.hostile_content import FOREIGN, hostile_contents
from bridge_core.testing.strategies import same_bits

__all__ = ["DamageContract", "Outcome"]

_MOST = 48 * MB
"""Memory that reading a file of a few hundred bytes may take."""

_FLIPPED, _SHIFTED, _CLAIMED = 100, 40, 160


@dataclass(frozen=True)
class Outcome:
    """What became of reading damaged content.

    Args:
        damage: What was changed, in words.
        values: All tensors, or None if an exception was raised.
        error: The exception; None if there was none; `Endless` if reading had to be stopped.
        nbytes: The most memory that was allocated at once, if it was measured.
    """

    damage: str
    values: dict[Key, Array] | None = None
    error: BaseException | None = None
    nbytes: int = 0

    @property
    def refused(self) -> bool:
        """Whether the content was refused as it should be."""
        return isinstance(self.error, BridgeError)

    @property
    def endless(self) -> bool:
        """Whether reading had to be stopped."""
        return isinstance(self.error, Endless)


class DamageContract(FormatHarness):
    """Damage is found, or harmless; content that lies about sizes costs nothing."""

    times_damage: ClassVar[float] = 1
    """How many damaged contents are tried, as a multiple of the usual number."""

    def test_damage_raises_only_bridge_errors(self, path: Path) -> None:
        """Flipped bits, bytes put in or taken out, cut files, other content, impossible sizes."""
        claims = self._claims(path)
        if any(one.endless for one in claims):
            pytest.skip("test_claimed_sizes_are_not_believed is for this")
        self.write(self.varied_sample(), path)
        content = self.content(path)
        damages = (self.outcome(path, changed, damage) for damage, changed in self._damages(content))
        for one in itertools.chain(damages, claims):
            known = one.error is None or one.refused or isinstance(one.error, MemoryError)
            assert known, (
                f"{one.damage}: reading raised {type(one.error).__name__}: {one.error}. Check what is read, "
                "and raise MalformedFile; parse_json and SourceFile.read raise errors of this kind already."
            )

    def test_claimed_sizes_are_not_believed(self, path: Path) -> None:
        """A file of a few hundred bytes whose header has a tensor of a TiB takes no memory or time for it."""
        for one in self._claims(path):
            assert not one.endless, (
                f"{one.damage}: reading it computed for {MOST_SECONDS} seconds, and was stopped. Loop over "
                "what is in the file, not over a number that the file gives; compare it with the size of "
                "the file first."
            )
            believed = one.nbytes > _MOST or isinstance(one.error, MemoryError)
            assert not believed, (
                f"{one.damage}: reading it allocated {one.nbytes} bytes or ran out of memory. Compare every "
                "length with the size of the file before allocating; SourceFile.read does so, "
                "np.empty, bytes and read_into do not."
            )

    def outcome(
        self, path: Path, content: Mapping[str, bytes], damage: str, *, measured: bool = False
    ) -> Outcome:
        """Read all tensors of damaged content."""
        self.put(path, content)
        if measured:
            with traced_memory() as memory:
                one = self._read_all(path, damage)
            return Outcome(damage, one.values, one.error, memory.nbytes)
        return self._read_all(path, damage)

    def _read_all(self, path: Path, damage: str) -> Outcome:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                with bounded_computing(), self.read(path) as found:
                    return Outcome(
                        damage,
                        {key: np.array(found.tensor(key).read(full(found.spec(key).shape))) for key in found},
                    )
            except (Exception, Endless) as err:
                err.__traceback__ = None  # it holds what the format allocated
                return Outcome(damage, error=err)

    def _claims(self, path: Path) -> list[Outcome]:
        """Return what became of contents with impossible sizes; each class tries them once."""
        known = self._known_claims
        if type(self) not in known:
            outcomes: list[Outcome] = []
            for place, damage, changed in self._claiming(path):
                outcomes.append(self.outcome(path.parent / place, changed, damage, measured=True))
                if outcomes[-1].endless:  # one is enough
                    break
            known[type(self)] = outcomes
        return known[type(self)]

    def _claiming(self, path: Path) -> Iterator[tuple[str, str, dict[str, bytes]]]:
        most = int(_CLAIMED * self.times_damage)
        for shape in ((1,) * 12, (5, 3)):
            place = path.with_name(f"sizes{len(shape)}{path.suffix}")
            state = self.state_of({("m", "w"): self.array(*shape)})
            if self.refused_to_write(state, place):  # many axes are too many for some formats
                self.write(self.state_of({("m", "w"): self.array(*shape[:6])}), place)
            content = self.content(place)
            for name, data in content.items():
                for what, changed in hostile_contents(data, most // len(content)):
                    yield place.name, f"{what} in {name or 'the file'}", {**content, name: changed}

    _known_claims: ClassVar[dict[type, list[Outcome]]] = {}

    def _damages(self, content: dict[str, bytes]) -> Iterator[tuple[str, dict[str, bytes]]]:
        """Yield what was damaged, and the content."""
        rng = np.random.default_rng(5)
        total = sum(len(data) for data in content.values()) or 1
        for name, data in content.items():
            file = name or "the file"
            for other in FOREIGN:
                yield f"{file} replaced by {other[:8]!r}", {**content, name: other}
            if not data:
                continue
            share = self.times_damage * max(0.1, len(data) / total)
            for _ in range(int(_FLIPPED * share)):
                at, bit = int(rng.integers(0, len(data))), int(rng.integers(0, 8))
                changed = bytearray(data)
                changed[at] ^= 1 << bit
                yield f"bit {bit} of byte {at} of {file} flipped", {**content, name: bytes(changed)}
            for _ in range(int(_SHIFTED * share)):
                at, length = int(rng.integers(0, len(data))), int(rng.integers(1, 9))
                inserted = bytes(rng.integers(0, 256, length, np.uint8))
                yield (
                    f"{length} bytes put in at byte {at} of {file}",
                    {**content, name: data[:at] + inserted + data[at:]},
                )
                yield (
                    f"{length} bytes taken out at byte {at} of {file}",
                    {**content, name: data[:at] + data[at + length :]},
                )
                yield f"{file} cut off at byte {at}", {**content, name: data[:at]}


class FileDamageContract(DamageContract):
    """What holds for a single file."""

    def test_a_file_cut_off_anywhere_is_refused(self, path: Path) -> None:
        """At its ends at every byte, and at many places between."""
        self.write(self.varied_sample(), path)
        content = self.content(path)[""]
        ends = (*range(1, min(40, len(content))), *range(max(1, len(content) - 40), len(content)))
        between = np.random.default_rng(3).integers(1, len(content), 40).tolist()
        for cut in sorted({*ends, *between}):
            one = self.outcome(path, {"": content[:cut]}, "cut")
            assert one.error is not None, (
                f"A file of {len(content)} bytes was cut off after {cut}, and was read without an error, "
                f"with {len(one.values or ())} tensors. Store the size or the number of bytes that follow, "
                "and compare it with file.size in open."
            )

    def test_an_empty_file_is_refused(self, path: Path) -> None:
        """A file of zero bytes is not a state without tensors."""
        one = self.outcome(path, {"": b""}, "empty")
        assert one.error is not None, (
            "A file of zero bytes was read as a state without tensors. Raise MalformedFile: it is what an "
            "interrupted copy leaves."
        )

    def test_bytes_after_the_end_are_refused_or_harmless(self, path: Path) -> None:
        """They change no value."""
        state = snapshot(self.sample())
        content = self.content(self.write(self.sample(), path))[""]
        for more in (b"\0", bytes(4096), b"more" * 9):
            one = self.outcome(path, {"": content + more}, "longer")
            if one.values is not None:
                same = set(one.values) == set(state) and all(
                    same_bits(one.values[key], state[key]) for key in state
                )
                assert same, (
                    f"{len(more)} bytes were added at the end of a file, and other values were read. Count "
                    "offsets from the beginning, and refuse a file of another size."
                )
