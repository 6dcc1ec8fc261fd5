"""Expert routing in a mixture of experts: choices, load, mutual information with token kinds."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from qwen3lab.errors import Qwen3labError
from qwen3lab.models import batching

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


KINDS = ("digit", "name", "English", "Chinese", "punctuation", "thinking", "control")


@dataclass(frozen=True)
class Routing:
    """Expert choices of L routers for N tokens: k experts each, with their weights."""

    ids: np.ndarray  # [N] token ids
    rows: np.ndarray  # [N] the text that a token belongs to
    experts: np.ndarray  # [L, N, k] the chosen experts, the heaviest first
    weights: np.ndarray  # [L, N, k] their weights as the layer uses them
    n_experts: int
    # [L, E] the mean share that a router gave each expert before it picked k
    shares: np.ndarray | None = None

    def frame(self, kinds: Sequence[str] | None = None) -> pd.DataFrame:
        """Tabulate the routing, one line per layer, token and choice.

        Columns: layer, token, row, id, choice, expert, weight (and kind).
        """
        import numpy as np
        import pandas as pd

        layers, tokens, k = self.experts.shape
        layer, token, choice = (axis.ravel() for axis in np.indices((layers, tokens, k)))
        table = {
            "layer": layer,
            "token": token,
            "row": self.rows[token],
            "id": self.ids[token],
            "choice": choice,
            "expert": self.experts.ravel(),
            "weight": self.weights.ravel(),
        }
        return pd.DataFrame(table | ({} if kinds is None else {"kind": np.asarray(kinds)[token]}))


def record(model: PreTrainedModel, rows: Sequence[Sequence[int]], batch_size: int = 16) -> Routing:
    """Record every router's expert choices for rows of token ids, in one forward pass per batch.

    A forward hook on each router (`Qwen3MoeTopKRouter`) takes what it returns: logits, weights
    [tokens, k] and indices [tokens, k]. Rows are right-padded, and the choices for padding are
    dropped.

    Raises:
        Qwen3labError: a model without routers, or no tokens.
    """
    import numpy as np
    import torch

    routers = routers_of(model)
    if not any(len(row) for row in rows):
        raise Qwen3labError("There are no tokens to route. Give at least one row of token ids.")
    seen: list[list[tuple[torch.Tensor, torch.Tensor]]] = [[] for _ in routers]
    totals = [torch.zeros(router.num_experts, dtype=torch.float64) for router in routers]
    mask = None

    def note(layer: int):
        def hook(_module, _inputs, output):
            logits, weights, experts = output
            real = mask.reshape(-1).bool()
            totals[layer] += logits[real].softmax(-1, dtype=torch.float32).sum(0).cpu()
            seen[layer].append((experts[real].cpu(), weights[real].float().cpu()))

        return hook

    handles = [router.register_forward_hook(note(layer)) for layer, router in enumerate(routers)]
    try:
        with batching.reading(model):
            for _, ids, mask in batching.batches(
                rows, batch_size, order="as given", device=model.device
            ):
                # The head's logits are not needed.
                model.get_decoder()(input_ids=ids, attention_mask=mask, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    ids = np.concatenate([np.asarray(row, dtype=int) for row in rows])
    return Routing(
        ids=ids,
        rows=np.repeat(np.arange(len(rows)), [len(row) for row in rows]),
        experts=np.stack([torch.cat([experts for experts, _ in layer]).numpy() for layer in seen]),
        weights=np.stack([torch.cat([weights for _, weights in layer]).numpy() for layer in seen]),
        n_experts=routers[0].num_experts,
        shares=torch.stack(totals).numpy() / len(ids),
    )


def routers_of(model: PreTrainedModel) -> list:
    """List the routers of a mixture of experts; raises Qwen3labError for a dense model."""

    from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeTopKRouter

    routers = [module for module in model.modules() if isinstance(module, Qwen3MoeTopKRouter)]
    if not routers:
        raise Qwen3labError(
            "This model is dense: it has no router. Load a mixture of experts, for example"
            " qwen3lab.models.load('moe')."
        )
    return routers


@contextmanager
def top_k(model: PreTrainedModel, k: int) -> Iterator[PreTrainedModel]:
    """Make every router pick `k` experts per token within the block, and restore k afterwards.

    Raises:
        Qwen3labError: a dense model, or k outside 1 to the number of experts.
    """
    routers = routers_of(model)
    if not 1 <= k <= routers[0].num_experts:
        raise Qwen3labError(
            f"A token cannot go to {k} of {routers[0].num_experts} experts. Choose a number from 1"
            f" to {routers[0].num_experts}."
        )
    # The config and the head's copy matter for the load-balancing loss only.
    places = [(router, "top_k") for router in routers] + [
        (model.config, "num_experts_per_tok"),
        (model, "num_experts_per_tok"),
    ]
    before = [getattr(place, name) for place, name in places]
    try:
        for place, name in places:
            setattr(place, name, k)
        yield model
    finally:
        for (place, name), value in zip(places, before):
            setattr(place, name, value)


@contextmanager
def random_router(model: PreTrainedModel, seed: int = 0) -> Iterator[PreTrainedModel]:
    """Replace every router's weights by Gaussian noise of equal spread within the block.

    The learned weights come back after it. Raises Qwen3labError for a dense model.
    """
    import torch

    routers, generator = routers_of(model), torch.Generator().manual_seed(seed)
    before = [router.weight.detach().clone() for router in routers]
    try:
        with torch.no_grad():
            for router, weight in zip(routers, before):
                router.weight.copy_(
                    torch.randn(weight.shape, generator=generator) * weight.float().std().cpu()
                )
        yield model
    finally:
        with torch.no_grad():
            for router, weight in zip(routers, before):
                router.weight.copy_(weight)


def token_kinds(
    tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], names: re.Pattern[str] | None = None
) -> list[str]:
    """Classify every token of one row as one of `KINDS`.

    Control tokens are the tokenizer's added ones; "thinking" is everything but whitespace between
    `<think>` and `</think>`; a name is whatever `names` matches (default: `world_names()`). For all
    other tokens the characters decide: digits, Chinese, letters. A token takes the first of these
    kinds that any of its characters has; spaces and line breaks count as punctuation.
    """
    control = tokenizer.added_tokens_decoder
    byte = _bytes_of_symbols()
    raw = [
        (
            b""
            if number in control
            else bytes(byte[symbol] for symbol in tokenizer.convert_ids_to_tokens(int(number)))
        )
        for number in ids
    ]
    # A control token separates the text; one byte in its place keeps the positions simple.
    text_bytes = b"".join(
        piece if number not in control else b"\x00" for piece, number in zip(raw, ids)
    )
    text, character_at = _decode(text_bytes)
    is_name = [False] * len(text)
    for found in (names or world_names()).finditer(text):
        for place in range(found.start("name"), found.end("name")):
            is_name[place] = True
    kinds, place, thinking = [], 0, False
    for number, piece in zip(ids, raw):
        if number in control:
            thinking = control[number].content == "<think>"
            kinds.append("control")
            place += 1
            continue
        characters = range(character_at[place], character_at[place + len(piece) - 1] + 1)
        written = "".join(text[i] for i in characters)
        kinds.append(
            "thinking"
            if thinking and written.strip()
            else _kind(written, any(is_name[i] for i in characters))
        )
        place += len(piece)
    return kinds


def _kind(text: str, is_name: bool) -> str:
    if is_name:
        return "name"
    if any(character.isdigit() for character in text):
        return "digit"
    if any("\u4e00" <= character <= "\u9fff" for character in text):
        return "Chinese"
    return "English" if any(character.isalpha() for character in text) else "punctuation"


def _decode(data: bytes) -> tuple[str, list[int]]:
    """Decode UTF-8 and return for each byte the index of its character."""
    text = data.decode("utf-8", errors="surrogateescape")
    lengths = [len(character.encode("utf-8", errors="surrogateescape")) for character in text]
    return text, [number for number, length in enumerate(lengths) for _ in range(length)]


@lru_cache
def _bytes_of_symbols() -> dict[str, int]:
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return {symbol: value for value, symbol in bytes_to_unicode().items()}


@lru_cache
def world_names() -> re.Pattern[str]:
    """Compile a pattern (group "name") for the little world's invented names from syllables."""
    from qwen3lab.world import names as w

    sound, onset = (
        "[" + "".join(w.ZH_SOUNDS) + "]",
        "|".join(sorted(w.ONSETS, key=len, reverse=True)),
    )
    syllable = f"(?:{onset})[{''.join(w.VOWELS)}]"
    coda = f"[{''.join(filter(None, w.CODAS))}]?"
    english = (
        rf"\b(?!(?:{'|'.join(w.EN_LANGUAGES)})\b)(?=[A-Z])"
        rf"(?i:{syllable}{coda}(?:{syllable})?{syllable}{coda})\b"
    )
    chinese = (
        rf"(?!{'|'.join(w.ZH_LANGUAGES)}){sound}{{2,3}}"
        rf"|[{''.join(w.ZH_SURNAMES)}][{''.join(w.ZH_GIVEN)}]{{1,2}}"
    )
    # Chinese letters count as word characters, so an English name beside them would lack its \b;
    # none occurs in the world.
    return re.compile(f"(?P<name>{english}|{chinese})")


