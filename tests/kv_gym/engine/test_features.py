import pytest
import torch

from kv_gym.config import make_config
from kv_gym.engine.episodes import EpisodeBatch
from kv_gym.engine.features import (
    COLUMNS,
    CONTEXT,
    FEATURES,
    LIMIT,
    context_features,
    multiples_of_average,
    slot_features,
)
from kv_gym.engine.reference import ReferenceStore
from kv_gym.llm.loading import load_llm
from kv_gym.problems import problem_source


@pytest.fixture(scope="module")
def batch(random_model):
    """Two episodes after three evictions."""
    config = make_config("KVEvict-AIME-v0", model=str(random_model), budget=24, evict_every=8, max_new_tokens=60)
    llm = load_llm(str(random_model))
    source = problem_source("aime")
    refs = ReferenceStore(llm, config).get([source.problem("train", 0, i) for i in range(2)])
    batch = EpisodeBatch(llm, config, 2)
    batch.reset([0, 1], refs, [0, 1])
    for step in range(3):
        batch.step(torch.rand(batch.slots().shape, generator=torch.Generator().manual_seed(step)))
    return batch


def column(features, name):
    return features[..., COLUMNS.index(name)]


def test_shape_names_and_limits(batch):
    features = slot_features(batch.slots())
    assert features.shape == (*batch.slots().shape, len(COLUMNS)) and features.dtype == torch.float32
    assert features.isfinite().all() and features.abs().max() <= LIMIT
    assert len(set(COLUMNS)) == len(COLUMNS) and all(f.unit and f.description for f in FEATURES)
    assert context_features(batch.slots(), 60).shape == (2, len(CONTEXT))


def test_attention_columns_are_a_slow_recomputation(batch):
    slots = batch.slots()
    features = slot_features(slots)
    n_slots = slots.shape[-1]
    queries = batch.cache.queries.transpose(0, 1)[1, 0, :2, -32:]  # episode 1, layer 0, the group of KV head 0
    keys = slots.keys[1, 0, 0]
    rows = torch.zeros(2, 32, n_slots)  # of which the newest 8 are the last window's
    assert slots.evict_every == 8 and slots.text_length[1] > 32
    for member in range(2):
        for t in range(32):
            seen = slots.positions[1, 0, 0] <= slots.text_length[1] - 32 + t
            logits = (keys @ queries[member, t]) * 8**-0.5
            rows[member, t] = logits.masked_fill(~seen, float("-inf")).softmax(-1)

    def check(name, per_head):
        expected = torch.log1p(per_head * n_slots)
        torch.testing.assert_close(column(features, f"{name}_mean")[1, 0, 0], expected.mean(0), atol=1e-5, rtol=0)
        torch.testing.assert_close(column(features, f"{name}_max")[1, 0, 0], expected.amax(0), atol=1e-5, rtol=0)

    check("attention_peak", rows[:, -8:].amax(1))
    check("attention_chunk", rows[:, -8:].mean(1))
    check("attention_last", rows[:, -1])
    check("attention_last8", rows[:, -8:].mean(1))
    check("attention_last16", rows[:, -16:].mean(1))
    check("attention_last32", rows.nan_to_num().mean(1))


def test_plain_columns_by_hand(batch):
    slots = batch.slots()
    features = slot_features(slots)
    positions, length = slots.positions[0, 1, 1], slots.text_length[0]
    torch.testing.assert_close(column(features, "age")[0, 1, 1], torch.log1p((length - 1 - positions).float()))
    torch.testing.assert_close(column(features, "position")[0, 1, 1], positions / length)
    assert column(features, "in_prompt")[0, 1, 1].tolist() == (positions < slots.prompt_length[0]).float().tolist()
    surprisal = batch.texts.surprisal[0, positions]
    torch.testing.assert_close(column(features, "surprisal")[0, 1, 1], torch.log1p(surprisal))
    norms = slots.keys[0, 1, 1].norm(dim=-1)
    torch.testing.assert_close(column(features, "key_norm")[0, 1, 1], (norms / norms.mean()).log(), atol=1e-5, rtol=0)


def test_newer_twin_is_the_best_cosine_to_a_newer_key(batch):
    slots = batch.slots()
    found = column(slot_features(slots), "newer_twin")[1, 1, 0]
    keys = slots.keys[1, 1, 0]
    for slot in range(len(keys) - 1):
        cosines = torch.cosine_similarity(keys[slot][None], keys[slot + 1 :], dim=-1)
        torch.testing.assert_close(found[slot], cosines.max(), atol=1e-5, rtol=0)
    assert found[-1] == 0


def test_uniform_attention_is_log_2():
    torch.testing.assert_close(multiples_of_average(torch.full((4,), 0.25)), torch.full((4,), 0.6931472))


def test_context_by_hand(batch):
    slots = batch.slots()
    context = context_features(slots, max_new_tokens=60)
    length, prompt = float(slots.text_length[0]), float(slots.prompt_length[0])
    expected = torch.tensor([(length - prompt) / 60, 1.3802112, 0.90309, 24 / length, prompt / length])
    torch.testing.assert_close(context[0, :5], expected, atol=1e-5, rtol=0)
    newest = batch.texts.surprisal[0, int(length) - 8 : int(length)].mean()
    torch.testing.assert_close(context[0, 5], torch.log1p(newest))
