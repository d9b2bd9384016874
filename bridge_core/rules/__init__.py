"""Rules as data: what a user states about names, layers and axes."""

from typing import TYPE_CHECKING

from bridge_core.public import exports

if TYPE_CHECKING:
    from bridge_core.rules.file_head import HEAD_KEYS as HEAD_KEYS
    from bridge_core.rules.overlaps import overlapping as overlapping
    from bridge_core.rules.pattern_index import KeyIndex as KeyIndex, PatternIndex as PatternIndex
    from bridge_core.rules.patterns import Captures as Captures, Pattern as Pattern
    from bridge_core.rules.permissions import Allowed as Allowed, Permissions as Permissions
    from bridge_core.rules.records import (
        identity_of_record as identity_of_record,
        identity_of_rule as identity_of_rule,
        read_recorded as read_recorded,
        recorded as recorded,
        recorded_pairs as recorded_pairs,
    )
    from bridge_core.rules.rule import Rule as Rule
    from bridge_core.rules.rule_groups import (
        RuleGroup as RuleGroup,
        load_rules as load_rules,
        read_rule_file as read_rule_file,
        rules_of_text as rules_of_text,
    )
    from bridge_core.rules.rule_sets import Rules as Rules, as_rules as as_rules, oriented as oriented
    from bridge_core.rules.segments import (
        Any1 as Any1,
        AnyN as AnyN,
        Int as Int,
        Mixed as Mixed,
        Segment as Segment,
        Str as Str,
    )
    from bridge_core.rules.sizes import resolve_sizes as resolve_sizes
    from bridge_core.rules.where import Where as Where
else:
    __getattr__, __dir__, __all__ = exports(
        __name__,
        {
            "file_head": "HEAD_KEYS",
            "overlaps": "overlapping",
            "pattern_index": "KeyIndex PatternIndex",
            "patterns": "Captures Pattern",
            "permissions": "Allowed Permissions",
            "records": "identity_of_record identity_of_rule read_recorded recorded recorded_pairs",
            "rule": "Rule",
            "rule_sets": "Rules as_rules oriented",
            "segments": "Any1 AnyN Int Mixed Segment Str",
            "sizes": "resolve_sizes",
            "rule_groups": "RuleGroup load_rules read_rule_file rules_of_text",
            "where": "Where",
        },
        moved={"Call": "bridge_core.axes:Call", "config_entry": "bridge_core.axes:config_entry"},
    )
