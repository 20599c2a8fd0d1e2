"""What the tests of the engine's pure modules share: how hard the property tests try.

HYPOTHESIS_PROFILE=thorough draws fresh examples, and a hundred times as many.
"""

from __future__ import annotations

import os
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis.configuration import set_hypothesis_home_dir

set_hypothesis_home_dir(Path(__file__).parents[3] / ".cache" / "hypothesis")
# The same examples every time: a failure here is the fault of the change at hand.
settings.register_profile("repeatable", derandomize=True, database=None, deadline=None, max_examples=200)
settings.register_profile(
    "thorough", deadline=None, max_examples=20_000, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))
