"""Protocols: frozen, versioned rules for prompts, scores and rounds."""

from clicksim.protocols.registry import (
    Protocol,
    ProtocolName,
    effective_settings,
    list_presets,
    list_protocols,
    load_protocol,
)

__all__ = ["Protocol", "ProtocolName", "effective_settings", "list_presets", "list_protocols", "load_protocol"]
