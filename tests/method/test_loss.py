"""The turn-level loss against a loop over turns, against verl's losses where they meet, and in the corners."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from verl.trainer.ppo.core_algos import agg_loss, compute_policy_loss_gspo, compute_policy_loss_vanilla

from tests.assets.loss_calls import actor, run
from tests.assets.loss_oracle import loop_loss, make_batch, turns_of_row
from verl_atpo.method.loss import Turns, compute_policy_loss_atpo

MODES = ["seq-mean-token-mean", "token-mean", "seq-mean-token-sum", "seq-mean-token-sum-norm", "token-sum"]
each_mode = pytest.mark.parametrize("mode", MODES)
masks = st.integers(1, 12).flatmap(
    lambda tokens: st.lists(st.lists(st.booleans(), min_size=tokens, max_size=tokens), min_size=1, max_size=5)
)


def batch(mask: list[list[int]] | torch.Tensor, seed: int = 0, spread: float = 0.01) -> dict[str, torch.Tensor]:
    """Random log-probabilities and advantages, float64."""
    mask = torch.as_tensor(mask).long()
    generator = torch.Generator().manual_seed(seed)
    draw = [torch.randn(mask.shape, generator=generator, dtype=torch.float64) for _ in range(3)]
    old = -draw[0].abs()
    return {
        "old_log_prob": old,
        "log_prob": old + spread * draw[1],
        "advantages": draw[2],
        "response_mask": mask,
    }


def same(ours: tuple, wanted: tuple, **tolerance: float) -> None:
    for left, right in zip(ours[:2], wanted[:2], strict=True):
        torch.testing.assert_close(left, right, **(tolerance or {"rtol": 1e-6, "atol": 1e-7}))


def test_by_hand():
    # One row of two turns, A = 1 on the first, -1 on the second. log ratios 0.2, 0.4 | 0.1:
    # s_1 = exp(0.3) = 1.349859, over 1.2: min with A > 0 keeps 1.2, clipped, no gradient; s_2 = exp(0.1) = 1.105171.
    # Loss: (-1.2 - 1.2 + 1.105171) / 3 = -0.431610; d/d log_prob of the last token: 1.105171 / 3 = 0.368390.
    tensors = {
        "old_log_prob": torch.tensor([[-1.0, -1.0, -9.0, -2.0]]),
        "log_prob": torch.tensor([[-0.8, -0.6, -9.5, -1.9]]),
        "advantages": torch.tensor([[1.0, 1.0, 7.0, -1.0]]),
        "response_mask": torch.tensor([[1, 1, 0, 1]]),
    }
    loss, grad, metrics = run(compute_policy_loss_atpo, tensors, "seq-mean-token-mean", actor(0.2, 0.2))
    assert loss.item() == pytest.approx(-0.431610, abs=1e-5)
    assert grad.tolist()[0] == pytest.approx([0.0, 0.0, 0.0, 0.368390], abs=1e-5)
    assert metrics == {
        "actor/pg_clipfrac": pytest.approx(2 / 3),
        "actor/ppo_kl": pytest.approx(-0.7 / 3, rel=1e-5),
        "actor/pg_clipfrac_lower": 0.0,
        "actor/atpo/turns_per_row": 2.0,
        "actor/atpo/turn_clipfrac": 0.5,
    }
    assert all(isinstance(value, float) for value in metrics.values())


@settings(deadline=None)
@given(masks, st.integers(0, 10**6), st.sampled_from(MODES), st.sampled_from([(0.003, 0.004), (0.2, 0.28), (0.0, 0.0)]))
def test_equals_a_loop_over_turns(mask, seed, mode, clip):
    if not any(map(any, mask)):
        return  # the definition divides by 0
    tensors, config = batch(mask, seed), actor(*clip)
    same(run(compute_policy_loss_atpo, tensors, mode, config), run(loop_loss, tensors, mode, config))


@settings(deadline=None)
@given(masks)
def test_turns_are_the_maximal_runs_of_ones(mask):
    turns = Turns(torch.tensor(mask), torch.float32)
    runs = [list(turns_of_row([int(token) for token in row])) for row in mask]
    for row, spans in enumerate(runs):
        assert turns.opens_RT[row].nonzero().flatten().tolist() == [start for start, _ in spans]
        lengths = [end - start for start, end in spans]
        assert turns.lengths_RK[row].tolist() == [0, *lengths] + [0] * (turns.lengths_RK.shape[1] - 1 - len(spans))


@each_mode
def test_one_turn_a_row_is_gspo(mode):
    tensors, config = batch([[1, 1, 1, 1, 0, 0], [0, 0, 1, 1, 1, 0], [1, 0, 0, 0, 0, 0]]), actor()
    ours, gspo = (run(loss, tensors, mode, config) for loss in (compute_policy_loss_atpo, compute_policy_loss_gspo))
    same(ours, gspo, rtol=1e-5, atol=0)
    assert gspo[2].items() <= {key: pytest.approx(value) for key, value in ours[2].items()}.items()


@each_mode
def test_turns_of_one_token_are_ppo(mode):
    tensors = batch([[1, 0, 1, 0, 0, 1], [0, 1, 0, 1, 0, 0]], spread=0.3)
    config = actor(0.2, 0.28, clip_ratio_c=1e9)  # PPO without verl's dual clip
    ours, ppo = (run(loss, tensors, mode, config) for loss in (compute_policy_loss_atpo, compute_policy_loss_vanilla))
    same(ours, ppo, rtol=1e-5, atol=0)
    assert ours[2]["actor/pg_clipfrac"] == pytest.approx(ppo[2]["actor/pg_clipfrac"])
    assert 0 < ours[2]["actor/pg_clipfrac"] == pytest.approx(ours[2]["actor/atpo/turn_clipfrac"])


@each_mode
@pytest.mark.parametrize("info", [{}, {"dp_size": 4, "batch_num_tokens": 77, "global_batch_size": 13}])
def test_rollout_weights_and_global_batch_info_as_gspo(mode, info):
    tensors, config = batch([[1, 1, 1, 0], [1, 1, 0, 0]]), actor()
    config.global_batch_info.update(info, loss_scale_factor=50)
    weights = torch.tensor([[0.5, 2.0, 1.0, 9.0], [0.1, 1.5, 3.0, 3.0]], dtype=torch.float64)
    ours, gspo = (
        run(loss, tensors, mode, config, rollout_is_weights=weights)
        for loss in (compute_policy_loss_atpo, compute_policy_loss_gspo)
    )
    same(ours, gspo)
    unweighted = run(compute_policy_loss_atpo, tensors, mode, config)
    assert not torch.allclose(ours[1], unweighted[1])


def test_without_its_own_clip_range_the_common_one_is_used():
    tensors = batch([[1, 1, 0, 1]], spread=1.0)
    both = [run(compute_policy_loss_atpo, tensors, MODES[0], config)
            for config in (actor(None, None, clip_ratio=0.1), actor(0.1, 0.1))]  # fmt: skip
    same(*both, rtol=0, atol=0)


def test_data_parallel_without_global_counts_is_verls_error():
    config = actor()
    config.global_batch_info["dp_size"] = 2
    with pytest.raises(ValueError, match="global_batch_size is required"):
        run(compute_policy_loss_atpo, batch([[1, 1]]), "seq-mean-token-mean", config)
    with pytest.raises(ValueError, match="config=None: expected verl's ActorConfig"):
        compute_policy_loss_atpo(**batch([[1, 1]]))


@each_mode
@pytest.mark.parametrize("kind", [torch.bool, torch.int64, torch.float32])
def test_any_kind_of_mask(mode, kind):
    tensors = batch([[1, 1, 0, 1], [1, 0, 0, 0]])
    cast = {**tensors, "response_mask": tensors["response_mask"].to(kind)}
    same(run(compute_policy_loss_atpo, cast, mode, actor()), run(compute_policy_loss_atpo, tensors, mode, actor()))


@each_mode
def test_an_empty_row_counts_for_nothing(mode):
    tensors = batch([[1, 1, 0, 1], [1, 0, 0, 0], [0, 0, 0, 0]])
    loss, grad, metrics = run(compute_policy_loss_atpo, tensors, mode, actor())
    without = run(compute_policy_loss_atpo, {key: value[:2] for key, value in tensors.items()}, mode, actor())
    same((loss, grad[:2]), without)
    assert (grad[2] == 0).all()
    assert metrics == without[2]


@each_mode
@pytest.mark.parametrize("info", [{}, {"dp_size": 2, "batch_num_tokens": 8, "global_batch_size": 2}])
def test_nothing_sampled_at_all_is_0_with_a_graph(mode, info):
    config = actor()
    config.global_batch_info.update(info)
    loss, grad, metrics = run(compute_policy_loss_atpo, batch([[0, 0, 0], [0, 0, 0]]), mode, config)
    assert loss == 0
    assert (grad == 0).all()
    assert set(metrics.values()) == {0.0}


@each_mode
@pytest.mark.parametrize("garbage", [float("nan"), float("inf"), -float("inf"), 1e30])
def test_garbage_in_masked_positions_does_not_leak(mode, garbage):
    tensors = batch([[1, 1, 0, 1, 0], [0, 1, 1, 0, 0], [0, 0, 0, 0, 0]])
    weights = torch.ones(3, 5, dtype=torch.float64)
    clean = run(compute_policy_loss_atpo, tensors, mode, actor(), rollout_is_weights=weights)
    empty = tensors["response_mask"] == 0
    dirty = {key: value.masked_fill(empty, garbage) for key, value in tensors.items() if key != "response_mask"}
    dirty["response_mask"] = tensors["response_mask"]
    weights = weights.masked_fill(empty, garbage)
    ours = run(compute_policy_loss_atpo, dirty, mode, actor(), rollout_is_weights=weights)
    same(ours, clean, rtol=0, atol=0)
    assert ours[2] == clean[2]
    assert (ours[1][empty] == 0).all()


@settings(deadline=None)
@given(masks, st.integers(0, 10**6), st.data())
def test_more_observation_tokens_and_padding_change_nothing_for_sampled_tokens(mask, seed, data):
    """Metamorphic: observations grow where there are some, and at both ends."""
    if not any(map(any, mask)):
        return
    tensors = batch(mask, seed)
    width, places = tensors["response_mask"].shape[1], []
    for row in mask:
        place, at = [], data.draw(st.integers(0, 3))
        for token in row:
            at += 0 if token else data.draw(st.integers(0, 3))
            place.append(at)
            at += 1
        places.append(place)
    place = torch.tensor(places)
    wide = {key: torch.full((len(mask), 5 * width + 5), 7).to(value) for key, value in tensors.items()}
    wide["response_mask"] = torch.zeros_like(wide["response_mask"])
    wide = {key: value.scatter(1, place, tensors[key]) for key, value in wide.items()}
    narrow, grown = (run(compute_policy_loss_atpo, kind, MODES[0], actor()) for kind in (tensors, wide))
    same((grown[0], grown[1].gather(1, place)), narrow)
    assert grown[2] == {key: pytest.approx(value) for key, value in narrow[2].items()}


def test_a_huge_ratio_stays_finite():
    tensors = batch([[1, 1, 0, 1]])
    tensors |= {"log_prob": tensors["old_log_prob"] + 500, "advantages": -torch.ones(1, 4, dtype=torch.float64)}
    loss, grad, _ = run(compute_policy_loss_atpo, tensors, MODES[0], actor())
    assert loss.item() == pytest.approx(22026.4658, rel=1e-6)  # exp(10)
    assert grad.isfinite().all()


@pytest.mark.fault("Learning", "log-probs and advantages that are NaN or infinite", "the step stops with row and token")
@pytest.mark.parametrize("key", ["old_log_prob", "log_prob", "advantages"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_are_not_finite_stop_with_row_and_token(key, bad):
    tensors = batch([[1, 1, 0, 1], [1, 0, 1, 1], [1, 1, 1, 1], [1, 1, 1, 0]])
    tensors[key] = tensors[key].clone()
    tensors[key][1, 1] = bad  # masked: of no account
    run(compute_policy_loss_atpo, tensors, MODES[0], actor())
    tensors[key][1, 2] = tensors[key][2, 0] = bad
    with pytest.raises(ValueError, match=rf"row 1 of the micro-batch, token 2, has .*{bad:g}.*lower the learning rate"):
        run(compute_policy_loss_atpo, tensors, MODES[0], actor())


def test_long_rows_keep_their_precision_in_float32():
    tensors = make_batch(4, 8192, 6, "cpu", torch.float32)
    ours = run(compute_policy_loss_atpo, tensors, MODES[0], actor())
    exact = {key: value.double() if value.is_floating_point() else value for key, value in tensors.items()}
    wanted = run(loop_loss, exact, MODES[0], actor())
    same((ours[0].double(), ours[1].double()), wanted, rtol=1e-5, atol=1e-9)


def test_half_precision_sums_in_float32():
    tensors = make_batch(2, 2048, 2, "cpu", torch.bfloat16)
    turns = Turns(tensors["response_mask"], torch.bfloat16)
    for lengths, row in zip(turns.lengths_RK.tolist(), tensors["response_mask"].int().tolist(), strict=True):
        assert lengths[1:3] == [end - start for start, end in turns_of_row(row)]  # hundreds: bfloat16 would round
    loss, grad, _ = run(compute_policy_loss_atpo, tensors, MODES[0], actor())
    assert loss.isfinite()
    assert grad.dtype == torch.bfloat16


class Operations(TorchDispatchMode):
    """Names of the tensor operations that run inside."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def test_the_device_is_waited_for_once(monkeypatch):
    transfers = []
    to_list = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda tensor: transfers.append(tensor.shape) or to_list(tensor))
    with Operations() as seen:
        run(compute_policy_loss_atpo, batch([[1, 0, 1], [1, 1, 1]]), MODES[0], actor())
    waiting = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "index", "equal"}
    assert "scatter_add_" in seen.names
    assert not seen.names & waiting
    assert len(transfers) == 1


def test_the_aggregation_is_verls():
    """Our guard fills in counts; with sampled tokens these are the ones that verl's own default gives."""
    tensors = batch([[1, 1, 0], [1, 0, 0], [0, 0, 0]])
    for mode in MODES:
        ratio_1 = {**tensors, "log_prob": tensors["old_log_prob"]}
        loss, _, _ = run(compute_policy_loss_atpo, ratio_1, mode, actor())
        torch.testing.assert_close(loss, agg_loss(-tensors["advantages"], tensors["response_mask"], mode))
