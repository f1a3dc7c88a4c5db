"""What holds for every test."""

from hypothesis import HealthCheck, settings

# A slow machine is no failure. The rest is as Hypothesis chose: its `ci` where CI is set.
settings.register_profile(
    "patient", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("patient")
