"""Models that are damaged or do not fit together: one sentence each, and never random weights."""

from __future__ import annotations

import json
import logging
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from kv_gym.errors import ConfigError, UnknownNameError, UnsupportedModelError
from kv_gym.llm.loading import load_llm
from kv_gym.llm.source import find_source
from kv_gym.llm.tiny.tokenizer import build_tokenizer

WEIGHTS = "model.safetensors"
UP = "model.layers.1.mlp.up_proj.weight"


def small_model(**settings: Any) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=len(build_tokenizer()), max_position_embeddings=512, bos_token_id=1, eos_token_id=2, pad_token_id=0,
        **settings,
    )  # fmt: skip
    return LlamaForCausalLM(config)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    small_model().save_pretrained(tmp_path)
    build_tokenizer().save_pretrained(tmp_path)
    return tmp_path


def weights(edit: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        edit(tensors)
        save_file(tensors, folder / WEIGHTS, {"format": "pt"})

    return damage


def number(name: str, value: float) -> Callable[[Path], None]:
    return weights(lambda tensors: tensors[name].view(-1)[3:4].fill_(value))


def config(file: str = "config.json", **values: Any) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / file
        path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | values))

    return damage


def text(file: str, content: str) -> Callable[[Path], None]:
    return lambda folder: (folder / file).write_text(content) and None


