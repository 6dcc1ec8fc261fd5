"""Run a GGUF file in llama.cpp inside this process, called as a function or over HTTP."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwen3lab import chat
from qwen3lab.errors import Qwen3labError
from qwen3lab.models import generation, loading

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


# bytes; below it a second thread costs more than it gains (as for `models.SMALL_MODEL`)
SMALL_FILE = 100_000_000
LONGEST = 4096  # tokens of context that are allocated unless the caller asks for more


@dataclass(frozen=True)
class Completion:
    """A greedy completion from llama.cpp."""

    ids: list[int]  # without the end token
    text: str
    finished: bool  # ended with an end token; False: it was cut off
    prompt_tokens: int
    tokens_per_second: float  # decoding speed; depends on the machine


class LlamaServer:
    """A llama.cpp server with one model, open as long as the `with` block.

    Args:
        path: a GGUF file.
        tokenizer: the model's tokenizer; turns messages into ids and ids into text.
        context: tokens of prompt and answer together; default: the model's training context, at
            most 4,096.
        threads: default: one for files below 100 MB, else one per CPU.
        slots: answers generated in parallel, each with `context` tokens; other requests wait.
        exact: keep keys and values in float32 instead of float16, to compare with transformers in
            float32.
        reuse: reuse the KV cache of a prompt for the next one with the same prefix; default: unless
            `exact`.
    Raises:
        Qwen3labError: no such file, not a GGUF file, a truncated or damaged file, an architecture
            that llama.cpp does not know, a tokenizer with other control tokens than the file's.
    """

    def __init__(
        self,
        path: str | Path,
        tokenizer: PreTrainedTokenizerBase,
        *,
        context: int | None = None,
        threads: int | None = None,
        slots: int = 1,
        exact: bool = False,
        reuse: bool | None = None,
    ):
        self.path, self.tokenizer = Path(path), tokenizer
        longest, self.ends = _read(self.path, tokenizer)
        self.context = context or min(longest, LONGEST)
        self.threads = threads or (1 if self.path.stat().st_size < SMALL_FILE else loading.cpus())
        self.slots, self.exact, self.reuse = slots, exact, not exact if reuse is None else reuse
        self._server: Any = None

    def __enter__(self) -> LlamaServer:
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path, params.model_alias = (
            str(self.path),
            {self.path.stem},
        )  # without an alias, clients would see the file's path
        params.n_ctx, params.n_parallel = self.context * self.slots, self.slots
        # llama.cpp's threads wait for each other by spinning: with more threads than free cores, a
        # token takes seconds.
        for part in (params.cpuparams, params.cpuparams_batch):
            part.n_threads, part.poll = self.threads, 0
        params.warmup, params.ui, params.cache_ram_mib, params.verbosity = False, False, 0, -1
        params.cache_prompt = self.reuse
        if self.exact:
            params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
            params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        try:
            self._server = xllamacpp.Server(params)
        except RuntimeError as error:
            raise Qwen3labError(
                f"llama.cpp could not load {self.path.name!r}. Write the file again with"
                " qwen3lab.quantization.to_gguf(), or update xllamacpp if it comes from elsewhere."
            ) from error
        # A server that is closed before its loop has started hangs forever; an answer proves
        # that it has. It is also the warm-up.
        self.post("/completion", {"prompt": [0], "n_predict": 1})
        return self

    def __exit__(self, *error: object) -> None:
        self._server = None  # its destructor stops the threads

    @property
    def address(self) -> str:
        """Return the local address of the HTTP endpoint; OpenAI's API is under /v1."""
        return self._open().listening_address

    def complete(
        self,
        prompt: Sequence[int] | Sequence[dict[str, Any]],
        *,
        thinking: bool = False,
        tools: list[dict] | None = None,
        max_new_tokens: int = 64,
    ) -> Completion:
        """Complete token ids or answer messages with greedy decoding.

        Messages are encoded by `chat.encode`, so a control token that a user writes stays text;
        llama.cpp's own chat endpoint does not make this distinction. Raises Qwen3labError for an
        empty prompt and for one that does not fit the context.
        """
        ids = list(prompt)
        if ids and isinstance(ids[0], dict):
            ids = chat.encode(self.tokenizer, ids, thinking=thinking, tools=tools)
        if not ids:
            raise Qwen3labError("The prompt is empty. Give at least one message or token id.")
        if len(ids) >= self.context:
            raise Qwen3labError(
                f"The prompt has {len(ids)} tokens, but the context is {self.context}. Shorten it,"
                " or open the server with a larger context."
            )
        reply = self.post(
            "/completion",
            {
                "prompt": [int(i) for i in ids],
                "temperature": 0.0,
                "n_predict": max_new_tokens,
                "return_tokens": True,
                "cache_prompt": False,
            },
        )
        answer = generation.before_end(reply["tokens"], self.ends)
        return Completion(
            answer,
            self.tokenizer.decode(answer, skip_special_tokens=True).strip(),
            reply["stop_type"] == "eos",
            reply["tokens_evaluated"],
            reply["timings"]["predicted_per_second"],
        )

    def call(
        self, body: dict[str, Any], each: Callable[[dict[str, Any]], Any] | None = None
    ) -> dict[str, Any]:
        """Call llama.cpp in process, without HTTP, with the body of a /v1/completions request.

        Args:
            each: receives every part of the reply as soon as it arrives, as in a stream.
        Returns the reply, or its last part.
        Raises Qwen3labError if llama.cpp refuses the request.
        """
        parts: list[dict[str, Any]] = []

        def keep(
            part: dict[str, Any],
        ) -> None:  # must return None: a true value would end the stream
            parts.append(part)
            each(part)

        if each:
            self._open().handle_completions(body | {"stream": True}, keep)
        else:
            parts.append(self._open().handle_completions(body))
        for part in parts:
            if "error" in part:
                raise _refused(part["error"].get("message"))
        return parts[-1]

    def post(self, route: str, body: dict[str, Any]) -> dict[str, Any]:
        """Send a request to llama.cpp's own endpoint.

        The functions of xllamacpp return text, not ids.
        """
        request = urllib.request.Request(
            self.address + route, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        try:
            with opener().open(request) as reply:
                return json.load(reply)
        except urllib.error.HTTPError as error:
            reason = json.load(error).get("error", {}).get("message", str(error))
            raise _refused(reason) from error

    def _open(self) -> Any:
        if self._server is None:
            raise Qwen3labError(
                "The server is closed. Use it inside `with LlamaServer(...) as server:`."
            )
        return self._server


def _refused(reason: str | None) -> Qwen3labError:
    return Qwen3labError(
        f"llama.cpp refused the request ({reason}). Check the token ids, or shorten the prompt."
    )


def opener() -> urllib.request.OpenerDirector:
    """Create a URL opener that bypasses proxies, which could not reach this machine's addresses."""
    return urllib.request.build_opener(urllib.request.ProxyHandler({}))


def check(path: str | Path) -> int:
    """Validate a GGUF file and return the context length that it states.

    Raises Qwen3labError if the file is missing, not GGUF, or damaged.
    """
    return _read(path, None)[0]


def _read(path: str | Path, tokenizer: PreTrainedTokenizerBase | None) -> tuple[int, list[int]]:
    """Read the context length and the end tokens of a GGUF file; the tokenizer's ends join them."""
    import gguf

    path = Path(path)
    if not path.is_file():
        raise Qwen3labError(
            f"There is no file {path.name!r}. Write it with qwen3lab.quantization.to_gguf()."
        )
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise Qwen3labError(
                f"{path.name!r} is no GGUF file. Convert the checkpoint with"
                " qwen3lab.quantization.to_gguf()."
            )
    try:
        reader = gguf.GGUFReader(path)
        architecture = reader.get_field("general.architecture").contents()
        context = int(reader.get_field(f"{architecture}.context_length").contents())
        named = [
            reader.get_field(f"tokenizer.ggml.{kind}_token_id") for kind in generation.GGUF_ENDS
        ]
        ends = {int(field.contents()) for field in named if field}
        written = _control_tokens(reader)
    except (
        Exception
    ) as error:  # the reader follows offsets from the file: if damaged, any exception can result
        raise Qwen3labError(
            f"{path.name!r} is damaged or cut short. Write it again with"
            " qwen3lab.quantization.to_gguf()."
        ) from error
    if tokenizer is not None and written:
        added = tokenizer.added_tokens_decoder
        for number in sorted(written.keys() | added.keys()):
            token, there = getattr(added.get(number), "content", None), written.get(number)
            # The converter writes some tokens as they come back from the tokenizer.
            if there is None or there not in (token, tokenizer.decode([number])):
                raise Qwen3labError(
                    f"Token {number} is {token!r} in the tokenizer and {there!r} in {path.name!r}."
                    " Give the tokenizer that lies beside the checkpoint from which the file was"
                    " made."
                )
    if tokenizer is not None:
        ends |= set(generation.end_tokens(tokenizer))
    return context, sorted(ends)


def _control_tokens(reader: Any) -> dict[int, str]:
    """Read the tokens of a GGUF file that are cut out of a text before it is split, by number."""
    import gguf

    tokens, kinds = (
        reader.get_field(f"tokenizer.ggml.{name}") for name in ("tokens", "token_type")
    )
    if not tokens or not kinds:
        return {}
    cut_out = (gguf.TokenType.CONTROL, gguf.TokenType.USER_DEFINED)
    return {
        number: bytes(tokens.parts[tokens.data[number]]).decode(errors="replace")
        for number, kind in enumerate(kinds.contents())
        if kind in cut_out
    }
