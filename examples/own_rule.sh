#!/usr/bin/env bash
# A rule of your own, from its first line to the table in a paper: test, rank, sweep, explain. A few minutes on two cores;
# PROBLEMS=4 is quicker and says less. Everything lies in the folder that you run it in.
set -euo pipefail
problems=${PROBLEMS:-32}

cat > recent_hits.py << 'END'
from kv_agents.base import Agent


class RecentHits(Agent):
    """Keep what the last window's queries pay attention to, and the newest slots.

    Args:
        n_recent: Newest tokens that stay.
    """

    name = "recent-hits"

    def __init__(self, n_recent: int = 16) -> None:
        self.n_recent = n_recent

    def score(self, slots):
        paid = slots.attention().mean(-2).amax(3)  # [N, L, H_kv, group, T, S]: mean over queries, most of the group
        return paid + (slots.age < self.n_recent)  # [N, L, H_kv, S], higher = keep
END

cat > test_recent_hits.py << 'END'
from types import SimpleNamespace

import torch
from recent_hits import RecentHits


def test_scores_by_hand():
    """One head with a group of two, two queries and three slots of age 20, 3 and 0."""
    attention = torch.tensor([[[0.5, 0.3, 0.2], [0.1, 0.5, 0.4]], [[0.2, 0.2, 0.6], [0.2, 0.4, 0.4]]])
    view = SimpleNamespace(age=torch.tensor([[[[20, 3, 0]]]]), attention=lambda: attention[None, None, None])
    expected = torch.tensor([[[[0.3, 0.4, 1.5]]]])  # means 0.3, 0.4, 0.3 and 0.2, 0.3, 0.5; the last one is newest
    torch.testing.assert_close(RecentHits(n_recent=1).score(view), expected)
END
python -m pytest -q test_recent_hits.py

mine=recent_hits.py:RecentHits
kv-gym bench KVEvict-AIME-v0 --agent random --agent streaming --agent h2o --agent snapkv --agent rkv --agent golden --agent $mine \
  --budget 96 --problems "$problems"
kv-gym report runs/bench/KVEvict-AIME-v0 --against recent-hits # differences to it, paired by problem, with p-values
kv-gym sweep KVEvict-AIME-v0 --agent $mine --over n_recent=0,16,64 --budget 96 --problems "$problems" --mode replay --plot runs/sweep.png
kv-gym explain runs/bench/KVEvict-AIME-v0 --agent $mine --against rkv --episodes 2 --plot runs/explain.png --html runs/explain.html
kv-gym report runs/bench/KVEvict-AIME-v0 --latex > runs/table.tex
echo "runs/sweep.png, runs/explain.html, runs/table.tex"
