"""The Plackett-Luce policy: probabilities by enumeration, draws by counting."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
import torch
from kv_agents.learned.policy import Draw, draw_evictions, order_log_prob, scores_of, with_noise

from kv_gym.agents import load_agent
from kv_gym.bench.benchmark import run_bench
from kv_gym.bench.plan import Bench
from kv_gym.engine.eviction import slots_to_keep
from kv_gym.errors import ConfigError

LOGITS = torch.tensor([0.3, -1.0, 2.0, 0.5])


def test_order_probabilities_sum_to_one_over_all_orderings() -> None:
    for k in (1, 2, 3):
        total = 0.0
        for first in itertools.permutations(range(4), k):
            rest = [i for i in range(4) if i not in first]
            total += math.exp(order_log_prob(LOGITS[[*first, *rest]].double(), k))
        assert abs(total - 1) < 1e-12


def test_order_log_prob_by_hand() -> None:
    # draw 2 of {0, log 2, log 3}: log 3 first (3/6), then 0 (1/3)
    logits = torch.tensor([3.0, 1.0, 2.0]).log()
    torch.testing.assert_close(order_log_prob(logits, 2).exp(), torch.tensor(0.5 / 3), atol=1e-7, rtol=0)


def test_order_log_prob_does_not_depend_on_the_order_of_the_rest() -> None:
    first = order_log_prob(LOGITS[[2, 0, 1, 3]], 2)
    torch.testing.assert_close(first, order_log_prob(LOGITS[[2, 0, 3, 1]], 2), atol=1e-6, rtol=0)


def test_draws_follow_their_probabilities() -> None:
    n = 40_000
    uniform = torch.rand(n, 5, generator=torch.Generator().manual_seed(0))
    protected = torch.tensor([False, False, False, False, True]).expand(n, -1)
    draw = draw_evictions(-torch.cat([LOGITS, torch.tensor([9.0])]).expand(n, -1), protected, 2, uniform, pool=3)
    assert draw.slots.shape == (n, 3)
    assert set(draw.slots.flatten().tolist()) == {0, 2, 3}  # slot 4 is protected, slot 1 not among the top three
    for first, second in itertools.permutations((0, 2, 3), 2):
        hit = (draw.evicted == torch.tensor([first, second])).all(-1)
        other = ({0, 2, 3} - {first, second}).pop()
        expected = float(order_log_prob(LOGITS[[first, second, other]], 2).exp())
        assert abs(hit.float().mean() - expected) < 4 * math.sqrt(expected / n)
        found = draw.log_probs[hit].sum(-1).exp()
        torch.testing.assert_close(found, torch.full_like(found, expected), atol=1e-6, rtol=0)


def test_pool_is_all_free_slots_when_there_are_few() -> None:
    protected = torch.tensor([[True, False, False, True, False]])
    draw = draw_evictions(torch.zeros(1, 5), protected, 2, torch.full((1, 5), 0.5), pool=4)
    assert sorted(draw.slots[0].tolist()) == [1, 2, 4]


def test_scores_of_a_draw_evict_what_was_drawn() -> None:
    draw = Draw(torch.tensor([[4, 1, 0, 2]]), 2, torch.zeros(1))
    scores = scores_of(draw, torch.zeros(1, 6))
    protected = torch.tensor([[False, False, False, False, False, True]])
    assert slots_to_keep(scores, protected, 2)[0].tolist() == [0, 2, 3, 5]


def test_noise_evicts_with_the_probabilities_of_the_policy() -> None:
    """The first to go is slot j with probability softmax(-s / (temperature * spread)); protected slots do not count."""
    scores = torch.tensor([0.3, -0.2, 9.0, 0.1])
    protected = torch.tensor([False, False, True, False])
    spread = float(scores[[0, 1, 3]].std(correction=0))
    n = 40_000
    uniform = torch.rand(n, 4, generator=torch.Generator().manual_seed(0))
    noisy = with_noise(scores.expand(n, 4), protected.expand(n, 4), uniform, 0.5)
    first = noisy.masked_fill(protected, math.inf).argmin(-1)
    found = torch.bincount(first, minlength=4) / n
    expected = (-scores / (0.5 * spread)).masked_fill(protected, -math.inf).softmax(-1)
    torch.testing.assert_close(found, expected, atol=0.01, rtol=0)
    assert torch.equal(with_noise(scores, protected, uniform[0], 0.0), scores)


def test_a_served_scorer_draws_by_episode_and_decision(tmp_path: Path) -> None:
    """Twice the same, and with hardly any noise what it does without."""
    options = {"evict_every": 16, "max_new_tokens": 400}
    done = []
    for number, temperature in enumerate((0, 1e-7, 1, 1)):
        agent = load_agent("foresight", temperature=temperature)
        plan = Bench("KVEvict-AIME-v0", [agent], [64], 4, modes=["replay"], options=options)
        done.append([row.actions_sha256 for row in run_bench(plan, tmp_path / str(number) / "rows.jsonl").rows])
    plain, cold, warm, again = done
    assert plain == cold and warm == again and all(a != b for a, b in zip(plain, warm, strict=True))


@pytest.mark.parametrize("temperature", [-1, float("inf"), float("nan"), "hot"])
def test_a_temperature_that_is_none_is_refused(temperature: object) -> None:
    with pytest.raises(ConfigError, match="temperature='?(-1|inf|nan|hot)'? .*is not allowed"):
        load_agent("foresight", temperature=temperature)
