"""The exercises of notebook 01 and, from the fifth on, of its companions. Each is checked against
transformers or against the family's own numbers.
"""

from __future__ import annotations

from qwen3lab.exercises.exercise import case, exercise


@exercise(
    why="Only experts can be skipped; whatever is not an expert works for every token.",
    hints=(
        "What does a token skip? In each layer, all experts but k.",
        (
            "One expert is a SwiGLU network: gate, up and down, each a matrix of hidden x moe_ffn"
            " numbers."
        ),
        "Skipped are layers * (experts - k) experts. Take their numbers from the total.",
    ),
)
def active_parameters(total, layers, experts, k, hidden, moe_ffn):
    """How many parameters of a mixture of experts does one token pass through?"""
    one_expert = 3 * hidden * moe_ffn
    return total - layers * (experts - k) * one_expert


@active_parameters.cases
def _():
    from qwen3lab.family import FAMILY, shape

    for s in (FAMILY["30B-A3B"], FAMILY["235B-A22B"], shape("qwen3-tiny-moe")):
        yield case(
            s.parameters,
            s.layers,
            s.experts,
            s.top_k,
            s.hidden,
            s.moe_ffn,
            expect=s.active_parameters,
            note=f"the shape of {s.name}",
        )


@active_parameters.mistake(
    "You shrank the whole model by k / experts. Attention, the tables and the norms are no experts:"
    " every token passes all of them."
)
def _shrinks_everything(total, layers, experts, k, hidden, moe_ffn):
    return total * k / experts


@active_parameters.mistake(
    "You skipped experts in one layer only. Every layer has its own experts and its own router, so"
    " every layer skips some."
)
def _one_layer(total, layers, experts, k, hidden, moe_ffn):
    return total - (experts - k) * 3 * hidden * moe_ffn


@active_parameters.mistake(
    "You counted two matrices an expert. SwiGLU has three: gate, up and down."
)
def _two_matrices(total, layers, experts, k, hidden, moe_ffn):
    return total - layers * (experts - k) * 2 * hidden * moe_ffn


@active_parameters.mistake(
    "These are the chosen experts alone. The token also passes attention, router, norms and the"
    " tables at both ends."
)
def _experts_alone(total, layers, experts, k, hidden, moe_ffn):
    return layers * k * 3 * hidden * moe_ffn


@exercise(
    why=(
        "Control tokens come from the template alone, old thoughts are left out, and the empty"
        " think block says that thinking is over."
    ),
    hints=(
        (
            "Each message is <|im_start|>, its role, a line break, its content, <|im_end|> and a"
            " line break."
        ),
        (
            "Earlier thoughts of the assistant go: keep what stands behind </think>, without the"
            " line breaks at its beginning."
        ),
        (
            "Open the assistant's turn at the end, and write <think>, two line breaks, </think>,"
            " two line breaks into it."
        ),
    ),
)
def prompt_without_thinking(messages):
    """The text that Qwen3 reads when it is asked to go on with these messages, thinking switched
    off.
    """
    text = ""
    for message in messages:
        content = message["content"]
        if message["role"] == "assistant":
            content = content.split("</think>")[-1].lstrip("\n")
        text += f"<|im_start|>{message['role']}\n{content}<|im_end|>\n"
    return text + "<|im_start|>assistant\n<think>\n\n</think>\n\n"


@prompt_without_thinking.cases
def _():
    from qwen3lab.models import loading

    tokenizer = loading.load_tokenizer("qwen3-tiny")
    ask, system = (
        {"role": "user", "content": "What is 2 + 3?"},
        {"role": "system", "content": "Be brief."},
    )
    answer = {"role": "assistant", "content": "<think>\n2 + 3 = 5.\n</think>\n\n5"}
    for words, messages in (
        ("one question", [ask]),
        ("a question behind a system message", [system, ask]),
        (
            "a second question, after an answer with thoughts",
            [ask, answer, {"role": "user", "content": "And 4 + 4?"}],
        ),
    ):
        text = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
        yield case(messages, expect=text, note=words)


def _write(messages, end="<|im_start|>assistant\n<think>\n\n</think>\n\n", thoughts=False):
    parts = [
        (m["role"], m["content"] if thoughts else m["content"].split("</think>")[-1].lstrip("\n"))
        for m in messages
    ]
    return "".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in parts) + end


