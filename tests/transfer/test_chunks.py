"""Sources in chunks that are decoded completely: each as few times as possible, in bounded memory."""

from __future__ import annotations

import threading
import zlib

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from support.chunked import ChunkedSource
from support.examples import examples

from bridge_core import FileImage, FlatState, compare_states, load_values
from bridge_core.formats import Extent
from bridge_core.ops.chain import OpTensor, chain_tensors
from bridge_core.ops.elementwise import Cast
from bridge_core.ops.shape import Flip, Permute, Reshape
from bridge_core.ops.split_concat import Concat, Split, Stack, Unstack
from bridge_core.state.tensors import ArrayTensor
from bridge_core.transfer.budget import Budget
from bridge_core.transfer.chunk_jobs import Allowance
from bridge_core.transfer.file_writer import FileTarget
from bridge_core.transfer.folder_writer import FolderWriter

MB = 1 << 20


@pytest.fixture(scope="module", autouse=True)
def _small_arrays_use_memory_again():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bridge_core.transfer.chunk_cache._WORTH_REUSING", 1)
        yield


def numbers(shape, dtype=np.uint16):
    return np.arange(np.prod(shape), dtype=np.uint64).astype(dtype).reshape(shape)


def written(path, tensors, *, workers=2, max_ram=2 * MB):
    """Fill a file with tensors; return the values of each and the target."""
    slots, position = {}, 8
    for key, tensor in tensors.items():
        slots[key] = (Extent(0, tensor.spec.nbytes, position),)
        position += tensor.spec.nbytes
    path.write_bytes(b"")
    target = FileTarget(path, Budget(workers, max_ram))
    target.fill(FlatState(tensors), FileImage(position, (), slots, {}, None, {}))
    data = path.read_bytes()
    values = {}
    for key, tensor in tensors.items():
        raw = data[slots[key][0].offset : slots[key][0].offset + tensor.spec.nbytes]
        assert target.checksums[key] == zlib.crc32(raw)
        values[key] = np.frombuffer(raw, tensor.spec.dtype).reshape(tensor.spec.shape)
    return values, target


def check_all(path, tensors, expected, **budget):
    """Write the tensors and load them, and check the values of both."""
    values, _ = written(path, tensors, **budget)
    for key, want in expected.items():
        np.testing.assert_array_equal(values[key], want)


TURN = (Permute((1, 0)),)
SHAPE = (1600, 1300)
CHUNKS = {
    "row shards": (200, 1300),
    "column shards": (1600, 325),
    "one chunk": (1600, 1300),
    "tiles": (256, 256),
}


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("turned", [False, True], ids=["as stored", "transposed"])
@pytest.mark.parametrize("chunk", CHUNKS)
def test_each_chunk_is_decoded_once(tmp_path, chunk, turned, workers):
    source = ChunkedSource(numbers(SHAPE), CHUNKS[chunk])
    tensor = chain_tensors((source.tensor,), TURN if turned else ())[0]
    values = source.values.T if turned else source.values
    check_all(tmp_path / "out", {("w",): tensor}, {("w",): values}, workers=workers, max_ram=workers * 2 * MB)
    assert set(source.decoded.values()) == {1}
    assert len(source.decoded) == source.chunks
    chunk_nbytes = 2 * np.prod(CHUNKS[chunk])
    assert source.largest_read <= max(MB, chunk_nbytes)


LAYERS = (8, 300, 400)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("chunk", [(8, 300, 400), (8, 75, 400), (8, 300, 100), (1, 300, 400), (3, 128, 128)])
@pytest.mark.parametrize("turned", [False, True], ids=["as stored", "transposed"])
def test_layers_stacked_in_a_source_are_unstacked_from_chunks_decoded_once(tmp_path, axis, chunk, turned):
    """And all targets of a source are loaded with as few decodes, and compared."""
    order = (0, 1, 2) if axis == 0 else (1, 0, 2)
    source = ChunkedSource(numbers(LAYERS).transpose(order).copy(), tuple(chunk[a] for a in order))
    layers = chain_tensors((source.tensor,), (Unstack(axis, 8),))
    if turned:
        layers = tuple(chain_tensors((layer,), TURN)[0] for layer in layers)
    tensors = {("layer", str(i)): layer for i, layer in enumerate(layers)}
    expected = {("layer", str(i)): layer.T if turned else layer for i, layer in enumerate(numbers(LAYERS))}
    check_all(tmp_path / "out", tensors, expected, max_ram=MB)
    assert set(source.decoded.values()) == {1}
    source.decoded.clear()
    loaded = load_values(FlatState(tensors))
    for key, want in expected.items():
        np.testing.assert_array_equal(loaded.tensor(key).array, want)
    assert set(source.decoded.values()) == {1}
    source.decoded.clear()
    arrays = {key: ArrayTensor(value) for key, value in expected.items()}
    assert compare_states(FlatState(tensors), FlatState(arrays)).equal
    assert set(source.decoded.values()) == {1}


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_layers_of_many_sources_are_stacked_from_chunks_decoded_once(tmp_path, axis):
    sources = [ChunkedSource(numbers((300, 400)) + np.uint16(i), (300, 100)) for i in range(8)]
    tensor = chain_tensors([source.tensor for source in sources], (Stack(axis, 8),))[0]
    expected = np.stack([source.values for source in sources], axis)
    check_all(tmp_path / "out", {("w",): tensor}, {("w",): expected}, max_ram=MB)
    for source in sources:
        assert set(source.decoded.values()) == {1}


