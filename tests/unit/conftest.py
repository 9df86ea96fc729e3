"""What the unit tests share: generated examples are judged by what they show, not by how long a busy machine takes."""

from hypothesis import HealthCheck, settings

settings.register_profile("unit", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unit")