@prompt_without_thinking.mistake(
    "This leaves thinking on. With thinking off, the assistant's open turn begins with an empty"
    " think block."
)
def _thinking_left_on(messages):
    return _write(messages, "<|im_start|>assistant\n")


@prompt_without_thinking.mistake(
    "Your text ends before the assistant's turn. Open it, else the model goes on as the user."
)
def _not_opened(messages):
    return _write(messages, "")


@prompt_without_thinking.mistake(
    "You kept the thoughts of an earlier answer. The template drops them: they cost tokens, and the"
    " model was trained without them."
)
def _keeps_thoughts(messages):
    return _write(messages, thoughts=True)


@prompt_without_thinking.mistake(
    "The empty think block has two line breaks inside and two behind it. The model only knows the"
    " exact form."
)
def _block_without_breaks(messages):
    return _write(messages, "<|im_start|>assistant\n<think></think>\n")


@prompt_without_thinking.mistake(
    "<|System|>, <|User|> and <|Assistant|> are ordinary characters for Qwen3. Its control tokens"
    " are <|im_start|> and <|im_end|>."
)
def _old_tags(messages):
    return (
        "".join(f"<|{m['role'].capitalize()}|>{m['content']}" for m in messages) + "<|Assistant|>"
    )


@exercise(
    tolerance=1e-4,
    why="Every head has its own root mean square, so a loud head cannot make the others quiet.",
    hints=(
        (
            "Give the numbers a shape in which one head lies along the last axis: tokens, heads,"
            " numbers of a head."
        ),
        (
            "RMSNorm divides by the square root of (mean of the squares + eps); the mean runs over"
            " the last axis, with keepdim=True."
        ),
        "Multiply by the weight while the heads are apart, then go back with reshape(q.shape).",
    ),
)
def qk_norm(q, weight, heads, eps):
    """RMSNorm each head of the queries apart: q is [tokens, heads * head_dim], weight is
    [head_dim].
    """
    apart = q.reshape(len(q), heads, -1)
    mean_square = apart.pow(2).mean(-1, keepdim=True)
    return (weight * apart / (mean_square + eps).sqrt()).reshape(q.shape)


@qk_norm.cases
def _():
    import torch
    from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

    random = torch.Generator().manual_seed(1)
    for tokens, heads, size, eps, words in (
        (3, 4, 8, 1e-6, "3 tokens of 4 heads"),
        (5, 2, 16, 0.1, "an eps of 0.1"),
    ):
        # Heads of unlike loudness, and a mean other than zero.
        q = (torch.randn(tokens, heads, size, generator=random) + 0.5) * torch.arange(1, heads + 1)[
            :, None
        ]
        norm = Qwen3RMSNorm(size, eps)
        norm.weight.data = torch.rand(size, generator=random) + 0.5
        yield case(
            q.reshape(tokens, -1),
            norm.weight.data,
            heads,
            eps,
            expect=norm(q).detach().reshape(tokens, -1),
            note=words,
        )


@qk_norm.mistake(
    "You took one mean over all heads of a token. QK-norm treats each head apart: a loud head must"
    " not change the others."
)
def _all_heads_at_once(q, weight, heads, eps):
    return weight.repeat(heads) * q / (q.pow(2).mean(-1, keepdim=True) + eps).sqrt()


@qk_norm.mistake(
    "Your mean runs across the heads. It has to run along the numbers within one head, the last"
    " axis."
)
def _across_heads(q, weight, heads, eps):
    apart = q.reshape(len(q), heads, -1)
    return (weight * apart / (apart.pow(2).mean(1, keepdim=True) + eps).sqrt()).reshape(q.shape)


@qk_norm.mistake(
    "That is LayerNorm: it takes the mean away first. RMSNorm leaves the mean where it is."
)
def _layer_norm(q, weight, heads, eps):
    apart = q.reshape(len(q), heads, -1)
    apart = apart - apart.mean(-1, keepdim=True)
    return (weight * apart / (apart.pow(2).mean(-1, keepdim=True) + eps).sqrt()).reshape(q.shape)