def truncated(folder: Path) -> None:
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[: len(whole) // 2])


def without(*patterns: str) -> Callable[[Path], None]:
    return lambda folder: [path.unlink() for pattern in patterns for path in folder.glob(pattern)] and None


class Trap:
    """What runs when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("unpickled"),))


def pickled(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Trap()))


def sharded(index: Any, *shards: str) -> Callable[[Path], None]:
    """Weights split over files that an index names."""

    def damage(folder: Path) -> None:
        for shard in shards:
            save_file(load_file(folder / WEIGHTS), folder / shard, {"format": "pt"})
        (folder / WEIGHTS).unlink()
        (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(index))

    return damage


def tokenizer_of_more(folder: Path) -> None:
    tokenizer = build_tokenizer()
    tokenizer.add_tokens(["seven", "eight"])
    tokenizer.save_pretrained(folder)


PART = {"metadata": {}, "weight_map": {UP: "a.safetensors", "model.norm.weight": "b.safetensors"}}
FAULTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "truncated weights": (truncated, "its weights cannot be read .SafetensorError: .*download it"),
    "empty weights": (text(WEIGHTS, ""), "its weights cannot be read .SafetensorError"),
    "missing tensor": (weights(lambda t: t.pop(UP)), f"lack {UP}.*random numbers"),
    "missing tensors": (weights(dict.clear), r"lack .* and \d+ more\. They must"),
    "unexpected tensor": (
        weights(lambda t: t.update({"model.layers.0.self_attn.q_proj.bias": torch.ones(32)})),
        r"also have model\.layers\.0\.self_attn\.q_proj\.bias\.",
    ),
    "shape": (
        weights(lambda t: t.update({"model.norm.weight": torch.ones(16)})),
        r"have model\.norm\.weight of shape \(16,\), not \(32,\)",
    ),
    "config of another size": (config(hidden_size=64), r"of shape \(.*, not \(.* and \d+ more"),
    "NaN": (number("model.norm.weight", float("nan")), "model.norm.weight has NaN .* in float32"),
    "infinity": (number(UP, float("-inf")), f"{UP} has NaN or infinite numbers"),
    "pickled weights": (pickled, "pytorch_model.bin. are not read, because .*safetensors"),
    "no weights": (without(WEIGHTS), "neither model.safetensors nor"),
    "a missing shard": (sharded(PART, "a.safetensors"), "names b.safetensors, which is not there"),
    "shards elsewhere": (
        sharded({"weight_map": {UP: "/etc/passwd"}}),
        "names /etc/passwd, which is not there",
    ),
    "an index of nothing": (sharded({"weight_map": {}}), "names no file"),
    "an index that is none": (sharded([1]), "its weights cannot be read .TypeError"),
    "unknown activation": (config(hidden_act="zelu"), r"its config cannot .*'zelu'\)\. Mend its values \(hidden_act"),
    "unknown RoPE": (
        config(rope_parameters={"rope_type": "nope", "rope_theta": 1e4}),
        "its config cannot be read .KeyError: 'nope'.*rope_parameters",
    ),
    "a config that is no JSON": (text("config.json", "{"), "config cannot be read .*not a valid JSON"),
    "a config that is a list": (text("config.json", "[]"), "its config cannot be read"),
    "an unknown model type": (config(model_type="gpt9"), "config cannot be read .*gpt9"),
    "code of its own": (
        config(model_type="gpt9", auto_map={"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.Model"}),
        "config cannot be read",
    ),
    "layers in words": (config(num_hidden_layers="two"), "cannot be read .*(TypeError|Validation)"),
    "no heads": (config(num_attention_heads=0), "its config cannot be read .ZeroDivisionError"),
    "no config": (without("config.json"), "this folder has no config.json"),
    "no tokenizer": (without("tok*"), "its tokenizer.*Put the files of its own tokenizer"),
    "half a tokenizer": (without("tokenizer.json"), "its tokenizer.*Put the files of its own"),
    "a tokenizer that is no JSON": (text("tokenizer.json", "{"), "tokenizer cannot be read"),
    "a tokenizer that is none": (text("tokenizer.json", "{}"), "its tokenizer cannot be read"),
    "a larger tokenizer": (
        tokenizer_of_more,
        r"tokenizer has token 64 \('eight'\), and the model knows 0 to 62",
    ),
    "a chat template that is no Jinja": (
        text("chat_template.jinja", "{% for m in messages %}"),
        "chat template cannot be read .Template",
    ),
    "a chat template with an unknown filter": (
        text("chat_template.jinja", "{{ messages | zap }}"),
        "chat template cannot be read .*zap",
    ),
    "a generation config that is no JSON": (
        text("generation_config.json", "{"),
        "generation_config.json cannot be read .*Mend or delete",
    ),
    "a generation config that is a list": (
        text("generation_config.json", "[3]"),
        "generation_config.json cannot be read",
    ),
    "a generation config that is an empty list": (
        text("generation_config.json", "[]"),
        "generation_config.json cannot be read .TypeError: it holds a list, not an object.*Mend or delete",
    ),
    "a generation config that is pairs": (text("generation_config.json", '[["eos_token_id", 5]]'), "holds a list"),
    **{
        f"{kind} without a scale": (
            weights(lambda t, kind=kind: t.update({UP: t[UP].to(kind)})),
            f"{UP} in {said}, and",
        )
        for kind, said in (
            (torch.int8, "I8"),
            (torch.bool, "BOOL"),
            (torch.complex64, "C64"),
            (torch.float8_e4m3fn, "F8_E4M3"),
        )
    },
    "float8 whose scales are gone": (
        lambda folder: (
            weights(lambda t: t.update({UP: t[UP].to(torch.float8_e4m3fn)}))(folder),
            config(quantization_config={"quant_method": "fp8", "weight_block_size": [128, 128]})(folder),
        ),
        f"is quantized, and {UP} in float8 has no scales beside it",
    ),
    "stop tokens in words": (
        config("generation_config.json", eos_token_id="</s>"),
        "eos_token_id=</s> in .* is no whole number or list",
    ),
    "a stop token that is true": (config("generation_config.json", eos_token_id=[True]), "is no whole number"),
}


class Overheard(logging.Handler):
    """What transformers logs; its own handler writes where no fixture looks."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())


@pytest.fixture
def overheard() -> Iterator[Overheard]:
    handler = Overheard()
    logging.getLogger("transformers").addHandler(handler)
    yield handler
    logging.getLogger("transformers").removeHandler(handler)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_model_is_refused_in_one_sentence(
    fault: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    overheard: Overheard,
) -> None:
    damage, match = FAULTS[fault]
    kind = UnknownNameError if fault == "no config" else UnsupportedModelError
    monkeypatch.chdir(folder)
    damage(folder)
    capfd.readouterr()
    with pytest.raises(kind, match=match) as caught:
        load_llm(str(folder))
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value) and str(caught.value).endswith((".", ")"))
    assert capfd.readouterr() == ("", "") and not any("\n" in line for line in overheard.said), (
        "no tables beside the sentence"
    )
    assert not (folder / "unpickled").exists()


def same(folder: Path) -> None:
    """Nothing."""


def tied(folder: Path) -> None:
    small_model(tie_word_embeddings=True).save_pretrained(folder)
    assert "lm_head.weight" not in load_file(folder / WEIGHTS)


def older(tensors: dict[str, torch.Tensor]) -> None:
    """What files of older transformers also hold."""
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    tensors["model.layers.0.self_attn.rotary_emb.cos_cached"] = torch.ones(9, 4)
    tensors["model.layers.0.attn.masked_bias"] = torch.tensor(-1e4)
    tensors["model.position_ids"] = torch.arange(9)[None]


