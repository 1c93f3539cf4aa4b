"""Stores behind Feast's own interfaces."""

from modelworks.features._type_checks import check_when_called

check_when_called()
