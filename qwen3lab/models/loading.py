"""Find and load models by role ("chat"), bundled checkpoint, folder or Hugging Face hub id."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwen3lab import cache, paths, profiles
from qwen3lab.errors import Qwen3labError
from qwen3lab.quiet import importing, quiet

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


ROLES = profiles.ROLES
DTYPES = ("float32", "bfloat16", "float16", "float64")
# parameters; below it a second thread costs more than it brings (measured on the tiny models)
SMALL_MODEL = 50_000_000


def resolve(model_id: str | Path) -> Path | str:
    """Resolve a model id to its folder, or to its hub id if no folder has it.

    The order: a role of the current profile, an existing folder, the mirror `QWEN3LAB_MODELS` (by
    full id or its last part), the bundled checkpoints, the hub (an id has the form "owner/name").

    Raises:
        Qwen3labError: nothing of that name exists.
    """
    name = str(model_id)
    if name in ROLES:
        name = getattr(profiles.get(), name)
    folder = Path(name).expanduser()
    if name and folder.is_dir():
        return folder
    kept = paths.find_model(name)
    if kept is not None:
        return kept
    if name.count("/") == 1 and not name.startswith((".", "~", "/")):
        return name
    bundled = sorted(path.parent.name for path in paths.MODELS.glob("*/config.json"))
    advice = (
        f"Bundled are: {', '.join(bundled)}"
        if bundled
        else "Run `git checkout -- data/models` or `make models` to restore the bundled ones"
    )
    raise Qwen3labError(f"There is no checkpoint {name!r}. {advice}.")


def folder(model_id: str | Path) -> Path:
    """Return the folder of a model id, fetched from the hub where only the hub has it.

    Raises:
        Qwen3labError: as `resolve`, and where the hub cannot be reached.
    """
    from huggingface_hub import snapshot_download

    found = resolve(model_id)
    if isinstance(found, Path):
        return found
    fetch = lambda source: source if Path(source).is_dir() else snapshot_download(source)
    return Path(call_loader(fetch, found))


def config(model_id: str | Path) -> dict[str, Any]:
    """Read a model's config.json. Raises Qwen3labError as `folder`."""
    return json.loads((folder(model_id) / "config.json").read_text(encoding="utf-8"))


