"""Converters of six public data formats to one schema.

A conversation becomes `{"id", "source", "task", "language", "messages"}`, with "tools" where it has
some. A source file that answers no question becomes `{"id", "source", "task", "language", "text"}`,
for continued pre-training.
A row that cannot be used is never dropped silently: it comes back with its number and the reason.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwen3lab import paths
from qwen3lab.chat import ROLES
from qwen3lab.data.validation import arguments, check, check_coding, check_text, fault, short
from qwen3lab.errors import Qwen3labError

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "ALIASES",
    "FORMS",
    "ROLES",
    "SAMPLES",
    "HUB",
    "Converted",
    "convert",
    "fault",
    "language",
    "load",
    "read_raw",
    "table",
    "to_messages",
]

# The names that public sets use for the four roles. The chat template knows only the right-hand
# side.
ALIASES = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "developer": "system",
    "observation": "tool",
    "function_response": "tool",
} | {role: role for role in ROLES}
SAMPLES = {
    "sharegpt": "sharegpt.jsonl",
    "alpaca": "alpaca.json",
    "medqa": "medqa.jsonl",
    "codeparrot": "codeparrot.jsonl",
    "mathinstruct": "mathinstruct.json",
    "tools": "tools.jsonl",
}
# Public sets in the same formats. `load` takes these names, or any other of the hub; read a set's
# licence first.
HUB = {
    "sharegpt": "liyucheng/ShareGPT90K",
    "alpaca": "tatsu-lab/alpaca",
    "medqa": "GBaker/MedQA-USMLE-4-options",
    "codeparrot": "codeparrot/codeparrot-clean-valid",
    "mathinstruct": "TIGER-Lab/MathInstruct",
}
# Keys of a message that a trainer or the template uses; public files carry others, such as a name
# or a rating.
_KEPT = ("reasoning_content", "tool_calls", "tool_call_id", "weight")


class Unusable(Qwen3labError):
    """Error for a row that cannot be trained on: a fixed `reason` and this row's `detail`."""

    def __init__(self, reason: str, detail: str):
        super().__init__(f"This row has {reason} ({detail}). Mend it, or leave it out.")
        self.reason, self.detail = reason, detail


class Broken(str):
    """Line that is not valid JSON, kept as its text, with the reason `why`."""

    why: str

    def __new__(cls, text: str, why: str) -> Broken:
        line = super().__new__(cls, text)
        line.why = why
        return line


@dataclass
class Converted:
    """Converted rows of one source.

    rows: conversations in the course's schema. texts: plain texts in it. rejected: all other rows,
    as {"row": number from 1, "reason": a fixed sentence, "detail": what is wrong in this row,
    "raw": the original row}.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    texts: list[dict[str, Any]] = field(default_factory=list)
    rejected: list[dict[str, Any]] = field(default_factory=list)

    def refused(self) -> pd.DataFrame:
        """Tabulate the rejected rows: row, reason, detail, and how the row begins."""
        import pandas as pd

        return pd.DataFrame(
            [
                {
                    "row": bad["row"],
                    "reason": bad["reason"],
                    "detail": bad["detail"],
                    "begins": short(bad["raw"], 60),
                }
                for bad in self.rejected
            ],
            columns=["row", "reason", "detail", "begins"],
        )


def read_raw(path: str | Path) -> list[Any]:
    """Read a JSON array or a JSON-lines file; unreadable lines stay in the list as text (`Broken`).

    Raises:
        Qwen3labError: the file is missing, is not UTF-8, or holds no row.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise Qwen3labError(
            f"There is no file {path.name}. Check the name and the folder."
        ) from None
    except OSError as error:
        raise Qwen3labError(
            f"{path.name} cannot be read ({error.strerror}). Give a file that you may open."
        ) from None
    data = data.removeprefix(codecs.BOM_UTF8)
    if data.lstrip().startswith(b"["):
        try:
            rows = json.loads(_decode(data, path.name))
        except (ValueError, RecursionError) as error:
            why = "nested too deeply" if isinstance(error, RecursionError) else str(error)
            raise Qwen3labError(
                f"{path.name} begins like a JSON array but is none ({why}). Repair it, or write one"
                " object a line."
            ) from None
    else:
        # Bytes, because str.splitlines also cuts at U+2028 within a text.
        lines = [line for line in data.split(b"\n") if line.strip()]
        if lines and not any(_reads(line) for line in lines if not line.isascii()):
            _decode(data, path.name)
        rows = [_parse(line) for line in lines]
        if len(rows) > 1 and all(isinstance(row, Broken) for row in rows):
            whole = _parse(data)  # one object over several lines
            rows = [whole] if isinstance(whole, dict) else rows
    if not rows:
        raise Qwen3labError(f"{path.name} holds no rows. Write at least one JSON object.")
    return rows