@qk_norm.mistake(
    "eps stands outside the root. Add it to the mean of the squares, before you take the root."
)
def _eps_outside(q, weight, heads, eps):
    apart = q.reshape(len(q), heads, -1)
    return (weight * apart / (apart.pow(2).mean(-1, keepdim=True).sqrt() + eps)).reshape(q.shape)


@exercise(
    tolerance=1e-4,
    why=(
        "Renormalised shares add up to one, so the output keeps its size whatever k is. (A softmax"
        " over the chosen scores alone gives the same.)"
    ),
    hints=(
        "One score an expert: router @ x. A softmax makes them shares.",
        (
            "shares.topk(k) gives the largest shares and the numbers of their experts. Divide the"
            " shares by their sum."
        ),
        "Add up share times experts[number](x), over the chosen ones only.",
    ),
)
def mix_experts(x, router, experts, k):
    """Send one token through the k experts that its router likes best: x is [hidden], router
    [experts, hidden], experts a list of functions.
    """
    shares, chosen = (router @ x).softmax(-1).topk(k)
    shares = shares / shares.sum()
    return sum(share * experts[number](x) for share, number in zip(shares, chosen))


@mix_experts.cases
def _():
    import torch
    from transformers import Qwen3MoeConfig
    from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeSparseMoeBlock

    random = torch.Generator().manual_seed(3)
    for n, k in ((6, 2), (8, 3)):
        config = Qwen3MoeConfig(
            hidden_size=8,
            moe_intermediate_size=6,
            num_experts=n,
            num_experts_per_tok=k,
            norm_topk_prob=True,
            experts_implementation="eager",
        )
        block = Qwen3MoeSparseMoeBlock(config).requires_grad_(False)
        for parameter in block.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=random) * 0.5)

        def one(number, experts=block.experts):
            def run(x):
                gate, up = (experts.gate_up_proj[number] @ x).chunk(2)
                return experts.down_proj[number] @ (torch.nn.functional.silu(gate) * up)

            return run

        x = torch.randn(8, generator=random)
        yield case(
            x,
            block.gate.weight.data,
            [one(number) for number in range(n)],
            k,
            expect=block(x[None, None])[0, 0],
            note=f"{k} of {n} experts",
        )


@mix_experts.mistake(
    "The shares of your chosen experts add up to less than one. Divide them by their sum (Qwen3"
    " sets norm_topk_prob)."
)
def _not_renormalised(x, router, experts, k):
    shares, chosen = (router @ x).softmax(-1).topk(k)
    return sum(share * experts[number](x) for share, number in zip(shares, chosen))


@mix_experts.mistake(
    "All experts had a say. Keep the k with the largest shares and never run the others: that is"
    " where the time is saved."
)
def _all_of_them(x, router, experts, k):
    return sum(share * expert(x) for share, expert in zip((router @ x).softmax(-1), experts))


@mix_experts.mistake(
    "You gave the chosen experts equal shares. The router's shares say how much each of them"
    " counts."
)
def _equal_shares(x, router, experts, k):
    return sum(experts[number](x) for number in (router @ x).topk(k).indices) / k


@mix_experts.mistake("You weighted with the raw scores. Turn them into shares with softmax first.")
def _raw_scores(x, router, experts, k):
    scores, chosen = (router @ x).topk(k)
    return sum(score * experts[number](x) for score, number in zip(scores, chosen))


@exercise(
    tolerance=1e-3,
    why=(
        "Turns add up, so turning on by the difference is all; that is why attention sees distances"
        " and not places."
    ),
    hints=(
        (
            "A key at position p is turned by p times the angles. Turn it on by steps times the"
            " same angles."
        ),
        (
            "Number i of the first half makes a pair with number i of the second half; its angle is"
            " steps * theta ** (-i / half), with half = head_dim / 2."
        ),
        (
            "A pair (a, b) becomes (a cos - b sin, b cos + a sin). Put the two halves together with"
            " torch.cat."
        ),
    ),
)
def shift_key(key, steps, theta):
    """Move a key that RoPE has turned for some position on by `steps` positions: key is
    [head_dim]."""
    import torch

    half = len(key) // 2
    angle = steps * theta ** (-torch.arange(half) / half)
    a, b = key[:half], key[half:]
    return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()])


