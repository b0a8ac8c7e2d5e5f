"""The engine against transformers' plain model with the evicted slots masked, and against itself."""

import copy
import hashlib
from dataclasses import replace

import pytest
import torch

from kv_gym.config import make_config
from kv_gym.engine.episodes import EpisodeBatch, is_playable
from kv_gym.engine.reference import ReferenceStore, answer_start
from kv_gym.errors import BudgetError, ConfigError, ScoreError
from kv_gym.llm.frozen import FrozenLLM
from kv_gym.llm.loading import load_llm
from kv_gym.problems import Problem, problem_source
from kv_gym.problems.grading import is_correct

ENV = "KVEvict-AIME-v0"
SMALL = {"budget": 24, "evict_every": 8, "max_new_tokens": 60}


def references(llm, config, n, split="validation"):
    source = problem_source("aime")
    return ReferenceStore(llm, config).get([source.problem(split, 0, index) for index in range(n)])


def random_scores(batch, seed=0):
    """Scores that depend on (episode seed, decision) only."""
    shape = batch.slots().shape[1:]
    rows = []
    for episode, decision in zip(batch.seeds.tolist(), batch.decision.tolist(), strict=True):
        generator = torch.Generator().manual_seed(1000 * seed + 97 * episode + decision)
        rows.append(torch.rand(shape, generator=generator))
    return torch.stack(rows)


def play(batch, seed=0, watch=None):
    while batch.active.any():
        if watch is not None:
            watch(batch)
        batch.step(random_scores(batch, seed))
    return batch


@pytest.fixture(scope="module")
def small(random_model):
    config = make_config(ENV, model=str(random_model), **SMALL)
    llm = load_llm(str(random_model))
    return llm, config, references(llm, config, 4)


class Masks:
    """Which slots each query of each episode could see, collected while an engine runs: [L, H_kv, T, T] a row."""

    def __init__(self, batch, length):
        causal = torch.ones(length, length, dtype=torch.bool).tril()
        heads = (batch.n, batch.llm.shape.n_layers, batch.llm.shape.n_kv_heads)
        self.visible = causal.expand(*heads, -1, -1).clone()
        evict = batch.evict

        def record(keep):
            positions = batch.cache.positions.transpose(0, 1)
            gone = torch.ones_like(positions, dtype=torch.bool).scatter(-1, keep, False)
            for row, layer, head, slot in gone.nonzero().tolist():
                if batch.active[row]:
                    start = int(batch.texts.length[row])
                    self.visible[row, layer, head, start:, positions[row, layer, head, slot]] = False
            evict(keep)

        batch.evict = record


@torch.no_grad()
def plain_run(llm, tokens, visible):
    """(logits [T, V], attention [L, H_q, T, T]) of transformers' eager model under `visible` [L, H_kv, T, T]."""
    model = copy.deepcopy(llm.model)
    model.set_attn_implementation("eager")
    for layer, mask in zip(model.model.layers, visible, strict=True):
        additive = torch.zeros(mask.shape).masked_fill(~mask, float("-inf")).repeat_interleave(llm.shape.group, 0)[None]
        layer.self_attn.register_forward_pre_hook(
            lambda module, args, kwargs, additive=additive: (args, kwargs | {"attention_mask": additive}),
            with_kwargs=True,
        )
    output = model(tokens[None], output_attentions=True)
    return output.logits[0], torch.cat(output.attentions)