def _reads(line: bytes, encoding: str = "utf-8") -> bool:
    try:
        line.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def _decode(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            other = "UTF-16"
        else:
            other = "GBK" if _reads(data, "gb18030") else None
        looks, option = (f"; it looks like {other}", other) if other else ("", "GBK")
        raise Qwen3labError(
            f"{name} is not UTF-8 (byte {error.start + 1}){looks}. "
            f"Save it as UTF-8, for example with `iconv -f {option} -t UTF-8`."
        ) from None


def _parse(line: bytes) -> Any:
    try:
        text = line.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        return Broken(
            line.decode("utf-8", "replace"), f"byte {error.start + 1} of the line is not UTF-8"
        )
    try:
        return json.loads(text)
    except RecursionError:
        return Broken(text, "nested too deeply")
    except ValueError as error:
        return Broken(text, str(error))


# The six readers. Each changes names only and repairs nothing; `check` then says whether the result
# can be trained on.


def _conversation(row: dict[str, Any]) -> dict[str, Any]:
    turns = [
        (turn.get("from"), turn.get("value")) if isinstance(turn, dict) else (None, turn)
        for turn in row["conversations"]
    ]
    lead = [("system", row["system"])] if row.get("system") else []
    return {"messages": [{"role": _role(role), "content": text} for role, text in lead + turns]}


def _chat(row: dict[str, Any]) -> dict[str, Any]:
    tools = row.get("tools")
    # Some sets keep the schemas as one JSON text, which every table format can store.
    if isinstance(tools, str):
        try:
            tools = json.loads(tools)
        except (ValueError, RecursionError):
            raise Unusable("tools that cannot be read", "no JSON") from None
    return {"messages": [_message(message) for message in row["messages"]]} | (
        {"tools": tools} if tools else {}
    )


def _message(message: Any) -> dict[str, Any]:
    if not isinstance(message, dict):
        return {"role": None, "content": message}
    content = message.get("content")
    # OpenAI's list of parts; one with a picture stays as it is and is refused.
    if isinstance(content, list) and content:
        texts = [
            part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None
            for part in content
        ]
        content = "\n".join(texts) if all(isinstance(text, str) for text in texts) else content
    kept = {"role": _role(message.get("role")), "content": content} | {
        key: message[key] for key in _KEPT if message.get(key) is not None
    }
    if isinstance(kept.get("tool_calls"), list):
        kept["tool_calls"] = [_call(call) for call in kept["tool_calls"]]
    return kept


def _call(call: Any) -> Any:
    """Write a call's arguments as JSON text in one spelling, as the template would write an object.

    Text and not an object, because an Arrow table would give all calls the union of all arguments,
    filled with null.
    """
    given = arguments(call)
    if given is None or not isinstance(call.get("function"), dict):
        return call
    return call | {
        "function": call["function"] | {"arguments": json.dumps(given, ensure_ascii=False)}
    }


def _task(row: dict[str, Any]) -> dict[str, Any]:
    question = row["instruction"]
    if isinstance(question, str) and isinstance(row.get("input"), str) and row["input"]:
        question = f"{question}\n\n{row['input']}"
    messages = [{"role": "system", "content": row["system"]}] if row.get("system") else []
    history = row.get("history") or []
    if not isinstance(history, list) or not all(
        isinstance(pair, list) and len(pair) == 2 for pair in history
    ):
        raise Unusable("an unknown form", "a history that is no list of pairs")
    for question_before, answer_before in history:
        messages += [
            {"role": "user", "content": question_before},
            {"role": "assistant", "content": answer_before},
        ]
    return {
        "messages": [
            *messages,
            {"role": "user", "content": question},
            {"role": "assistant", "content": row["output"]},
        ]
    }


def _choice(row: dict[str, Any]) -> dict[str, Any]:
    options = row["options"]
    if isinstance(options, list) and all(
        isinstance(option, dict) and isinstance(option.get("key"), str) for option in options
    ):
        # a second public spelling
        options = {option["key"]: option.get("value") for option in options}
    if (
        not isinstance(options, dict)
        or not options
        or not all(isinstance(text, str) for pair in options.items() for text in pair)
    ):
        raise Unusable("options that cannot be read", "no letters with their texts")
    answer, letter = row.get("answer"), row.get("answer_idx")
    if letter is None:
        letter = next((key for key, text in options.items() if text == answer), None)
    if not isinstance(letter, str) or letter not in options:
        raise Unusable(
            "an answer that is none of the options", short(letter if letter is not None else answer)
        )
    if answer is not None and answer != options[letter]:
        raise Unusable(
            "an answer that contradicts its letter", f"{letter} is {short(options[letter])}"
        )
    question = (
        row["question"] + "\n\n" + "\n".join(f"{key}. {text}" for key, text in options.items())
    )
    return {
        "messages": [
            {"role": "user", "content": question},
            {"role": "assistant", "content": f"{letter}. {options[letter]}"},
        ]
    }


def _problem(row: dict[str, Any]) -> dict[str, Any]:
    # Answers are worked in words (chain of thought) or as a program: two tasks, to be kept apart in
    # a mixture.
    kind = "program" if isinstance(row["source"], str) and "/PoT/" in row["source"] else "words"
    return _task(row) | {"task": f"problem in {kind}"}


def _code(row: dict[str, Any]) -> dict[str, Any]:
    # Nobody asked for this file. An invented question ("Write a file that ...") would teach the
    # model an exchange that never took place.
    kept = {
        key: row[key] for key in ("repo_name", "path", "license") if isinstance(row.get(key), str)
    }
    return {"text": row["content"], "language": "code"} | kept


@dataclass(frozen=True)
class Form:
    """Public data format: its identifying keys with their types, and a reader for a row."""

    keys: Mapping[str, type]
    read: Callable[[dict[str, Any]], dict[str, Any]]
    becomes: str
    lacks: tuple[str, ...] = ()

    def fits(self, row: dict[str, Any]) -> bool:
        """Check whether a row has the keys and types of this format."""
        return all(
            isinstance(row.get(key), kind) and key in row for key, kind in self.keys.items()
        ) and not any(key in row for key in self.lacks)


# In the order in which they are tried. Key names as in the public sets (their cards on the hub;
# OpenAI's fine-tuning guide).
FORMS = {
    "sharegpt": Form({"conversations": list}, _conversation, "conversation"),
    "tools": Form({"messages": list}, _chat, "conversation, with tools"),
    "medqa": Form(
        {"question": str, "options": object},
        _choice,
        "question with options, then the letter and its text",
    ),
    "mathinstruct": Form(
        {"source": object, "instruction": object, "output": object},
        _problem,
        "question and worked answer",
        lacks=("input",),
    ),
    "alpaca": Form({"instruction": object, "output": object}, _task, "question and answer"),
    "codeparrot": Form(
        {"repo_name": object, "path": object, "content": object},
        _code,
        "plain text for continued pre-training",
    ),
}


def _role(role: Any) -> Any:
    return ALIASES.get(role.strip().lower(), role) if isinstance(role, str) else role


def _form(row: dict[str, Any]) -> Form:
    for form in FORMS.values():
        if form.fits(row):
            return form
    raise Unusable(
        "an unknown form",
        "keys " + (", ".join(sorted(short(key, 20) for key in row)[:8]) or "none"),
    )


def to_messages(row: dict[str, Any]) -> list[dict[str, Any]]:
    """Convert one raw row in any known format to messages.

    Alpaca's `input` follows its instruction after a blank line; `system` and `history` (pairs) are
    used where given. Only names are changed, nothing is repaired: `fault` says whether the result
    can be trained on.

    Raises:
        Qwen3labError: a row in no known format, or a plain text, which holds no conversation.
    """
    read = _form(row).read(row)
    if "messages" not in read:
        raise Unusable("no conversation", "a plain text")
    return read["messages"]


def language(text: str) -> str:
    """Detect a text's language: "zh" if at least a fifth of its letters are Chinese, else "en"."""
    letters = sum(map(str.isalpha, text))
    return "zh" if letters and len(_CHINESE.findall(text)) / letters >= 0.2 else "en"


_CHINESE = re.compile("[\u3400-\u9fff]")


def convert(raw: Iterable[Any], source: str, *, strict: bool = False) -> Converted:
    """Convert raw rows to one schema; reject those that cannot be trained on, with the reason.

    Args:
        raw: rows as `read_raw` or `datasets` return them.
        source: a name that is written into every row; its "task" is the same, unless the format
            distinguishes several tasks.
        strict: raise a Qwen3labError that names the first unusable row, instead of collecting them.
    """
    done = Converted()
    for number, row in enumerate(raw, start=1):
        head = {"id": f"{source}.{number:04d}", "source": source, "task": source, "language": "en"}
        try:
            if not isinstance(row, dict):
                raise Unusable(
                    "no JSON object", getattr(row, "why", f"of type {type(row).__name__}")
                )
            read = _form(row).read(row)
            found = (
                check(read["messages"], read.get("tools"))
                if "messages" in read
                else check_text(read["text"]) or check_coding(read)
            )
            if found:
                raise Unusable(*found)
        except Unusable as error:
            if strict:
                raise Qwen3labError(
                    f"{source}, row {number}: {error.reason} ({error.detail}). "
                    "Mend the row, or convert with strict=False to sort such rows out."
                ) from None
            done.rejected.append(
                {"row": number, "reason": error.reason, "detail": error.detail, "raw": row}
            )
            continue
        if "text" in read:
            done.texts.append(head | read)
        else:
            said = " ".join(
                message["content"] or ""
                for message in read["messages"]
                if message["role"] in ("user", "assistant")
            )
            done.rows.append(head | {"language": language(said)} | read)
    return done


def load(
    name: str,
    *,
    split: str = "train",
    limit: int | None = None,
    strict: bool = False,
    **options: Any,
) -> Converted:
    """Load and convert a data set by name.

    Args:
        name: one of `SAMPLES` (small files of this course), a JSON file, a folder of data files, or
            the id of a set on the Hugging Face hub, such as those in `HUB`. The last two are read
            by `datasets.load_dataset`.
        split: split of a folder or hub set.
        limit: maximum number of rows; a hub set is then streamed, not downloaded.
        strict: as in `convert`.
        options: passed to `load_dataset`, for example name="config" or cache_dir.
    Raises:
        Qwen3labError: there is no such file or set, no network to fetch it, or (with strict) an
            unusable row.
    """
    if name in SAMPLES:
        return convert(
            islice(read_raw(paths.DATA / "samples" / SAMPLES[name]), limit), name, strict=strict
        )
    path = Path(name)
    if path.is_file() or (path.suffix in (".json", ".jsonl") and not path.is_dir()):
        return convert(islice(read_raw(path), limit), path.stem, strict=strict)
    from datasets import load_dataset

    try:
        rows = list(
            islice(load_dataset(name, split=split, streaming=limit is not None, **options), limit)
        )
    except Exception as error:  # `datasets` and the libraries below it raise dozens of kinds
        why = f"{type(error).__name__}: {short(str(error).strip().split(chr(10))[0], 160)}"
        raise Qwen3labError(
            f"The data set {name!r} could not be loaded ({why}). Check its name, split and the"
            f" network, or use a file of yours or one of the samples: {', '.join(SAMPLES)}."
        ) from error
    return convert(rows, path.name, strict=strict)


def table(done: Mapping[str, Converted]) -> pd.DataFrame:
    """Count conversations (by language), plain texts and refused rows of each source."""
    import pandas as pd

    return pd.DataFrame(
        [
            {
                "source": name,
                "raw": len(one.rows) + len(one.texts) + len(one.rejected),
                "conversations": len(one.rows),
                "en": sum(row["language"] == "en" for row in one.rows),
                "zh": sum(row["language"] == "zh" for row in one.rows),
                "with tools": sum("tools" in row for row in one.rows),
                "plain texts": len(one.texts),
                "refused": len(one.rejected),
            }
            for name, one in done.items()
        ]
    ).set_index("source")
