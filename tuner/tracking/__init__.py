"""MLflow: the view that people read.

MLflow reads these settings when it is imported, so they stand before every import of it. A setting that the user has
made in the environment stays as it is.
"""

import os

for _name, _value in {
    "MLFLOW_DISABLE_TELEMETRY": "true",  # nothing is sent anywhere but to the store that the user named
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # its links carry the address with the password
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # default 7: takes minutes, can make a run twice; the mirror retries
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",  # seconds; default 120
}.items():
    os.environ.setdefault(_name, _value)
