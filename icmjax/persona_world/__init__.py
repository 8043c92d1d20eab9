"""A synthetic survey world of known truth, its observer, and tasks in it.

Pretraining is apart, in `training` and `pretrain`: it alone needs optax and orbax.
"""

from icmjax.persona_world.config import Source, Style, WorldConfig
from icmjax.persona_world.observer import make_observer_scorer, make_observer_steerer
from icmjax.persona_world.tasks import (
    Task,
    is_task_name,
    load_task,
    make_open_task,
    make_preference_task,
    make_task,
)
from icmjax.persona_world.world import World, make_world

__all__ = [
    "Source",
    "Style",
    "Task",
    "World",
    "WorldConfig",
    "is_task_name",
    "load_task",
    "make_observer_scorer",
    "make_observer_steerer",
    "make_open_task",
    "make_preference_task",
    "make_task",
    "make_world",
]