def copies(target, tensor):
    """Return copies of the blocks, since each is valid until the next one."""
    return [block.copy() for block in target.blocks(FlatState({("w",): tensor}), ("w",))]


def test_blocks_in_order_follow_the_rows_of_chunks(tmp_path):
    source = ChunkedSource(numbers(SHAPE), (256, 256))
    tensor = source.tensor
    blocks = copies(FileTarget(tmp_path / "x", Budget(1, 3 * MB)), tensor)
    np.testing.assert_array_equal(np.concatenate(blocks), source.values.reshape(-1))
    assert set(source.decoded.values()) == {1}
    assert source.largest_read <= 3 * MB // 2
    # Less memory than a row of chunks: each is decoded once for each block.
    source.decoded.clear()
    blocks = copies(FileTarget(tmp_path / "x", Budget(1, MB)), tensor)
    np.testing.assert_array_equal(np.concatenate(blocks), source.values.reshape(-1))
    assert max(source.decoded.values()) == 2


def test_chunks_that_exceed_a_share_wait_for_each_other():
    large = Allowance(10, 2)
    order = []

    def use(nbytes):
        with large.taken(nbytes):
            order.append(nbytes)

    with large.taken(11), large.taken(9), large.taken(10):  # those within a share need not ask
        waiting = threading.Thread(target=use, args=(12,))
        waiting.start()
        waiting.join(0.05)
        assert not order
    waiting.join(60)
    with large.taken(1000):  # a single one may be larger than everything
        use(5)
        stop = threading.Event()
        stop.set()
        with pytest.raises(KeyboardInterrupt), large.taken(11, stop):
            pass
    assert order == [12, 5]


@pytest.mark.parametrize("turned", [False, True], ids=["as stored", "transposed"])
def test_boxes_of_a_folder_are_read_from_chunks_decoded_as_rarely_as_memory_allows(tmp_path, turned):
    source = ChunkedSource(numbers((1600, 1300)), (1600, 325))
    tensor = chain_tensors((source.tensor,), TURN if turned else ())[0]
    values = source.values.T if turned else source.values
    writer = FolderWriter(tmp_path, Budget(1, 2 * MB))
    boxes = list(
        (region, block.copy())
        for region, block in writer.boxes(FlatState({("w",): tensor}), ("w",), (100, values.shape[1]))
    )
    for region, block in boxes:
        assert block.shape == (min(100, values.shape[0] - region[0].start), values.shape[1])
        np.testing.assert_array_equal(block, values[region])
    assert sum(len(block) for _, block in boxes) == len(values)
    assert writer.checksums["w",] == zlib.crc32(np.ascontiguousarray(values))
    # Of four megabytes, one is read at once; in the order of the chunks' own rows, each is decoded once.
    assert max(source.decoded.values()) <= (2 if turned else 6)


def test_differences_of_chunked_tensors_are_counted_and_reported_in_order():
    source = ChunkedSource(numbers((8, 30, 40), np.float32), (8, 10, 40))
    layers = chain_tensors((source.tensor,), (Unstack(0, 8),))
    left = FlatState({(str(i),): layer for i, layer in enumerate(layers)} | {("z",): ArrayTensor(np.ones(3))})
    other = {(str(i),): value.copy() for i, value in enumerate(source.values)} | {("z",): np.zeros(3)}
    other["5",][3:20, 7] += 2
    other["2",] = other["2",].astype(np.float64)
    seen = []
    found = compare_states(left, FlatState(other), progress=lambda p: seen.append((p.key, p.done)))
    assert [(d.key, d.elements, d.largest) for d in found.differing] == [
        (("2",), None, None),
        (("5",), 17, 2.0),
        (("z",), 3, 1.0),
    ]
    assert len(seen) == 8
    assert seen[-1][1] == 7 * 30 * 40 * 4 + 24


def test_one_array_for_keys_that_share_a_chunked_tensor():
    tensor = ChunkedSource(numbers((30, 40)), (10, 40)).tensor
    loaded = load_values(FlatState({("a",): tensor, ("b",): tensor}), shared=True)
    assert loaded.tensor(("a",)) is loaded.tensor(("b",))


