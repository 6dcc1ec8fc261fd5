"""Use what lies beside weights: tokenizer, chat template, added tokens, generation settings.

The rule: what a folder holds itself wins over its base's, file by file, and what it lacks is its
base's (a `checkpoint-N` asks the run's folder around it first). What is there and cannot be used,
or does not fit the weights, is an error, never a reason to take the base's in silence.
"""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwen3lab import paths
from qwen3lab.errors import Qwen3labError
from qwen3lab.models import loading

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase


ADAPTER, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
GENERATION = "generation_config.json"
VOCABULARY = ("tokenizer.json", "vocab.json", "tokenizer.model")  # one of them makes a tokenizer
SETTINGS = ("eos_token", "pad_token", "padding_side", "model_max_length")


def is_adapter(folder: str | Path) -> bool:
    """Tell whether a folder holds an adapter and no whole model."""
    folder = Path(folder)
    return (folder / ADAPTER).is_file() and not (folder / "config.json").is_file()


def adapter_config(folder: str | Path) -> dict[str, Any]:
    """Read an adapter's settings, and check that its weights are there and whole.

    Raises:
        Qwen3labError: the folder holds no adapter, one without safetensors, or a damaged one.
    """
    from safetensors import SafetensorError, safe_open

    folder = Path(folder)
    if not (folder / ADAPTER).is_file():
        inner = sorted(
            (path.parent for path in folder.glob(f"*/{ADAPTER}")),
            key=lambda path: [int(number) for number in re.findall(r"\d+", path.name)],
        )
        advice = (
            f"Give the folder of one that is in it, for example {inner[-1].name!r}."
            if inner
            else "Give the output_dir of a run with method 'lora' or 'qlora'."
        )
        raise Qwen3labError(f"{folder.name!r} holds no adapter (no {ADAPTER}). {advice}")
    found = _json(folder / ADAPTER)
    if not (folder / WEIGHTS).is_file():
        raise Qwen3labError(
            f"The adapter {folder.name!r} has no {WEIGHTS}, and pickled weights are never loaded."
            " Save it again with save_pretrained()."
        )
    try:
        with safe_open(folder / WEIGHTS, framework="pt"):
            pass
    except (SafetensorError, OSError) as error:
        raise Qwen3labError(
            f"The weights file {WEIGHTS} of {folder.name!r} is damaged ({error}). Restore it from"
            " its source, or train the adapter again."
        ) from error
    return found


def base(folder: str | Path) -> Path | str:
    """Resolve the base model of an adapter: the one that it names, as in `loading.resolve`.

    A path that has moved is looked up by its last part, in `QWEN3LAB_MODELS` and among the bundled.

    Raises:
        Qwen3labError: the adapter names no base, or one that is not there any more.
    """
    folder = Path(folder)
    name = str(_json(folder / ADAPTER).get("base_model_name_or_path") or "")
    if not name:
        raise Qwen3labError(
            f"The adapter {folder.name!r} does not say on which model it was trained. Name it"
            " with --model, or give the loaded model beside the folder."
        )
    try:
        return loading.resolve(name)
    except Qwen3labError:
        moved = paths.find_model(re.split(r"[/\\]", name.rstrip("/\\"))[-1])
        if moved is None:
            raise Qwen3labError(
                f"The adapter {folder.name!r} was trained on {name!r}, which is not there any more."
                " Name the place of that model beside it, or put the model back."
            ) from None
        return moved


def own_file(folder: str | Path, *names: str) -> Path | None:
    """Find the first of these files in a folder, or for a `checkpoint-N` in the run's around it."""
    folder = Path(folder)
    places = [folder]
    if re.fullmatch(r"checkpoint-\d+", folder.name):
        places.append(folder.parent)
    return next((at / name for at in places for name in names if (at / name).is_file()), None)


def tokenizer(folder: str | Path, model: str | Path | None = None) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a folder with weights: its own, or its base's where it has none.

    A tokenizer without a chat template gets the base's. A folder that has a template and no
    tokenizer gives its template to the base's tokenizer.

    Args:
        model: the base, as in `loading.resolve`; default: the one that an adapter names.
    Raises:
        Qwen3labError: a tokenizer that cannot be read; none at all; as `base`.
    """
    from transformers import AutoTokenizer

    folder = Path(folder)
    vocabulary = own_file(folder, *VOCABULARY)
    if vocabulary is None:
        if model is None and not is_adapter(folder):
            raise Qwen3labError(
                f"{folder.name!r} holds no tokenizer (no {VOCABULARY[0]}). Save the tokenizer that"
                " the model was trained with into it: tokenizer.save_pretrained()."
            )
        found = loading.load_tokenizer(base(folder) if model is None else model)
        return _settings(found, folder)
    try:
        found = loading.call_loader(AutoTokenizer.from_pretrained, str(vocabulary.parent))
    except Qwen3labError:
        raise
    except Exception as error:  # a damaged file raises what its parser raises, even bare Exception
        raise Qwen3labError(
            f"The tokenizer of {folder.name!r} cannot be read ({loading.first_line(error)})."
            " Save it again with save_pretrained()."
        ) from error
    if found.chat_template is None:
        found.chat_template = _template(folder)
    if found.chat_template is None and (model is not None or is_adapter(folder)):
        try:
            found.chat_template = loading.load_tokenizer(model or base(folder)).chat_template
        except Qwen3labError:  # the tokenizer is whole, and the base may be on another machine
            pass
    return found


def _settings(found: PreTrainedTokenizerBase, folder: Path) -> PreTrainedTokenizerBase:
    """Give a base's tokenizer the settings that lie in a folder without a vocabulary."""
    template = _template(folder)
    file = own_file(folder, "tokenizer_config.json")
    told = _json(file) if file else {}
    known = found.get_vocab()
    listed = (told.get("added_tokens_decoder") or {}).values()
    contents = [entry.get("content") for entry in listed if isinstance(entry, dict)]
    for name in SETTINGS:
        value = told.get(name)
        value = value.get("content") if isinstance(value, dict) else value
        if value is None:
            continue
        contents += [value] if name.endswith("_token") else []
        if not name.endswith("_token") or value in known:
            setattr(found, name, value)
    strange = sorted({text for text in contents if text not in known})
    if strange:
        raise Qwen3labError(
            f"The tokenizer settings of {folder.name!r} name the token {strange[0]!r}, which the"
            " base's vocabulary has not, and the folder has none. Save the whole tokenizer into"
            " it: tokenizer.save_pretrained()."
        )
    if template is not None:
        found.chat_template = template
    return found


