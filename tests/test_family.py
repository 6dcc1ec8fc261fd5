"""The eight models: counts against the published ones and against transformers' own modules."""

from __future__ import annotations

import json

import pytest

from qwen3lab import family, paths
from qwen3lab.errors import Qwen3labError

# name: (all parameters, without the embedding tables), counted once on the released configs
COUNTS = {
    "0.6B": (596_049_920, 440_467_456),
    "1.7B": (1_720_574_976, 1_409_410_048),
    "4B": (4_022_468_096, 3_633_511_936),
    "8B": (8_190_735_360, 6_946_075_648),
    "14B": (14_768_307_200, 13_212_482_560),
    "32B": (32_762_123_264, 31_206_298_624),
    "30B-A3B": (30_532_122_624, 29_909_792_768),
    "235B-A22B": (235_093_634_560, 233_848_974_848),
}


def meta_model(config):
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def test_the_eight_models_are_there():
    assert list(family.FAMILY) == list(COUNTS)


@pytest.mark.parametrize("name", COUNTS)
def test_counts_are_the_published_ones(name):
    shape = family.shape(name)
    assert (shape.parameters, shape.non_embedding_parameters) == COUNTS[name]


@pytest.mark.parametrize("name", COUNTS)
def test_counts_equal_transformers_to_the_unit(name):
    model = meta_model(family.config(name))
    parameters = dict(model.named_parameters())
    shape = family.shape(name)

    def total(*parts: str) -> int:
        return sum(p.numel() for key, p in parameters.items() if any(part in key for part in parts))

    assert sum(p.numel() for p in parameters.values()) == shape.parameters
    assert total("embed_tokens", "lm_head") == shape.embedding_parameters
    assert total("q_proj", "k_proj", "v_proj", "o_proj") == shape.attention_parameters
    assert total("mlp.experts") == shape.expert_parameters
    assert total("mlp.gate.") == shape.router_parameters
    assert total("norm") == shape.norm_parameters
    assert (
        sum(
            m.weight.numel()
            for key, m in model.named_modules()
            if type(m).__name__ == "Linear" and "lm_head" not in key
        )
        == shape.linear_parameters
    )


@pytest.mark.parametrize(
    "name, active",
    [("30B-A3B", 3_353_032_704), ("235B-A22B", 22_190_763_520), ("8B", 8_190_735_360)],
)
def test_active_parameters(name, active):
    assert family.shape(name).active_parameters == active


@pytest.mark.parametrize(
    "name, attention, everything",
    [("0.6B", 4_587_520, 10_092_544), ("30B-A3B", 13_369_344, 994_836_480)],
)
def test_lora_counts(name, attention, everything):
    shape = family.shape(name)
    assert shape.lora_parameters(16, "attention") == attention
    assert shape.lora_parameters(16, "all-linear") == everything


@pytest.mark.parametrize("name", ["1.7B", "30B-A3B"])
@pytest.mark.parametrize(
    "targets, modules",
    [
        ("attention", ["q_proj", "k_proj", "v_proj", "o_proj"]),
        (
            "all-linear",
            ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        ),
    ],
)
def test_lora_counts_equal_peft(name, targets, modules):
    from peft import LoraConfig, get_peft_model

    changes = {"num_hidden_layers": 2}
    model = get_peft_model(
        meta_model(family.config(name, **changes)),
        LoraConfig(r=4, target_modules=modules, lora_dropout=0.0),
    )
    shrunk = family.shape(family.config(name, **changes))
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == shrunk.lora_parameters(
        4, targets
    )


def test_unknown_lora_targets():
    with pytest.raises(
        Qwen3labError, match="Unknown LoRA targets 'mlp'. Use 'attention' or 'all-linear'."
    ):
        family.shape("8B").lora_parameters(8, "mlp")


