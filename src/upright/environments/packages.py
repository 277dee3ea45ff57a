"""Packages that register environments with Gymnasium, so that their ids work as typed: which id is whose."""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass

import gymnasium

# The games of the Arcade Learning Environment, whose older ids have no namespace.
ATARI = (
    "Adventure AirRaid Alien Amidar Assault Asterix Asteroids Atlantis BankHeist BattleZone BeamRider Berzerk Bowling "
    "Boxing Breakout Carnival Centipede ChopperCommand CrazyClimber Defender DemonAttack DoubleDunk ElevatorAction "
    "Enduro FishingDerby Freeway Frostbite Gopher Gravitar Hero IceHockey Jamesbond JourneyEscape Kangaroo Krull "
    "KungFuMaster MontezumaRevenge MsPacman NameThisGame Phoenix Pitfall Pong Pooyan PrivateEye Qbert Riverraid "
    "RoadRunner Robotank Seaquest Skiing Solaris SpaceInvaders StarGunner Tennis TimePilot Tutankham UpNDown Venture "
    "VideoPinball WizardOfWor YarsRevenge Zaxxon"
)


@dataclass(frozen=True)
class Package:
    """A package and the environments that it registers.

    distribution: what `pip install` takes · module: what has to be imported
    ids: a regular expression that the beginning of each of its ids matches
    function: the function of the module that registers them, where the import alone does not
    """

    distribution: str
    module: str
    ids: str
    function: str | None = None

    def register(self) -> None:
        """Import the module, and have its environments registered."""
        module = importlib.import_module(self.module)
        if self.function is not None and not any(re.match(self.ids, name) for name in gymnasium.registry):
            getattr(module, self.function)()


