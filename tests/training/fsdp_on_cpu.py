"""Run `trl sft` under FSDP2 on CPU processes: `accelerate launch --config_file ...
tests/training/fsdp_on_cpu.py --config sft.yaml`.

accelerate 1.15 reads an FSDP config and then, on CPUs, shards nothing and says nothing:
`AcceleratorState` looks at the config only for kinds of several accelerators, and several CPUs are
not in its list. Here they are announced as such a kind; sharding, training and saving are the
libraries' own. At the end each process writes what it held to shards.<rank>.json.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from accelerate import state
from accelerate.utils import DistributedType
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from transformers import Trainer

begin, train = state.PartialState.__init__, Trainer.train


def announce(self, *args, **kwargs):
    begin(self, *args, **kwargs)
    if self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type = DistributedType.MULTI_GPU


def report(trainer, *args, **kwargs):
    result = train(trainer, *args, **kwargs)
    weights = list(trainer.model.parameters())
    layers = [
        module
        for module in trainer.model.modules()
        if isinstance(module, FSDPModule) and type(module).__name__.endswith("DecoderLayer")
    ]
    plugin, history = (
        trainer.accelerator.state.fsdp_plugin,
        [entry for entry in trainer.state.log_history if "loss" in entry],
    )
    Path(f"shards.{os.environ['RANK']}.json").write_text(
        json.dumps(
            {
                "version": plugin.fsdp_version,
                "reshard": plugin.reshard_after_forward,
                "layers": len(layers),
                "whole": sum(weight.numel() for weight in weights),
                "held": sum(
                    weight.to_local().numel() for weight in weights if isinstance(weight, DTensor)
                ),
                "loss": [entry["loss"] for entry in history],
                "grad_norm": [entry["grad_norm"] for entry in history],
            }
        )
    )
    return result


state.PartialState.__init__, Trainer.train = announce, report

if __name__ == "__main__":
    from trl.scripts.sft import main, make_parser

    main(*make_parser().parse_args_and_config(fail_with_unknown_args=False))
