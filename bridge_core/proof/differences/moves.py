"""Moves: where each element of a tensor comes from in another, as a view and places along its axes."""

from __future__ import annotations

import math
import string
from dataclasses import dataclass, field

import numpy as np

from bridge_core.ops import Op, Permute, Reshape, chain_tensors
from bridge_core.proof.differences.axis_orders import AxisOrder, named_order
from bridge_core.state import (
    Array,
    ArrayTensor,
    LazyTensor,
    Region,
    Tensor,
    TensorSpec,
    region_shape,
    regions,
)

__all__ = ["Move", "MoveName", "identity"]

Indexes = tuple[Array | None, ...]


@dataclass(frozen=True)
class MoveName:
    """What a move is called.

    Args:
        kinds: The kinds of its steps.
        texts: The steps as phrases.
        code: numpy, with ``{}`` in place of the array.
        bits: Bits of choice in it.
    """

    kinds: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    code: str = "{}"
    bits: float = 0.0


@dataclass(frozen=True, eq=False)
class Move:
    """``left.reshape(split).transpose(axes)[places along each axis].reshape(shape)``.

    Args:
        source: Shape of the left tensor.
        split: The shape it is viewed in.
        axes: The order of these axes.
        indexes: For each axis after that, the places that are taken, -1 for none; None for all in order.
        shape: Shape of the right tensor.
    """

    source: tuple[int, ...]
    split: tuple[int, ...]
    axes: tuple[int, ...]
    indexes: Indexes
    shape: tuple[int, ...]
    viewed: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        """Work out the shape after the permutation."""
        object.__setattr__(self, "viewed", tuple(self.split[axis] for axis in self.axes))

    @property
    def picked(self) -> tuple[int, ...]:
        """The shape before the last reshape."""
        pairs = zip(self.viewed, self.indexes, strict=True)
        return tuple(size if index is None else len(index) for size, index in pairs)

    @property
    def partial(self) -> bool:
        """Whether some elements of the right tensor come from nowhere."""
        return any(index is not None and bool((index < 0).any()) for index in self.indexes)

    def places(self, places: Array) -> Array:
        """Return where elements come from, as places in row-major order; -1 for nowhere."""
        corner = list(np.unravel_index(places, self.picked)) if self.picked else []
        known = np.ones(places.shape, bool)
        for axis, index in enumerate(self.indexes):
            if index is not None:
                corner[axis] = index[corner[axis]]
                known &= corner[axis] >= 0
        strides = regions.row_major_strides(self.split)
        total = np.zeros(places.shape, np.int64)
        for at, axis in zip(corner, self.axes, strict=True):
            total += at * strides[axis]
        return np.where(known, total, -1)

    def tensor(self, left: Tensor) -> Tensor:
        """Return the moved tensor; elements from nowhere have any value."""
        if isinstance(left, ArrayTensor):
            return self._of_array(left.array)
        before: list[Op] = []
        if self.split != self.source:
            before.append(Reshape(self.source, self.split))
        if self.axes != tuple(range(len(self.axes))):
            before.append(Permute(self.axes))
        (moved,) = chain_tensors((left,), before)
        if any(index is not None for index in self.indexes):
            moved = _taken(moved, self.indexes, self.picked)
        if self.picked != self.shape:
            (moved,) = chain_tensors((moved,), [Reshape(self.picked, self.shape)])
        return moved

    def _of_array(self, array: Array) -> Tensor:
        """Return the moved tensor of an array in memory, without a copy where numpy needs none."""
        view = array.reshape(self.split).transpose(self.axes)
        moved: Tensor = ArrayTensor(view)
        if any(index is not None for index in self.indexes):

            def read(region: Region) -> Array:
                pairs = zip(region, self.indexes, strict=True)
                places = [_wanted(part, index) for part, index in pairs]
                return ArrayTensor(view[np.ix_(*places)]).read(())

            moved = LazyTensor(TensorSpec(self.picked, array.dtype), read)
        if self.picked != self.shape:
            (moved,) = chain_tensors((moved,), [Reshape(self.picked, self.shape)])
        return moved

    def known(self, region: Region) -> Array | None:
        """Return which elements of a region of the right tensor come from somewhere; None for all.

        It is asked of moves only whose last step is not a reshape.
        """
        if not self.partial:
            return None
        mask = np.ones(region_shape(region), bool)
        for axis, index in enumerate(self.indexes):
            if index is not None:
                part = index[region[axis]] >= 0
                mask &= part.reshape(-1, *(1,) * (len(self.indexes) - axis - 1))
        return mask

    def name(self) -> MoveName:
        """Return what the move is called."""
        name = self._view_name()
        current = self.picked
        for axis, index in enumerate(self.indexes):
            if index is not None and not np.array_equal(index, np.arange(self.viewed[axis])):
                order = named_order(index, axis, current)
                name = _with(name, order)
        if self.picked != self.shape and name.kinds and name.kinds[0] not in ("Fortran order", "reshaped"):
            return MoveName(name.kinds, name.texts, f"{name.code}.reshape({_listed(self.shape)})", name.bits)
        return name

    def _view_name(self) -> MoveName:
        """Name the reshapes and the permutation."""
        straight = tuple(range(len(self.axes)))
        backwards = straight[::-1]
        if self.axes == straight:
            if self.shape == self.source or self.picked != self.viewed:
                return MoveName()
            return MoveName(
                ("reshaped",), (f"reshaped to {list(self.shape)}",), f"{{}}.reshape({_listed(self.shape)})"
            )
        code = "{}" if self.split == self.source else f"{{}}.reshape({_listed(self.split)})"
        code += f".transpose({_listed(self.axes)})"
        if self.split == self.source and self.viewed == self.shape:
            kind, text = _axes_name(self.axes, self.split)
            return MoveName((kind,), (text,), code)
        if self.axes == backwards and self.shape != self.viewed and self.split == self.source:
            shape = _listed(self.shape)
            text = "written in Fortran order" + (
                "" if self.shape == self.source else f" and reshaped to {list(self.shape)}"
            )
            return MoveName(("Fortran order",), (text,), f"{{}}.T.reshape({shape})")
        if self.axes == backwards and self.viewed == self.shape and self.source == self.shape:
            return MoveName(("Fortran order",), ("read in Fortran order",), code)
        letters = string.ascii_lowercase
        names = dict(enumerate(letters[: len(self.split)]))
        source = _grouped(self.split, self.source, list(names.values()))
        target = _grouped(self.viewed, self.shape, [names[axis] for axis in self.axes])
        stated = ", ".join(f"{names[n]} = {size}" for n, size in enumerate(self.split))
        kind = "interleaved" if self.shape == self.source else "flattened in another order"
        text = f"rearranged {source} -> {target}, {stated}"
        return MoveName((kind,), (text,), code, 6.0)


