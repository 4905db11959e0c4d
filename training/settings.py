"""Kedro's project settings."""

import kedro_telemetry.plugin

from axlebox.training.hooks import WorkspaceHooks

# `kedro viz` makes up an id and writes it to ~/.config even where consent is refused. Refused here and not with the
# commands, since its server is a process of its own, which knows the project's settings and no commands.
kedro_telemetry.plugin._generate_new_uuid = lambda full_path: ""

HOOKS = (WorkspaceHooks(),)

# --params forest.n_estimators=50 changes that one key and leaves its neighbours.
CONFIG_LOADER_ARGS = {"base_env": "base", "default_run_env": "local", "merge_strategy": {"parameters": "soft"}}
