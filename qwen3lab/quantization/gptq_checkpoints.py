"""Quantise a checkpoint with GPTQ (gptqmodel).

The library has no wheels and so no place in the course's environment: `make gptq` gives it one of
its own. Its checkpoints open without it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from qwen3lab import paths, profiles
from qwen3lab.errors import Qwen3labError
from qwen3lab.models import loading
from qwen3lab.quantization import checks
from qwen3lab.quiet import quiet


def gptq(
    src: str | Path,
    dst: str | Path,
    texts: Iterable[str],
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
        src: checkpoint folder, role or name, in 16 or 32 bits.
        dst: folder to write, new or empty; load it with `load_gptq`.
        texts: calibration texts, as the model will read them (chat format included); a few dozen
            are enough.
        bits: 2, 3, 4 or 8.
        group_size: number of weights that share a scale; it must divide the input size of every
            linear layer. -1: a whole row.
        device: default: the profile's.
        batch_size: texts per batch.
    Raises:
        Qwen3labError: what `quantization.checks` refuses: source, place, numbers and texts; or no
            gptqmodel.
    """
    source, dst = loading.folder(src), Path(dst)
    config = checks.source(source)
    checks.target(dst, source)
    if type(batch_size) is not int or batch_size < 1:
        raise Qwen3labError(f"{batch_size!r} texts cannot be a batch. Give 1 or more.")
    longest = config.get("max_position_embeddings") or 10**9
    texts = checks.texts(texts, loading.load_tokenizer(source), "GPTQ", longest)
    checks.groups(config, source.name, "GPTQ", bits, group_size)
    with quiet_gptqmodel() as library:
        # The library reorders columns within their groups; without groups it would refuse to.
        options = library.QuantizeConfig(
            bits=bits, group_size=group_size, act_group_aware=group_size > 0, offload_to_disk=False
        )
        model = library.GPTQModel.load(str(source), options, device=device or profiles.get().device)
        model.quantize(texts, batch_size=batch_size, calibration_data_min_length=1)
        save(model, dst)
    return dst


def save(model: Any, folder: Path) -> None:
    """Write what the library quantised, but for its log of seconds, which would give each run
    another hash.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        model.save(scratch)
        for file in Path(scratch).iterdir():
            if file.name != "quant_log.csv":
                shutil.copy(file, folder / file.name)


@contextlib.contextmanager
def quiet_gptqmodel() -> Iterator[Any]:
    """Provide gptqmodel, without compilation on a CPU and without its hundreds of log lines.

    Its CPU kernels are C++ that is compiled at first use: one to two minutes, a compiler and
    Python's headers. Its plain torch code gives the same numbers and needs none of that, so it is
    what runs here on a CPU.

    Raises Qwen3labError where the library is not installed.
    """
    if importlib.util.find_spec("gptqmodel") is None:
        raise Qwen3labError(
            "gptqmodel is not installed, since it has no wheels and needs a C compiler. Run `make"
            " gptq`, which gives it an environment of its own."
        )
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
