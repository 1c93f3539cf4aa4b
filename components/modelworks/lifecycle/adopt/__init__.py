"""`modelworks new --from`: a model project made of code that is there."""

from modelworks.lifecycle.adopt.project import Adopted, adopt

__all__ = ["Adopted", "adopt"]
