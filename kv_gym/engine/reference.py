"""Full-cache generations: what the frozen LLM writes when nothing is evicted.

Before the first eviction an episode is its reference, so `reset` reads a known text. A reference also holds the loss
and entropy of every token under the full cache. It is made once per (model, problem, decoding) and stored. Where a
problem comes with a recorded trace, the LLM reads that and writes only the answer.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from kv_gym.config import EnvConfig
from kv_gym.engine.capacity import check_capacity
from kv_gym.engine.decoding import Decoding, surprisal_and_entropy, uniform_draws
from kv_gym.engine.reading import queries_at_once
from kv_gym.errors import ReferenceFileError
from kv_gym.files import cache_folder, write_whole
from kv_gym.llm.cache import FullCache
from kv_gym.llm.frozen import FrozenLLM
from kv_gym.llm.prompts import Chat, encode_text
from kv_gym.llm.tokens import How, TokenReader, way_to_read
from kv_gym.problems import Problem
from kv_gym.problems.grading import GRADING_VERSION, UndecidedError, closing_brace, grade

FORMAT = 2
BOX = "\\boxed{"
ANSWER_CALL = "\n\nThe final answer is $"  # goes behind a trace that never opens a box
logger = logging.getLogger(__name__)

LOOK_EVERY = 8  # tokens, after which texts that have ended are looked for: each look waits for the device


@dataclass(frozen=True)
class Reference:
    """One stored generation.

    Attributes:
        problem: What was asked.
        tokens: Prompt and generation, with the stop token if there is one, [T] long.
        n_prompt: Tokens of the prompt.
        surprisal: -log p of each token under the full cache, nats, [T]; 0 for the first.
        entropy: Entropy of its prediction, nats, [T]; 0 for the first.
        stop: `eos` or `length`.
        correct: Score of the boxed answer, 0 to 1; 0 where it is undecided.
        hash: SHA-256 over what was decided (tokens, prompt, stop, score) and the model's fingerprint. Losses are not in
            it: their rounding depends on how many texts were read side by side.
        undecided: Why the answer could not be graded; None if it was. Such a reference is not stored in a file.
    """

    problem: Problem
    tokens: Tensor
    n_prompt: int
    surprisal: Tensor
    entropy: Tensor
    stop: str
    correct: float
    hash: str
    undecided: str | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    def entropy_percentile(self, share: float) -> float:
        """The entropy below which `share` of the generated tokens lie, nats."""
        return float(torch.quantile(self.entropy[self.n_prompt :], share))


@functools.cache
def warn_once(text: str) -> None:
    """Say something that concerns the whole run, once."""
    logger.warning("%s", text)


class ReferenceStore:
    """References of one frozen LLM under one decoding, in memory and in files.

    Args:
        llm: The frozen LLM.
        config: Gives the decoding and the longest generation.
        folder: Where files go; default is the user's cache folder (or `KV_GYM_CACHE`).

    Raises:
        ConfigError: The cache folder is a file, texts may get longer than the LLM is right for, or its chat template
            does not take the settings.
    """

    def __init__(self, llm: FrozenLLM, config: EnvConfig, folder: Path | None = None) -> None:
        check_capacity(llm, config)
        self.llm = llm
        self.decoding = Decoding(config.temperature, config.top_p, config.top_k)
        self.max_new_tokens, self.max_answer_tokens = config.max_new_tokens, config.max_answer_tokens
        self.how = way_to_read(llm.shape.device, config.compile)
        self.chat = Chat.of(config)
        llm.encode_prompt("1 + 1 = ?", self.chat)  # a template that refuses these settings does so now
        self.folder = (folder or cache_folder()) / "references" / llm.fingerprint[:16]
        self._known: dict[str, Reference] = {}

    def key(self, problem: Problem, seed: int) -> str:
        """Hash of everything that decides a reference; greedy ones do not depend on the seed."""
        decoding = [self.decoding.temperature, self.decoding.top_p, self.decoding.top_k]
        asked = [problem.prompt, problem.answer, problem.graded]
        parts = [FORMAT, self.llm.fingerprint, *asked, self.max_new_tokens, decoding]
        if self.decoding.temperature:
            parts.append(seed)
        if problem.trace:
            parts += [problem.trace, self.max_answer_tokens]
        if self.chat:
            parts.append({"chat": self.chat.parts})
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def get(
        self,
        problems: list[Problem],
        seeds: list[int] | None = None,
        width: int = 64,
        progress: Callable[[int], None] | None = None,
    ) -> list[Reference]:
        """Return the references of `problems`, generating those that are not stored yet.

        Args:
            problems: What to solve.
            seeds: Episode seeds for sampled decoding; default 0.
            width: Problems generated side by side.
            progress: Called with the number of references that just became ready.

        Raises:
            ReferenceFileError: A stored file is damaged.
        """
        seeds = seeds or [0] * len(problems)
        keys = [self.key(problem, seed) for problem, seed in zip(problems, seeds, strict=True)]
        missing = []
        for i, key in enumerate(keys):
            if key not in self._known and not self._load(key, problems[i]):
                missing.append(i)
            elif progress:
                progress(1)
        missing.sort(key=lambda i: -len(problems[i].prompt) - len(problems[i].trace))  # texts of a batch end together
        for start in range(0, len(missing), width):
            part = missing[start : start + width]
            made = generate_references(
                self.llm, [problems[i] for i in part], [seeds[i] for i in part], self.decoding, self.max_new_tokens,
                self.max_answer_tokens, self.chat, self.how,
            )  # fmt: skip
            for place, reference in made:
                self.keep(keys[part[place]], reference)
                if progress:
                    progress(1)
        return [self._known[key] for key in keys]

    def knows(self, key: str) -> bool:
        """Whether a reference is there, in memory or in a file."""
        try:
            return key in self._known or self.path(key).exists()
        except OSError:
            return False

    def path(self, key: str) -> Path:
        """File of a reference."""
        return self.folder / f"{key[:40]}.safetensors"

    def keep(self, key: str, reference: Reference) -> None:
        """Store a reference, in memory too: a cache that cannot be written to costs time and nothing else.

        Without a verdict it is kept in memory only: another run, or another machine, may be able to tell.
        """
        self._known[key] = reference
        if reference.undecided:
            return
        tensors = {"tokens": reference.tokens.int(), "surprisal": reference.surprisal, "entropy": reference.entropy}
        metadata = {
            "key": key,
            "hash": reference.hash,
            "n_prompt": str(reference.n_prompt),
            "stop": reference.stop,
            "correct": f"{reference.correct:.17g}",
            "grading": str(GRADING_VERSION),
        }
        metadata["sha256"] = file_hash(metadata, reference.tokens, reference.surprisal, reference.entropy)
        data = save({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, metadata)
        try:
            write_whole(self.path(key), data)
        except OSError as error:
            warn_once(
                f"references cannot be stored in {self.folder} ({error.strerror or error}), so the next run makes them "
                "again. Set KV_GYM_CACHE to a folder that can be written to."
            )

    def _load(self, key: str, problem: Problem) -> bool:
        path = self.path(key)
        if not self.knows(key):
            return False
        device = self.llm.shape.device
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                tokens = file.get_tensor("tokens").long()
                surprisal, entropy = file.get_tensor("surprisal"), file.get_tensor("entropy")
            expected = file_hash(metadata, tokens, surprisal, entropy)
            if metadata["key"] != key or metadata["sha256"] != expected:
                raise ValueError("its contents do not match their hash")
            reference = Reference(
                problem, tokens.to(device), int(metadata["n_prompt"]), surprisal.to(device), entropy.to(device),
                metadata["stop"], float(metadata["correct"]), metadata["hash"],
            )  # fmt: skip
            current = metadata.get("grading", "1") == str(GRADING_VERSION)
        except OSError as error:
            warn_once(f"references cannot be read from {self.folder} ({error.strerror or error}); they are made again.")
            return False
        except (SafetensorError, ValueError, KeyError) as error:
            raise ReferenceFileError(
                f"reference file {path} is damaged: {error}. Stored references must match the hash they carry. Delete "
                "the file; it is made again when needed."
            ) from error
        if current:
            self._known[key] = reference
        else:  # the text stands, its verdict may not
            self.keep(key, _reference(self.llm, problem, reference.n_prompt, *_columns(reference)))
        return True


def answer_start(llm: FrozenLLM, reference: Reference) -> int:
    """Tokens up to and including the opening of the last box; without a box, all but the stop token.

    Where the boxed text is all there is to write, as in a summary (`graded="coverage"`), it counts as no answer.
    """
    generated = reference.tokens[reference.n_prompt :].tolist()
    opening = llm.decode(generated).rfind(BOX) if reference.problem.graded == "answer" else -1
    if opening < 0:
        return len(reference) - int(reference.stop == "eos")
    low, high = 1, len(generated)
    while low < high:  # the shortest prefix whose text holds the opening
        middle = (low + high) // 2
        low, high = (low, middle) if len(llm.decode(generated[:middle])) >= opening + len(BOX) else (middle + 1, high)
    return reference.n_prompt + low


def decided_hash(fingerprint: str, tokens: Tensor, n_prompt: int, stop: str, correct: float) -> str:
    """SHA-256 of what a generation decided."""
    digest = hashlib.sha256(json.dumps([fingerprint, n_prompt, stop, f"{correct:.17g}"]).encode())
    digest.update(tokens.int().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def file_hash(metadata: Mapping[str, str], *tensors: Tensor) -> str:
    """SHA-256 of everything that a reference file holds."""
    said = sorted((name, value) for name, value in metadata.items() if name != "sha256")
    digest = hashlib.sha256(json.dumps(said).encode())
    for tensor in tensors:
        exact = tensor.float() if tensor.is_floating_point() else tensor.int()
        digest.update(exact.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def traced_tokens(llm: FrozenLLM, trace: str, longest: int) -> list[int]:
    """Token ids of a recorded trace up to its last box, which is left open for the LLM; at most `longest` of them."""
    head, box, _ = trace.rpartition(BOX)
    call = llm.encode(BOX if box else ANSWER_CALL + BOX)
    return encode_text(llm.tokenizer, head if box else trace)[: max(0, longest - len(call))] + call


def generate_references(
    llm: FrozenLLM,
    problems: list[Problem],
    seeds: list[int],
    decoding: Decoding,
    max_new_tokens: int,
    max_answer_tokens: int,
    chat: Chat | None = None,
    how: How = "eager",
) -> Iterator[tuple[int, Reference]]:
    """Let the LLM solve problems side by side with the full cache; behind a trace it only writes the answer.

    A recorded step (`how="graph"`) serves texts of a range of lengths. Compiling one for each range takes longer than
    it saves, so `compiled` is as `eager`.

    Yields:
        (Place of the problem, its reference), as texts end.
    """
    device = llm.shape.device  # reading is without gradients, and so is what is computed from it
    prompts = [llm.encode_prompt(problem.prompt, chat) for problem in problems]
    traces = [traced_tokens(llm, p.trace, max_new_tokens) if p.trace else [] for p in problems]
    n, n_prompt = len(prompts), torch.tensor([len(p) for p in prompts], device=device)
    n_known = n_prompt + torch.tensor([len(trace) for trace in traces], device=device)
    end = n_known + torch.tensor([max_answer_tokens if trace else max_new_tokens for trace in traces], device=device)
    capacity = int(end.max())
    tokens = torch.zeros(n, capacity + 1, dtype=torch.long, device=device)
    for row, known in enumerate(prompt + trace for prompt, trace in zip(prompts, traces, strict=True)):
        tokens[row, : len(known)] = torch.tensor(known, device=device)
    surprisal, entropy = torch.zeros(n, capacity + 1, device=device), torch.zeros(n, capacity + 1, device=device)
    draws = torch.stack([uniform_draws(seed, capacity + 1) for seed in seeds]).to(device)
    cache = FullCache(llm.shape, n, capacity)
    logits = _read_known(llm, cache, tokens, n_known, surprisal, entropy)
    rows, reader = torch.arange(n, device=device), TokenReader(llm, cache, "graph" if how == "graph" else "eager")
    length = n_known.clone()
    stop_ids = torch.tensor(llm.stop_ids, device=device)
    active = torch.ones(n, dtype=torch.bool, device=device)
    told, longest = torch.zeros_like(active), int(n_known.max())
    for step in itertools.count(1):
        chosen = decoding.choose(logits, draws[rows, length])
        nll, spread = surprisal_and_entropy(logits, chosen)
        for table, values in ((tokens, chosen), (surprisal, nll), (entropy, spread)):
            table[rows, length] = torch.where(active, values, table[rows, length])
        stopped = torch.isin(chosen, stop_ids)
        end = torch.where(active & stopped, length + 1, end)
        active &= ~stopped & (length + 1 < end)
        for i in (~active & ~told).nonzero()[:, 0].tolist() if step % LOOK_EVERY == 0 else ():
            if problems[i].trace:
                end[i] = n_known[i] + answer_length(llm, tokens[i, n_known[i] : end[i]])
            columns = (table[i, : end[i]] for table in (tokens, surprisal, entropy))
            yield i, _reference(llm, problems[i], int(n_prompt[i]), *columns)
        if step % LOOK_EVERY == 0:
            if not active.any():
                return
            told = ~active
        reader.tokens.copy_(tokens[rows, length])
        reader.positions.copy_(length)
        cache.open(reader.positions[:, None], min(capacity, reader.room(longest + step)))
        logits = reader.read()
        length = length + active.long()


def answer_length(llm: FrozenLLM, tokens: Tensor) -> int:
    """Tokens up to the one that closes the box that is open before them; all of them if none does."""
    for length in range(1, len(tokens) + 1):
        if closing_brace(llm.decode(tokens[:length]), 0) is not None:
            return length
    return len(tokens)


def _read_known(
    llm: FrozenLLM, cache: FullCache, tokens: Tensor, n_known: Tensor, surprisal: Tensor, entropy: Tensor
) -> Tensor:
    """Read what is known of each row, filling losses and entropies; return the logits after its last token, [N, V].

    Rows are padded on the right: padding sits at later positions, unseen, and is overwritten as the text grows.
    """
    n, longest = len(tokens), int(n_known.max())
    last = torch.zeros(n, llm.n_vocabulary, device=tokens.device)
    wide = max(llm.n_vocabulary, llm.shape.group * longest)  # numbers a token: its logits, and what its queries see
    chunk = queries_at_once(n * wide)
    for start in range(0, longest, chunk):
        stop = min(start + chunk, longest)
        positions = torch.arange(start, stop, device=tokens.device)
        cache.expect(stop)
        logits = llm.read(tokens[:, start:stop], positions.expand(n, -1), cache)
        after = positions + 1
        surprisal[:, after], entropy[:, after] = surprisal_and_entropy(logits, tokens[:, after])
        ends = (n_known > start) & (n_known <= stop)
        last[ends] = logits[ends, n_known[ends] - 1 - start]
    return last


def _reference(
    llm: FrozenLLM, problem: Problem, n_prompt: int, tokens: Tensor, surprisal: Tensor, entropy: Tensor
) -> Reference:
    tokens, surprisal, entropy = tokens.clone(), surprisal.clone(), entropy.clone()
    surprisal[0] = entropy[0] = 0
    stop = "eos" if int(tokens[-1]) in llm.stop_ids else "length"
    correct, undecided = 0.0, None
    try:
        correct = grade(llm.decode(tokens[n_prompt:]), problem.answer, problem.graded)
    except UndecidedError as error:
        undecided = f"UndecidedError: the full cache's answer to {problem.id}: {error}"
        logger.warning("%s", undecided)
    hashed = decided_hash(llm.fingerprint, tokens, n_prompt, stop, math.nan if undecided else correct)
    return Reference(problem, tokens, n_prompt, surprisal, entropy, stop, correct, hashed, undecided)


def _columns(reference: Reference) -> tuple[Tensor, Tensor, Tensor]:
    return reference.tokens, reference.surprisal, reference.entropy