@pytest.mark.parametrize("mode", ["generate", "replay"])
def test_an_episode_is_the_plain_model_with_the_evicted_slots_masked(small, mode):
    llm, config, refs = small
    config = config.model_copy(update={"mode": mode})
    batch = EpisodeBatch(llm, config, 3, statistics=())
    batch.reset([0, 1, 2], refs[:3], [5, 6, 7])
    masks = Masks(batch, batch.texts.tokens.shape[1])
    play(batch)
    for row in range(3):
        length = int(batch.texts.length[row])
        tokens = batch.texts.tokens[row, :length]
        logits, _ = plain_run(llm, tokens, masks.visible[row, :, :, :length, :length])
        log_p = logits.log_softmax(-1)
        after = torch.arange(config.slots, length - 1)  # queries after the first eviction
        expected = -log_p[after, tokens[after + 1]]
        torch.testing.assert_close(batch.texts.surprisal[row, after + 1], expected, atol=1e-4, rtol=0)
        free = after[after + 1 >= int(batch.texts.forced[row])]
        assert torch.equal(tokens[free + 1], logits[free].argmax(-1)), "greedy where nothing is forced"
        if mode == "replay":
            known = answer_start(llm, refs[row])
            assert torch.equal(tokens[:known], refs[row].tokens[:known][:length])


def test_the_shadow_is_the_plain_model_on_the_same_tokens(small):
    """Losses of the full cache, and the attention that evicted slots would have got, recomputed from plain rows."""
    llm, config, refs = small
    batch = EpisodeBatch(llm, config, 2, statistics=())
    batch.reset([0, 1], refs[:2], [1, 2])
    masks = Masks(batch, batch.texts.tokens.shape[1])
    play(batch)
    for row in range(2):
        length = int(batch.texts.length[row])
        tokens = batch.texts.tokens[row, :length]
        causal = torch.ones(length, length, dtype=torch.bool).tril()
        logits, attention = plain_run(llm, tokens, causal.expand(2, 2, -1, -1))
        after = torch.arange(config.slots, length - 1)
        expected = -logits.log_softmax(-1)[after, tokens[after + 1]]
        torch.testing.assert_close(batch.texts.surprisal_full[row, after + 1], expected, atol=1e-4, rtol=0)
        rows = attention.unflatten(1, (2, 2)).mean(2)[:, :, config.slots :]  # [L, H_kv, T, T], mean over the group
        missed = (rows * ~masks.visible[row, :, :, config.slots : length, :length]).sum(-1).mean()
        found = batch.records.sums["missed_attention"][row] / batch.records.steps[row]
        torch.testing.assert_close(found.float(), missed, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("threshold", "cap"), [(None, None), (2.5, 0.5), (2.5, None)])
def test_rewards_are_those_of_the_terms(small, threshold, cap):
    llm, config, _ = small
    options = {"mode": "replay", "w_loss": 0.5, "entropy_threshold": threshold, "loss_cap": cap, "loss_threshold": 0.3}
    batch = EpisodeBatch(llm, config.model_copy(update=options), 1)
    reference = next(
        r for r in references(llm, config, 12) if r.n_prompt <= config.slots < answer_start(llm, r) - config.evict_every
    )
    batch.reset([0], [reference], [0])
    result = batch.step(random_scores(batch))
    spikes = 0.5 * result.terms["loss_spike"] + 0.1 * result.terms["attention_spike"]
    torch.testing.assert_close(result.reward, -spikes)
    after = slice(config.slots + 1, config.slots + 1 + config.evict_every)
    increase = batch.texts.surprisal[0, after] - reference.surprisal[after]
    low = reference.entropy[after] <= (reference.entropy_percentile(0.8) if threshold is None else threshold)
    counted = increase[low & (increase > 0.3)].clamp(max=cap or 1e9)
    expected = (counted**2).sum() / max(int(low.sum()), 1)
    assert expected > 0
    torch.testing.assert_close(result.terms["loss_spike"][0], expected)


