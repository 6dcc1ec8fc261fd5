"""An exported run under FSDP2: `accelerate launch` with docs/fsdp2.yaml shards the model and gives
the losses of one process.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from helpers import code_rows, ended, launched
from safetensors.torch import load_file

from qwen3lab import paths, training
from qwen3lab.training import export

CONFIG = paths.ROOT / "docs" / "fsdp2.yaml"
ON_CPU = Path(__file__).with_name("fsdp_on_cpu.py")


@pytest.fixture(scope="module")
def trained(checkpoint, tmp_path_factory):
    """A run in one process, and the folder in which two processes did it again."""
    folder = tmp_path_factory.mktemp("fsdp2")
    run = training.fine_tune(
        checkpoint,
        code_rows(),
        method="full",
        steps=6,
        batch_size=4,
        gradient_accumulation_steps=2,
        logging_steps=1,
        train_sampling_strategy="sequential",
        activation_checkpointing=True,
    )
    export.export(run, folder)
    line = export.launch(run, 2, accelerate_config=str(CONFIG))
    assert "-m trl.scripts.sft --config sft.yaml" in line
    line = line.replace("-m trl.scripts.sft", f"--mixed_precision no {ON_CPU}")
    launched(folder, line + " --disable_tqdm true")
    return run, folder


def test_two_processes_hold_half_of_the_weights_each(trained):
    run, folder = trained
    shards = [json.loads((folder / f"shards.{rank}.json").read_text()) for rank in (0, 1)]
    for shard in shards:
        assert shard["whole"] == run.trained
        assert shard["layers"] == run.model.config.num_hidden_layers
        assert shard["version"] == 2 and shard["reshard"] is True
    # Rows of a weight are dealt out whole, so the halves may differ by a row.
    assert sum(shard["held"] for shard in shards) == run.trained
    assert [shard["held"] / run.trained for shard in shards] == pytest.approx([0.5, 0.5], abs=0.02)


def test_the_losses_are_those_of_one_process(trained):
    run, folder = trained
    for rank in (0, 1):
        shard = json.loads((folder / f"shards.{rank}.json").read_text())
        assert shard["loss"] == pytest.approx(run.history.loss.tolist(), abs=2e-5)
        assert shard["grad_norm"] == pytest.approx(run.history.grad_norm.tolist(), rel=1e-4)


def test_one_whole_model_is_saved(trained):
    run, folder = trained
    saved = load_file(folder / "trained" / "model.safetensors")
    weights = run.model.state_dict()
    assert set(saved) == set(
        weights
    )  # the tied table stands in it twice, where one process writes it once
    assert saved["lm_head.weight"].equal(saved["model.embed_tokens.weight"])
    assert max((saved[name] - weights[name]).abs().max().item() for name in saved) < 1e-4
    start = load_file(Path(run.source) / "model.safetensors")
    assert max((saved[name] - start[name]).abs().max().item() for name in start) > 1e-3


def test_a_run_that_hangs_leaves_nothing_behind(tmp_path):
    # Starts a worker as torch.distributed.elastic does, and waits for it.
    (tmp_path / "wait.py").write_text(
        "import subprocess\nworker = subprocess.Popen(['sleep', '600'], start_new_session=True)\n"
        "open(f'{worker.pid}.pid', 'w').close()\nworker.wait()\n"
    )
    with pytest.raises(pytest.fail.Exception, match="was not done in 3 s"):
        launched(tmp_path, "NAME=value python wait.py", seconds=3)
    (worker,) = [int(file.stem) for file in tmp_path.glob("*.pid")]
    assert ended(worker)


def test_a_run_that_hangs_when_all_is_saved_is_done(tmp_path):
    (tmp_path / "wait.py").write_text(
        "import os, time\nos.mkdir('trained')\nopen('trained/model.safetensors', 'w').close()\n"
        "open(f'{os.getpid()}.pid', 'w').close()\ntime.sleep(600)\n"
    )
    launched(tmp_path, "python wait.py", seconds=60, grace=1)
    (process,) = [int(file.stem) for file in tmp_path.glob("*.pid")]
    assert ended(process)
    (tmp_path / "fail.py").write_text("import sys\nsys.exit('it went wrong')\n")
    with pytest.raises(AssertionError, match="it went wrong"):
        launched(tmp_path, "python fail.py", grace=60)


def test_accelerate_reads_every_line_of_the_config():
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import launch_command_parser
    from transformers.models.qwen3.modeling_qwen3 import Qwen3DecoderLayer

    settings = yaml.safe_load(CONFIG.read_text())
    config = load_config_from_file(
        str(CONFIG)
    )  # refuses keys of the first floor that it does not know
    assert config.distributed_type.value == "FSDP" and config.fsdp_config == settings["fsdp_config"]
    known = {action.dest for action in launch_command_parser()._actions}
    assert set(settings["fsdp_config"]) <= known  # unknown ones it would pass over
    assert (
        settings["fsdp_config"]["fsdp_transformer_layer_cls_to_wrap"] == Qwen3DecoderLayer.__name__
    )