@pytest.mark.parametrize(
    "name",
    [
        "8B",
        "Qwen3-8B",
        "Qwen/Qwen3-8B",
        "Qwen/Qwen3-8B-Base",
        "qwen/qwen3-8b".replace("qwen3", "Qwen3"),
    ],
)
def test_names_of_one_model(name):
    assert family.shape(name) is family.FAMILY["8B"]


@pytest.mark.parametrize("name", ["9B", "", "Qwen/Qwen2-7B", "Qwen/Qwen3.5-4B"])
def test_unknown_name(name):
    with pytest.raises(
        Qwen3labError,
        match="is neither one of the eight Qwen3 models nor a bundled checkpoint. Use one of: 0.6B",
    ):
        family.shape(name)


@pytest.mark.parametrize("name", COUNTS)
def test_shape_and_config_are_inverse(name):
    shape = family.shape(name)
    back = family.shape(family.config(name))
    fields = (
        "hidden",
        "layers",
        "heads",
        "kv_heads",
        "head_dim",
        "vocab",
        "tied",
        "experts",
        "top_k",
        "moe_ffn",
        "parameters",
    )
    assert [getattr(back, field) for field in fields] == [getattr(shape, field) for field in fields]


def test_config_avoids_the_default_traps():
    dense, moe = family.config("8B"), family.config("30B-A3B")
    assert dense.rope_parameters["rope_theta"] == moe.rope_parameters["rope_theta"] == 1_000_000
    assert (
        dense.max_position_embeddings == 40_960
        and family.config("8B", base=True).max_position_embeddings == 32_768
    )
    assert moe.head_dim == 128 and moe.norm_topk_prob is True and moe.router_aux_loss_coef == 0.001


def test_a_bundled_name_is_read_from_its_config(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text(
        json.dumps(
            {
                "model_type": "qwen3",
                "hidden_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "intermediate_size": 64,
                "vocab_size": 300,
                "tie_word_embeddings": True,
            }
        )
    )
    monkeypatch.setattr(paths, "MODELS", tmp_path)
    assert family.shape("mine").head_dim == 8 and family.shape("mine").name == "mine"


def test_a_folder_that_will_be_loaded_tells_the_shape(checkpoint, tmp_path, monkeypatch):
    (tmp_path / "Qwen").mkdir()
    (tmp_path / "Qwen" / "Qwen3-8B").symlink_to(checkpoint, target_is_directory=True)
    monkeypatch.setenv("QWEN3LAB_MODELS", str(tmp_path))
    assert family.shape("Qwen/Qwen3-8B").hidden == 32
    assert family.shape("8B").hidden == 4096  # one of the eight, not a checkpoint
    assert family.shape("Qwen/Qwen3-8B-Base").hidden == 4096  # no folder of that name


@pytest.mark.parametrize("name", family.VISION)
def test_parameters_of_qwen3_vl_equal_transformers(name):
    """The whole of a small one, the encoder of each released one, on no memory at all."""
    import torch
    from transformers import Qwen3VLVisionConfig, Qwen3VLVisionModel

    s = family.shape(f"Qwen/Qwen3-{name}-Instruct")
    config = Qwen3VLVisionConfig(
        depth=s.vision.depth,
        hidden_size=s.vision.width,
        intermediate_size=s.vision.ffn,
        out_hidden_size=s.hidden,
    )
    with torch.device("meta"):
        encoder = Qwen3VLVisionModel(config)
    assert s.vision_parameters == encoder.num_parameters()
    decoder = "1.7B" if name == "VL-2B" else name.removeprefix("VL-")
    assert s.parameters - s.vision_parameters == family.FAMILY[decoder].parameters


def test_a_picture_as_tokens_equals_the_image_processor():
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    processor = Qwen2VLImageProcessorPil(
        patch_size=16, size={"shortest_edge": 65_536, "longest_edge": 16_777_216}
    )
    vision = family.shape("VL-8B").vision
    for height, width in ((720, 1280), (1024, 1024), (333, 500), (2160, 3840)):
        patches = processor.get_number_of_image_patches(height, width, {})
        assert vision.tokens(height, width) == patches // 4
