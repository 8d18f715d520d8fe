"""Loading a model folder: what is refused, what is checked, what is counted."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from finetune_api.job import LoRA
from finetune_api.reasons import Reason
from finetune_trainer.errors import StageError
from finetune_trainer.model.load import LoadedModel, load_model
from finetune_trainer.model.lora import add_lora
from finetune_trainer.model.shape import shape_of
from tests.support.tiny_model import ARCHITECTURES, Architecture, make_model
from tests.support.tiny_seq2seq import make_encoder_decoder

CPU = torch.device("cpu")


def load(folder: Path, **settings: str) -> LoadedModel:
    return load_model(folder, device=CPU, precision=settings.get("precision", "Float32"))  # type: ignore[arg-type] # a literal


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    make_model(folder)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "model"))


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def refused(folder: Path, reason: Reason, text: str) -> None:
    with pytest.raises(StageError, match=text) as error:
        load(folder)
    assert error.value.reason is reason
    assert error.value.message.startswith("model.uri")


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_code_of_its_own_is_refused_and_never_run(folder: Path, name: str) -> None:
    (folder / "evil.py").write_text("raise SystemExit('ran')")
    edit(
        folder / name,
        auto_map={"AutoModelForCausalLM": "evil.Model", "AutoTokenizer": ["evil.T", None]},
        model_type="evil",
        tokenizer_class="EvilTokenizer",
    )
    refused(folder, Reason.UNSAFE_MODEL, rf"{name}.*auto_map")


def test_code_beside_a_model_that_transformers_has_is_not_run(folder: Path) -> None:
    expected = load(folder)
    (folder / "evil.py").write_text("raise SystemExit('ran')")
    for name in ("config.json", "tokenizer_config.json"):
        edit(
            folder / name,
            auto_map={
                "AutoConfig": "evil.C",
                "AutoModelForCausalLM": "org/elsewhere--evil.Model",
                "AutoTokenizer": ["evil.T", None],
            },
        )
    loaded = load(folder)
    assert type(loaded.model).__module__.startswith("transformers.models.llama")
    assert all(torch.equal(a, b) for a, b in zip(loaded.model.parameters(), expected.model.parameters(), strict=True))
    assert loaded.tokenizer("The film")["input_ids"] == expected.tokenizer("The film")["input_ids"]


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pth", "model.pkl"])
def test_weights_that_are_pickles_are_refused(folder: Path, name: str) -> None:
    (folder / "model.safetensors").rename(folder / name)
    refused(folder, Reason.UNSAFE_MODEL, name)


def test_a_pickle_beside_safetensors_is_left_alone(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"not even a pickle")
    assert load(folder).parameters > 0


def test_a_folder_without_weights_is_invalid(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    refused(folder, Reason.MODEL_INVALID, "no weights")


def test_a_folder_without_config_is_invalid(folder: Path) -> None:
    (folder / "config.json").unlink()
    refused(folder, Reason.MODEL_INVALID, r"no config\.json")


@pytest.mark.parametrize("text", ["{", "[1]"])
def test_a_config_that_is_no_json_object_is_invalid(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    refused(folder, Reason.MODEL_INVALID, r"config\.json")


def test_an_unknown_architecture_is_invalid_with_the_cause(folder: Path) -> None:
    edit(folder / "config.json", model_type="unheard-of")
    refused(folder, Reason.MODEL_INVALID, "unheard-of")


def test_weights_cut_short_are_invalid(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    refused(folder, Reason.MODEL_INVALID, "can't load")


def test_a_missing_tensor_is_not_made_up(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    refused(folder, Reason.MODEL_INVALID, r"lack 1 tensors.*layers\.1\.mlp\.up_proj")


def test_an_adapter_alone_is_invalid(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")
    refused(folder, Reason.MODEL_INVALID, "adapter")


def test_quantised_weights_are_invalid(folder: Path) -> None:
    edit(folder / "config.json", quantization_config={"quant_method": "gptq", "bits": 4})
    refused(folder, Reason.MODEL_INVALID, "quantised")


def test_an_encoder_decoder_model_of_a_kind_that_was_never_tried_is_invalid(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "led", "is_encoder_decoder": True}))
    refused(folder, Reason.MODEL_INVALID, "led is an encoder-decoder model that can't be tuned here; of these, bart")


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16])
def test_the_stored_type_is_remembered_whatever_the_precision(tmp_path: Path, stored: torch.dtype) -> None:
    make_model(tmp_path, dtype=stored)
    assert load(tmp_path, precision="Float32").stored_dtype == stored
    loaded = load(tmp_path, precision="BFloat16")
    assert loaded.stored_dtype == stored
    assert loaded.model.dtype == torch.bfloat16


def test_without_a_type_in_the_config_the_weights_tell(tmp_path: Path) -> None:
    make_model(tmp_path, dtype=torch.bfloat16)
    config = json.loads((tmp_path / "config.json").read_text())
    config.pop("dtype", None)
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert load(tmp_path).stored_dtype == torch.bfloat16


def test_leftover_generation_settings_are_dropped_but_the_end_tokens_are_kept(folder: Path) -> None:
    (folder / "generation_config.json").write_text(
        json.dumps({"repetition_penalty": 1.7, "temperature": 0.3, "do_sample": True, "eos_token_id": [1, 4]})
    )
    loaded = load(folder)
    assert loaded.eos_ids == {1, 4}
    assert loaded.model.generation_config is not None
    assert loaded.model.generation_config.repetition_penalty in (None, 1.0)
    assert not loaded.model.generation_config.do_sample


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_head_runs_at_completion_positions_only(tmp_path: Path, architecture: Architecture) -> None:
    make_model(tmp_path, architecture=architecture)
    loaded = load(tmp_path)
    head = loaded.model.get_output_embeddings()
    assert head is not None
    seen: list[int] = []
    head.register_forward_hook(lambda _m, _a, out: seen.append(out.shape[-2]))
    ids = torch.arange(3, 43).reshape(2, 20)
    index = torch.tensor([5, 19, 20, 38])
    with torch.no_grad():
        logits, cache = loaded.head(ids, index)
        full = loaded.model(ids).logits.reshape(40, -1)
    assert seen == [4, 20]
    assert cache is None
    torch.testing.assert_close(logits, full[index], rtol=1e-5, atol=1e-5)


def test_where_the_head_does_more_than_a_product_it_runs_everywhere(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_model(tmp_path)
    loaded = load(tmp_path)
    head = loaded.model.get_output_embeddings()
    assert head is not None
    # As if this architecture's head mixed positions.
    head.register_forward_hook(lambda _m, _a, out: out - out.mean(dim=-2, keepdim=True))
    with caplog.at_level(logging.WARNING):
        loaded.head.check(512, CPU)
    assert not loaded.head.restricted
    assert "head" in caplog.text
    ids, index = torch.arange(3, 43).reshape(2, 20), torch.tensor([5, 19, 20, 38])
    with torch.no_grad():
        logits, _ = loaded.head(ids, index)
        torch.testing.assert_close(logits, loaded.model(ids).logits.reshape(40, -1)[index])


def test_an_architecture_that_cannot_carry_adapters_is_named_with_the_way_out(tmp_path: Path) -> None:
    make_model(tmp_path, architecture="mamba")
    with pytest.raises(StageError, match="LoRA is not possible with mamba, but Full is") as error:
        add_lora(load(tmp_path), LoRA(), seed=0)
    assert error.value.reason is Reason.MODEL_INVALID


@pytest.mark.parametrize("architecture", [a for a in ARCHITECTURES if a != "mamba"])
def test_adapters_sit_on_every_linear_layer_of_the_blocks_and_nowhere_else(
    tmp_path: Path, architecture: Architecture
) -> None:
    make_model(tmp_path, architecture=architecture)
    loaded = load(tmp_path)
    before, linear = loaded.parameters, shape_of(loaded).body
    names = {n for n, m in loaded.model.named_modules() if type(m).__name__ in ("Linear", "Conv1D") and n != "lm_head"}
    loaded = add_lora(loaded, LoRA(rank=4), seed=0)
    adapted = {
        n.removesuffix(".lora_A.default") for n, _ in loaded.model.named_modules() if n.endswith("lora_A.default")
    }
    assert adapted == names
    assert all("lora_" in n for n, p in loaded.model.named_parameters() if p.requires_grad)
    shape = shape_of(loaded)
    assert (loaded.parameters, shape.body) == (before, linear)
    assert shape.adapters == shape.trained == loaded.trained_parameters > 0


def test_fresh_adapters_change_no_answer(made: Path) -> None:
    loaded = load(made)
    ids = torch.arange(3, 43).reshape(2, 20)
    with torch.no_grad():
        before = loaded.model(ids).logits
        loaded = add_lora(loaded, LoRA(), seed=0)
        assert torch.equal(loaded.model(ids).logits, before)


def test_adapters_start_the_same_from_the_same_seed(made: Path) -> None:
    def weights(seed: int) -> torch.Tensor:
        loaded = load(made)
        loaded = add_lora(loaded, LoRA(), seed=seed)
        return torch.cat([p.detach().flatten() for p in loaded.model.parameters() if p.requires_grad])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_the_shape_of_a_model_is_counted_by_its_matrices(made: Path) -> None:
    shape = shape_of(load(made))
    # two layers: q and o of 32x32, k and v of 32x16, three of 32x64; a tied head of 512x32
    assert shape.body == 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64)
    assert shape.head == 512 * 32
    assert shape.attention_width == 2 * 4 * 8
    assert shape.parameters == shape.trained == shape.body + shape.head + 5 * 32  # five norms
    assert shape.adapters == 0


def test_an_encoder_decoder_model_is_loaded_with_what_its_decoder_starts_with(tmp_path: Path) -> None:
    make_encoder_decoder(tmp_path / "t5")
    make_encoder_decoder(tmp_path / "bart", "bart")
    assert load(tmp_path / "t5").decoder_start == (0,)
    assert load(tmp_path / "bart").decoder_start == (2, 0)
    assert load(tmp_path / "bart").most_positions == 256
    assert load(tmp_path / "t5").most_positions is None


def test_an_encoder_decoder_model_that_does_not_say_what_its_decoder_starts_with_is_invalid(tmp_path: Path) -> None:
    make_encoder_decoder(tmp_path)
    (tmp_path / "generation_config.json").unlink()
    edit(tmp_path / "config.json", decoder_start_token_id=None)
    refused(tmp_path, Reason.MODEL_INVALID, "decoder_start_token_id, the token that the decoder")


def test_an_encoder_decoder_model_with_a_chat_template_is_invalid(tmp_path: Path) -> None:
    make_encoder_decoder(tmp_path)
    edit(tmp_path / "tokenizer_config.json", chat_template="{{ messages }}")
    refused(tmp_path, Reason.MODEL_INVALID, "remove chat_template")


def test_a_decoder_of_more_layers_than_its_encoder_is_invalid(tmp_path: Path) -> None:
    make_encoder_decoder(tmp_path)
    edit(tmp_path / "config.json", num_decoder_layers=5)
    refused(tmp_path, Reason.MODEL_INVALID, r"gives the decoder 5 layers \(num_decoder_layers\), more than the 2")


def test_the_encoder_alone_of_a_model_is_no_language_model(tmp_path: Path) -> None:
    make_encoder_decoder(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if not name.startswith("decoder")}
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    refused(tmp_path, Reason.MODEL_INVALID, "the weights lack")
