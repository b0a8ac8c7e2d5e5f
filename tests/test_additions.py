"""Each kind of thing that people add has one place: a copy of the source with one file changed plays an episode.

A problem source needs no copy at all: tests/kv_gym/problems/test_sources.py installs one as a package.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from plugin import run_python

ROOT = Path(__file__).parents[1]
PARTS = ("kv_gym", "agents", "envs_configs")

TERM = """\
    RewardTerm(
        name="lost",
        title="lost tokens",
        unit="",
        sign=-1,
        description="the share of this step's tokens that became much more surprising.",
        weight="w_lost",
        weight_field=Field(0.0, ge=0, description="Penalty per unit of lost tokens."),
        needs="losses",
        value=lambda window, config: (
            ((window.loss - window.loss_full > config.lost_above) & window.counted).float().mean(-1)
        ),
        settings={"lost_above": (float, Field(1.0, gt=0, description="Increase that counts as a loss, nats."))},
        worst=lambda config: 1.0,
    ),
"""
MEASURE = """\
    Measure(
        name="newly_lost",
        title="newly lost",
        unit="",
        description="tokens that became much more surprising",
        per="token",
        value=lambda window, config: (window.loss - window.loss_full > 1).float(),
        table="Tokens newly lost",
        page="newly lost",
    ),
"""
FEATURE = """\
    Feature("square_age", "tokens squared, log1p", "text", "age times age",
            lambda s: torch.log1p(s.age.float().square())),
"""
PLAY = """
import json, sys
from pathlib import Path
import gymnasium, torch
import kv_gym
from kv_gym.agents import load_agent
from kv_gym.bench.benchmark import run_bench
from kv_gym.bench.plan import Bench
from kv_gym.bench.report import build_report
from kv_gym.bench.tables import markdown, tables
from kv_gym.commands.pages import render_page
from kv_gym.config import make_config
from kv_gym.engine.reference import ReferenceStore
from kv_gym.llm.loading import load_llm
from kv_gym.problems import problem_source
from kv_gym.show.recorder import record_episode
from kv_gym.show.viewer.page import build_page

ID, OPTIONS = "KVEvict-AIME-v0", json.loads(sys.argv[1])
assert Path(kv_gym.__file__).is_relative_to(sys.argv[2])
env = gymnasium.make(ID, budget=64, mode="replay", render_mode="ansi", **OPTIONS)
observation, _ = env.reset(seed=0, options={"problem": 0})
said = {"columns": observation["slots"].shape[-1], "steps": []}
done = False
while not done:
    action = env.action_space.sample() * 0 + torch.arange(80.0).flip(0).numpy() / 80
    _, reward, terminated, truncated, info = env.step(action)
    said["steps"].append([reward, info["reward_terms"]])
    done = terminated or truncated
said["frame"] = env.render()
agents = [load_agent("snapkv"), load_agent("ppo")]
result = run_bench(Bench(ID, agents, [64], 1, modes=["replay"], width=1, options=OPTIONS), Path("rows.jsonl"))
report = build_report(result.rows, result.runs)
said["failed"] = [row.failed for row in result.rows]
said["row"] = json.loads(Path("rows.jsonl").read_text().splitlines()[1])
said["settings"] = result.runs[0].settings
said["cell"] = next(cell for cell in report.to_json()["cells"] if cell["agent"] == said["row"]["agent"])
said["tables"] = [table.title for table in tables(report)]
said["results page"], said["env page"] = markdown(report), render_page(ID)
config, llm = make_config(ID, budget=64, mode="replay", split="test", **OPTIONS), load_llm("tiny")
reference = ReferenceStore(llm, config).get([problem_source("aime").problem("test", 0, 0)])[0]
episode = record_episode(llm, config, agents[0], reference, ID)
said["recorded"], said["viewer"] = episode.steps[0].model_dump(), build_page([episode])
print(json.dumps(said, default=float))
"""


def played_with(folder: Path, file: str, before: str, added: str, **options: Any) -> dict[str, Any]:
    """Add something to one file of a copy, in front of `before`, play with it and return what could be seen of it."""
    for part in PARTS:
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    text = (folder / file).read_text()
    assert text.count(before) == 1
    (folder / file).write_text(text.replace(before, added + before))
    paths = os.pathsep.join(str(path) for path in (folder, folder / "agents", Path(__file__).parent))
    environment = os.environ | {"PYTHONPATH": paths}
    script = folder / "play.py"
    script.write_text(f"import os\nos.chdir({str(folder)!r})\n{PLAY}")
    found: dict[str, Any] = json.loads(run_python(environment, str(script), json.dumps(options), str(folder)))
    assert found["failed"] == [None, None], "agents, a trained one among them, play on"
    return found


@pytest.mark.slow
def test_a_reward_term_is_one_declaration(tmp_path: Path) -> None:
    found = played_with(tmp_path, "kv_gym/rewards.py", ")\n\n\ndef reward_settings", TERM, w_lost=0.5, lost_above=0.25)
    assert any(terms["lost"] > 0 for _, terms in found["steps"])
    for reward, terms in found["steps"]:
        others = terms["correct"] - 0.02 * terms["loss_spike"] - 0.1 * terms["attention_spike"]
        assert reward == pytest.approx(others - 0.5 * terms["lost"], abs=1e-6)
    assert found["row"]["lost"] > 0 and found["cell"]["lost"]["value"] == found["row"]["lost"]
    assert found["settings"]["lost_above"] == 0.25 and "w_lost" not in found["settings"]
    assert "Lost tokens [95% interval]" in found["tables"] and "lost tokens 0." in found["frame"]
    page = found["env page"]
    assert "`- w_loss * loss_spike - w_attention * attention_spike - w_lost * lost`" in page
    assert "- `lost`: the share of this step's tokens" in page and "| `lost_above` | `1.0` | float > 0 |" in page
    assert "`attention_spike` and `lost` of this step" in page and "The three penalties cost at most 0.275" in page
    assert found["recorded"]["lost"] >= 0 and "<b>Lost tokens</b>: the share" in found["viewer"]


@pytest.mark.slow
def test_a_result_column_is_one_declaration(tmp_path: Path) -> None:
    before = '    Measure(\n        name="missed_attention",'
    found = played_with(tmp_path, "kv_gym/engine/measures.py", before, MEASURE)
    assert 0 < found["row"]["newly_lost"] < 1 and found["cell"]["newly_lost"]["value"] == found["row"]["newly_lost"]
    assert "Tokens newly lost [95% interval]" in found["tables"] and "| newly lost | 64 |" in found["results page"]
    assert "newly_lost" not in found["recorded"], "a mean over tokens is none of a step's"


@pytest.mark.slow
def test_a_feature_is_one_declaration(tmp_path: Path) -> None:
    before = '    Feature("surprisal", "nats, log1p", "predictions"'
    found = played_with(tmp_path, "kv_gym/engine/features.py", before, FEATURE)
    assert found["columns"] == 27
    assert "| 24 | `square_age` | tokens squared, log1p | text | age times age |" in found["env page"]
