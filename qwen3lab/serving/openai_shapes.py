"""Read a chat request as OpenAI's clients send it.

A field that is null is a field that is absent, wherever OpenAI knows the field. What the engines do
(llama.cpp and vLLM, both at /v1/completions) is passed on; what only labels a request is accepted;
everything else is refused by its name, because a client that sent it counts on it. A message reads
as everywhere in the course (`qwen3lab.messages`), so that an answer can be sent back as it came.
"""

from __future__ import annotations

import json
import math
import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from qwen3lab import messages
from qwen3lab.errors import Qwen3labError
from qwen3lab.serving import schemas

DEEPEST = 100  # lists and objects inside each other; the template and the engine recurse
MANY = 2000  # messages, tools or calls; each wrong one costs an error's memory
INT64 = 2**63

# Fields of OpenAI's that no engine behind this server can obey, and what to do instead.
INSTEAD = {
    "functions": "Send 'tools'.",
    "function_call": "Send 'tools' and 'tool_choice', and calls as 'tool_calls'.",
    "audio": "Only text is read and written here.",
    "reasoning_effort": 'Send "chat_template_kwargs": {"enable_thinking": true} or false.',
    "verbosity": "Say in a message how long the answer should be.",
}


class Refused(Exception):
    """A refused request, answered with an HTTP status and one sentence."""

    def __init__(self, status: int, reason: str):
        super().__init__(reason)
        self.status = status


