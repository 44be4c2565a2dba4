"""Settings of the property tests, which need hypothesis: the same examples in every run."""

import os
import unittest

try:
    import hypothesis
except ImportError:
    raise unittest.SkipTest("hypothesis is not installed") from None

hypothesis.settings.register_profile(
    "liblisa",
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=int(os.environ.get("LISA_EXAMPLES", 50)),
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("liblisa")