def test_losses_are_split_at_the_fifth_of_highest_entropy(small):
    """In replay; the full cache's own losses are those of the reference."""
    llm, config, _ = small
    refs = [r for r in references(llm, config, 24) if answer_start(llm, r) > config.slots + 20][:3]
    batch = EpisodeBatch(llm, config.model_copy(update={"mode": "replay"}), 3, statistics=())
    batch.reset([0, 1, 2], refs[:3], [0, 0, 0])
    play(batch)
    for row in range(3):
        reference, record = refs[row], batch.record(row).measured
        counted = torch.arange(max(config.slots + 1, reference.n_prompt), answer_start(llm, reference))
        high = reference.entropy[counted] > torch.quantile(reference.entropy[reference.n_prompt :], 0.8)
        assert 0 < high.sum() < len(counted)
        for chosen, loss, full in (
            (high, record["loss_high"], record["loss_high_full"]), (~high, record["loss_low"], record["loss_low_full"]),
            (high | ~high, record["loss"], record["loss_full"]),
        ):  # fmt: skip
            assert loss == pytest.approx(float(batch.texts.surprisal[row, counted[chosen]].double().mean()), rel=1e-6)
            assert full == pytest.approx(float(reference.surprisal[counted[chosen]].double().mean()), rel=1e-6)


def test_rows_may_start_and_end_at_any_step(small):
    """An episode that fills a row later is the same episode, and does not disturb its neighbours."""
    llm, config, refs = small
    alone = {}
    for i, reference in enumerate(refs[:3]):
        batch = EpisodeBatch(llm, config, 1)
        batch.reset([0], [reference], [i])
        alone[i] = play(batch).record(0)
    batch = EpisodeBatch(llm, config, 2)
    batch.reset([0, 1], refs[:2], [0, 1])
    batch.step(random_scores(batch))
    batch.reset([0], [refs[2]], [2])  # thrown away after one step
    play(batch)
    assert batch.record(1) == pytest.approx_record(alone[1])
    assert batch.record(0) == pytest.approx_record(alone[2])


@pytest.fixture(autouse=True)
def approx_record(monkeypatch):
    """Records compare equal when their tokens, actions and counts do and their means agree to rounding."""

    class Approximate:
        def __init__(self, record):
            self.record = record

        def __eq__(self, other):
            mine, theirs = dict(vars(self.record)), dict(vars(other))
            return theirs.pop("measured") == pytest.approx(mine.pop("measured"), abs=1e-4) and mine == theirs

    monkeypatch.setattr(pytest, "approx_record", Approximate, raising=False)


def test_hashes_cover_tokens_and_actions(small):
    llm, config, refs = small
    records = []
    for seed in (0, 0, 1):
        batch = EpisodeBatch(llm, config, 1)
        batch.reset([0], refs[:1], [0])
        records.append(play(batch, seed).record(0))
        generated = batch.texts.generated(0).int().numpy().tobytes()
        assert records[-1].tokens_sha256 == hashlib.sha256(generated).hexdigest()
    assert records[0] == records[1]
    assert records[0].actions_sha256 != records[2].actions_sha256


def test_the_length_limit_truncates_exactly(small):
    llm, config, refs = small
    batch = EpisodeBatch(llm, config, 1)
    batch.reset([0], refs[:1], [0])
    record = play(batch).record(0)
    assert record.stop == "length" and record.n_tokens == config.max_new_tokens


def test_dropped_answers_end_the_replay_with_the_trace(small):
    llm, config, refs = small
    batch = EpisodeBatch(llm, config.model_copy(update={"mode": "replay"}), 2)
    batch.reset([0, 1], refs[:2], [0, 1])
    traces = batch.texts.forced.clone()
    while batch.active.any():
        assert (batch.texts.length + config.evict_every <= batch.texts.forced)[
            batch.active
        ].all()  # whole windows of the trace
        batch.step(random_scores(batch))
        batch.drop_answers()
    assert torch.equal(batch.texts.forced, traces)
    assert (batch.texts.forced - batch.texts.length < config.evict_every).all()


def test_hindsight_only_when_asked_for(small):
    llm, config, refs = small
    for wanted in (False, True):
        batch = EpisodeBatch(llm, config, 1, hindsight=wanted)
        batch.reset([0], refs[:1], [0])
        assert (batch.slots().hindsight is not None) == wanted
    future = batch.slots().hindsight.future
    assert future.shape == batch.slots().shape and (future > 0).all()


