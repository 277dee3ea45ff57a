"""Write the golden files anew: python tests/golden/make.py. Only for a new schema; the old ones stay beside it."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import numpy as np  # noqa: E402

from run_digest import TINY, digests  # noqa: E402
from upright.loop import train  # noqa: E402
from upright.runs.run import Run  # noqa: E402

ASKED = [[0.0, 0.0, 0.0, 0.0], [0.5, -1.0, 0.05, 1.0]]


def make() -> None:
    for name in ("checkpoint-1", "policy-2"):
        shutil.rmtree(HERE / name, ignore_errors=True)
    config = TINY.override(buffer_size=100, total_timesteps=400, checkpoint_every=100, eval_freq=0, keep_checkpoints=1)
    run = Run("CartPole-v1", config, 0, HERE / "checkpoint-1" / "seed-0")
    for progress in train(run):
        if progress.step == 200:
            break
    run.agent.save(HERE / "policy-2")
    expected = {
        "step": run.step,
        "updates": run.updates,
        "episodes": run.episodes.count,
        "observations": digests(run)["column obs"],
        "asked": ASKED,
        "answered": run.agent.q_values(np.array(ASKED, np.float32)).tolist(),
    }
    run.close()
    (HERE / "checkpoint-1" / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")
    (HERE / "checkpoint-1" / "seed-0" / "lock").unlink()


if __name__ == "__main__":
    make()
