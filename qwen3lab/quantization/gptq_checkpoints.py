"""Quantise a checkpoint with GPTQ (gptqmodel), and load the result."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwen3lab import paths, profiles
from qwen3lab.errors import Qwen3labError
from qwen3lab.models import loading
from qwen3lab.quiet import quiet

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def gptq(
    src: str | Path,
    dst: str | Path,
    texts: Sequence[str],
    *,
    bits: int = 4,
    group_size: int = 128,
    device: str | None = None,
    batch_size: int = 8,
) -> Path:
    """Quantise a checkpoint's linear layers with GPTQ (Frantar et al. 2022) and save it.

    gptqmodel rounds every layer column by column, and compensates the effect of a column's rounding
    on the layer's output for `texts` in the columns that follow. Embeddings, norms and the output
    head stay as they are.

    Args:
        src: checkpoint folder, role or name.
        dst: folder to write; load it with `load_gptq`.
        texts: calibration texts, as the model will read them (chat format included); a few dozen
            are enough.
        bits: 2, 3, 4 or 8.
        group_size: number of weights that share a scale; it must divide the input and output sizes
            of every linear layer. -1: a whole row.
        device: default: the profile's.
        batch_size: texts per batch.
    Raises:
        Qwen3labError: no texts, or layer sizes that the group size does not divide.
    """
    source, dst = Path(loading.resolve(src)), Path(dst)
    if not texts:
        raise Qwen3labError(
            "GPTQ needs texts to measure the layers' errors on. Give some dozens of rows like those"
            " the model will see."
        )
    loading.check_folder(source)
    _check_group(source, group_size)
    with quiet_gptqmodel() as library:
        # The library reorders columns within their groups; without groups it would refuse to.
        config = library.QuantizeConfig(
            bits=bits, group_size=group_size, act_group_aware=group_size > 0, offload_to_disk=False
        )
        model = library.GPTQModel.load(str(source), config, device=device or profiles.get().device)
        model.quantize(list(texts), batch_size=batch_size, calibration_data_min_length=1)
        shutil.rmtree(dst, ignore_errors=True)
        model.save(str(dst))
    return dst


def _check_group(source: Path, group_size: int) -> None:
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    for field in ("hidden_size", "intermediate_size", "moe_intermediate_size"):
        size = config.get(field)
        if size and group_size > 0 and size % group_size:
            raise Qwen3labError(
                f"The {field} of {source.name!r} is {size}, which does not divide by the group size"
                f" {group_size}. Choose a smaller group, such as 32."
            )


def load_gptq(
    path: str | Path, *, dtype: str | None = None, device: str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load what `gptq` saved: (model in eval mode, tokenizer).

    On a CPU the weights are dequantised by plain torch.
    """
    import torch

    profile = profiles.get()
    path, device = Path(path), device or profile.device
    if not (path / "quantize_config.json").is_file():
        raise Qwen3labError(
            f"{path.name!r} holds no GPTQ model (no quantize_config.json). Write it with"
            " qwen3lab.quantization.gptq()."
        )
    with quiet_gptqmodel() as library:
        backend = library.BACKEND.TORCH if device == "cpu" else library.BACKEND.AUTO
        wrapped = library.GPTQModel.load(
            str(path), device=device, backend=backend, dtype=torch.bfloat16
        )
    # The library accepts only 16-bit types, but its torch code computes in the dtype of the scales.
    model = wrapped.model.to(getattr(torch, dtype or profile.dtype)).eval()
    loading.set_threads(sum(parameter.numel() for parameter in model.parameters()), device)
    return model, loading.load_tokenizer(path)


@contextlib.contextmanager
def quiet_gptqmodel() -> Iterator[Any]:
    """Provide gptqmodel, without compilation on a CPU and without its hundreds of log lines.

    Its CPU kernels are C++ that is compiled at first use: one to two minutes, a compiler and
    Python's headers. Its plain torch code gives the same numbers and needs none of that, so it is
    what runs here on a CPU.
    """
    os.environ.setdefault(
        "GPTQMODEL_CPU_WORKERS", "2"
    )  # fewer than two, as by default on two cores, are refused
    os.environ.setdefault("GPTQMODEL_DISABLE_PACK_EXT", "1")
    os.environ.setdefault(
        "LOGBAR_DISABLE_NOTEBOOK_DETECTION", "1"
    )  # otherwise it uses IPython's display
    quiet()
    said, level = io.StringIO(), logging.root.manager.disable
    root_level, root_handlers = logging.root.level, logging.root.handlers[:]
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            import gptqmodel
            import gptqmodel.looper.loop_processor
            import gptqmodel.utils.torch

            gptqmodel.looper.loop_processor._PROJECT_LOG_DIR = (
                paths.BUILD / "gptq-logs"
            )  # otherwise a folder beside the notebook
            if profiles.get().device == "cpu":
                gptqmodel.utils.torch.TORCH_HAS_COMPILE = False
            yield gptqmodel
    finally:
        logging.disable(level)
        logging.root.setLevel(root_level)  # its import enables every library's INFO lines
        logging.root.handlers[:] = root_handlers
