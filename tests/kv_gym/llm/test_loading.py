import copy
import json
from dataclasses import replace

import pytest
import torch

from kv_gym.errors import ConfigError, UnknownNameError
from kv_gym.llm.frozen import FrozenLLM
from kv_gym.llm.loading import EMBEDDED, load_llm
from kv_gym.llm.tiny.tokenizer import build_tokenizer
from kv_gym.llm.tiny.train import RECIPES, Batches, Recipe, Trainer, draw_hidden, hidden_slot_mask, model_config
from kv_gym.problems.aime import AIMESource


def test_unknown_models_and_dtypes_are_named():
    with pytest.raises(
        UnknownNameError,
        match=r"model 'tinny'.*neither embedded \(tiny, tiny-domains\).*Check the name or pass a folder",
    ):
        load_llm("tinny")
    with pytest.raises(ConfigError, match="dtype='float8' is not one of float32"):
        load_llm("tiny", dtype="float8")


def test_the_embedded_model_is_small_and_in_plain_formats():
    files = {path.name: path.stat().st_size for path in EMBEDDED["tiny"].iterdir()}
    assert sum(files.values()) < 12e6
    assert "model.safetensors" in files and not [name for name in files if name.endswith((".bin", ".pt", ".pkl"))]
    config = json.loads((EMBEDDED["tiny"] / "config.json").read_text())
    assert config["architectures"] == ["Qwen3ForCausalLM"]


def test_the_tokenizer_round_trips_every_problem():
    llm = load_llm("tiny")
    assert llm.tokenizer.get_vocab() == build_tokenizer().get_vocab()
    for index in range(16):
        problem = AIMESource().problem("validation", 0, index)
        ids = llm.encode_prompt(problem.prompt + problem.solution)
        assert ids[0] == llm.tokenizer.bos_token_id and llm.tokenizer.unk_token_id not in ids
        assert llm.decode(ids) == problem.prompt + problem.solution


def test_hidden_slots_by_hand():
    """Of five positions, 0 is hidden once it is older than two tokens."""
    mask = hidden_slot_mask(torch.tensor([True, False, False, False, False]).reshape(1, 1, 5), 5, age=2)[0, 0]
    seen = [[position for position in range(5) if mask[query, position] == 0] for query in range(5)]
    assert seen == [[0], [0, 1], [0, 1, 2], [1, 2, 3], [1, 2, 3, 4]]


def test_hidden_shares_are_drawn_per_row():
    config = model_config(63)
    hide = draw_hidden(Recipe(hidden_rows=0.5, hidden_max=0.5), config, 64, 500, torch.Generator().manual_seed(0))
    share = hide.float().mean((1, 2))
    assert hide.shape == (64, 8, 500) and 0.25 < (share == 0).float().mean() < 0.75 and 0.4 < share.max() < 0.55


def test_prompts_go_through_the_chat_template(random_llama):
    model, tokenizer = copy.deepcopy(random_llama)
    plain = FrozenLLM(copy.deepcopy(model), copy.deepcopy(tokenizer), "plain")
    turns = "{% for m in messages %}({{ m['content'] }}){% endfor %}"
    tokenizer.chat_template = turns + "{% if add_generation_prompt %}:{% endif %}"
    llm = FrozenLLM(model, tokenizer, "chat")
    assert llm.encode_prompt("1+1") == llm.encode("(1+1):") and plain.encode_prompt("1+1") == tokenizer("1+1").input_ids
    assert llm.fingerprint != plain.fingerprint, "it decides what the model reads"


@pytest.mark.parametrize("name", RECIPES)
def test_every_embedded_model_can_write_its_problems(name):
    batches = Batches(RECIPES[name])
    for step in (0, RECIPES[name].polish_from):
        for index in range(24):
            ids, n_prompt = batches.example(step, index)
            assert batches.tokenizer.unk_token_id not in ids and 0 < n_prompt < len(ids) < 1000
            assert ids[0] == batches.tokenizer.bos_token_id and ids[-1] == batches.tokenizer.eos_token_id
    base = build_tokenizer().get_vocab()
    assert {token: batches.tokenizer.get_vocab()[token] for token in base} == base, "older tokens keep their places"


def test_training_goes_on_from_another_model_and_resumes(tmp_path):
    recipe = replace(RECIPES["tiny-domains"], steps=2, tokens=1024)
    trainer = Trainer(recipe, tmp_path, compile_model=False)
    tiny = load_llm("tiny").model.state_dict()
    mine = trainer.model.state_dict()
    for key, weights in tiny.items():
        assert torch.equal(mine[key][: len(weights)], weights), key
    assert (
        len(mine["model.embed_tokens.weight"])
        == len(trainer.batches.tokenizer)
        > len(tiny["model.embed_tokens.weight"])
    )
    trainer.save()
    again = Trainer(recipe, tmp_path, compile_model=False)
    again.resume()
    assert again.step == 0
    with pytest.raises(ConfigError, match="was made with"):
        Trainer(replace(recipe, lr=1.0), tmp_path, compile_model=False).resume()