def identity(shape: tuple[int, ...]) -> Move:
    """Return the move that leaves every element where it is."""
    return Move(shape, shape, tuple(range(len(shape))), (None,) * len(shape), shape)


def _with(name: MoveName, order: AxisOrder) -> MoveName:
    code = order.code.replace("{}", name.code)
    return MoveName((*name.kinds, order.kind), (*name.texts, order.text), code, name.bits + order.bits)


def _axes_name(axes: tuple[int, ...], shape: tuple[int, ...]) -> tuple[str, str]:
    if sum(size > 1 for size in shape) <= 2 or len(axes) == 2:
        return "transposed", "transposed"
    moved = [place for place, axis in enumerate(axes) if place != axis]
    if len(moved) == 2:
        return "transposed", f"transposed, axes {moved[0]} and {moved[1]}"
    if axes == tuple(range(len(axes)))[::-1]:
        return "permuted axes", "transposed, all axes reversed"
    return "permuted axes", f"its axes were permuted to {list(axes)}"


def _grouped(fine: tuple[int, ...], coarse: tuple[int, ...], names: list[str]) -> str:
    """Return axis names, with brackets around those that are one axis of the coarse shape."""
    terms: list[str] = []
    at = 0
    for size in coarse:
        run: list[str] = []
        product = 1
        while at < len(fine) and (product < size or (fine[at] == 1 and product == size and not run)):
            run.append(names[at])
            product *= fine[at]
            at += 1
        terms.append(run[0] if len(run) == 1 else f"({' '.join(run)})")
    while at < len(fine):
        terms.append(names[at])
        at += 1
    return " ".join(terms)


def _taken(tensor: Tensor, indexes: Indexes, shape: tuple[int, ...]) -> Tensor:
    """Return a tensor of the places that are taken along each axis."""

    def read(region: Region) -> Array:
        return _read_places(tensor, [_wanted(*pair) for pair in zip(region, indexes, strict=True)])

    return LazyTensor(TensorSpec(shape, tensor.spec.dtype), read)


def _wanted(part: slice, index: Array | None) -> Array:
    """Return the places that a part of an axis takes; of those from nowhere, the first."""
    return np.arange(part.start, part.stop, part.step) if index is None else np.maximum(index[part], 0)


def _read_places(tensor: Tensor, wanted: list[Array]) -> Array:
    """Read the places along each axis, in few regions."""
    if any(len(places) == 0 for places in wanted):
        return np.empty(tuple(map(len, wanted)), tensor.spec.dtype)
    spans = [(int(places.min()), int(places.max()) + 1) for places in wanted]
    sparse = [(stop - start) / len(places) for places, (start, stop) in zip(wanted, spans, strict=True)]
    if math.prod(sparse) > 4:
        axis = sparse.index(max(sparse))
        places = wanted[axis]
        cuts = np.flatnonzero(np.abs(np.diff(places)) != 1) + 1
        if not len(cuts):
            cuts = np.array([len(places) // 2])
        pieces = [
            _read_places(tensor, [*wanted[:axis], run, *wanted[axis + 1 :]]) for run in np.split(places, cuts)
        ]
        return np.concatenate(pieces, axis=axis)
    values = tensor.read(tuple(slice(start, stop, 1) for start, stop in spans))
    for axis, (places, (start, stop)) in enumerate(zip(wanted, spans, strict=True)):
        if len(places) != stop - start or not (np.diff(places) == 1).all():
            values = np.take(values, places - start, axis=axis)
    return values


def _listed(numbers: tuple[int, ...]) -> str:
    return ", ".join(map(str, numbers))
