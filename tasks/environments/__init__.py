"""Task families generated from seeds, their Harbor layout, and the chat format an agent sees them in."""

from tasks.environments.registry import expert, families, generate
from tasks.environments.task import Split, Task, TaskError

__all__ = ["Split", "Task", "TaskError", "expert", "families", "generate"]
