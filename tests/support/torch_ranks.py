"""One of several processes that load a checkpoint into distributed tensors; prints what it saw as JSON.

    python -m support.torch_ranks RANK PROCESSES FOLDER

Every case returns facts. An error becomes a fact, too, so that no process waits for another one.
"""

from __future__ import annotations

import datetime
import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

WIDTH, WIDE, WORDS = 512, 1025, 129
"""Sizes that two processes cannot halve; the rows of half a tensor are longer and shorter than a page."""


class Model(nn.Module):
    """Layers whose parts are long runs of a Flax file, and short ones; the embedding is tied to the head."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(WORDS, WIDTH)
        self.up = nn.Linear(WIDTH, 4 * WIDE)
        self.down = nn.Linear(4 * WIDE, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, WORDS, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, words):
        return self.head(self.norm(self.down(self.up(self.embed(words)))))


def sharded(folder, wanted, start):
    """Load into a module that `fully_shard` has cut, and train it for one step."""
    from torch.distributed.fsdp import fully_shard

    import bridge_torch
    from bridge_core.testing.harness import counted_reads

    with torch.device(start):
        model = Model()
    for layer in (model.up, model.down):
        fully_shard(layer, mesh=_mesh())
    fully_shard(model, mesh=_mesh())
    with counted_reads() as counted:
        assert bridge_torch.load(folder / "flax.safetensors", like=model) is model
    own = sum(parameter.to_local().nbytes for parameter in model.parameters())
    equal = {
        name: torch.equal(value.full_tensor(), wanted[name]) for name, value in model.state_dict().items()
    }
    tied = model.head.weight is model.embed.weight
    model(torch.arange(4)).square().mean().backward()
    grads = [parameter.grad is not None for parameter in model.parameters()]
    return {"read": counted.nbytes, "own": own, "equal": equal, "tied": tied, "grads": all(grads)}


def placed(folder, wanted):
    """Load a state dict of distributed tensors, each with another placement."""
    from torch.distributed.tensor import DTensor, Replicate, Shard, init_device_mesh

    import bridge_torch

    both = init_device_mesh("cpu", (1, dist.get_world_size()))
    placements = {
        "embed.weight": (both, (Shard(0), Shard(1))),
        "up.weight": (_mesh(), (Shard(1),)),
        "down.weight": (_mesh(), (Replicate(),)),
        "norm.weight": (_mesh(), (Shard(0),)),
    }
    like = {name: torch.empty(value.shape, device="meta") for name, value in wanted.items()}
    for name, (mesh, places) in placements.items():
        full = like[name]
        like[name] = torch.distributed.tensor.distribute_tensor(full, mesh, places, src_data_rank=None)
    result = bridge_torch.load(folder / "flax.safetensors", like=like)
    same = {name: isinstance(result[name], DTensor) == (name in placements) for name in wanted}
    equal = {
        name: torch.equal(value.full_tensor() if name in placements else value, wanted[name])
        for name, value in result.items()
    }
    return {"same": same, "equal": equal}


def failing(folder, wanted, key):
    """Load where one process cannot read: no process waits, and the module has no values.

    Args:
        folder: Where the checkpoint is.
        wanted: Not used.
        key: The tensor that cannot be read; None for the checkpoint.
    """
    from torch.distributed.fsdp import fully_shard

    import bridge_torch
    from bridge_torch.torch_objects import loading

    with torch.device("meta"):
        model = fully_shard(Model(), mesh=_mesh())
    usual = loading.load_values

    def load_values(state, *args, **options):
        if dist.get_rank() == 1 and key in state:
            raise OSError(5, "Input/output error")
        return usual(state, *args, **options)

    loading.load_values = load_values
    name = "absent.safetensors" if key is None and dist.get_rank() == 1 else "flax.safetensors"
    try:
        bridge_torch.load(folder / name, like=model)
    except Exception as err:
        return {"error": f"{type(err).__name__}: {err}", "meta": all(p.is_meta for p in model.parameters())}
    finally:
        loading.load_values = usual
    return {"error": ""}


def _mesh():
    from torch.distributed.tensor import init_device_mesh

    return init_device_mesh("cpu", (dist.get_world_size(),))


def main(rank, processes, folder):
    """Run all cases."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meeting",
        rank=rank,
        world_size=processes,
        timeout=datetime.timedelta(seconds=60),
    )
    wanted = torch.load(folder / "wanted.pt")
    facts = {
        "meta": sharded(folder, wanted, "meta"),
        "cpu": sharded(folder, wanted, "cpu"),
        "placed": placed(folder, wanted),
        "unplanned": failing(folder, wanted, None),
        "unread": failing(folder, wanted, ("norm", "weight")),
        "unexchanged": failing(folder, wanted, ("down", "weight")),
    }
    print(json.dumps(facts))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
