"""A model as what scores and continues text: the one way from a task to the devices.

Texts become tokens as in the lm-evaluation-harness, so that figures can be compared with those of
its other models, and go through the mesh in batches of few shapes, each of which is compiled once.
"""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from gpt_jax.config import MeshConfig, ModelConfig, require
from gpt_jax.data.prompts import TextRow, prompt_ids
from gpt_jax.data.tokenizers import Tokenizer
from gpt_jax.model.decode import decode_all
from gpt_jax.model.decoder import GPT, head_of, unembed
from gpt_jax.model.kernels import choose_attention
from gpt_jax.model.sampling import Sampling
from gpt_jax.parallel.mesh import batch_shards, make_mesh
from gpt_jax.parallel.sharding import batch_sharding, replicated, rules
from gpt_jax.train.loss import normaliser_and_target, num_loss_chunks
from gpt_jax.train.state import boxed_params, laid_out

BATCH_TOKENS = 8192
"""Tokens that each part of the mesh which has rows of its own takes at a time."""
SHORTEST = 32
"""Tokens of the shortest row: what is shorter is padded."""
AHEAD = 2
"""Batches that are on their way while the one before them is read."""
MOST_WRITTEN = 64
"""Rows that a part of the mesh continues at once."""
Progress = Callable[[int, int], None]
"""Told of (rows done, rows in all)."""


@dataclass(frozen=True)
class Likelihood:
    """How likely a text is after another."""

    logprob: float
    """Natural logarithm of its probability; 0 of a text without tokens."""
    tokens: int
    num_bytes: int
    """UTF-8 bytes of the text itself."""
    greedy: bool
    """Whether no token was likelier than its own, at each place."""
    cut: int
    """Tokens before it, or its own first, that the model's context had no room for."""


@dataclass(frozen=True)
class _Row:
    """Tokens to be read at once, of which the last are scored."""

    inputs: np.ndarray
    targets: np.ndarray
    """Those that follow the last of the inputs, each."""


