"""The three truths of the cache, on random small models of every supported family, float32.

No eviction is the plain model; evicting is masking those slots; a chunk is its tokens one by one. The plain model is
transformers' own eager attention, with the evicted slots masked per layer and query head.
"""

import torch
from families import BUDGET, EVERY, SLOTS, N, evicting_run, span

from kv_gym.llm.cache import FullCache, SlotCache
from kv_gym.llm.check import masked_run


def test_no_eviction_is_the_plain_model(models, tokens):
    plain, llm = models
    expected = plain(tokens).logits
    slot_cache = SlotCache(llm.shape, N, tokens.shape[1] - EVERY, EVERY)
    torch.testing.assert_close(llm.read(tokens, span(0, tokens.shape[1]), slot_cache), expected, atol=1e-5, rtol=0)
    full_cache = FullCache(llm.shape, N, tokens.shape[1])
    torch.testing.assert_close(llm.read(tokens, span(0, tokens.shape[1]), full_cache), expected, atol=1e-5, rtol=0)


def test_a_full_cache_grows_with_its_texts(models, tokens, monkeypatch):
    plain, llm = models
    monkeypatch.setattr("kv_gym.llm.cache.FIRST", 3)
    length = tokens.shape[1]
    cache, parts = FullCache(llm.shape, N, 4 * length), []
    for start in range(0, length, 5):
        stop = min(length, start + 5)
        parts.append(llm.read(tokens[:, start:stop], span(start, stop), cache))
        assert stop <= cache.keys.shape[3] < max(4, 2 * stop) and cache.keys.shape == cache.values.shape
    torch.testing.assert_close(torch.cat(parts, 1), plain(tokens).logits, atol=1e-5, rtol=0)


def test_evicting_is_masking_those_slots_per_layer_and_head(models, tokens):
    plain, llm = models
    logits, cache, visible = evicting_run(llm, tokens, chunked=False)
    expected = masked_run(plain, tokens, visible).logits
    torch.testing.assert_close(logits, expected[:, SLOTS - 1 :], atol=1e-5, rtol=0)
    unmasked = plain(tokens).logits[:, SLOTS - 1 :]
    assert (logits - unmasked).abs().max() > 1e-3, "the evictions must matter for the test to mean anything"
    assert (cache.positions.diff(dim=-1) > 0).all(), "slots are in time order"


def test_chunked_reading_is_one_by_one(models, tokens):
    _, llm = models
    one_by_one, by_token, _ = evicting_run(llm, tokens, chunked=False)
    chunked, by_chunk, _ = evicting_run(llm, tokens, chunked=True)
    torch.testing.assert_close(chunked, one_by_one, atol=1e-5, rtol=0)
    torch.testing.assert_close(by_chunk.keys, by_token.keys, atol=1e-5, rtol=0)
    torch.testing.assert_close(by_chunk.queries, by_token.queries, atol=1e-5, rtol=0)
    assert torch.equal(by_chunk.positions, by_token.positions)


def test_accumulators_are_a_recomputation_from_all_rows(models, tokens):
    plain, llm = models
    _, cache, visible = evicting_run(llm, tokens, chunked=True)
    attention = torch.stack(masked_run(plain, tokens, visible, attention=True).attentions)
    length = tokens.shape[1]
    rows = attention.unflatten(2, (llm.shape.n_kv_heads, llm.shape.group))  # [L, N, H_kv, g, T, T]
    rows = rows.gather(-1, cache.positions[..., None, None, :].expand(*rows.shape[:-1], -1))  # of the live slots
    weight = 0.9 ** ((length - 1 - torch.arange(length)) / 16)
    torch.testing.assert_close(cache.statistics["total_attention"], rows.sum(-2), atol=1e-5, rtol=0)
    torch.testing.assert_close(
        cache.statistics["decayed_attention"], (rows * weight[:, None]).sum(-2), atol=1e-5, rtol=0
    )
    last, gap = slow_gaps(rows.amax(3), visible.sum(-1), cache.positions)
    assert torch.equal(cache.statistics["last_attended"], last)
    assert torch.equal(cache.statistics["longest_gap"], gap)


def slow_gaps(rows, n_seen, positions):
    """Last position and longest gap of queries above average attention, in plain loops."""
    last, gap = torch.full_like(positions, -1), torch.zeros_like(positions)
    for index in torch.cartesian_prod(*(torch.arange(size) for size in positions.shape)):
        layer, row, head, slot = index.tolist()
        for query in range(int(positions[layer, row, head, slot]), rows.shape[-2]):
            if rows[layer, row, head, query, slot] * n_seen[layer, row, head, query] > 1:
                if last[layer, row, head, slot] >= 0:
                    gap[layer, row, head, slot] = max(gap[layer, row, head, slot], query - last[layer, row, head, slot])
                last[layer, row, head, slot] = query
    return last, gap


def test_rows_of_different_length_share_a_full_cache(models, tokens):
    plain, llm = models
    cache = FullCache(llm.shape, N, 40)
    llm.read(tokens[:, :8], span(0, 8), cache)
    lengths = torch.tensor([3, 8, 5])  # row 0 goes on after 3 tokens, and so on; what was read beyond is overwritten
    for step in range(4):
        logits = llm.read(tokens[:, 10 + step][:, None], (lengths + step)[:, None], cache)
    for row, length in enumerate(lengths.tolist()):
        text = torch.cat([tokens[row, :length], tokens[row, 10:14]])[None]
        torch.testing.assert_close(logits[row, -1], plain(text).logits[0, -1], atol=1e-5, rtol=0)


def test_select_and_put_are_inverse(models, tokens):
    _, llm = models
    _, cache, _ = evicting_run(llm, tokens, chunked=True)
    _, other, _ = evicting_run(llm, tokens.flip(0), chunked=True)
    cache.carry("mine")[:] = torch.rand(cache.positions.shape)
    rows = torch.tensor([2, 0])
    part = cache.select(rows)
    torch.testing.assert_close(part.keys, cache.keys[:, rows], atol=0, rtol=0)
    other.put(rows, part)
    for mine, theirs in zip(other._batch_tensors(), cache._batch_tensors(), strict=True):
        assert torch.equal(mine[:, rows], theirs[:, rows])


def test_bytes_held_are_those_of_budget_and_window(models):
    _, llm = models
    cache = SlotCache(llm.shape, N, BUDGET, EVERY)
    assert (
        cache.nbytes == 2 * 2 * 2 * 8 * 4 * SLOTS == llm.shape.slot_bytes * SLOTS
    )  # K and V, layers, heads, width, bytes
