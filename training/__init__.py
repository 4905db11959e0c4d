"""The workstation's Kedro project: readings in, a trained and recorded run out.

Plain functions do the work and can be called without Kedro; the nodes in `pipelines` only join them.
"""

import os

# Kedro's telemetry plugin asks this before it asks the workspace's own .telemetry file.
os.environ["DO_NOT_TRACK"] = "true"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # MLflow imports onnxruntime by itself, the Scorer's setting would come late
