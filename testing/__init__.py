"""Tests for training methods, atoll's own and yours: `check_method` runs the contract of every method on virtual ranks.

Virtual ranks are threads of one process, so neither MPI nor pytest is needed.

Example:
    >>> from atoll.methods.sequential.sgd import Sgd
    >>> from atoll.testing import check_method
    >>> check_method(Sgd, settings={"learning_rate": 0.3, "momentum": 0.0}, ranks=(1,))
"""

from atoll.testing.method_contract import CHECKS, Subject, check_method
from atoll.testing.ranks import Layout, layout_name, layouts

__all__ = ["CHECKS", "Layout", "Subject", "check_method", "layout_name", "layouts"]
