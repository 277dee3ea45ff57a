"""Rainbow, composed from settings: every member of the DQN family is a value of one field of `Config`.

python compose.py [--total-timesteps 30000]        takes about a minute on one core
"""

import argparse
from dataclasses import replace

from upright import Categorical, Config, Munchausen, Prioritised, Run, UprightError, train

parser = argparse.ArgumentParser(description="Train Rainbow on CartPole-v1.")
parser.add_argument("--total-timesteps", type=int, default=30_000)
arguments = parser.parse_args()

rainbow = replace(
    Config(),
    total_timesteps=arguments.total_timesteps,
    dueling=True,  # Wang 2016
    noisy=True,  # Fortunato 2018; the noise explores, so ε is 0
    exploration_initial_eps=0.0,
    exploration_final_eps=0.0,
    n_steps=3,  # Sutton 1988
    replay=Prioritised(alpha=0.5),  # Schaul 2016
    loss=Categorical(double=True, v_min=0.0, v_max=100.0),  # Bellemare 2017, van Hasselt 2016; returns are in 0 … 100
    learning_rate=1e-3,
)

# A combination that cannot work is refused when the Config is built, not after an hour of training.
try:
    replace(rainbow, munchausen=Munchausen())
except UprightError as refusal:
    print(f"Refused: {refusal}\n")

run = Run("CartPole-v1", rainbow, seed=0)
for progress in train(run):
    if progress.step % 5_000 == 0:
        mean = progress.metrics["rollout/ep_rew_mean"]
        print(f"step {progress.step:6,}   mean return of the last 100 episodes: {mean:5.1f}", flush=True)
print(f"Final policy: {run.agent.evaluate(episodes=100)}")
run.close()