@shift_key.cases
def _():
    import torch
    from transformers import Qwen3Config
    from transformers.models.qwen3.modeling_qwen3 import Qwen3RotaryEmbedding, apply_rotary_pos_emb

    random = torch.Generator().manual_seed(2)

    def rotated(key, position, theta):
        config = Qwen3Config(
            hidden_size=len(key),
            head_dim=len(key),
            num_attention_heads=1,
            rope_parameters={"rope_type": "default", "rope_theta": theta},
        )
        cos, sin = Qwen3RotaryEmbedding(config)(key, torch.tensor([[position]]))
        return apply_rotary_pos_emb(key[None, None, None], key[None, None, None], cos, sin)[
            0
        ].flatten()

    for size, position, steps, theta in ((8, 0, 3, 1e6), (16, 7, 20, 5e6), (16, 30, -30, 1e6)):
        key = torch.randn(size, generator=random)
        yield case(
            rotated(key, position, theta),
            steps,
            theta,
            expect=rotated(key, position + steps, theta),
            note=(
                f"a key of {size} numbers, {steps} steps from position {position}, theta"
                f" {theta:.0f}"
            ),
        )


@shift_key.mistake(
    "You paired neighbours, as the RoPE paper draws it. Qwen3 pairs number i of the first half with"
    " number i of the second."
)
def _neighbours(key, steps, theta):
    import torch

    half = len(key) // 2
    angle = steps * theta ** (-torch.arange(half) / half)
    a, b = key[0::2], key[1::2]
    return torch.stack(
        [a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], dim=-1
    ).flatten()


@shift_key.mistake(
    "You turned the key backwards. The first half loses b * sin, the second half gains a * sin."
)
def _backwards(key, steps, theta):
    return shift_key.answer(key, -steps, theta)


@shift_key.mistake(
    "You turned with a theta of 10,000, RoPE's old default. Qwen3 was trained with 1,000,000; use"
    " the argument theta."
)
def _old_theta(key, steps, theta):
    return shift_key.answer(key, steps, 10_000.0)


@shift_key.mistake(
    "Your angles fall too slowly. The exponent is -i / half, that is -2i / head_dim, and you"
    " divided by head_dim alone."
)
def _half_the_exponent(key, steps, theta):
    return shift_key.answer(key, steps, theta**0.5)


@exercise(
    why=(
        "Perfect balance gives k, not 1 and not 0; only the distance to k says how uneven the"
        " load is."
    ),
    hints=(
        (
            "The loss is E times the sum over experts of f * P: f is the part of the tokens that"
            " chose the expert, P its mean share."
        ),
        (
            "Balanced: each of the 128 is chosen by 8 / 128 of the tokens and has a mean share of 1"
            " / 128."
        ),
        "Collapsed: eight experts have f = 1 and P = 1 / 8 each, all others have nothing.",
    ),
)
def balance_losses():
    """The load-balancing loss of 128 experts, 8 a token: (when all are used alike, when every token
    gives all its share to the same 8).
    """
    experts, k = 128, 8
    used_alike = experts * sum([k / experts * 1 / experts] * experts)
    same_eight = experts * sum([1 * 1 / k] * k)
    return used_alike, same_eight


@balance_losses.cases
def _():
    import torch
    from transformers.models.qwen3_moe.modeling_qwen3_moe import load_balancing_loss_func

    even = torch.zeros(16, 128)
    for token in range(16):
        even[token, 8 * token : 8 * token + 8] = 50
    losses = [
        load_balancing_loss_func((logits,), 128, 8).item()
        for logits in (even, even[:1].expand(16, -1))
    ]
    yield case(expect=tuple(losses))


@balance_losses.mistake(
    "You divided by k. The loss counts every one of the k choices of a token, so with perfect"
    " balance it is k."
)
def _divided_by_k():
    return 1, 16


@balance_losses.mistake(
    "The first is right. In a collapse f is 1 for each of the eight: every token chose all of them."
    " You spread one choice over eight."
)
def _collapse_divided_by_k():
    return 8, 16


@balance_losses.mistake(
    "The loss is no distance from balance, so balance does not give 0. Write down E times the sum"
    " of f * P."
)
def _no_loss_is_zero():
    return 0, 128


