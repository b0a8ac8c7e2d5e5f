# make demo         install, then rank the first agents on KVEvict-AIME-v0 (table, rows, plot)
# make test         install, then run the tests
# make test-lowest  the tests of the wings that stand on other packages, on the oldest of them that pyproject.toml allows
# make lint         ruff and mypy
# make docs         the documentation as a site, build/site/index.html (to search it: python -m http.server -d build/site)
# make bench-speed  tokens a second against transformers' generate, and against kvpress after `make build/kvpress`
# make bench-gpu    the engine on a GPU, with random weights of Qwen3-4B's shape (eight minutes; needs a torch with CUDA)
# make bench-memory peak memory against its plan, and against the length of the text (twenty minutes)
# make results-fresh  the agents that the README's claims rest on, on 1,024 problems of four problem seeds (40 minutes)
# make results-seeds  the same for the three seeds of foresight-rl's first stage
# make results      the numbers and the plot in the README: all agents, all budgets, the whole test split (long)
# make suite        all domains on the model that reads them, with cross tables
# make families     judge every family of transformers' causal LMs and write the table in docs/models.md (two minutes)
# make traces       recorded chains of thought on SmolLM2 from the hub (the published rows: its Q4_1 GGUF, see their page)
# make board        every agent plays the leaderboard's protocol; the ranking and its page (half an hour)
PYTHON ?= python3
BIN := .venv/bin

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

.PHONY: install demo test test-lowest lint docs bench-speed bench-gpu bench-memory results results-fresh results-seeds suite families traces board clean
install: .venv/installed

demo: install
	$(BIN)/kv-gym bench KVEvict-AIME-v0

test: install
	$(BIN)/python -m pytest -n logical

# The oldest packages that pyproject.toml allows, beside the installed torch: a second torch is gigabytes, so its own minimum is not
# tried here. Plugins of pytest are named because newer ones of the environment do not fit.
build/lowest: pyproject.toml .venv/installed
	rm -rf $@ && mkdir -p $@
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --target build/uv uv
	$(BIN)/python -c "import torch; print('torch==' + torch.__version__.split('+')[0])" > build/torch.txt
	build/uv/bin/uv pip compile --quiet --no-config --only-binary :all: --python $(BIN)/python --resolution lowest-direct \
		--override build/torch.txt --no-annotate --no-header --extra contrib --extra gguf --extra minari pyproject.toml \
		| grep -Ev "^(torch|triton|nvidia-|cuda-)" > build/lowest.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $@ -r build/lowest.txt

LOWEST ?= $(addprefix tests/kv_gym/,engine envs commands/test_main.py bench/test_intervals.py show/test_rendering.py) tests/agents/training

test-lowest: build/lowest
	PYTHONPATH=$(CURDIR)/build/lowest PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 $(BIN)/python -m pytest -p xdist.plugin -n logical \
		-m "not slow" $(LOWEST)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: install
	$(BIN)/python docs/_site/stage.py build
	$(BIN)/zensical build --strict --clean --config-file build/mkdocs.yml

# kvpress in an environment of its own: it does not take the newest transformers.
build/kvpress: constraints.txt
	$(PYTHON) -m venv $@
	$@/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$@/bin/python -m pip install --quiet --disable-pip-version-check kvpress==0.5.5 transformers==5.2.0

bench-speed: install
	$(BIN)/python tests/benchmarks/speed.py

bench-memory: install
	$(BIN)/python tests/benchmarks/memory.py
	$(BIN)/python tests/benchmarks/text_memory.py

results: install
	$(BIN)/kv-gym bench KVEvict-AIME-v0 --agent all --problems 256 --budget 48 --budget 64 --budget 96 --budget 128 --budget 192 \
		--budget 256 --width 64 --out leaderboards/results/KVEvict-AIME-v0
	gzip -9 -n -c leaderboards/results/KVEvict-AIME-v0/rows.jsonl > leaderboards/results/KVEvict-AIME-v0/rows.jsonl.gz
	$(BIN)/kv-gym report leaderboards/results/KVEvict-AIME-v0 --markdown > leaderboards/results/KVEvict-AIME-v0/README.md

bench-gpu: install
	$(BIN)/python tests/benchmarks/gpu.py --out gpu.json

results-fresh: install
	$(BIN)/kv-gym bench KVEvict-AIME-v0 --agent foresight-rl --agent rkv --agent foresight --agent golden --agent transfer \
		--agent random --problems 256 --problem-seeds 4 --budget 48 --budget 64 --budget 96 --budget 128 --budget 192 \
		--budget 256 --width 64 --mode generate --out leaderboards/results/KVEvict-AIME-v0-fresh
	gzip -9 -n -c leaderboards/results/KVEvict-AIME-v0-fresh/rows.jsonl > leaderboards/results/KVEvict-AIME-v0-fresh/rows.jsonl.gz
	$(BIN)/kv-gym report leaderboards/results/KVEvict-AIME-v0-fresh --markdown > leaderboards/results/KVEvict-AIME-v0-fresh/README.md

results-seeds: install
	$(BIN)/kv-gym bench KVEvict-AIME-v0 --agent foresight-rl,checkpoint=seeds/foresight-rl-0 \
		--agent foresight-rl,checkpoint=seeds/foresight-rl-1 --agent foresight-rl,checkpoint=seeds/foresight-rl-2 \
		--problems 256 --budget 48 --budget 64 --budget 96 --budget 128 --budget 192 --budget 256 --width 64 --mode generate \
		--out leaderboards/results/KVEvict-AIME-v0-seeds
	gzip -9 -n -c leaderboards/results/KVEvict-AIME-v0-seeds/rows.jsonl > leaderboards/results/KVEvict-AIME-v0-seeds/rows.jsonl.gz

suite: install
	$(BIN)/kv-gym bench --suite all --width 64 --out leaderboards/results/domains
	for rows in leaderboards/results/domains/*/rows.jsonl; do gzip -9 -n -c $$rows > $$rows.gz; done

families: install
	$(BIN)/python tests/kv_gym/llm/family_table.py --write docs/models.md

TRACES := $(BIN)/kv-gym bench KVEvict-Traces-v0 --agent full --agent golden --agent transfer --agent snapkv --agent rkv --agent random \
	--set dtype=float32 --width 4 --out leaderboards/results/KVEvict-Traces-v0

traces: install
	$(TRACES) --budget 512 --problems 20
	$(TRACES) --budget 256 --budget 1024 --problems 4
	gzip -9 -n -c leaderboards/results/KVEvict-Traces-v0/rows.jsonl > leaderboards/results/KVEvict-Traces-v0/rows.jsonl.gz
	$(BIN)/kv-gym report leaderboards/results/KVEvict-Traces-v0 --markdown > leaderboards/results/KVEvict-Traces-v0/README.md

board: install
	$(BIN)/python -c "from kv_gym.agents import agent_entries; print(*agent_entries(), sep='\n')" | \
		while read agent; do $(BIN)/kv-gym submit new $$agent --author kv-gym; done
	$(BIN)/kv-gym leaderboard build

clean:
	rm -rf .venv runs build dist .pytest_cache .mypy_cache .ruff_cache
