"""`modelworks.runtime.serve`, which waits for a feature store as long as tests wait for anything."""

from __future__ import annotations

import os

from modelworks.runtime import feature_tables, feature_vectors, serve
from waiting import PATIENCE

feature_tables.TIMEOUT_SECONDS = feature_vectors.TIMEOUT_SECONDS = PATIENCE
os._exit(serve.main())
