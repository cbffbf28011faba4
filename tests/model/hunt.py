"""Looks for a planted defect: many short searches from different seeds find it sooner than a long one."""

from hypothesis import Phase, seed, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

SEARCHES = 40
EXAMPLES = 50


def caught(machine: type[RuleBasedStateMachine], base: settings) -> BaseException | None:
    """The first failure of the machine; None if no search finds one."""
    short = settings(base, max_examples=EXAMPLES, phases=[Phase.generate])
    for number in range(SEARCHES):
        try:
            run_state_machine_as_test(seed(number)(type(machine.__name__, (machine,), {})), settings=short)
        except Exception as failure:
            return failure
    return None
