"""The forms of attention that models use, and those that one mistake makes of a form."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import permutations, product
from typing import Any

from bridge_core.proof.causes.attention_core import Buckets, Form, Parts
from bridge_core.proof.causes.attention_layout import FUSED, LEAVES
from bridge_core.proof.causes.rotary import LAYOUTS, THETAS, Rotary

__all__ = ["Hints", "changed_forms", "usual_forms"]

_MOST = 20_000
"""Usual forms that are tried: about two seconds."""


@dataclass(frozen=True)
class Hints:
    """Sizes, and what the settings of both sides contain.

    Args:
        query: Numbers of a query over all heads, 0 if one projection holds all three.
        key: The same of a key.
        fused: Numbers of the projection that holds all three; 0 if there are several.
        paired: Whether one projection holds keys and values.
        length: Number of queries.
        keys: Number of keys.
        heads: Pairs (heads, kv heads) that the settings or the shapes contain, the likely one first.
        scales: Scales in the settings.
        thetas: Bases of rotary embeddings in the settings.
        windows: Windows in the settings.
        softcaps: Caps of logits in the settings.
    """

    query: int
    key: int
    fused: int
    paired: bool
    length: int
    keys: int
    heads: tuple[tuple[int, int], ...] = ()
    scales: tuple[float, ...] = ()
    thetas: tuple[float, ...] = ()
    windows: tuple[int, ...] = ()
    softcaps: tuple[float, ...] = ()

    def head_counts(self) -> list[tuple[int, int]]:
        """Return all pairs (heads, kv heads) that the sizes allow, the likely ones first."""
        if self.fused:
            pairs = [(h, h) for h in _divisors(self.fused // 3)] if self.fused % 3 == 0 else []
            pairs += [(h, g) for h, g in self.heads if self.fused % (h + 2 * g) == 0]
            for h in range(2, 65):
                pairs += [(h, g) for g in _divisors(h)[:-1] if self.fused % (h + 2 * g) == 0 and g < h]
        else:
            pairs = []
            for h in _divisors(self.query):
                size = self.query // h
                if self.key % size == 0 and h % (self.key // size) == 0:
                    pairs.append((h, self.key // size))
        sizes = [self.head_dim(h, g) for h, g in pairs]
        usual = [n for _, n in sorted((_unusual(size), n) for n, size in enumerate(sizes))]
        first = [pair for pair in self.heads if pair in pairs]
        return list(dict.fromkeys([*first, *(pairs[n] for n in usual)]))

    def head_dim(self, heads: int, kv_heads: int) -> int:
        """Return the numbers of one head."""
        return self.fused // (heads + 2 * kv_heads) if self.fused else self.query // heads


def _unusual(size: int) -> tuple[int, int]:
    order = (64, 128, 32, 16, 8, 256, 4, 96, 80, 2)
    return (order.index(size), 0) if size in order else (len(order) + (size == 1), size)


def _divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]


def usual_forms(parts: Parts, hints: Hints) -> Iterator[Form]:
    """Yield forms that models use, the likely ones first."""
    counts = hints.head_counts()[:8]
    if len(hints.heads) == 1:
        counts = counts[:1]
    fused = FUSED if hints.fused else FUSED[:3] if hints.paired else FUSED[:1]
    layouts = [(h, g, f) for h, g in counts for f in fused if f != "g 3 d" or g < h]
    masks = list(_usual_masks(parts, hints))
    ranked: list[tuple[Any, ...]] = []
    for n, (heads, kv_heads, how) in enumerate(layouts):
        head_dim = hints.head_dim(heads, kv_heads)
        rotaries = list(_usual_rotary(parts, hints, head_dim))
        scales = _scales(hints, heads, head_dim)[:4]
        for (i, rotary), (j, mask), (m, scale) in product(
            enumerate(rotaries), enumerate(masks), enumerate(scales)
        ):
            ranked.append((i + j + 2 * m + 2 * n, len(ranked), heads, kv_heads, how, rotary, mask, scale))
    ranked.sort(key=lambda entry: entry[:2])
    for _, _, heads, kv_heads, how, rotary, mask, scale in ranked[:_MOST]:
        groups = ("repeat", "tile") if 1 < kv_heads < heads else ("repeat",)
        for group in groups:
            yield replace(
                mask, heads=heads, kv_heads=kv_heads, fused=how, groups=group, rotary=rotary, scale=scale
            )


def _usual_masks(parts: Parts, hints: Hints) -> Iterator[Form]:
    """Yield forms that differ in what is seen."""
    plain = Form(1, 1)
    causal = replace(plain, causal=0)
    biased: list[tuple[str, ...]] = [(name,) for name in parts.biases]
    biased += [(a, b) for a in parts.biases for b in parts.biases if a < b]
    relative: list[Form] = []
    for name in parts.buckets:
        for both in (True, False):
            for distance in (128, 20):
                relative.append(replace(plain, relative=Buckets(name, distance, both)))
    masked = [(name, use) for use in ("keep", "masked") for name in parts.masks]
    if hints.length == hints.keys:
        yield causal
    yield plain
    for entry in masked:
        yield replace(plain, masks=(entry,))
        yield replace(causal, masks=(entry,))
    for form in relative:
        yield form
        yield replace(form, causal=0)
    for names in biased:
        yield replace(plain, biases=names)
    for window in dict.fromkeys((*hints.windows, *range(1, min(hints.keys, 33)))):
        yield replace(causal, window=window)
    for form in relative:
        for names in biased:
            yield replace(form, biases=names)
        for entry in masked:
            yield replace(form, masks=(entry,))
    yield replace(causal, relative="alibi")
    yield replace(plain, relative="alibi")
    for window in dict.fromkeys((*hints.windows, *range(1, min(hints.keys, 17)))):
        for entry in masked[: len(parts.masks)]:
            yield replace(causal, window=window, masks=(entry,))


def _usual_rotary(parts: Parts, hints: Hints, head_dim: int) -> Iterator[Rotary | None]:
    tables = [name for name, value in parts.given.items() if isinstance(value, tuple)]
    for table in tables:
        for layout in LAYOUTS:
            yield Rotary(layout=layout, theta=None, table=table)
    yield None
    thetas = tuple(dict.fromkeys((*hints.thetas, *THETAS[:3])))
    for theta in thetas:
        for size in (head_dim, head_dim // 2, head_dim // 4):
            if size >= 2 and size % 2 == 0:
                for layout in LAYOUTS:
                    yield Rotary(layout=layout, theta=theta, size=size)
    for size in range(2, min(head_dim, 33), 2):
        if size not in (head_dim // 2, head_dim // 4):
            for layout in LAYOUTS:
                yield Rotary(layout=layout, theta=thetas[0], size=size)


def _scales(hints: Hints, heads: int, head_dim: int) -> list[float]:
    width = heads * head_dim
    named = (head_dim**-0.5, 1.0, 1.0 / head_dim, width**-0.5, head_dim**0.5, heads**-0.5)
    return list(dict.fromkeys((*hints.scales, *named, float(head_dim), 1.0 / width, head_dim**-0.25)))


def changed_forms(form: Form, parts: Parts, hints: Hints) -> Iterator[Form]:
    """Yield forms that differ from one in a single respect, the likely mistakes first."""
    head_dim = hints.head_dim(form.heads, form.kv_heads)
    yield from _changed_masks(form, parts, hints)
    if form.rotary is None:
        for table in (name for name, value in parts.given.items() if isinstance(value, tuple)):
            for layout in LAYOUTS:
                yield replace(form, rotary=Rotary(layout=layout, theta=None, table=table))
        for theta in dict.fromkeys((*hints.thetas, *THETAS[:4])):
            for size in (head_dim, head_dim // 2, head_dim // 4):
                for layout in LAYOUTS:
                    yield replace(form, rotary=Rotary(layout=layout, theta=theta, size=size))
    else:
        for rotary in _changed_rotary(form.rotary, parts, hints, head_dim):
            yield replace(form, rotary=rotary)
    for scale in _scales(hints, form.heads, head_dim):
        yield replace(form, scale=scale)
    yield from _changed_layout(form, hints)
    for cap in (None, *hints.softcaps, 50.0, 30.0, 20.0, 10.0, 15.0, 100.0, 5.0, 1.0):
        yield replace(form, softcap=cap)
    for axis in ("keys", "queries", "heads"):
        yield replace(form, axis=axis)
    yield replace(form, late_scale=not form.late_scale)
    for change in _changes(parts):
        rest = tuple(c for c in form.changes if c.split()[0] != change.split()[0])
        yield replace(form, changes=(*rest, change))
    if form.changes:
        yield replace(form, changes=())
    yield replace(form, sequence=1 - form.sequence)


def _changed_masks(form: Form, parts: Parts, hints: Hints) -> Iterator[Form]:
    for causal in (None, 0, -1, 1, 2, -2, 3, -3, hints.keys - hints.length):
        yield replace(form, causal=causal)
    if form.window is not None:
        yield replace(form, window=None)
    near = range(1, min(hints.keys, 64))
    for window in dict.fromkeys((*hints.windows, *sorted(near, key=lambda w: abs(w - (form.window or 0))))):
        yield replace(form, window=window)
        if form.window is None and form.causal is None:
            yield replace(form, window=window, causal=window - 1)
    for n, (name, use) in enumerate(form.masks):
        rest = form.masks[:n] + form.masks[n + 1 :]
        yield replace(form, masks=rest)
        for other in ("keep", "masked", "added", "multiplied", "afterwards"):
            if other != use:
                yield replace(form, masks=(*rest, (name, other)))
    names = [name for name, _ in form.masks]
    for name in parts.masks:
        if name not in names:
            for use in ("keep", "masked", "added", "multiplied", "afterwards"):
                yield replace(form, masks=(*form.masks, (name, use)))
                if form.masks:
                    yield replace(form, masks=((name, use),))
    for name in form.biases:
        yield replace(form, biases=tuple(b for b in form.biases if b != name))
        yield replace(form, biases=(*form.biases, name))
    for name in parts.biases:
        if name not in form.biases:
            yield replace(form, biases=(*form.biases, name))
    yield replace(form, relative=None)
    yield replace(form, relative="alibi")
    for name in parts.buckets:
        for distance in (128, 20, 64, 256):
            for both, reverse in product((True, False), (False, True)):
                yield replace(form, relative=Buckets(name, distance, both, reverse))
    for fill in (("set", 0.0), ("add", -1.0), ("add", -10.0), ("set", -10.0), ("set", -1.0), ("add", -100.0)):
        yield replace(form, fill=fill)
    if form.fill is not None:
        yield replace(form, fill=None)
    for empty in ("uniform", "unmasked", "zero"):
        yield replace(form, empty=empty)


def _changed_rotary(rotary: Rotary, parts: Parts, hints: Hints, head_dim: int) -> Iterator[Rotary | None]:
    yield replace(rotary, layout="interleaved" if rotary.layout == "halves" else "halves")
    yield None
    for sign in (1, -1):
        yield replace(rotary, sign=sign)
    for on in ("qk", "q", "k"):
        yield replace(rotary, on=on)
    yield replace(rotary, exchanged=not rotary.exchanged)
    if rotary.table is not None:
        for name, value in parts.given.items():
            if isinstance(value, tuple):
                yield replace(rotary, table=name)
        size = 2 * parts.given[rotary.table][0].shape[-1]
        computed = Rotary(layout=rotary.layout, size=size)
        for theta in dict.fromkeys((*hints.thetas, *THETAS)):
            yield replace(computed, theta=theta)
        for offset in (1, -1, 2):
            yield replace(computed, offset=offset)
        return
    for theta in dict.fromkeys((*hints.thetas, *THETAS)):
        yield replace(rotary, theta=theta)
    for offset in (0, 1, -1, 2, -2, -hints.length, 1 - hints.length):
        yield replace(rotary, offset=offset)
    for ahead in (0, 1, -1, 2, hints.keys - hints.length):
        yield replace(rotary, ahead=ahead)
    for name, value in parts.given.items():
        if not isinstance(value, tuple):
            yield replace(rotary, positions=name)
        else:
            yield Rotary(layout=rotary.layout, theta=None, table=name)
    yield replace(rotary, positions=None)
    sizes = (head_dim, head_dim // 2, head_dim // 4, head_dim * 3 // 4, *range(2, min(head_dim, 17), 2))
    for size in dict.fromkeys(sizes):
        if size % 2 == 0 and size >= 2:
            yield replace(rotary, size=size)
            yield replace(rotary, size=size, divisor=head_dim)
    yield replace(rotary, divisor=rotary.size // 2)
    yield replace(rotary, divisor=rotary.size * 2)
    yield replace(rotary, step=1)
    for factor in (1.0, 0.5, 0.25, 0.125, 2.0, 4.0, 8.0, 1 / 16):
        yield replace(rotary, factor=factor)


def _changed_layout(form: Form, hints: Hints) -> Iterator[Form]:
    yield replace(form, groups="tile" if form.groups == "repeat" else "repeat")
    for order in ("d h", "h t d", "h d"):
        yield replace(form, splits=(order, order, order), merge=order)
        yield replace(form, splits=(order, order, order))
        yield replace(form, merge=order)
        for place in range(3):
            splits = list(form.splits)
            splits[place] = order
            yield replace(form, splits=(splits[0], splits[1], splits[2]))
    if hints.length == hints.keys:
        yield replace(form, exchanged=not form.exchanged)
    for roles in permutations("qkv"):
        yield replace(form, roles="".join(roles))
    if hints.fused or hints.paired:
        for fused in FUSED:
            yield replace(form, fused=fused)
    for heads, kv_heads in hints.head_counts():
        scaled = form.scale
        if scaled == hints.head_dim(form.heads, form.kv_heads) ** -0.5:
            scaled = hints.head_dim(heads, kv_heads) ** -0.5
        yield replace(form, heads=heads, kv_heads=kv_heads, scale=scaled)
        yield replace(form, heads=heads, kv_heads=kv_heads)


def _changes(parts: Parts) -> Iterator[str]:
    for leaf in (*LEAVES.values(), "out"):
        kernel = parts.weights.get(f"{leaf}.kernel")
        if kernel is not None and kernel.shape[0] == kernel.shape[1]:
            yield f"{leaf}.kernel transposed"
        if f"{leaf}.bias" in parts.weights:
            yield f"{leaf}.bias missing"
            yield f"{leaf}.bias doubled"
