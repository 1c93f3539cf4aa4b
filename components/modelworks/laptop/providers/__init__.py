"""The provider plugin that replaces Pulumi's of AWS on the laptop. On a real cloud nothing of this is loaded."""

from __future__ import annotations