def load(routing: Routing) -> np.ndarray:
    """Compute expert load [L, E] in units of the fair share: 1.0 is perfect balance."""
    import numpy as np

    counts = np.stack(
        [np.bincount(layer.ravel(), minlength=routing.n_experts) for layer in routing.experts]
    )
    return counts * routing.n_experts / counts.sum(axis=1, keepdims=True)


def by_kind(routing: Routing, kinds: Sequence[str], names: Sequence[str] = KINDS) -> np.ndarray:
    """Count expert choices per kind of token, [L, K, E] in the order of `names`.

    Raises:
        Qwen3labError: a kind outside `names`, or another number of kinds than tokens.
    """
    import numpy as np

    if unknown := sorted(set(kinds) - set(names)):
        raise Qwen3labError(
            f"{unknown[0]!r} is not among the names {', '.join(map(str, names))}. Give the list of"
            " all labels as names."
        )
    tokens = routing.experts.shape[1]
    if len(kinds) != tokens:
        raise Qwen3labError(
            f"There are {tokens} tokens but {len(kinds)} labels. Give one label a token, in the"
            " order of the rows."
        )
    places = {name: place for place, name in enumerate(names)}
    return _counts(routing, np.array([places[kind] for kind in kinds]), len(names))


def _counts(routing: Routing, numbers: np.ndarray, size: int) -> np.ndarray:
    """Count expert choices [L, size, E] by the number below `size` that each token has."""
    import numpy as np

    layers, _, k = routing.experts.shape
    pairs = np.repeat(numbers, k) * routing.n_experts + routing.experts.reshape(layers, -1)
    shape = (size, routing.n_experts)
    return np.stack(
        [np.bincount(layer, minlength=shape[0] * shape[1]).reshape(shape) for layer in pairs]
    )