def _template(folder: Path) -> str | None:
    """Read the chat template of a folder from the files that a tokenizer's loader passes over."""
    for name in ("chat_template.jinja", "tokenizer_config.json", "chat_template.json"):
        file = own_file(folder, name)
        if file is None:
            continue
        if file.suffix == ".jinja":
            return file.read_text(encoding="utf-8")
        template = _json(file).get("chat_template")
        if isinstance(template, list):
            return {entry["name"]: entry["template"] for entry in template}
        if template is not None:
            return template
    return None


def generation(folder: str | Path) -> GenerationConfig | None:
    """Read the generation settings of a folder; None if it has none.

    Raises:
        Qwen3labError: the file cannot be read.
    """
    from transformers import GenerationConfig

    file = own_file(folder, GENERATION)
    if file is None:
        return None
    fields = _json(file)
    try:
        return GenerationConfig.from_dict(fields)
    except (TypeError, ValueError) as error:
        raise Qwen3labError(
            f"The generation settings of {Path(folder).name!r} cannot be used"
            f" ({loading.first_line(error)}). Mend {GENERATION}, or delete it."
        ) from error


def table_rows(folder: str | Path) -> int | None:
    """Read for how many tokens an adapter holds embeddings or head; None if it holds neither."""
    from safetensors import safe_open

    with safe_open(Path(folder) / WEIGHTS, framework="pt") as file:
        for name in file.keys():
            if not re.search(r"\b(embed_tokens|lm_head)\b", name):
                continue
            shape = file.get_slice(name).get_shape()
            if name.endswith("lora_embedding_A"):
                return shape[1]
            head_update = "lm_head" in name and "lora_B" in name
            whole = name.endswith(".weight") and "lora_" not in name
            if head_update or whole:
                return shape[0]
    return None


def fit(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: str | Path) -> None:
    """Give a base the number of embeddings that an adapter was trained with, in place.

    Raises:
        Qwen3labError: the folder's own tokenizer has tokens for which neither base nor adapter
            holds an embedding.
    """
    folder = Path(folder)
    here, stored = model.get_input_embeddings().weight.shape[0], table_rows(folder)
    indices = _json(folder / ADAPTER).get("trainable_token_indices") or []
    if isinstance(indices, dict):
        indices = [index for found in indices.values() for index in found]
    rows = stored or max([here - 1, *indices]) + 1
    known = set(range(min(here, rows) if stored is None else rows)) | set(indices)
    if own_file(folder, *VOCABULARY):
        lost = {
            token: number for token, number in tokenizer.get_vocab().items() if number not in known
        }
        if lost:
            first = min(lost, key=lost.get)
            raise Qwen3labError(
                f"The tokenizer of {folder.name!r} has {len(lost)} tokens more than there are"
                f" embeddings: {first!r} is number {lost[first]}, and base and adapter have"
                f" {rows}. Save the adapter with its embeddings (save_embedding_layers=True), or"
                " the tokenizer that it was trained with."
            )
    if rows != here:
        # New rows are read from the adapter, so the library need not make any up.
        model.resize_token_embeddings(rows, mean_resizing=False)


def put_on(model: PreTrainedModel, folder: str | Path) -> Any:
    """Put an adapter on a model of the right size; returns a `peft.PeftModel` in eval mode.

    Raises:
        Qwen3labError: the adapter does not fit the model: other shapes, weights that the model has
            no place for, or places that the adapter has no weights for.
    """
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors import SafetensorError, safe_open

    folder = Path(folder)
    try:
        with warnings.catch_warnings():
            # The library says so, and goes on with weights as they were initialised.
            warnings.filterwarnings("error", message=".*missing adapter keys")
            adapted = PeftModel.from_pretrained(model, str(folder)).eval()
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            there = {name for name in file.keys() if ".lora_" in name and ".experts." not in name}
        # Whether embeddings belong to it, the library would ask the hub for.
        own = get_peft_model_state_dict(adapted, save_embedding_layers=False)
        strange = sorted(there - set(own))
        if strange:
            raise ValueError(f"the model has no place for {strange[0]}")
    except (RuntimeError, ValueError, TypeError, KeyError, UserWarning, SafetensorError) as error:
        lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
        why = lines[1] if len(lines) > 1 else "".join(lines[:1])
        raise Qwen3labError(
            f"The adapter {folder.name!r} does not fit the model"
            f" {str(model.config.name_or_path)!r} ({why[:300].rstrip('.')}). Give the model that it"
            " was trained on."
        ) from error
    return adapted


def _json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("no JSON object")
    except (OSError, ValueError) as error:
        raise Qwen3labError(
            f"{file.name} of {file.parent.name!r} cannot be read ({loading.first_line(error)})."
            " Restore it from its source."
        ) from error
    return found