@exercise(
    why=(
        "The cache holds keys and values of the few KV heads only; the many query heads share them,"
        " and that is the whole saving of GQA."
    ),
    hints=(
        "First take the weights from the card: two bytes a parameter.",
        (
            "A token leaves one key and one value in every layer, for every KV head, of head_dim"
            " numbers of two bytes."
        ),
        "Only whole tokens count, and a card that is too small for the weights holds 0 of them.",
    ),
)
def cache_tokens(card_bytes, parameters, layers, heads, kv_heads, head_dim):
    """How many tokens of KV cache fit on a card beside the weights, all in bfloat16?"""
    free = card_bytes - 2 * parameters
    one_token = 2 * layers * kv_heads * head_dim * 2
    return max(0, free // one_token)


@cache_tokens.cases
def _():
    from qwen3lab.family import FAMILY

    for name, gigabytes in (("8B", 24), ("30B-A3B", 80), ("0.6B", 8), ("32B", 24)):
        s = FAMILY[name]
        fits = max(0, (gigabytes * 10**9 - 2 * s.parameters) // s.kv_bytes())
        yield case(
            gigabytes * 10**9,
            s.parameters,
            s.layers,
            s.heads,
            s.kv_heads,
            s.head_dim,
            expect=fits,
            note=f"{name} on {gigabytes} GB",
        )


@cache_tokens.mistake(
    "You counted a key and a value for every query head. In grouped-query attention several query"
    " heads share one: use kv_heads."
)
def _query_heads(card_bytes, parameters, layers, heads, kv_heads, head_dim):
    return max(0, (card_bytes - 2 * parameters) // (4 * layers * heads * head_dim))


@cache_tokens.mistake("You stored one vector a head. A key and a value are both kept.")
def _keys_only(card_bytes, parameters, layers, heads, kv_heads, head_dim):
    return max(0, (card_bytes - 2 * parameters) // (2 * layers * kv_heads * head_dim))


@cache_tokens.mistake(
    "You filled the whole card with cache. The weights lie there too, two bytes each."
)
def _no_weights(card_bytes, parameters, layers, heads, kv_heads, head_dim):
    return card_bytes // (4 * layers * kv_heads * head_dim)


@cache_tokens.mistake(
    "You counted the cache of a single layer. Every layer keeps its own keys and values."
)
def _one_layer_of_cache(card_bytes, parameters, layers, heads, kv_heads, head_dim):
    return max(0, (card_bytes - 2 * parameters) // (4 * kv_heads * head_dim))


@cache_tokens.mistake(
    "Where the weights do not fit, your answer falls below zero. Not one token fits there: give 0."
)
def _below_zero(card_bytes, parameters, layers, heads, kv_heads, head_dim):
    return (card_bytes - 2 * parameters) // (4 * layers * kv_heads * head_dim)


@exercise(
    why=(
        "Sixteen bytes for every parameter, active or not: training moves them all, so all need a"
        " gradient and two moments."
    ),
    hints=(
        (
            "AdamW in mixed precision keeps 16 bytes a parameter: weight, gradient and two moments,"
            " four bytes each."
        ),
        "Which parameters are trained: those that one token uses, or those that any token may use?",
        "Divide the bytes by those of a card and round up.",
    ),
)
def cards_needed(parameters, active_parameters, card_bytes):
    """How many cards does full fine-tuning with AdamW need at least, if weights, gradients and
    moments are shared out evenly?
    """
    needed = 16 * parameters
    return -(-needed // card_bytes)  # division rounded up


@cards_needed.cases
def _():
    import math

    from qwen3lab.family import FAMILY

    for name, gigabytes in (("30B-A3B", 80), ("235B-A22B", 80), ("8B", 24), ("0.6B", 24)):
        s = FAMILY[name]
        yield case(
            s.parameters,
            s.active_parameters,
            gigabytes * 10**9,
            expect=math.ceil(16 * s.parameters / (gigabytes * 10**9)),
            note=f"{name} on cards of {gigabytes} GB",
        )


@cards_needed.mistake(
    "You counted the active parameters. One token uses few experts, but a batch reaches them all,"
    " and all lie in memory with their moments."
)
def _active_only(parameters, active_parameters, card_bytes):
    return -(-16 * active_parameters // card_bytes)


@cards_needed.mistake(
    "That is room for the weights in bfloat16 alone. Training also keeps a gradient and AdamW's two"
    " moments."
)
def _weights_only(parameters, active_parameters, card_bytes):
    return -(-2 * parameters // card_bytes)


@cards_needed.mistake("You left out AdamW's two moments, eight bytes a parameter.")
def _no_moments(parameters, active_parameters, card_bytes):
    return -(-8 * parameters // card_bytes)


@cards_needed.mistake("You rounded down. What is left over needs a card too.")
def _rounded_down(parameters, active_parameters, card_bytes):
    return 16 * parameters // card_bytes


@exercise(
    why="A picture costs by its area: twice the sides are four times the tokens.",
    hints=(
        "An image token covers patch * merge pixels along each side.",
        "Each side is first rounded to the nearest whole number of image tokens, at least one.",
        "The tokens are rows times columns; round(height / side) are the rows.",
    ),
)
def image_tokens(height, width, patch, merge):
    """How many image tokens does a picture of height x width pixels become in Qwen3-VL?"""
    side = patch * merge
    return max(round(height / side), 1) * max(round(width / side), 1)


@image_tokens.cases
def _():
    import numpy as np
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    for height, width, patch, merge in (
        (720, 1280, 16, 2),
        (500, 333, 16, 2),
        (64, 64, 8, 2),
        (90, 30, 14, 3),
    ):
        processor = Qwen2VLImageProcessorPil(
            patch_size=patch, merge_size=merge, size={"shortest_edge": 1, "longest_edge": 10**7}
        )
        picture = np.zeros((height, width, 3), dtype=np.uint8)
        rows, columns = processor(images=picture)["image_grid_thw"][0][1:]
        yield case(
            height,
            width,
            patch,
            merge,
            expect=int(rows * columns) // merge**2,
            note=f"{height} x {width} pixels, patches of {patch}, {merge} x {merge} merged",
        )


@image_tokens.mistake(
    "These are patches. The merger makes one image token of merge x merge of them."
)
def _patches(height, width, patch, merge):
    side = patch * merge
    return max(round(height / side), 1) * max(round(width / side), 1) * merge**2


@image_tokens.mistake(
    "You cut off what is left at the edge. The picture is resized to the nearest size that fits, so"
    " round each side."
)
def _cut_off(height, width, patch, merge):
    return (height // (patch * merge)) * (width // (patch * merge))


@image_tokens.mistake(
    "You rounded the area. Rows and columns are whole numbers each, so round the sides apart."
)
def _area(height, width, patch, merge):
    return round(height * width / (patch * merge) ** 2)


@image_tokens.mistake(
    "You merged along one side only. An image token is merge patches wide and high."
)
def _one_side(height, width, patch, merge):
    side = patch * merge
    return max(round(height / side), 1) * max(round(width / side), 1) * merge


@exercise(
    why=(
        "A picture takes as many positions as its longer side, however many tokens it has; that"
        " keeps long texts with pictures near the positions that were trained."
    ),
    hints=(
        "All tokens of the picture share one time: that of the first of them.",
        "Row and column begin there as well and count on: the last row is start + rows - 1.",
        "The text goes on behind the largest position that the picture used.",
    ),
)
def picture_positions(start, rows, columns):
    """M-RoPE positions of a picture whose first token comes at position start: the (time, row,
    column) of its last token, and the position of the text behind it.
    """
    return (start, start + rows - 1, start + columns - 1), start + max(rows, columns)


@picture_positions.cases
def _():
    import torch
    from transformers import Qwen3VLModel

    from qwen3lab.from_scratch import qwen3_vl

    config = qwen3_vl.shrunk()
    with torch.device("meta"):
        model = Qwen3VLModel(config)
    for start, rows, columns in ((4, 4, 4), (0, 2, 5), (9, 6, 1)):
        ids = torch.tensor([[1] * start + [150] * rows * columns + [1]])
        found, _ = model.get_rope_index(
            ids, (ids == 150).int(), torch.tensor([[1, 2 * rows, 2 * columns]])
        )
        last, behind = found[:, 0, -2].tolist(), int(found[0, 0, -1])
        yield case(
            start,
            rows,
            columns,
            expect=(tuple(last), behind),
            note=f"{rows} x {columns} image tokens from position {start}",
        )


@picture_positions.mistake(
    "You let the text go on as if every image token took a position. Only the longer side counts."
)
def _all_tokens(start, rows, columns):
    return (start, start + rows - 1, start + columns - 1), start + rows * columns


@picture_positions.mistake(
    "You let time run through the picture. A still picture has one time, also for its last token."
)
def _time_runs(start, rows, columns):
    end = start + rows * columns - 1
    return (end, start + rows - 1, start + columns - 1), start + max(rows, columns)


@picture_positions.mistake(
    "Row and column count from the picture's own corner. They begin at start, like the time."
)
def _from_zero(start, rows, columns):
    return (start, rows - 1, columns - 1), start + max(rows, columns)


@picture_positions.mistake(
    "Your text goes on behind the rows. Where the picture is wider than high, its columns reach"
    " further."
)
def _rows_alone(start, rows, columns):
    return (start, start + rows - 1, start + columns - 1), start + rows


@exercise(
    tolerance=1e-6,
    why=(
        "Interleaved, each of time, row and column gets fast and slow pairs. In blocks, as Qwen2-VL"
        " had them, time would have the fast pairs alone and the column the slow ones."
    ),
    hints=(
        "Begin with the angles of time for all pairs.",
        "Row takes the pairs 1, 4, 7, ..., and column the pairs 2, 5, 8, ...",
        "section[1] says how many pairs the row takes; slice(1, 3 * section[1], 3) names them.",
    ),
)
def interleave(time, row, column, section):
    """Mix the angles of one token's three positions for interleaved M-RoPE: each is a list with
    one angle a pair, section says how many pairs go to time, row and column.
    """
    mixed = list(time)
    mixed[1 : 3 * section[1] : 3] = row[1 : 3 * section[1] : 3]
    mixed[2 : 3 * section[2] : 3] = column[2 : 3 * section[2] : 3]
    return mixed


@interleave.cases
def _():
    import torch
    from transformers import Qwen3VLTextConfig
    from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextRotaryEmbedding

    for section in ([3, 3, 2], [12, 10, 10], [24, 20, 20]):
        pairs = sum(section)
        config = Qwen3VLTextConfig(
            hidden_size=2 * pairs,
            num_attention_heads=1,
            head_dim=2 * pairs,
            rope_parameters={"rope_type": "default", "rope_theta": 1e4, "mrope_section": section},
        )
        turn = Qwen3VLTextRotaryEmbedding(config)
        angles = torch.tensor([1.0, 20.0, 300.0])[:, None] + torch.arange(pairs)
        mixed = turn.recomposition_frequencies(angles.clone()[:, None])[0, :pairs]
        yield case(
            *angles.tolist(), section, expect=mixed.tolist(), note=f"{pairs} pairs, split {section}"
        )


@interleave.mistake(
    "You gave each axis a block of pairs, as Qwen2-VL did. In Qwen3-VL the pairs take turns."
)
def _blocks(time, row, column, section):
    first, second = section[0], section[0] + section[1]
    return [*time[:first], *row[first:second], *column[second:]]


@interleave.mistake(
    "The pairs took turns to the very end. The section gives row and column a number of pairs; what"
    " is left goes to time."
)
def _to_the_end(time, row, column, section):
    return [(time, row, column)[place % 3][place] for place in range(len(time))]


@interleave.mistake("Time takes the first pair of each three, then row, then column.")
def _other_order(time, row, column, section):
    mixed = list(column)
    mixed[0 : 3 * section[1] : 3] = time[0 : 3 * section[1] : 3]
    mixed[1 : 3 * section[2] : 3] = row[1 : 3 * section[2] : 3]
    return mixed


@interleave.mistake(
    "Each pair keeps its place: pair 4 of the mixture is pair 4 of the row. You packed them anew."
)
def _packed(time, row, column, section):
    sources = [iter(time), iter(row), iter(column)]
    left, mixed = list(section), []
    while len(mixed) < len(time):
        for axis in range(3):
            if left[axis] and len(mixed) < len(time):
                left[axis] -= 1
                mixed.append(next(sources[axis]))
    return mixed
