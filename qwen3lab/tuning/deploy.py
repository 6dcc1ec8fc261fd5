"""Make a run's other forms: the merged model, a GGUF file, an Ollama Modelfile, server commands."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwen3lab import cache, chat
from qwen3lab.errors import Qwen3labError
from qwen3lab.models import beside
from qwen3lab.quantization import gguf, merging
from qwen3lab.tuning import folder

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedTokenizerBase

END = "<|im_end|>"


def merged(out: Path, model: str) -> Path:
    """Return the run's merged model; merge adapter and base in float32 first if it is not there."""
    target = out / folder.MERGED
    if not target.is_dir():
        make = lambda draft: merging.merge(model, out, draft)
        cache.write_whole(target, make, replace=False)
    return target


def gguf_file(out: Path, source: Path, outtype: str) -> Path:
    """Return the run's GGUF file of a type; convert the merged model first if it is not there."""
    target = out / f"model-{outtype}.gguf"
    if not target.is_file():
        draft = target.with_name(f"new-{target.name}")
        gguf.to_gguf(source, draft, outtype)
        draft.rename(target)
    return target


def opening(tokenizer: PreTrainedTokenizerBase, thinking: bool = False) -> str:
    """Return what the template writes between a question's end and the answer."""
    asked = chat.render(tokenizer, [{"role": "user", "content": "?"}], thinking=thinking)
    return asked.rpartition(f"?{END}\n")[2]


def modelfile(
    tokenizer: PreTrainedTokenizerBase,
    file: str,
    thinking: bool = False,
    settings: GenerationConfig | None = None,
) -> str:
    """Write an Ollama Modelfile whose template asks as the training did (text, without tools).

    It samples as the generation settings beside the model say (`beside.generation`); without any,
    and where they do not sample, it takes the likeliest token.

    Ollama does not run the template that a GGUF file carries; what it would use instead leaves out
    the think block that the answers were trained after. The form is that of its documentation
    (docs/modelfile.md, docs/template.md); it was not run in Ollama here.

    Raises:
        Qwen3labError: the template does not write turns in ChatML.
    """
    turn = chat.render(tokenizer, [{"role": "user", "content": "?"}], generation_prompt=False)
    if not turn.endswith(f"<|im_start|>user\n?{END}\n"):
        raise Qwen3labError(
            "A Modelfile is written for ChatML turns, and this chat template writes others. Serve"
            " the model with llama.cpp or vLLM, which run the template itself."
        )
    return f'''FROM ./{file}
TEMPLATE """{{{{- range .Messages }}}}<|im_start|>{{{{ .Role }}}}
{{{{ .Content }}}}{END}
{{{{ end }}}}{opening(tokenizer, thinking)}"""
PARAMETER stop "{END}"
{sampling(settings)}
'''


def sampling(settings: GenerationConfig | None) -> str:
    """Write generation settings as parameters of a Modelfile, one a line.

    What transformers takes where a field is missing is written out: Ollama would take other values.
    """
    if settings is None or not settings.do_sample:
        return "PARAMETER temperature 0"
    values = {
        name: getattr(settings, field, None)
        if getattr(settings, field, None) is not None
        else else_
        for name, field, else_ in (
            ("temperature", "temperature", 1.0),
            ("top_k", "top_k", 50),
            ("top_p", "top_p", 1.0),
            ("min_p", "min_p", 0.0),
            ("repeat_penalty", "repetition_penalty", 1.0),
        )
    }
    return "\n".join(f"PARAMETER {name} {value:g}" for name, value in values.items())


def commands(out: Path, record: dict[str, Any]) -> str:
    """Write the commands that serve a run, as a section of its model card."""
    lines = ["", "## Serve", "", "```bash"]
    name = record["model"]
    has_merged = (out / folder.MERGED).is_dir() or record["method"] == "full"
    if has_merged:
        place = "FOLDER" if record["method"] == "full" else f"FOLDER/{folder.MERGED}"
        lines.append(f"vllm serve {place}")
    if record["method"] != "full" and not _own_embeddings(out):
        rank = record["adapter"].get("r", 16)
        lines.append(
            f"vllm serve {name} --tokenizer FOLDER --enable-lora --max-lora-rank {max(8, rank)}"
            " --lora-modules tuned=FOLDER"
        )
    for file in sorted(out.glob("model-*.gguf")):
        lines.append(f"llama-server -m FOLDER/{file.name} --jinja")
    if (out / folder.MODELFILE).is_file():
        lines.append(f"ollama create tuned -f FOLDER/{folder.MODELFILE} && ollama run tuned")
    return "\n".join([*lines, "```", ""])


def _own_embeddings(out: Path) -> bool:
    """Tell whether an adapter holds more than updates of layers, which vLLM refuses to load."""
    fields = beside.adapter_config(out) if beside.is_adapter(out) else {}
    return any(fields.get(name) for name in ("modules_to_save", "trainable_token_indices"))


def push(out: Path, repo: str) -> str:
    """Upload a run's folder to the Hugging Face hub, its rows left out; returns the address.

    It needs a token (`hf auth login`). Uploaded are weights, tokenizer, settings and the model
    card; nothing that shows a row, so not the report and the audit either.

    Raises:
        Qwen3labError: the hub cannot be reached, or refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    private = [
        f"{folder.CONVERSATIONS}/*",
        "rows/*",
        "exam.*",
        "report.html",
        "audit.html",
        f"{folder.TRAINING}/*",
        ".draft-*",
    ]
    api = HfApi()
    try:
        api.create_repo(repo, exist_ok=True, private=True)
        api.upload_folder(repo_id=repo, folder_path=out, ignore_patterns=[*private, "*.new"])
    except (HfHubHTTPError, LocalTokenNotFoundError, OSError) as error:
        why = str(error).strip().splitlines()[0].rstrip(".")
        raise Qwen3labError(
            f"The hub did not take {repo!r} ({why}). Log in with `hf auth login`, and call again:"
            " everything is on this machine."
        ) from error
    return f"https://huggingface.co/{repo}"
