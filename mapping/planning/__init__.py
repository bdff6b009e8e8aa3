"""From a checkpoint's names and shapes to a plan, in steps; `planner` is their order."""