PACKAGES = (
    Package("ale-py", "ale_py", rf"ALE/|({'|'.join(ATARI.split())})(NoFrameskip)?-v[04]$"),
    Package("minigrid", "minigrid", r"MiniGrid-|BabyAI-"),
    Package("minatar", "minatar.gym", r"MinAtar/", "register_envs"),
    Package("highway-env", "highway_env", (
        r"(exit|highway|highway-fast|intersection|intersection-multi-agent|lane-keeping|merge|merge-generic|parking|"
        r"parking-ActionRepeat|parking-parked|racetrack|racetrack-large|racetrack-oval|roundabout|roundabout-generic|"
        r"two-way|u-turn)-v\d+$"
    )),
    Package("flappy-bird-gymnasium", "flappy_bird_gymnasium", r"FlappyBird-v"),
    Package("mo-gymnasium", "mo_gymnasium", (
        r"mo-|breakable-bottles-v|deep-sea-treasure-|fishwood-v|four-room-v|fruit-tree-v|minecart-|"
        r"resource-gathering-v|water-reservoir-v"
    )),
    Package("vizdoom", "vizdoom.gymnasium_wrapper", r"Vizdoom"),
    Package("miniworld", "miniworld", r"MiniWorld-"),
    Package("gymnasium-robotics", "gymnasium_robotics", (
        r"AdroitHand|AntMaze_|Fetch(PickAndPlace|Push|Reach|Slide)|FrankaKitchen-|HandManipulate|HandReach|PointMaze_"
    )),
    Package("popgym", "popgym", r"popgym-"),
    Package("tetris-gymnasium", "tetris_gymnasium.envs", r"tetris_gymnasium/"),
    Package("gymnasium-2048", "gymnasium_2048", r"gymnasium_2048/"),
    Package("gymnasium-search-race", "gymnasium_search_race", r"gymnasium_search_race/"),
    Package("gym-anytrading", "gym_anytrading", r"(forex|stocks)-v"),
    Package("gym-trading-env", "gym_trading_env", r"(MultiDataset)?TradingEnv$"),
    Package("gym-simplegrid", "gym_simplegrid", r"SimpleGrid-"),
    Package("gym-pusht", "gym_pusht", r"gym_pusht/"),
    Package("matrix-mdp-gym", "matrix_mdp", r"matrix_mdp/"),
    Package("nasim", "nasim", (
        r"(Tiny|TinyHard|TinySmall|Small|SmallHoneypot|SmallLinear|Medium|MediumMultiSite|MediumSingleSite|"
        r"(Tiny|Small|Medium|Large|Huge|Pocp1|Pocp2)Gen(Rgoal)?)(PO)?(2D)?(VA)?-v\d+$"
    )),
    Package("panda-gym", "panda_gym", r"Panda(Flip|PickAndPlace|Push|Reach|Slide|Stack)"),
    Package("pybullet-envs-gymnasium", "pybullet_envs_gymnasium", r"\w+BulletEnv-v"),
    Package("jssenv", "JSSEnv", r"jss-v"),
    Package("gymnasium-snake-game", "gymnasium_snake_game", r"Snake-v"),
    Package("gymnasium-sudoku", "gymnasium_sudoku", r"sudoku-v"),
    Package("sliding-puzzles", "sliding_puzzles", r"SlidingPuzzles-v"),
    Package("pickomino-env", "pickomino_env", r"Pickomino-v"),
    Package("numberlink", "numberlink", r"NumberLinkRGB-v"),
    Package("tile-match-gym", "tile_match_gym", r"TileMatch-v"),
    Package("pgtg", "pgtg", r"pgtg-"),
    Package("memory-gym", "memory_gym", r"(Endless-)?(MortarMayhem|MysteryPath|SearingSpotlights)"),
    Package("mazegym", "mazegym", r"Maze\d+x\d+(Fixed|Random)-v"),
    Package("buffalo-gym", "buffalo_gym", r"\w*Buffalo(Trail)?-v"),
    Package("or-gymnasium", "or_gymnasium", (
        r"(Knapsack|BinPacking|InvManagement|NetworkManagement|Newsvendor|PortfolioOpt|TSP|VMPacking|VehicleRouting)-v"
    )),
    Package("gym-mtsim", "gym_mtsim", r"(forex|stocks|crypto|mixed)-(un)?hedge-v"),
    Package("gym-sailing", "gym_sailing", r"(Sailboat(Discrete)?|Motorboat)-v"),
    Package("gym-saturation", "gym_saturation", r"(Vampire|iProver)-v"),
    Package("gym-electric-motor", "gym_electric_motor", r"(Finite|Cont)-"),
    Package("bluesky-gym", "bluesky_gym", (
        r"(Descent|HorizontalCR|Merge|PlanWaypoint|SectorCR|StaticObstacle|VerticalCR)Env-v"
    ), "register_envs"),
    Package("jsbgym", "jsbgym", r"\w+-(Turn)?HeadingControlTask-"),
    Package("pyflyt", "PyFlyt.gym_envs", r"PyFlyt/"),
    Package("carl-bench", "carl.envs", r"carl/"),
    Package("random-walk-env", "random_walk_env", r"random_walk_env/"),
    Package("kaist-or-gym", "kaist_or_gym", r"kaist-or/"),
    Package("'shimmy[bsuite]'", "shimmy", r"bsuite/"),
    Package("'shimmy[dm-control]'", "shimmy", r"dm_control/"),
)  # fmt: skip


def package_of(name: str) -> Package | None:
    """The package that registers this id, or None if it is not a known one's."""
    return next((package for package in PACKAGES if re.match(package.ids, name)), None)


def package_with(module: str) -> Package | None:
    """The known package that has this module, or None."""
    top = module.partition(".")[0]
    return next((package for package in PACKAGES if package.module.partition(".")[0] == top), None)


def asked_for(text: str) -> Package | None:
    """The package that a text names, by the beginning of its ids, its module or what pip calls it; None if none."""
    for package in PACKAGES:
        if re.match(package.ids, text, re.IGNORECASE):
            return package
        if text.lower() in {package.distribution, package.module.partition(".")[0].lower()}:
            return package
    return None


def missing(package: Package, name: str) -> str:
    """The sentence for an id whose package is not installed."""
    return (
        f"{name} needs the package {package.distribution}, which is not installed: pip install {package.distribution} "
        f"(spelled out, it is {spelled_out(name)})."
    )


def spelled_out(name: str) -> str:
    """An id with the module that registers it, as Gymnasium itself takes it, if it is a known package's."""
    package = package_of(name)
    return name if package is None else f"{package.module}:{name}"