def check_folder(folder: Path) -> None:
    """Check that a model folder has a config and intact safetensors, before a library fails on it.

    Raises:
        Qwen3labError: the folder holds an adapter or no model, no safetensors, or a damaged file.
    """
    from safetensors import SafetensorError, safe_open

    if not (folder / "config.json").is_file():
        has_adapter = (folder / "adapter_config.json").is_file()
        kind, merge_first = (
            (
                "a LoRA adapter, not a whole model",
                ", or merge it first (qwen3lab.quantization.merge)",
            )
            if has_adapter
            else ("no model folder (no config.json)", "")
        )
        raise Qwen3labError(
            f"{folder.name!r} is {kind}. Give the folder that holds config.json and"
            f" model.safetensors{merge_first}."
        )
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise Qwen3labError(
            f"{folder.name!r} holds no safetensors weights, and pickled weights are never loaded. "
            "Save the model again with save_pretrained()."
        )
    for file in weights:
        try:
            with safe_open(file, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise Qwen3labError(
                f"The weights file {file.name} of {folder.name!r} is damaged ({error}). Restore it"
                " from its source; for a bundled model run `git checkout --"
                f" data/models/{folder.name}`."
            ) from error


def fingerprint(model_id: str | Path) -> str:
    """Compute the SHA-256 of a model's weights and tokenizer (`cache.fingerprint`).

    For a model that only the hub has, the name itself is returned.
    """
    found = resolve(model_id)
    return cache.fingerprint(found) if isinstance(found, Path) else found


def _source(model_id: str | Path) -> str:
    found = resolve(model_id)
    if isinstance(found, Path):
        check_folder(found)
    return str(found)


def call_loader(loader: Any, source: str, **options: Any) -> Any:
    """Call a library's loader and turn its file and network errors into a Qwen3labError."""
    from huggingface_hub import snapshot_download

    try:
        if not Path(source).is_dir() and not _hub_answers():
            # Use the local cache or fail at once; left alone, the libraries retry each file for
            # half a minute.
            return loader(snapshot_download(source, local_files_only=True), **options)
        return loader(source, **options)
    except OSError as error:
        if Path(source).is_dir():
            raise Qwen3labError(
                f"{Path(source).name!r} could not be loaded ({first_line(error)}). Save the model"
                " and its tokenizer again."
            ) from error
        raise Qwen3labError(
            f"{source!r} is neither on this machine nor could it be fetched from the hub"
            f" ({first_line(error)}). Connect to the network, or put the model's folder into the"
            " one that QWEN3LAB_MODELS names, or go back to QWEN3LAB_PROFILE=tiny."
        ) from error


@lru_cache(maxsize=1)
def _hub_answers() -> bool:
    """Check once per process whether the hub answers, with its own client (it knows proxies)."""
    from huggingface_hub import constants, get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=5)
    except (
        Exception
        # the classes are those of the hub's HTTP client, which differs between releases; also
        # HF_HUB_OFFLINE
    ):
        return False
    return True


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, to be quoted in a sentence."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def load_tokenizer(
    model_id: str | Path = "chat", base: str | Path | None = None
) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model, see `beside.tokenizer` for one in a folder.

    One without a chat template gets Qwen3's, as trl ships it; where only templates of other names
    are there ("tool_use"), it becomes the default.

    Args:
        model_id: as in `resolve`, or a folder with an adapter.
        base: the model from which comes what an adapter's folder lacks; default: the one that the
            adapter names.
    Raises:
        Qwen3labError: no such checkpoint, a folder without a tokenizer, a damaged one.
    """
    from transformers import AutoTokenizer

    from qwen3lab import chat
    from qwen3lab.models import beside

    quiet()
    found = resolve(model_id)
    if isinstance(found, Path):
        tokenizer = beside.tokenizer(found, base)
    else:
        tokenizer = call_loader(AutoTokenizer.from_pretrained, found)
    templates = tokenizer.chat_template
    if templates is None:
        tokenizer.chat_template = chat.template()
    elif isinstance(templates, dict) and "default" not in templates:
        tokenizer.chat_template = {"default": chat.template()} | templates
    return tokenizer


def load(
    model_id: str | Path = "chat",
    dtype: str | None = None,
    device: str | None = None,
    **options: Any,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a causal language model and its tokenizer for inference (eval mode).

    Args:
        model_id: a role, a bundled checkpoint's name, a folder or a hub id; see `resolve`.
        dtype, device: torch names; default: the current profile's.
        options: passed to `AutoModelForCausalLM.from_pretrained`, for example
            `quantization_config`.
    Raises:
        Qwen3labError: no such checkpoint, no network for a hub id, damaged weights, weights that do
            not fit the config.
    """
    with importing():
        from transformers import AutoModelForCausalLM, Qwen3ForCausalLM  # noqa: F401

    quiet()
    profile = profiles.get()
    source, device = _source(model_id), device or profile.device
    placement = (
        {"device_map": {"": device}} if device != "cpu" or "quantization_config" in options else {}
    )
    model, report = call_loader(
        AutoModelForCausalLM.from_pretrained,
        source,
        dtype=torch_dtype(dtype or profile.dtype),
        use_safetensors=True,
        output_loading_info=True,
        **placement | options,
    )
    if report["missing_keys"]:  # transformers would initialise them at random and go on
        example = sorted(report["missing_keys"])[0]
        raise Qwen3labError(
            f"The checkpoint {Path(source).name!r} lacks {len(report['missing_keys'])} weights that"
            f" its config asks for, for example {example}. Save the model again, or restore it from"
            " its source."
        )
    set_threads(model.num_parameters(), device)
    return model.eval(), load_tokenizer(model_id)


def torch_dtype(name: Any) -> torch.dtype:
    """Return the torch dtype of a name that weights can be computed in, one of `DTYPES`.

    Raises Qwen3labError for another name.
    """
    import torch

    if isinstance(name, torch.dtype):
        name = str(name).removeprefix("torch.")
    if name not in DTYPES:
        raise Qwen3labError(
            f"There is no dtype {name!r} to compute in. Use one of: {', '.join(DTYPES)}."
        )
    return getattr(torch, name)


def load_embedding(
    model_id: str | Path = "embedding", device: str | None = None
) -> SentenceTransformer:
    """Load a sentence-transformers embedding model in eval mode.

    A plain Qwen3 folder is refused, because the library would silently use mean pooling.

    Raises:
        Qwen3labError: as `load`, and a folder without modules.json.
    """
    from sentence_transformers import SentenceTransformer

    quiet()
    source, device = _source(model_id), device or profiles.get().device
    if Path(source).is_dir() and not (Path(source) / "modules.json").is_file():
        raise Qwen3labError(
            f"{Path(source).name!r} is no embedding model (no modules.json). Use the role"
            " 'embedding' or a sentence-transformers folder."
        )
    model = call_loader(SentenceTransformer, source, device=device)
    set_threads(sum(parameter.numel() for parameter in model.parameters()), device)
    return model.eval()


def set_threads(parameters: int, device: str = "cpu") -> int:
    """Set torch's CPU threads to the fastest number for a model of this size, and return it."""
    import torch

    if device == "cpu":
        torch.set_num_threads(1 if parameters < SMALL_MODEL else cpus())
    return torch.get_num_threads()


@contextmanager
def more_threads(device: torch.device | str = "cpu", most: int = 2) -> Iterator[None]:
    """Allow torch up to `most` CPU threads within the block.

    Passes over many tokens gain from a second thread even with the smallest models (240 answers
    took 9.3 s with one thread and 5.8 s with two); their training does not.
    """
    import torch

    threads = torch.get_num_threads()
    if str(device) == "cpu":
        torch.set_num_threads(max(threads, min(most, cpus())))
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def cpus() -> int:
    """Count the CPUs that this process may use, which can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
