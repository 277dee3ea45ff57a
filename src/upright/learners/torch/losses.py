"""The papers' equations as pure functions of batched tensors, and which of them each loss takes: `EQUATIONS`.

Shape letters: B batch · A actions · N atoms or quantiles of the online network, M of the target.
`discount` is γᵏ·(1 − terminated), so a terminal transition needs no case of its own. A mask `[B, A]` is true where
an action is allowed; None allows all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from upright.settings.kinds import Categorical, ImplicitQuantile, Loss, Munchausen, QLearning, Quantile


def masked(q: Tensor, mask: Tensor | None) -> Tensor:
    """Q `[B, A]` with −∞ for the actions that are not allowed."""
    return q if mask is None else q.masked_fill(~mask, -torch.inf)


def chosen(output: Tensor, action: Tensor) -> Tensor:
    """The entries of `[B, A]` or `[B, A, N]` that belong to action `[B]`: `[B]` or `[B, N]`."""
    index = action.view(-1, *[1] * (output.ndim - 1)).expand(-1, 1, *output.shape[2:])
    return output.gather(1, index).squeeze(1)


def q_learning_target(reward: Tensor, discount: Tensor, q_next: Tensor, mask: Tensor | None = None) -> Tensor:
    """Y = r + γ max_a Q⁻(s', a)          (Mnih 2015, eq. 2)

    reward, discount: [B] · q_next, mask: [B, A] · returns [B]
    """
    return reward + discount * masked(q_next, mask).amax(dim=1)


def double_q_target(
    reward: Tensor, discount: Tensor, q_next: Tensor, q_next_online: Tensor, mask: Tensor | None = None
) -> Tensor:
    """Y = r + γ Q⁻(s', argmax_a Q(s', a))          (van Hasselt 2016, eq. 4)

    reward, discount: [B] · q_next, q_next_online, mask: [B, A] · returns [B]
    """
    best = masked(q_next_online, mask).argmax(dim=1, keepdim=True)
    return reward + discount * q_next.gather(1, best).squeeze(1)


class SoftPolicy(NamedTuple):
    """π = softmax(Q/τ) and τ log π, both `[B, A]`, and 0 where an action is not allowed."""

    probability: Tensor
    scaled_log: Tensor


def soft_policy(q: Tensor, temperature: float, mask: Tensor | None = None) -> SoftPolicy:
    """π = softmax(Q/τ)          (Vieillard 2020, section 3); q, mask: [B, A]"""
    log = torch.log_softmax(masked(q, mask) / temperature, dim=1)
    # A forbidden action has probability 0 and log −∞, whose product is not a number but has to be 0.
    scaled_log = temperature * (log if mask is None else log.masked_fill(~mask, 0.0))
    return SoftPolicy(log.exp(), scaled_log)


def munchausen_bonus(settings: Munchausen, q: Tensor, action: Tensor, mask: Tensor | None = None) -> Tensor:
    """α [τ log π(a|s)] clipped to [l₀, 0]          (Vieillard 2020, eq. 1 and section 3)

    q, mask: [B, A], the target network's at s · action: [B] · returns [B]
    """
    scaled_log = soft_policy(q, settings.temperature, mask).scaled_log
    return settings.alpha * scaled_log.gather(1, action[:, None]).squeeze(1).clamp(settings.clip, 0.0)


def munchausen_target(
    settings: Munchausen,
    reward: Tensor,
    discount: Tensor,
    action: Tensor,
    q: Tensor,
    q_next: Tensor,
    mask: Tensor | None = None,
    next_mask: Tensor | None = None,
) -> Tensor:
    """Y = r + α [τ log π(a|s)] + γ Σ_a' π(a'|s') (Q⁻(s', a') − τ log π(a'|s'))          (Vieillard 2020, eq. 1)

    reward, discount, action: [B] · q, q_next: [B, A], the target network's · returns [B]
    Over n steps the log-policy is added to the first reward alone, the others' states not being at hand.
    """
    policy = soft_policy(q_next, settings.temperature, next_mask)
    value = (policy.probability * (q_next - policy.scaled_log)).sum(dim=1)
    return reward + munchausen_bonus(settings, q, action, mask) + discount * value


def huber(error: Tensor, threshold: float = 1.0) -> Tensor:
    """L_κ(δ) = δ²/2 where |δ| ≤ κ, else κ(|δ| − κ/2)          (Huber 1964); any shape"""
    return functional.huber_loss(error, torch.zeros_like(error), reduction="none", delta=threshold)


def categorical_support(settings: Categorical, like: Tensor) -> Tensor:
    """z_i = v_min + i (v_max − v_min)/(N − 1); returns [N]          (Bellemare 2017, section 4)"""
    return torch.linspace(*settings.support, settings.atoms, dtype=like.dtype, device=like.device)


def categorical_projection(values: Tensor, probability: Tensor, support: Tensor) -> Tensor:
    """Share the mass at each value between the two nearest atoms          (Bellemare 2017, eq. 7)

    values, probability: [B, M] · support: [N], evenly spaced · returns [B, N]
    Keeps the mass, and the mean of what lies within the support; what lies outside goes to the outermost atom.
    """
    atoms = len(support)
    spacing = (support[-1] - support[0]) / (atoms - 1)
    position = ((values - support[0]) / spacing).clamp(0, atoms - 1)
    below = position.floor().clamp(max=atoms - 2)
    share = position - below
    lower = below.nan_to_num(0.0).long()  # a value that is no number shows in the loss, not as a wild index
    projected = torch.zeros(len(values), atoms, dtype=probability.dtype, device=probability.device)
    projected.scatter_add_(1, lower, probability * (1 - share))
    projected.scatter_add_(1, lower + 1, probability * share)
    return projected


def categorical_loss(logits: Tensor, target: Tensor) -> Tensor:
    """KL(m ‖ p) = Σ_i m_i (log m_i − log p_i), p = softmax(logits)          (Bellemare 2017, alg. 1; Hessel 2018)

    logits, target m: [B, N] · returns [B]
    Its gradient is the cross-entropy's; unlike that, it is 0 when p = m, and Rainbow's priority.
    """
    negative_entropy: Tensor = torch.special.xlogy(target, target)
    return (negative_entropy - target * torch.log_softmax(logits, dim=1)).sum(dim=1)


def quantile_loss(quantiles: Tensor, fractions: Tensor, target: Tensor, kappa: float) -> Tensor:
    """Σ_i mean_j |τ_i − 1{u_ij < 0}| L_κ(u_ij)/κ, u_ij = y_j − θ_i          (Dabney 2018a, eq. 10; 2018b, eq. 3)

    quantiles θ, fractions τ: [B, N] or [N] · target y: [B, M] · returns [B]; κ = 0 takes |u| for L_κ(u)/κ
    """
    error = target[:, None, :] - quantiles[:, :, None]  # [B, N, M]
    size = error.abs() if kappa == 0 else huber(error, kappa) / kappa
    weight = (fractions[..., None] - (error.detach() < 0).to(error.dtype)).abs()
    return (weight * size).mean(dim=2).sum(dim=1)


def midpoints(count: int, like: Tensor) -> Tensor:
    """τ̂_i = (2i + 1)/(2N), i < N; returns [N]          (Dabney 2018a, lemma 2)"""
    return (torch.arange(count, dtype=like.dtype, device=like.device) + 0.5) / count


class Predictions(NamedTuple):
    """The networks' outputs for a batch; an output is `[B, A]`, or `[B, A, N]` for a distribution.

    online: the online network's output at s, the only one with a gradient
    fractions `[B, N]`: where its quantiles lie, if they were drawn; None for the midpoints, and for other losses
    target_next: the target network's output at s'
    q_next `[B, A]`: the action values by which the next action is chosen: the online network's when double
    q `[B, A]`: the target network's action values at s, for Munchausen's bonus; else None
    """

    online: Tensor
    fractions: Tensor | None
    target_next: Tensor
    q_next: Tensor
    q: Tensor | None


class Transitions(NamedTuple):
    """A batch of `upright.replay.Transition` as tensors, without the observations."""

    action: Tensor
    reward: Tensor
    discount: Tensor
    mask: Tensor | None
    next_mask: Tensor | None


class Equations(NamedTuple):
    """The equations of a loss; their first argument is its settings.

    action_values: an output `[B, A]` or `[B, A, N]` → Q(s, ·) `[B, A]`
    target: (settings of Munchausen or None, predictions, batch) → the target that `error` takes, without a gradient
    error: (online output of the actions taken `[B]` or `[B, N]`, target, fractions or None) → loss and priority of
    each sample, both `[B]`. The priority is |δ| for a scalar Q (Schaul 2016, section 3.3), and the loss itself for a
    distribution (Hessel 2018).
    """

    action_values: Callable[[Any, Tensor], Tensor]
    target: Callable[[Any, Munchausen | None, Predictions, Transitions], Tensor]
    error: Callable[[Any, Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor]]


def action_values(loss: Loss, output: Tensor) -> Tensor:
    """Q(s, ·) `[B, A]`: the mean of what the network says of each action (`[B, A]` or `[B, A, N]`)."""
    return EQUATIONS[type(loss)].action_values(loss, output)


def temporal_difference(
    loss: Loss, munchausen: Munchausen | None, predictions: Predictions, batch: Transitions
) -> tuple[Tensor, Tensor]:
    """The loss that the settings name: `(per_sample [B], priority [B])`."""
    equations = EQUATIONS[type(loss)]
    with torch.no_grad():
        target = equations.target(loss, munchausen, predictions, batch)
    return equations.error(loss, chosen(predictions.online, batch.action), target, predictions.fractions)


def _scalar_values(loss: QLearning, output: Tensor) -> Tensor:
    return output


def _scalar_target(
    loss: QLearning, munchausen: Munchausen | None, predictions: Predictions, batch: Transitions
) -> Tensor:
    reward, discount, q_next = batch.reward, batch.discount, predictions.target_next
    if munchausen is not None:
        assert predictions.q is not None
        return munchausen_target(
            munchausen, reward, discount, batch.action, predictions.q, q_next, batch.mask, batch.next_mask
        )
    if loss.double:
        return double_q_target(reward, discount, q_next, predictions.q_next, batch.next_mask)
    return q_learning_target(reward, discount, q_next, batch.next_mask)


def _scalar_error(loss: QLearning, online: Tensor, target: Tensor, fractions: Tensor | None) -> tuple[Tensor, Tensor]:
    error = target - online
    return huber(error) if loss.error == "huber" else 0.5 * error.square(), error.detach().abs()


def _categorical_values(loss: Categorical, output: Tensor) -> Tensor:
    return torch.softmax(output, dim=2) @ categorical_support(loss, output)


def _categorical_target(
    loss: Categorical, munchausen: Munchausen | None, predictions: Predictions, batch: Transitions
) -> Tensor:
    """The target distribution's probabilities of the atoms, `[B, N]`."""
    values, probability = _distributional_target(loss, munchausen, predictions, batch)
    return categorical_projection(values, probability, categorical_support(loss, values))


