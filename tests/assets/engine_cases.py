"""verl's own FSDP2 engine and the packed one on the same rows, on one or more ranks: what differs.

    VERL_PLATFORM=cpu python -m tests.assets.engine_cases FOLDER RANKS

A program of its own, since a process has one process group. Writes ``FOLDER/differences.json``: for each case the
largest differences, relative to verl's norm of the same tensor.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from transformers import Qwen3Config, Qwen3ForCausalLM

from tests.assets.families import FAMILIES, make_model, tiny_config
from tests.assets.packed_engines import make_engine, make_loss
from tests.assets.packed_rows import Rows, batch_of, counted, random_trees
from tests.assets.random_rows import rows_by_hand
from tests.assets.tiny_model import write_model
from verl_atpo.packed import head
from verl_atpo.packed.trainer import arrange

Tensors = dict[str, torch.Tensor]
LONGEST = 5 + 8 + 3 * 4 * 6  # no random row is longer


@dataclasses.dataclass(frozen=True)
class Case:
    """One comparison; the defaults are the plainest."""

    loss: str = "atpo"
    aggregation: str = "seq-mean-token-mean"
    seed: int = 0
    mini_batches: int = 1
    token_budget: int | None = None
    micro_batch_size: int = 3
    groups: int = 4
    padding: int = 0
    entropy: float = 0.0
    kl: bool = False
    lora: int = 0
    checkpointing: bool = False
    wholly_masked: bool = False
    by_hand: bool = False
    reference: bool = False
    family: str = ""
    chunk: int = 2**26
    fused: bool = False

    @property
    def name(self) -> str:
        """Only what is not plain."""
        plain = Case()
        settings = dataclasses.asdict(self).items()
        return " ".join(f"{key}={value}" for key, value in settings if value != getattr(plain, key)) or "plain"


CASES = [
    *(
        Case(loss, aggregation, seed=number)
        for number, (loss, aggregation) in enumerate(
            (loss, aggregation)
            for loss in ("atpo", "vanilla", "gspo")
            for aggregation in ("token-mean", "seq-mean-token-mean")
        )
    ),
    *(Case(seed=seed, token_budget=LONGEST + 10 * seed) for seed in range(10, 16)),
    Case(seed=20, micro_batch_size=1),
    Case(seed=21, mini_batches=2),
    Case(seed=22, padding=4, micro_batch_size=7),
    Case(seed=23, padding=4, mini_batches=2, token_budget=LONGEST),
    Case("vanilla", "token-mean", seed=24, entropy=0.1, kl=True),
    Case(seed=25, entropy=0.1, kl=True, token_budget=2 * LONGEST, checkpointing=True),
    Case(seed=26, lora=4),
    Case(seed=27, lora=4, checkpointing=True, kl=True),
    Case(seed=28, wholly_masked=True),
    Case(seed=29, by_hand=True, micro_batch_size=4),
    Case("vanilla", "token-mean", seed=30, by_hand=True, token_budget=20),
    Case(seed=31, reference=True, token_budget=2 * LONGEST),
    Case(seed=32, chunk=47 * 5, entropy=0.1, checkpointing=True),
    Case(seed=33, fused=True),
    Case(seed=34, family="gpt-oss"),
    Case(seed=35, family="Gemma 3, text", checkpointing=True, token_budget=2 * LONGEST),
    Case(seed=36, family="Qwen3.5, rows of text", checkpointing=True),
    Case(seed=37, family="Qwen3-Next", entropy=0.1),
    Case(seed=38, family="DeepSeek-V3"),
]


def write_two_layers(folder: Path) -> None:
    """A tiny model with more layers, float32, and weights large enough that every token changes those after it."""
    write_model(folder)
    config = Qwen3Config.from_pretrained(folder)
    config.num_hidden_layers, config.layer_types = 3, ["full_attention"] * 3
    config.num_attention_heads, config.num_key_value_heads, config.initializer_range = 4, 2, 0.2
    torch.manual_seed(0)
    Qwen3ForCausalLM(config).save_pretrained(folder)


def write_family(folder: Path, family: str) -> None:
    """A tiny model of another family, with the tokenizer of the plain one."""
    write_model(folder)
    kind, more = FAMILIES[family]
    make_model(tiny_config(kind, more), "eager").save_pretrained(folder)


def engine_of(name: str, folder: Path, case: Case, dtype: str = "fp32") -> Any:
    """verl's engine or the packed one."""
    options = {"checkpointing": case.checkpointing, "lora_rank": case.lora, "reference": case.reference, "dtype": dtype}
    if case.family:
        folder = folder.with_name(case.family)
        options["attention"] = "eager"  # which knows attention sinks
    if case.fused and name == "packed":
        options["fused_kernels"] = True
    head.CHUNK = case.chunk
    engine = make_engine(name, folder, **options)
    if case.lora:  # an adapter starts as zero, and with it most gradients
        torch.manual_seed(2)
        for parameter_name, parameter in engine.module.named_parameters():
            if "lora_B" in parameter_name:
                torch.nn.init.normal_(parameter, std=0.1)
    return engine


