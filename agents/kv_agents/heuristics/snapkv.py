"""SnapKV while decoding."""

from __future__ import annotations

from torch import Tensor

from kv_agents.base import Agent
from kv_agents.heuristics.window import check_window, keep_newest, pool_runs, window_scores
from kv_gym.engine.slots import SlotView


class SnapKV(Agent):
    """Keep the slots that the last queries attend to, with their neighbours.

        s = maxpool_kernel(mean over the last n_obs queries of softmax over older slots of max_group(q k / sqrt(D)))

    in [N, L, H_kv, S]; see `window_scores`. The newest `n_obs` slots stay.

    Args:
        n_obs: Observation window, queries.
        kernel: Width of the max-pooling, slots; odd, 1 for none.

    Source: SnapKV, arXiv:2404.14469, in the decode variant of R-KV's code (arXiv:2505.24133).
    Differs: the paper compresses the prompt once, sums over a longer window (official defaults 32 and 64),
        average-pools with kernel 5 and keeps one set of slots per query head. From the decode variant it differs in
        the pooling alone: slots are pooled only where their tokens are neighbours in the text, because pooling across
        evicted tokens mixes unrelated ones.
    """

    name = "snapkv"

    def __init__(self, n_obs: int = 8, kernel: int = 7) -> None:
        check_window(n_obs, kernel)
        self.n_obs, self.kernel = n_obs, kernel

    def score(self, slots: SlotView) -> Tensor:
        """Pool the importance, then keep the window."""
        importance = pool_runs(window_scores(slots, self.n_obs), slots.positions, self.kernel)
        return keep_newest(importance, self.n_obs)
