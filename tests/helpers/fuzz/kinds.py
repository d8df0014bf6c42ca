"""Every kind of case of the fuzz."""

from hypothesis import HealthCheck

from helpers.fuzz import commands, pictures, settings

# Hypothesis's remarks about cases that take long to make, of which there are many.
QUIET = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much)
KINDS = pictures.KINDS | commands.KINDS | settings.KINDS
