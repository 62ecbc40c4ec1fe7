"""The decoding loop that is one program, against the one that hands out token by token."""

import dataclasses

import jax
import numpy as np
import pytest
from test_decode import CONFIG, GREEDY, NEW, PARAMS, PROMPTS, RANDOM, SMALL, SMALL_PARAMS, run

from gpt_jax.config import MeshConfig
from gpt_jax.model import decode
from gpt_jax.model.decode import decode_all
from gpt_jax.model.decoder import GPT
from gpt_jax.parallel.mesh import make_mesh
from gpt_jax.parallel.sharding import rules


def all_of(prompts, new=NEW, how=GREEDY, model=(CONFIG, PARAMS), **more):
    """`decode_all`'s tokens as lists of ids, log-probabilities and lengths as arrays."""
    found = decode_all(*model, prompts, new, how, vocab_size=257, **more)
    return found.tokens_BN.tolist(), np.array(found.log_probs_BN), found.lengths_B.tolist()


@pytest.mark.parametrize("how", [GREEDY, RANDOM])
def test_one_program_says_what_many_steps_say(how):
    """Rows of 7, 1 and 31 tokens, to the end of the context, greedy and drawn."""
    tokens, _, lengths = all_of(PROMPTS, how=how, seed=3)
    assert tokens == run(PROMPTS, how=how, seed=3)
    assert lengths == [NEW] * 3


def test_log_probabilities_are_the_models_own():
    """Of the tokens drawn, whatever the temperature: a loop over the whole model, in float64.

    Only the 257 tokens of the tokenizer have a probability; the model knows 300.
    """
    tokens, log_probs, _ = all_of(PROMPTS, how=RANDOM, model=(SMALL, SMALL_PARAMS))
    apply = jax.jit(GPT(SMALL).apply)
    for prompt, row, found in zip(PROMPTS, tokens, log_probs, strict=True):
        ids = np.zeros((1, SMALL.context_length), np.int32)
        ids[0, : len(prompt) + NEW] = [*prompt, *row]
        logits = np.asarray(apply({"params": SMALL_PARAMS}, ids), np.float64)
        logits = logits[0, len(prompt) - 1 : len(prompt) - 1 + NEW, :257]
        expected = logits[np.arange(NEW), row] - np.log(np.exp(logits).sum(-1))
        np.testing.assert_allclose(found, expected, atol=2e-5)


def test_a_row_ends_at_its_own_end_and_the_loop_with_the_last():
    """Each row with the first of the ends that it meets; after it there is nothing."""
    whole = run(PROMPTS)
    ends = [whole[0][4], whole[1][2], whole[2][7]]
    lengths = [1 + min(row.index(end) for end in ends if end in row) for row in whole]
    tokens, log_probs, found = all_of(PROMPTS, ends=ends)
    assert found == lengths
    assert len(set(lengths)) == 3  # or the test says little
    for row, full, scores, length in zip(tokens, whole, log_probs, lengths, strict=True):
        assert row == full[:length] + [0] * (NEW - length)
        assert (scores[:length] < 0).all()
        assert (scores[length:] == 0).all()


def test_budgets_and_prompts_of_one_bucket_share_a_program():
    """Another seed, budget, set of ends, or length within the bucket compiles nothing."""
    model = SMALL, SMALL_PARAMS
    all_of([np.ones(3, np.int32)] * 2, 9, model=model)
    before = decode.continuations._cache_size()
    for seed, (length, new) in enumerate([(30, 3), (7, 5), (1, 30)]):
        tokens, _, lengths = all_of(
            [np.ones(length, np.int32)] * 2, new, model=model, seed=seed, ends=[seed]
        )
        assert np.shape(tokens) == (2, new)
        assert max(lengths) <= new
    assert decode.continuations._cache_size() == before


def test_the_loop_stops_with_the_last_row(monkeypatch):
    """Of a budget of 14 no more tokens are drawn than the longest row needs."""
    prompts, model = [PROMPTS[0]], (dataclasses.replace(SMALL, remat="full"), SMALL_PARAMS)
    (whole,) = run(prompts, model=(SMALL, SMALL_PARAMS))
    drawn, sample = [], decode.sample

    def counted(*args):
        jax.debug.callback(lambda: drawn.append(1))
        return sample(*args)

    monkeypatch.setattr(decode, "sample", counted)
    _, _, (length,) = all_of(prompts, model=model, ends=whole[3:4])
    jax.effects_barrier()
    assert len(drawn) == length == 1 + whole.index(whole[3])


def test_rows_and_parameters_split_over_a_mesh_say_the_same():
    """On 2 x 2 x 2 devices, three rows over four parts of the batch."""
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    alone = all_of(PROMPTS, 6, RANDOM, (SMALL, SMALL_PARAMS))
    split = jax.tree.map(lambda leaf: jax.device_put(leaf, _split(mesh, leaf)), SMALL_PARAMS)
    with jax.set_mesh(mesh), rules():
        together = all_of(PROMPTS, 6, RANDOM, (SMALL, split))
    assert together[0] == alone[0]
    assert together[2] == alone[2]
    np.testing.assert_allclose(together[1], alone[1], atol=1e-5)


def _split(mesh, leaf):
    """Over fsdp along the first axis that divides."""
    axes = [None] * leaf.ndim
    for axis, size in enumerate(leaf.shape):
        if size % 2 == 0:
            axes[axis] = "fsdp"
            break
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))
