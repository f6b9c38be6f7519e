"""Protocols: frozen, versioned rules for prompts, scores and rounds."""

from clicksim.protocols.registry import (
    Protocol,
    ProtocolName,
    effective_settings,
    freeze_protocol,
    list_presets,
    list_protocols,
    load_protocol,
    protocol_facts,
    protocol_of,
)

__all__ = [
    "Protocol",
    "ProtocolName",
    "effective_settings",
    "freeze_protocol",
    "list_presets",
    "list_protocols",
    "load_protocol",
    "protocol_facts",
    "protocol_of",
]
