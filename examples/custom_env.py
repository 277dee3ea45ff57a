"""An environment of your own: fetch the key at the left end, then open the door at the right end.

python custom_env.py        or        upright train custom_env:Corridor --total-timesteps 5000
"""

import gymnasium
from gymnasium.spaces import Dict, Discrete

import upright


class Corridor(gymnasium.Env):
    def __init__(self, length=7):
        self.length = length
        self.observation_space = Dict(position=Discrete(length), has_key=Discrete(2))
        self.action_space = Discrete(2)  # 0: left, 1: right

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.position, self.has_key = self.length // 2, 0
        return self.observation(), {}

    def step(self, action):
        self.position = min(max(self.position + 2 * int(action) - 1, 0), self.length - 1)
        self.has_key = max(self.has_key, int(self.position == 0))
        opened = self.has_key == 1 and self.position == self.length - 1
        return self.observation(), -1.0, opened, False, {}

    def observation(self):
        return {"position": self.position, "has_key": self.has_key}


if __name__ == "__main__":
    agent = upright.DQN(Corridor, max_episode_steps=100, total_timesteps=3_000, learning_starts=500).learn()
    mean = agent.evaluate(episodes=10).mean
    print(f"Mean return {mean:g}. The best possible is -9: 3 steps to the key, 6 to the door.")
