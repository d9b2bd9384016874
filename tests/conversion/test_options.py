"""Options of a conversion: checked when they are made, completed by what a library knows."""

from support.errors import refused

from bridge_core import Guidance, Rule, UsageError, plan_conversion
from bridge_core.conversion.options import ConversionOptions


def test_an_unknown_dtype_and_a_template_for_neutral_are_refused_at_once():
    with refused(UsageError, "float99", hint="float"):
        ConversionOptions("flax", dtype="float99")
    with refused(UsageError, "like=", 'to="neutral"', hint="--like"):
        ConversionOptions("neutral", like=object())
    with refused(UsageError, "like=", 'to="neutral"', hint="--like"):
        plan_conversion("not there", to="neutral", like="either")


def test_what_a_library_knows_goes_after_the_callers_own():
    own, known = Rule.rename("a", "b"), Rule.rename("c", "d")
    guidance = Guidance(model="m", like="t", rules=(known,), notes=("a note",))
    completed = ConversionOptions("flax", rules=(own,)).guided(guidance)
    assert (completed.model, completed.like, completed.notes) == ("m", "t", ("a note",))
    assert [rule.fallback for rule in completed.rules] == [False, True]
    assert [rule.source for rule in completed.rules] == [own.source, known.source]
    live = object()
    assert ConversionOptions("flax", like="mine", model=live).guided(guidance).like == "mine"
    assert ConversionOptions("flax", model=live).guided(guidance).model is live
    assert ConversionOptions("flax", model="none").guided(Guidance()).model is None