def results(engine: Any, rows: Rows, shares: list[list[int]], case: Case) -> Tensors:
    """Everything an engine says of the rows, those of this rank being ``shares[mini_batch]``."""
    count = len(rows.uids) // case.mini_batches
    settings: dict[str, Any] = {"global_batch_size": count, "micro_batch_size_per_gpu": case.micro_batch_size}
    settings |= {
        "use_remove_padding": False,
        "use_dynamic_bsz": case.token_budget is not None,
        "max_token_len_per_gpu": case.token_budget,
    }
    loss = make_loss(case.loss, case.aggregation, entropy_coeff=case.entropy, use_kl_loss=case.kl)
    found: Tensors = {}
    mine = [row for share in shares for row in share]
    with engine.eval_mode():
        output = engine.infer_batch(batch_of(rows, mine, case.seed, calculate_entropy=True, **settings))
    for name, values in output["model_output"].items():
        found |= {
            f"{name} row {row}": value for row, value in zip(mine, counted(rows, mine, values.cpu()), strict=True)
        }
    for number, share in enumerate(shares if not case.reference else []):
        data = batch_of(rows, share, case.seed, calculate_entropy=case.entropy > 0, **settings)
        with engine.train_mode():
            engine.optimizer_zero_grad()
            output = engine.forward_backward_batch(data, loss)
            found[f"loss {number}"] = torch.tensor(output["loss"]).sum()
            for name, parameter in engine.module.named_parameters():
                if parameter.grad is not None:
                    found[f"grad {number} {name}"] = parameter.grad.full_tensor().cpu().clone()
            engine.optimizer_step()
    for name, parameter in engine.module.named_parameters():
        found[f"parameter {name}"] = parameter.full_tensor().detach().cpu().clone()
    return found


def differences(own: Tensors, packed: Tensors) -> dict[str, float]:
    """Largest difference of each kind, over verl's norm; that of a loss, in which rows cancel, over 0.1 at least.

    verl runs the eyes of a multimodal model over an empty image, so that their gradients are zeros; packs do not.
    """
    zeros = {name.split()[-1] for name, value in own.items() if name.startswith("grad") and not value.any()}
    unseen = {name for name in zeros if "visual." in name}
    own = {name: value for name, value in own.items() if name.split()[-1] not in unseen}
    packed = {name: value for name, value in packed.items() if name.split()[-1] not in unseen}
    assert own.keys() == packed.keys()
    worst: dict[str, float] = {}
    for name, wanted in own.items():
        kind = name.split()[0]
        norm = wanted.norm().clamp(min=0.1 if kind == "loss" else 1e-3)
        worst[kind] = max(worst.get(kind, 0.0), float((packed[name] - wanted).norm() / norm))
    return worst


def compare(case: Case, folder: Path) -> dict[str, float]:
    """Both engines in turn; on several ranks the packed one gets its rows as the packed trainer places them."""
    rows = rows_by_hand() if case.by_hand else random_trees(case.seed, case.groups, padding=case.padding)
    if case.wholly_masked:
        rows = dataclasses.replace(rows, masks=[[0] * len(mask) for mask in rows.masks])
    ranks, count = dist.get_world_size(), len(rows.uids)
    whole = rows.whole()
    offsets = np.cumsum([0, *map(len, whole)])
    keys = [f"{uid}_{row}_0" for row, uid in enumerate(rows.uids)]
    placed, _ = arrange(keys, np.concatenate(whole), offsets, ranks, case.mini_batches, case.token_budget)
    size = count // (ranks * case.mini_batches)
    bins = [placed[begin : begin + size] for begin in range(0, count, size)]
    mine = bins[dist.get_rank() * case.mini_batches :][: case.mini_batches]
    # The same rows in each mini-batch, or it is another update; dealt to the ranks without regard to their trees.
    everyone: list[list[int]] = [[] for _ in range(case.mini_batches)]
    for number, share in enumerate(bins):
        everyone[number % case.mini_batches] += share
    scattered = [sorted(share)[dist.get_rank() :: ranks] for share in everyone]
    shares = {"verl": scattered, "packed": mine}
    own, packed = (gathered(results(engine_of(name, folder, case), rows, shares[name], case)) for name in shares)
    return differences(own, packed)


def gathered(found: Tensors) -> Tensors:
    """What all ranks found; losses are averaged, as verl does."""
    everyone: list[Tensors] = [{} for _ in range(dist.get_world_size())]
    dist.all_gather_object(everyone, found)
    merged = {name: value for one in everyone for name, value in one.items()}
    losses = {name: sum(one[name] for one in everyone) / len(everyone) for name in found if name.startswith("loss")}
    return dict(sorted((merged | losses).items()))  # type: ignore[operator]


def run(rank: int, ranks: int, folder: Path) -> None:
    """One rank: all cases."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=ranks)
    wanted = os.environ.get("ENGINE_CASES", "")  # a part of a name, for a quick look
    found = {case.name: compare(case, folder / "model") for case in CASES if wanted in case.name}
    if rank == 0:
        (folder / "differences.json").write_text(json.dumps(found, indent=1))
    dist.destroy_process_group()


if __name__ == "__main__":
    target, world = Path(sys.argv[1]), int(sys.argv[2])
    write_two_layers(target / "model")
    for each in CASES:
        if each.family:
            write_family(target / each.family, each.family)
    # A fork has verl and torch loaded; nothing of them runs in other threads yet.
    torch.multiprocessing.start_processes(run, (world, target), nprocs=world, start_method="fork")