class LanguageModel:
    """Scores and continues texts with `params`, which may be set anew; shapes stay compiled.

    Every method takes a list, puts it in order of length, and answers in the order given. What is
    answered does not depend on what else is in the list, up to rounding. All hosts of a mesh make
    the same calls and get the same answers.

    Args:
      config: of the model.
      tokenizer: that it was trained with.
      mesh: over which the batch, and the parameters if they are large, are split; None: all
        devices, each with the whole model.
      batch_tokens: that each part of the batch has at most; longer rows go one by one.

    Raises InputError where the mesh cannot divide the model or its context.
    """

    def __init__(
        self,
        config: ModelConfig,
        tokenizer: Tokenizer,
        mesh: Mesh | None = None,
        batch_tokens: int = BATCH_TOKENS,
    ) -> None:
        # Neither changes what is computed: there is no backward pass.
        self.config = dataclasses.replace(config, remat="none", split_residual=False)
        self.tokenizer = tokenizer
        self.mesh = make_mesh(MeshConfig()) if mesh is None else mesh
        self._parts = self.mesh.shape["sequence"]
        self.max_length = config.context_length // self._parts * self._parts
        """The most tokens that the model reads at once."""
        require(
            self.max_length > 0,
            f"a context of {config.context_length} tokens does not divide over sequence = "
            f"{self._parts} devices: change --mesh.sequence.",
        )
        self.vocab_size = min(tokenizer.vocab_size, config.vocab_size)
        """Of the tokens that are drawn."""
        self._shards, self._batch_tokens = batch_shards(self.mesh), batch_tokens
        self.abstract = laid_out(boxed_params(self.config), self.mesh)
        """Shapes and shardings of the parameters."""
        self._programs: dict[int, Any] = {}
        self._params: Any = None

    @property
    def params(self) -> Any:
        """The parameters, laid out over the mesh."""
        require(self._params is not None, "a language model has no parameters until they are set.")
        return self._params

    @params.setter
    def params(self, params: Any) -> None:
        shardings = jax.tree.map(lambda leaf: leaf.sharding, self.abstract)
        self._params = jax.device_put(params, shardings)

    def loglikelihoods(
        self, pairs: Sequence[tuple[str, str]], progress: Progress | None = None
    ) -> list[Likelihood]:
        """How likely each (context, ending) makes the ending.

        Spaces at the end of a context are taken as the beginning of the ending, whose tokens are
        those of both together after those of the context. An empty context is the beginning of a
        document. Of what is longer than the model's context the last tokens are read.
        """
        rows, cuts = [], []
        for (_, ending), (before, after) in zip(pairs, self._encoded(pairs), strict=True):
            ids = np.concatenate([before, after])[-(self.max_length + 1) :]
            targets = ids[len(ids) - min(len(after), len(ids) - 1) :]
            rows.append(_Row(ids[:-1], targets))
            cuts.append((len(before) + len(after) - len(ids), len(ending.encode())))
        return [
            Likelihood(-math.fsum(nats), len(nats), num_bytes, bool(greedy.all()), cut)
            for (nats, greedy), (cut, num_bytes) in zip(
                self._scored(rows, progress), cuts, strict=True
            )
        ]

    def ending_tokens(self, pairs: Sequence[tuple[str, str]]) -> list[int]:
        """Tokens of the ending of each (context, ending); needs no parameters."""
        return [len(after) for _, after in self._encoded(pairs)]

    def rolling(self, texts: Sequence[str], progress: Progress | None = None) -> list[Likelihood]:
        """How likely each text is as a whole document, whatever its length.

        The first window begins with the separator; each next one predicts as many tokens as the
        context has room for after the last token of the one before. The last window, which has
        room to spare, has as many tokens more before it.
        """
        rows, owners = [], []
        for owner, ids in enumerate(self.tokenizer.encode_batch(list(texts))):
            for row in self._windows(ids):
                rows.append(row)
                owners.append(owner)
        nats: list[list[float]] = [[] for _ in texts]
        greedy = [True] * len(texts)
        for owner, (of_row, is_greedy) in zip(owners, self._scored(rows, progress), strict=True):
            nats[owner] += of_row.tolist()
            greedy[owner] &= bool(is_greedy.all())
        return [
            Likelihood(-math.fsum(nats[n]), len(nats[n]), len(text.encode()), greedy[n], 0)
            for n, text in enumerate(texts)
        ]

    def token_nats(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """(ids of a document's text (T,) int32, nats that each costs (T,) float32)."""
        ids = self.tokenizer.encode(text)
        scored = list(self._scored(self._windows(ids), None))
        return ids, np.concatenate([nats for nats, _ in scored] or [np.zeros(0, np.float32)])

    def num_tokens(self, text: str) -> int:
        """Tokens that the model reads of a context."""
        return len(prompt_ids(self.tokenizer, text))

    def generate(
        self,
        prompts: Sequence[str],
        stop: Sequence[str] = (),
        max_new_tokens: int = 128,
        how: Sampling | None = None,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> list[str]:
        """What the model writes after each prompt, up to a stop string or its document's end.

        Of a prompt that leaves no room for `max_new_tokens` the last tokens are read. `how` None is
        the likeliest token at each place. What is drawn follows from the seed and the whole list.
        Raises InputError where the new tokens alone do not fit.
        """
        how = how or Sampling(temperature=0)
        room = self.config.context_length - max_new_tokens
        require(
            room > 0,
            f"new tokens must leave room for a prompt in the model's context of "
            f"{self.config.context_length}, and {max_new_tokens} do not: ask for fewer.",
        )
        ids = [prompt_ids(self.tokenizer, prompt)[-room:] for prompt in prompts]
        order = sorted(range(len(ids)), key=lambda n: -len(ids[n]))
        texts, done = [""] * len(ids), 0
        while done < len(ids):
            longest = self._bucket(len(ids[order[done]]) + max_new_tokens)
            rows = min(max(1, self._batch_tokens // _power(longest)), MOST_WRITTEN)
            # No more than there are; a power of two, for few shapes.
            rows = self._shards * min(rows, _power(-(-(len(ids) - done) // self._shards)))
            batch = order[done : done + rows]
            filled = [ids[n] for n in batch] + [ids[batch[-1]]] * (rows - len(batch))
            written = self._written(filled, stop, max_new_tokens, how, seed, done)
            for n, text in zip(batch, written, strict=False):
                texts[n] = text
            done += len(batch)
            if progress:
                progress(done, len(ids))
        return texts

    def _written(
        self,
        prompts: list[np.ndarray],
        stop: Sequence[str],
        max_new_tokens: int,
        how: Sampling,
        seed: int,
        first_row: int,
    ) -> list[str]:
        """The texts that continue a batch of prompts, rows from that number on of all there are."""
        # A token that holds a stop string whole ends its row on the devices already.
        marks = [text.encode() for text in stop if text]
        table = self.tokenizer.table[: self.vocab_size]
        ends = [n for n, piece in enumerate(table) if any(mark in piece for mark in marks)]
        if self.tokenizer.separator < self.vocab_size:
            ends.append(self.tokenizer.separator)
        with jax.set_mesh(self.mesh), rules():
            found = decode_all(
                self.config,
                self.params,
                prompts,
                max_new_tokens,
                how,
                vocab_size=self.vocab_size,
                ends=ends,
                seed=seed % 2**32,
                first_row=first_row,
            )
        tokens_BN, lengths_B = _whole(found.tokens_BN), _whole(found.lengths_B)
        texts = []
        for prompt, tokens, length in zip(prompts, tokens_BN, lengths_B, strict=True):
            row = TextRow(self.tokenizer, stop, prompt)
            text = "".join(row.push(token) for token in tokens[:length].tolist())
            texts.append(text + row.flush())
        return texts

    def _encoded(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[np.ndarray, np.ndarray]]:
        """The tokens of context and ending, as `_encode_pair` of the harness makes them."""
        moved = []
        for context, ending in pairs:
            bare = context.rstrip()
            moved.append((bare, context[len(bare) :] + ending))
        # Many pairs have their context in common: each text is encoded once.
        texts = list(dict.fromkeys(text for bare, end in moved for text in (bare, bare + end)))
        ids = dict(zip(texts, self.tokenizer.encode_batch(texts), strict=True))
        prefix = np.array(self.tokenizer.prefix, np.int32)
        encoded = []
        for bare, ending in moved:
            before, whole = ids[bare], ids[bare + ending]
            start = np.concatenate([prefix, before])
            if not len(before):
                start = prompt_ids(self.tokenizer, "")
            encoded.append((start, whole[len(before) :]))
        return encoded

    def _windows(self, ids: np.ndarray) -> list[_Row]:
        """The rows that score a whole text: `get_rolling_token_windows` of the harness, with one
        token of context, and its `make_disjoint_window`.
        """
        ids = np.concatenate([prompt_ids(self.tokenizer, ""), ids])
        rows = []
        for start in range(0, len(ids) - 1, self.max_length):
            end = min(start + self.max_length, len(ids) - 1)
            before = max(end - self.max_length, 0)
            rows.append(_Row(ids[before:end], ids[start + 1 : end + 1]))
        return rows

    def _scored(
        self, rows: Sequence[_Row], progress: Progress | None
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(nats, whether greedy) of the targets of each row, in the order given."""
        found: list[Any] = [(np.zeros(0, np.float32), np.ones(0, bool))] * len(rows)
        by_bucket = collections.defaultdict(list)
        for n, row in enumerate(rows):
            if len(row.targets):
                by_bucket[self._bucket(len(row.inputs))].append(n)
        pending: collections.deque[tuple[list[int], Any]] = collections.deque()
        done = len(rows) - sum(map(len, by_bucket.values()))

        def read() -> None:
            nonlocal done
            batch, outputs = pending.popleft()
            nats_BT, greedy_BT = jax.device_get(outputs)
            for place, n in enumerate(batch):
                end, count = len(rows[n].inputs), len(rows[n].targets)
                part = (place, slice(end - count, end))
                found[n] = (nats_BT[part], greedy_BT[part])
            done += len(batch)
            if progress:
                progress(done, len(rows))

        for length in sorted(by_bucket, reverse=True):
            members, size = by_bucket[length], self._rows(length)
            for start in range(0, len(members), size):
                batch = members[start : start + size]
                pending.append((batch, self._dispatch(length, [rows[n] for n in batch])))
                # The devices have the next batches to do while the host reads and makes others.
                if len(pending) > AHEAD:
                    read()
        while pending:
            read()
        return iter(found)

    def _bucket(self, length: int) -> int:
        """Tokens of the row that takes `length` of them: a power of two, or one and a half."""
        power = max(_power(length), SHORTEST)
        size = 3 * power // 4 if length <= 3 * power // 4 and power > SHORTEST else power
        return min(-(-size // self._parts) * self._parts, self.max_length)

    def _rows(self, length: int) -> int:
        return self._shards * max(1, self._batch_tokens // length)

    def _dispatch(self, length: int, rows: Sequence[_Row]) -> tuple[Array, Array]:
        """Nats and greediness (B, T) of a batch, on their way; what is no target is of no use."""
        shape = (self._rows(length), length)
        inputs_BT, targets_BT = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
        for n, row in enumerate(rows):
            end, count = len(row.inputs), len(row.targets)
            inputs_BT[n, :end] = row.inputs
            targets_BT[n, end - count : end] = row.targets
        sharding = batch_sharding(self.mesh, stacked=False)
        placed = [
            jax.make_array_from_callback(shape, sharding, x.__getitem__)
            for x in (inputs_BT, targets_BT)
        ]
        with jax.set_mesh(self.mesh), rules():
            return self._program(length)(self.params, *placed)

    def _program(self, length: int) -> Any:
        """The compiled `score` of rows of this length."""
        if length not in self._programs:
            attention = choose_attention(
                dataclasses.replace(self.config, attention="auto"),
                self.mesh.devices.flat[0],
                length=length,
                parts=self._parts,
                segmented=False,
            )
            config = dataclasses.replace(self.config, attention=attention.kernel)
            rows = self._rows(length) // self._shards
            # A function of its own each time, so that jit keeps nothing of an earlier mesh.
            program = partial(score, model=GPT(config), rows=rows)
            self._programs[length] = jax.jit(program, out_shardings=replicated(self.mesh))
        return self._programs[length]


def score(
    params: Any, inputs_BT: Array, targets_BT: Array, *, model: GPT, rows: int
) -> tuple[Array, Array]:
    """What each target costs in nats, (B, T) float32, and whether none is likelier, (B, T) bool.

    Logits are made of a part of the length at a time, for there may be no room for all; `rows`:
    how many of B a device has.
    """
    x_BTD: Any = model.apply({"params": params}, inputs_BT, method="hidden")
    x_BTD, config, head = x_BTD[0], model.config, head_of(model.config, params)

    def part(x_BTD: Array, targets_BT: Array) -> tuple[Array, Array]:
        logits_BTV = unembed(config, head, x_BTD)
        log_z_BT, target_logit_BT = normaliser_and_target(logits_BTV, targets_BT)
        return log_z_BT - target_logit_BT, logits_BTV.max(-1) <= target_logit_BT

    batch, length = inputs_BT.shape
    chunks = num_loss_chunks(length, config.padded_vocab_size, rows)
    if chunks == 1:
        return part(x_BTD, targets_BT)

    def step(_: None, chunk: Array) -> tuple[None, tuple[Array, Array]]:
        split = (x.reshape(batch, chunks, -1, *x.shape[2:]) for x in (x_BTD, targets_BT))
        parts = (jax.lax.dynamic_index_in_dim(x, chunk, axis=1, keepdims=False) for x in split)
        return None, part(*parts)

    _, found = jax.lax.scan(step, None, jnp.arange(chunks))
    nats_BT, greedy_BT = (x.swapaxes(0, 1).reshape(batch, length) for x in found)
    return nats_BT, greedy_BT


def _whole(x: Array) -> np.ndarray:
    """An array on the host, whichever hosts have its parts."""
    if not x.is_fully_addressable and not x.is_fully_replicated:
        x = multihost_utils.process_allgather(x, tiled=True)
    return np.asarray(x)


def _power(number: int) -> int:
    """The least power of two that is not below a positive number."""
    return 1 << (number - 1).bit_length()