def _categorical_error(
    loss: Categorical, online: Tensor, target: Tensor, fractions: Tensor | None
) -> tuple[Tensor, Tensor]:
    per_sample = categorical_loss(online, target)
    return per_sample, per_sample.detach()


def _quantile_values(loss: Quantile | ImplicitQuantile, output: Tensor) -> Tensor:
    return output.mean(dim=2)


def _quantile_target(
    loss: Quantile | ImplicitQuantile, munchausen: Munchausen | None, predictions: Predictions, batch: Transitions
) -> Tensor:
    """The target distribution's quantiles `[B, M]`, all of the same probability."""
    return _distributional_target(loss, munchausen, predictions, batch)[0]


def _quantile_error(
    loss: Quantile | ImplicitQuantile, online: Tensor, target: Tensor, fractions: Tensor | None
) -> tuple[Tensor, Tensor]:
    if fractions is None:
        fractions = midpoints(loss.quantiles, online)
    per_sample = quantile_loss(online, fractions, target, loss.kappa)
    return per_sample, per_sample.detach()


def _distributional_target(
    loss: Categorical | Quantile | ImplicitQuantile,
    munchausen: Munchausen | None,
    predictions: Predictions,
    batch: Transitions,
) -> tuple[Tensor, Tensor]:
    """The target distribution as values `[B, M]` with their probabilities `[B, M]`.

    Greedy: r + γ Z⁻(s', a*) with a* = argmax_a q_next          (Bellemare 2017, alg. 1; Dabney 2018a, alg. 1)
    Munchausen: r + α [τ log π(a|s)] + γ (Z⁻(s', a') − τ log π(a'|s')), its quantiles averaged over a' ~ π as M-IQN
    does (Vieillard 2020, appendix B.1); atoms are mixed over a' ~ π instead, which has the same mean.
    """
    next_values = predictions.target_next  # [B, A, M]
    if isinstance(loss, Categorical):
        next_probability = torch.softmax(next_values, dim=2)
        next_values = categorical_support(loss, next_values).expand_as(next_values)
    else:
        next_probability = torch.full_like(next_values, 1 / next_values.shape[2])
    reward, discount = batch.reward[:, None], batch.discount[:, None]
    if munchausen is None:
        best = masked(predictions.q_next, batch.next_mask).argmax(dim=1)
        return reward + discount * chosen(next_values, best), chosen(next_probability, best)
    assert predictions.q is not None
    bonus = munchausen_bonus(munchausen, predictions.q, batch.action, batch.mask)[:, None]
    policy = soft_policy(predictions.q_next, munchausen.temperature, batch.next_mask)
    soft_values = next_values - policy.scaled_log[:, :, None]
    if isinstance(loss, Categorical):
        values = reward + bonus + discount * soft_values.flatten(1)  # [B, A·N]
        return values, (policy.probability[:, :, None] * next_probability).flatten(1)
    values = reward + bonus + discount * (policy.probability[:, :, None] * soft_values).sum(dim=1)
    return values, next_probability[:, 0]


EQUATIONS: dict[type, Equations] = {
    QLearning: Equations(_scalar_values, _scalar_target, _scalar_error),
    Categorical: Equations(_categorical_values, _categorical_target, _categorical_error),
    Quantile: Equations(_quantile_values, _quantile_target, _quantile_error),
    ImplicitQuantile: Equations(_quantile_values, _quantile_target, _quantile_error),
}
"""By the class of a loss's settings."""
