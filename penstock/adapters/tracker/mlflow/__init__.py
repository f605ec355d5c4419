"""MLflow as a tracker, and as a place where finished models come from: `mlflow+http://host:port`, `mlflow+https://host/prefix`.

Tested with MLflow 3.17.2, through its documented REST API (2.0) by the standard library: no package of MLflow's is needed.
A version becomes one finished run in the experiment named like the project, and one version of the registered model `PROJECT.MODEL`;
what is live has the alias `production`.
Secrets, all optional: MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME with MLFLOW_TRACKING_PASSWORD.
Limits: files go and come through the server only (`--artifacts-destination`); of servers that send clients to a store of their own,
files are not written, which the version's tag `penstock.files` says, and models are not taken. A redirection is not followed.
"""

from penstock.adapters.tracker.mlflow.tracker import MlflowTracker

__all__ = ["MlflowTracker"]
