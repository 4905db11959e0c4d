"""Kedro's project settings."""

from axlebox.training.hooks import WorkspaceHooks

HOOKS = (WorkspaceHooks(),)

# --params forest.n_estimators=50 changes that one key and leaves its neighbours.
CONFIG_LOADER_ARGS = {"base_env": "base", "default_run_env": "local", "merge_strategy": {"parameters": "soft"}}