def test_errors_name_value_rule_and_fix(small):
    llm, config, refs = small
    batch = EpisodeBatch(llm, config, 1)
    with pytest.raises(ConfigError, match=r"reference of \d+ tokens.*budget \+ 3 \* evict_every = 548.*Choose another"):
        EpisodeBatch(llm, config.model_copy(update={"budget": 524}), 1).reset([0], refs[:1], [0])
    with pytest.raises(BudgetError, match="its prompt of .* Use budget >= .* or protect_prompt=False"):
        EpisodeBatch(llm, config.model_copy(update={"protect_prompt": True}), 1).reset([0], refs[:1], [0])
    batch.reset([0], refs[:1], [0])
    with pytest.raises(ScoreError, match="NaN"):
        batch.step(torch.full(batch.slots().shape, float("nan")))


@pytest.mark.slow
def test_an_episodes_tokens_do_not_depend_on_its_batch():
    """The first 64 validation problems on the embedded model, sixteen, four and one at a time."""
    config = make_config(ENV, budget=128, shadow=False)
    llm = load_llm("tiny")
    refs = [r for r in references(llm, config, 64) if is_playable(r, config)]
    tokens = {}
    for width in (16, 4, 1):
        hashes = []
        for start in range(0, len(refs), width):
            part = refs[start : start + width]
            batch = EpisodeBatch(llm, config, len(part), statistics=())
            batch.reset(range(len(part)), part, range(start, start + len(part)))
            play(batch)
            hashes.extend(batch.record(row).tokens_sha256 for row in range(len(part)))
        tokens[width] = hashes
    differing = [i for i, same in enumerate(zip(*tokens.values(), strict=True)) if len(set(same)) > 1]
    assert not differing, f"episodes {differing} of {len(refs)} depend on the batch width"


@pytest.mark.parametrize("mode", ["generate", "replay"])
def test_a_prompt_longer_than_the_cache_is_read_and_not_written(small, mode):
    llm, config, refs = small
    reference = max(refs, key=lambda r: r.n_prompt)
    assert reference.n_prompt > config.slots + config.evict_every
    batch = EpisodeBatch(llm, config.model_copy(update={"mode": mode, "shadow": mode == "generate"}), 1)
    batch.reset([0], [reference], [0])
    counted = 0
    while batch.active.any():
        read = int(batch.texts.length[0])
        batch.step(random_scores(batch))
        if read + config.evict_every < reference.n_prompt:
            assert batch.records.tokens[0] == 0, "losses are those of the answer, not of the question"
        counted = int(batch.records.tokens[0])
    assert torch.equal(batch.texts.tokens[0, : reference.n_prompt], reference.tokens[: reference.n_prompt])
    assert counted > 0 and llm.decode(batch.texts.generated(0)) == batch.texts.text(0)
    record = batch.record(0)
    assert record.n_tokens <= config.max_new_tokens + config.max_answer_tokens


def test_a_stop_token_in_the_prompt_ends_nothing(small):
    """Chat templates end the user's turn with the token that ends a generation."""
    llm, config, refs = small
    reference = max(refs, key=lambda r: r.n_prompt)
    tokens = reference.tokens.clone()
    tokens[config.slots + 4] = llm.stop_ids[0]
    assert config.slots + 4 < reference.n_prompt - 1
    batch = EpisodeBatch(llm, config, 1)
    batch.reset([0], [replace(reference, tokens=tokens)], [0])
    batch.step(random_scores(batch))
    assert batch.active[0] and not batch.records.stopped[0]