class _Strict(BaseModel):
    """A strict pydantic model: no "3" for 3, and no silently ignored fields; null is absent."""

    model_config = ConfigDict(strict=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        found = {key: value for key, value in given.items() if value is not None}
        known = {part.alias or name for name, part in cls.model_fields.items()}
        # Of fields that nobody knows the first is named; a million of them take no memory.
        for key in list(filter(lambda key: key not in known, found))[1:]:
            del found[key]
        return found


class Function(_Strict):
    """The function of a tool call; `arguments` is JSON as text in OpenAI's format."""

    name: Annotated[str, Field(min_length=1)]
    arguments: str | dict[str, Any] = "{}"


class ToolCall(_Strict):
    """A tool call of an earlier turn."""

    id: str | None = None
    type: Literal["function"] = "function"
    index: int | None = None  # of a stream's calls
    function: Function


class Message(_Strict):
    """A chat message; the roles are those of Qwen's template, and `developer` is `system`.

    `name`, `tool_call_id` and the ids of calls are labels: the template writes none of them.
    """

    role: Literal["system", "user", "assistant", "tool"]
    content: Any = None
    reasoning_content: Any = None
    reasoning: Any = None
    thinking: Any = None
    thoughts: Any = None
    refusal: str | None = None
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None
    tool_calls: Annotated[list[ToolCall], Field(max_length=MANY)] | None = None
    tool_call_id: str | None = None
    name: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _developer_is_system(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("role") == "developer":
            return given | {"role": "system"}
        return given

    @model_validator(mode="after")
    def _can_be_read(self) -> Message:
        if self.role != "assistant":
            for key in ("tool_calls", "refusal", *messages.THOUGHTS):
                if getattr(self, key):
                    raise ValueError(f"Only an assistant's message has {key!r}. Leave it out.")
        if self.refusal and self.content:
            raise ValueError("The message has a content and a refusal. Send one of them.")
        try:
            messages.read(self.plain())
        except Qwen3labError as error:
            raise ValueError(str(error)) from None
        return self

    def plain(self) -> dict[str, Any]:
        """Convert the message to the format that `chat.encode` takes."""
        kept = {"role", "content", "tool_calls", *messages.THOUGHTS}
        plain = self.model_dump(exclude_none=True, include=kept)
        return plain | ({"content": self.refusal} if self.refusal else {})


class Template(_Strict):
    """Options of the chat template."""

    enable_thinking: bool = False


class Options(_Strict):
    """Stream options."""

    include_usage: bool = False
    include_obfuscation: Literal[False] = False


class Schema(_Strict):
    """A JSON schema that the answer has to hold to."""

    name: str
    description: str | None = None
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    strict: bool | None = None


class Format(_Strict):
    """The form of an answer: any text, a JSON object, or JSON of a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: Schema | None = None

    @model_validator(mode="after")
    def _with_its_schema(self) -> Format:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("A 'json_schema' belongs to the type 'json_schema'. Send both.")
        if self.json_schema:
            schemas.check(self.json_schema.schema_)
        return self


def _offered(tool: dict[str, Any]) -> dict[str, Any]:
    function = tool.get("function")
    if tool.get("type", "function") != "function" or not isinstance(function, dict):
        raise ValueError("A tool is {'type': 'function', 'function': {…}}. Send it in this form.")
    if not isinstance(function.get("name"), str) or not function["name"]:
        raise ValueError("A tool's function has no name. Give it one.")
    if not isinstance(function.get("parameters") or {}, dict):
        raise ValueError("A tool's parameters are no JSON schema. Give an object.")
    return tool


def _biases(biases: dict[str, float]) -> dict[str, float]:
    if len(biases) > MANY or not all(re.fullmatch(r"[0-9]{1,9}", key) for key in biases):
        raise ValueError(f"Its keys are ids of tokens, at most {MANY:,}, such as '42'. Send those.")
    return biases


Penalty = Annotated[float, Field(ge=-2, le=2)]


class ChatRequest(_Strict):
    """A chat completion request: the part of OpenAI's that this server supports.

    `top_k`, `min_p` and `repetition_penalty` are extra fields of vLLM and llama.cpp. Where a field
    has no default here, the engine's own holds.
    """

    messages: Annotated[list[Message], Field(min_length=1, max_length=MANY)]
    model: str | None = None
    # How long, and how it is drawn.
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=-1, lt=2**31)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-INT64, lt=INT64)] | None = None
    stop: (
        Annotated[str, Field(min_length=1)]
        | Annotated[list[Annotated[str, Field(min_length=1)]], Field(max_length=4)]
        | None
    ) = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    logit_bias: (
        Annotated[dict[str, Annotated[float, Field(ge=-100, le=100)]], AfterValidator(_biases)]
        | None
    ) = None
    # What comes back.
    n: Annotated[int, Field(ge=1, le=128)] = 1
    stream: bool = False
    stream_options: Options | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: Format | None = None
    modalities: Annotated[list[Literal["text"]], Field(max_length=1)] | None = None
    # Tools and thoughts.
    tools: (
        Annotated[list[Annotated[dict[str, Any], AfterValidator(_offered)]], Field(max_length=MANY)]
        | None
    ) = None
    tool_choice: Literal["none", "auto"] = "auto"
    parallel_tool_calls: bool = True
    chat_template_kwargs: Template = Template()
    # Labels, which change no answer.
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    metadata: dict[str, Any] | None = None
    store: Literal[False] = False
    service_tier: Literal["auto", "default"] | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> ChatRequest:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("'top_logprobs' needs 'logprobs': true. Send both.")
        if self.schema_ and (self.offered or self.chat_template_kwargs.enable_thinking):
            raise ValueError(
                "'response_format' leaves no room for tools and thoughts: the engine would hold"
                " them to it as well. Ask without them."
            )
        return self

    @property
    def schema_(self) -> dict[str, Any] | None:
        """Return the JSON schema that the answer has to hold to."""
        form = self.response_format
        if form is None or form.type == "text":
            return None
        return form.json_schema.schema_ if form.json_schema else schemas.OBJECT

    @property
    def offered(self) -> list[dict[str, Any]]:
        """Return the tools that the model may call."""
        return [] if self.tool_choice == "none" else self.tools or []


def read(body: bytes) -> ChatRequest:
    """Parse and validate the body of a chat request. Raises Refused, with the invalid field."""
    try:
        given = json.loads(body, parse_constant=_no_json, parse_float=_finite)
        # Fails for half a character, which no tokenizer accepts.
        json.dumps(given, ensure_ascii=False).encode()
    except RecursionError:
        raise Refused(400, _TOO_DEEP) from None
    except ValueError as error:
        raise Refused(400, f"The body is no valid JSON: {error}") from None
    if sum(1 for _ in schemas.levels(given)) > DEEPEST:
        raise Refused(400, _TOO_DEEP)
    try:
        return ChatRequest.model_validate(given)
    except ValidationError as error:
        raise Refused(400, _sentence(error.errors(include_url=False)[0])) from None


_TOO_DEEP = f"The body is nested more than {DEEPEST} levels deep. Send a flatter one."


def _sentence(error: Any) -> str:
    place = ".".join(str(part) for part in error["loc"]) or "the body"
    if error["type"] == "extra_forbidden":
        hint = INSTEAD.get(str(error["loc"][-1]), "Leave it out.")
        return f"{place}: Extra inputs are not permitted by this server. {hint}"
    return f"{place}: {error['msg'].removeprefix('Value error, ')}"


def _no_json(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _finite(text: str) -> float:
    if math.isinf(float(text)):
        raise ValueError(f"{text[:20]} is too large a number")
    return float(text)