def by_group(routing: Routing, labels: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Count expert choices per group of texts: [L, G, E] and the sorted names of the groups.

    Args:
        labels: one per text, for example its task or its language.
    Raises:
        Qwen3labError: another number of labels than texts.
    """
    names = sorted(set(labels))
    return by_kind(routing, per_token(routing, labels), names), names


def per_token(routing: Routing, labels: Sequence[str]) -> list[str]:
    """Expand labels of texts to labels of tokens.

    Raises:
        Qwen3labError: another number of labels than texts.
    """
    texts = int(routing.rows.max()) + 1
    if len(labels) != texts:
        raise Qwen3labError(
            f"There are {texts} texts but {len(labels)} labels. Give one label a text."
        )
    return [labels[row] for row in routing.rows]


def balance_loss(routing: Routing, jointly: bool = False) -> np.ndarray | float:
    """Compute the load-balancing loss of each layer [L].

    It is experts * sum over experts of (share of tokens routed there * mean router share). Perfect
    balance gives k, and all tokens at the same k experts up to the number of experts. Switch
    Transformer (arXiv 2101.03961), equations 4 to 6, summed over the k picks. `jointly` averages
    over the layers before it multiplies, as transformers' `load_balancing_loss_func` does for the
    training loss: the result is one number, which stays at k when every layer collapses to
    different experts.

    Raises:
        Qwen3labError: the routing has no mean router shares.
    """
    if routing.shares is None:
        raise Qwen3labError(
            "This routing has no mean shares of the routers. Take what"
            " qwen3lab.models.routing.record returns."
        )
    # The share of all tokens that went to an expert; sums to k.
    picked = load(routing) * routing.experts.shape[2] / routing.n_experts
    if jointly:
        return float(routing.n_experts * (picked.mean(axis=0) * routing.shares.mean(axis=0)).sum())
    return routing.n_experts * (picked * routing.shares).sum(axis=1)


def entropy(counts: Sequence[float] | np.ndarray) -> float:
    """Compute the entropy in bits of the distribution proportional to `counts`.

    It is log2(n) when n outcomes are equally frequent.
    """
    import numpy as np

    share = np.asarray(counts, dtype=float).ravel()
    share = share[share > 0] / share.sum()
    return float(-(share * np.log2(share)).sum()) + 0.0  # + 0.0 turns -0.0 into 0.0


def mutual_information(counts: np.ndarray) -> float:
    """Compute the mutual information of rows (kinds) and columns (experts) of `counts` [K, E].

    In bits: what knowing the kind saves in guessing the expert.
    """
    import numpy as np

    counts = np.asarray(counts)
    return max(0.0, entropy(counts.sum(axis=1)) + entropy(counts.sum(axis=0)) - entropy(counts))


def information(
    routing: Routing,
    labels: Sequence[Any],
    shuffles: int = 20,
    seed: int = 0,
    *,
    whole_texts: bool = True,
) -> pd.DataFrame:
    """Measure how much of the routers' choices a label explains: mutual information over entropy.

    A token always takes k experts, so log2(k) bits of the choice stay open whatever is known;
    `entropy`, the entropy of the load less log2(k), is the most that any label can explain. The
    control deals the labels out anew. Tokens of one text resemble each other, so whole texts are
    shuffled: labels of texts change places, and the labels of tokens are laid over all tokens again
    with the texts in another order, moved on by some tokens so that no text meets its own.

    Args:
        labels: one per token (a kind, or `routing.ids` for the token itself) or one per text.
        shuffles: number of deals whose mean is the control.
        whole_texts: False shuffles single tokens, which makes every label of texts look telling.
    Returns:
        One line per layer: layer, bits (mutual information), shuffled (of the control), entropy,
            share (bits / entropy), by_chance (shuffled / entropy).
    """
    import numpy as np
    import pandas as pd

    rng, tokens = np.random.default_rng(seed), len(routing.ids)
    names, numbers = np.unique(np.asarray(labels), return_inverse=True)
    of_texts = len(numbers) != tokens
    spread = np.asarray(per_token(routing, numbers.tolist())) if of_texts else numbers
    texts = np.split(np.arange(tokens), np.flatnonzero(np.diff(routing.rows)) + 1)

    def dealt() -> np.ndarray:
        if not whole_texts:
            return rng.permutation(spread)
        if of_texts:
            return rng.permutation(numbers)[routing.rows]
        order = np.concatenate([texts[place] for place in rng.permutation(len(texts))])
        return spread[np.roll(order, rng.integers(tokens))]

    def bits(numbers: np.ndarray) -> np.ndarray:
        return np.array(
            [mutual_information(layer) for layer in _counts(routing, numbers, len(names))]
        )

    real, control = bits(spread), np.mean([bits(dealt()) for _ in range(shuffles)], axis=0)
    most = np.array([entropy(layer) for layer in load(routing)]) - np.log2(routing.experts.shape[2])
    whole = np.where(most > 1e-9, most, np.nan)  # no share where nothing is left to explain
    return pd.DataFrame(
        {
            "layer": range(len(real)),
            "bits": real,
            "shuffled": control,
            "entropy": most,
            "share": real / whole,
            "by_chance": control / whole,
        }
    )