def test_what_follows_the_box_behind_a_trace_is_not_graded(small):
    llm, config, _ = small
    problem = Problem("mine/0", "all", "1 + 1?", "42", trace="one and one is 42. " * 6 + "\\boxed{42}")
    config = config.model_copy(update={"mode": "replay", "max_new_tokens": 200})
    (reference,) = ReferenceStore(llm, config).get([problem])
    batch = EpisodeBatch(llm, config, 1)
    batch.reset([0], [reference], [0])
    forced = int(batch.texts.forced[0])
    said = torch.tensor(llm.encode("42}. so \\boxed{7}" + "0" * 40))[: config.max_answer_tokens]
    batch.texts.tokens[0, forced : forced + len(said)] = said
    batch.texts.end[0] = forced + len(said)
    assert batch.texts.answer_text(0).endswith("\\boxed{42}") and is_correct(batch.texts.answer_text(0), "42")
    with pytest.raises(ConfigError, match="is a recorded trace, which is replayed. Use mode='replay'"):
        EpisodeBatch(llm, config.model_copy(update={"mode": "generate"}), 1).reset([0], [reference], [0])


@pytest.mark.parametrize("mode", ["generate", "replay"])
def test_a_step_that_is_recorded_reads_the_whole_batch(small, monkeypatch, mode):
    """Rows that have ended, or whose window is known, are beside those that write, and come out the same."""
    llm, config, found = small
    config = config.model_copy(update={"mode": mode})
    # An episode ends early, and one starts late: its windows are known for longer than those of the others.
    late = replace(found[1], n_prompt=40) if mode == "generate" else found[1]

    def run():
        batch = EpisodeBatch(llm, config, 4)
        batch.reset([0, 2, 3], [found[0], found[2], found[3]], [0, 2, 3])
        kinds = set()
        while batch.active.any():
            if not batch.active[1] and batch.decision[0] == 2 and batch.decision[1] == 0:
                batch.reset([1], [late], [1])
            known = batch.texts.known(batch.active.nonzero()[:, 0])
            kinds.add((bool(known.any()), bool((~known).any()), int(batch.active.sum())))
            batch.step(random_scores(batch))
        return batch, kinds

    monkeypatch.setattr("kv_gym.llm.tokens.TokenReader.fixed", property(lambda reader: False))
    apart, kinds = run()
    monkeypatch.setattr("kv_gym.llm.tokens.TokenReader.fixed", property(lambda reader: True))
    whole, _ = run()
    assert any(known and unknown for known, unknown, _ in kinds), kinds
    assert any(unknown and running < 4 for _, unknown, running in kinds), kinds
    assert torch.equal(whole.texts.tokens, apart.texts.tokens) and torch.equal(whole.texts.end, apart.texts.end)
    for name in ("surprisal", "entropy", "surprisal_full", "entropy_full"):
        torch.testing.assert_close(getattr(whole.texts, name), getattr(apart.texts, name), atol=2e-5, rtol=0)


def test_a_known_window_may_be_read_in_parts(small, monkeypatch):
    """A large vocabulary's logits of a whole window need not be there at once; accumulators see the same queries."""
    llm, config, found = small
    config = config.model_copy(update={"mode": "replay", "shadow": False})

    def run():
        batch = EpisodeBatch(llm, config, 2)
        batch.reset([0, 1], found[:2], [0, 1])
        reads, states = [], []

        def counted(tokens, *given, **more):
            reads.append(tokens.shape[1])
            return FrozenLLM.read(llm, tokens, *given, **more)

        monkeypatch.setattr(llm, "read", counted)
        play(batch, watch=lambda batch: states.append(batch.slots().total_attention.clone()))
        return batch, states, reads

    whole, before, long = run()
    monkeypatch.setattr("kv_gym.engine.episodes.LOGITS_AT_ONCE", 2 * llm.n_vocabulary * 3)
    parts, after, short = run()
    assert {2, 3} <= set(short) and config.evict_every in long and config.evict_every not in short
    assert torch.equal(parts.texts.tokens, whole.texts.tokens)
    torch.testing.assert_close(parts.texts.surprisal, whole.texts.surprisal, atol=2e-5, rtol=0)
    for one, other in zip(after, before, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)