class Case:
    """Sources in chunks, tensors that chains of ops make of them, and the values of these tensors."""

    def __init__(self, sources, tensors, arrays):
        self.sources, self.tensors, self.arrays = sources, tensors, arrays

    def __repr__(self):
        chunks = [(source.values.shape, source.chunk) for source in self.sources]
        return f"shapes and chunks {chunks}, {[chain_text(tensor) for tensor in self.tensors[:3]]}"


def chain_text(tensor):
    """The ops of a tensor, the last one first."""
    if not isinstance(tensor, OpTensor):
        return ""
    return f"{tensor.output} of {tensor.op} {chain_text(tensor.inputs[0])}"


@st.composite
def chains(draw):
    """Sources in chunks, and a chain of ops of a random number of inputs on them."""
    shape = tuple(draw(st.lists(st.integers(1, 40), min_size=1, max_size=3)))
    chunk = tuple(draw(st.integers(1, n + 2)) for n in shape)
    count = draw(st.integers(1, 3))
    sources = [ChunkedSource(numbers(shape) * np.uint16(3) + np.uint16(i), chunk) for i in range(count)]
    ops = []
    if count > 1:
        joins = [Stack(draw(st.integers(0, len(shape))), count)]
        axis = draw(st.integers(0, len(shape) - 1))
        joins.append(Concat(axis, (shape[axis],) * count))
        ops.append(draw(st.sampled_from(joins)))
    tensors = chain_tensors([source.tensor for source in sources], ops)
    for _ in range(draw(st.integers(0, 3))):
        shape = tensors[0].spec.shape
        kind = draw(st.sampled_from(["permute", "flip", "merge", "divide", "unstack", "split", "cast"]))
        axis = draw(st.integers(0, len(shape) - 1)) if shape else 0
        chain = ()
        if kind == "permute":
            chain = (Permute(tuple(draw(st.permutations(range(len(shape)))))),)
        elif kind == "flip" and shape:
            chain = (Flip((axis,)),)
        elif kind == "merge" and axis + 1 < len(shape):
            chain = (Reshape(shape, (*shape[:axis], shape[axis] * shape[axis + 1], *shape[axis + 2 :])),)
        elif kind == "divide" and shape and shape[axis] % 2 == 0:
            chain = (Reshape(shape, (*shape[:axis], 2, shape[axis] // 2, *shape[axis + 1 :])),)
        elif kind == "unstack" and shape and len(tensors) == 1:
            chain = (Unstack(axis, shape[axis]),)
        elif kind == "split" and shape and shape[axis] > 1 and len(tensors) == 1:
            first = draw(st.integers(0, shape[axis]))
            chain = (Split(axis, (first, shape[axis] - first)),)
        elif kind == "cast" and tensors[0].spec.dtype == np.uint16:
            chain = (Cast("uint16", "uint32"),)
        if kind in ("unstack", "split"):
            tensors = chain_tensors(tensors, chain) if chain else tensors
            ops += chain
        else:
            if len({t.spec.shape for t in tensors}) > 1:
                continue
            tensors = tuple(chain_tensors((t,), chain)[0] for t in tensors)
            ops += [("each", chain)]
    arrays = [source.values for source in sources]
    for op in ops:
        if isinstance(op, tuple):
            for inner in op[1]:
                arrays = [inner.apply((array,))[0] for array in arrays]
        else:
            arrays = op.apply(arrays)
    return Case(sources, tensors, arrays)


def reshaped(tensor):
    """Whether there is a reshape among the ops of a tensor."""
    return isinstance(tensor, OpTensor) and (
        isinstance(tensor.op, Reshape) or any(map(reshaped, tensor.inputs))
    )


@given(case=chains(), block=st.sampled_from([64, 1 << 10, 8 << 10, 1 << 20]), workers=st.integers(1, 2))
@settings(deadline=None, max_examples=examples(50))
def test_values_are_right_and_chunks_are_decoded_rarely(tmp_path_factory, case, block, workers):
    path = tmp_path_factory.getbasetemp() / "random"
    tensors = {(str(i),): tensor for i, tensor in enumerate(case.tensors)}
    expected = {(str(i),): array for i, array in enumerate(case.arrays)}

    class Small(Budget):
        @property
        def block(self):
            return block

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(f"{__name__}.Budget", Small)
        check_all(path, tensors, expected, workers=workers)
    for source in case.sources:
        decodes = sum(source.decoded.values()) / source.chunks
        if reshaped(case.tensors[0]) and (block < 2 * source.values.nbytes or len(case.tensors) > 1):
            continue  # a reshape reads complete rows; the chunks of a merged axis may exceed a block together
        assert source.largest_read <= max(block, 4 * source.chunk_nbytes)
        assert decodes <= 2