RIGHT: dict[str, Callable[[Path], None]] = {
    "as it is": same,
    "tied weights": tied,
    "buffers of older files": weights(older),
    "shards": sharded({"metadata": {}, "weight_map": {UP: "a.safetensors"}}, "a.safetensors"),
    "pickles beside safetensors": lambda folder: (folder / "pytorch_model.bin").write_bytes(b"no") and None,
    "no generation config": without("generation_config.json"),
    "several stop tokens": config("generation_config.json", eos_token_id=[2, 5]),
    "a stop token that is never written": config("generation_config.json", eos_token_id=128009),
}


@pytest.mark.parametrize("case", RIGHT)
def test_what_is_whole_is_loaded_and_is_the_same_each_time(case: str, folder: Path) -> None:
    from kv_gym.llm.loading import forget_llm

    RIGHT[case](folder)
    first = load_llm(str(folder)).fingerprint
    forget_llm()
    assert load_llm(str(folder)).fingerprint == first


@pytest.mark.parametrize("stop", [10**6, -1, [2, 128009]])
def test_stop_tokens_that_the_model_does_not_know_are_told(
    stop: Any, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from kv_gym.llm.loading import forget_llm

    load_llm(str(folder))
    assert "never ends a text" not in caplog.text
    forget_llm()
    config("generation_config.json", eos_token_id=stop)(folder)
    load_llm(str(folder))
    assert caplog.text.count("never ends a text") == 1 and "the model knows 0 to 62" in caplog.text


@pytest.mark.parametrize("value", [1e6, -7e4])
def test_numbers_that_float16_cannot_hold_are_refused_there_alone(value: float, folder: Path) -> None:
    number(UP, value)(folder)
    with pytest.raises(UnsupportedModelError, match=f"{UP} has NaN or infinite numbers in float16.*dtype='bfloat16'"):
        load_llm(str(folder), dtype="float16")
    assert load_llm(str(folder), dtype="bfloat16").shape.dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["", "nowhere/at/all", "./nowhere", "/", "a" * 5000, "a\0b", "gpt 2", "../x", "own"])
def test_what_is_no_model_is_not_found(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own").write_text("a file")
    with pytest.raises(UnknownNameError, match=r"cannot be found.*Check the name or pass a folder") as caught:
        load_llm(name)
    assert len(str(caught.value)) < 800


DEVICES = ["gpu", "", "cuda:99", "cuda:-1", "meta", "cpu:x", "CPU", "🦙"] + ["cuda"] * (not torch.cuda.is_available())


@pytest.mark.parametrize("device", DEVICES)
def test_a_device_that_is_not_here_is_named_with_those_that_are(device: str) -> None:
    with pytest.raises(
        ConfigError, match=r"device='.*' cannot be used \(.*\)\. Here torch .* has cpu.*: use one of those"
    ):
        load_llm("tiny", device=device)


@pytest.mark.parametrize("option", [{"dtype": "float64"}, {"dtype": ""}, {"dtype": ["float32"]}, {"dtype": None}])
def test_dtypes_that_are_none_are_named(option: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="dtype=.* is not one of float32, bfloat16, float16"):
        load_llm("tiny", **option)


def test_options_of_other_types_are_named() -> None:
    for option in ({"name": 3}, {"name": "tiny", "device": None}, {"name": "tiny", "revision": 1}):
        with pytest.raises(ConfigError, match=r"is of type (int|NoneType)\. Give a text"):
            load_llm(**option)  # type: ignore[arg-type]


def test_models_of_the_hub_are_read_from_its_cache_and_refused_alike(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = tmp_path_factory.mktemp("hub")
    snapshot = hub / "models--me--small" / "snapshots" / "abc123"
    (hub / "models--me--small" / "refs").mkdir(parents=True)
    (hub / "models--me--small" / "refs" / "main").write_text("abc123")
    shutil.copytree(folder, snapshot)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(hub))
    assert load_llm("me/small").fingerprint == load_llm(str(folder)).fingerprint
    assert find_source("me/small").weight_files() == [snapshot / WEIGHTS]
    number(UP, float("nan"))(snapshot)
    with pytest.raises(UnsupportedModelError, match=f"model 'me/small': {UP} has NaN"):
        load_llm("me/small", "main")
    pickled(snapshot)
    with pytest.raises(UnsupportedModelError, match="model 'me/small' has neither model.safetensors nor"):
        load_llm("me/small", "abc123")
    with pytest.raises(UnknownNameError, match=r"'me/small' \(revision v9\) cannot be found.*neither stored here nor"):
        load_llm("me/small", "v9")
