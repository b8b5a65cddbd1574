"""The loop's decisions, without a loop."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from motus.agent.conversation import closing_messages
from motus.agent.limits import UsageLimitExceeded, UsageLimits
from motus.agent.steps import (
    AddMessages,
    CallModel,
    CheckReply,
    Fail,
    Finish,
    Instruction,
    RunTools,
    ShowStep,
    State,
    StepMachine,
)
from motus.errors import InvalidTransitionError
from motus.messages import ChatCompletion, ChatMessage, FunctionCall, ToolCall
from tests.agent.models import assert_valid

PROMPT = ChatMessage.user_message("hello")


def reply(*ids: str, content: str | None = None) -> ChatCompletion:
    calls = [ToolCall(one, FunctionCall("tool", "{}")) for one in ids]
    return ChatCompletion("1", "m", content, tool_calls=calls or None)


def kinds(instructions: list[Instruction]) -> list[type[Any]]:
    return [type(one) for one in instructions]


def test_an_answer_at_once() -> None:
    machine = StepMachine(20)
    assert machine.started(PROMPT) == [AddMessages([PROMPT]), CallModel()]
    said = reply(content="hi")
    assert machine.model_replied(said) == [CheckReply(said)]
    done = machine.reply_accepted(said.to_message(), "hi")
    assert done == [AddMessages([said.to_message()]), Finish("hi")]
    assert machine.state is State.OVER
    assert machine.steps_completed == 1


def test_without_a_prompt_nothing_is_added() -> None:
    assert StepMachine(None).started(None) == [CallModel()]


def test_results_are_in_the_order_of_the_calls() -> None:
    machine = StepMachine(20)
    machine.started(PROMPT)
    said = reply("a", "b", "c", content="let me see")
    asked, shown, run = machine.model_replied(said)
    assert asked == AddMessages([said.to_message()])
    assert shown == ShowStep("let me see", said.tool_calls or [])
    assert run == RunTools(said.tool_calls or [])
    assert machine.tool_finished(2, "third") == []
    assert machine.results() == {"c": "third"}
    assert machine.tool_finished(0, "first") == []
    results, following = machine.tool_finished(1, "second")
    assert isinstance(results, AddMessages)
    assert [(m.content, m.tool_call_id) for m in results.messages] == [
        ("first", "a"),
        ("second", "b"),
        ("third", "c"),
    ]
    assert following == CallModel()


def test_the_last_step_runs_its_tools_and_is_the_last() -> None:
    machine = StepMachine(1)
    machine.started(PROMPT)
    machine.model_replied(reply("a"))
    results, failed = machine.tool_finished(0, "r")
    assert isinstance(results, AddMessages)
    assert isinstance(failed, Fail)
    assert isinstance(failed.error, RuntimeError)
    assert str(failed.error) == "ReactAgent reached max steps (1) without completing"


def test_a_reply_that_does_not_fit_gets_one_more_chance() -> None:
    machine = StepMachine(1)
    machine.started(PROMPT)
    bad = reply(content="no json")
    machine.model_replied(bad)
    added, again = machine.reply_rejected(bad, ValueError("not an object"))
    assert isinstance(added, AddMessages)
    assert added.messages[0] == bad.to_message()
    assert "not an object" in str(added.messages[1].content)
    # The correction is no step of its own.
    assert again == CallModel()
    machine.model_replied(bad)
    error = ValueError("still not")
    assert machine.reply_rejected(bad, error) == [AddMessages([bad.to_message()]), Fail(error)]


@pytest.mark.parametrize(
    ("limits", "text"),
    [
        (UsageLimits(tokens=100), "100 tokens used"),
        (UsageLimits(cost=0.5), r"\$0.500000 spent"),
    ],
)
def test_a_run_that_has_used_enough_does_not_go_on(limits: UsageLimits, text: str) -> None:
    machine = StepMachine(20, limits)
    machine.started(PROMPT)
    machine.consumed(50, 0.25)
    machine.model_replied(reply("a"))
    machine.tool_finished(0, "r")
    machine.model_replied(reply("a"))
    # A specialist's, for example, which is told to stop.
    assert isinstance(machine.consumed(50, 0.25), UsageLimitExceeded)
    results, failed = machine.tool_finished(0, "r")
    assert isinstance(failed, Fail)
    with pytest.raises(UsageLimitExceeded, match=text):
        raise failed.error
    assert isinstance(results, AddMessages)


def test_an_answer_that_has_arrived_is_given_whatever_it_took() -> None:
    machine = StepMachine(20, UsageLimits(tokens=1, cost=0))
    machine.started(PROMPT)
    said = reply(content="hi")
    assert machine.consumed(50, None) is None
    assert machine.model_replied(said) == [CheckReply(said)]
    assert machine.reply_accepted(said.to_message(), "hi")[-1] == Finish("hi")


def test_an_unknown_price_cannot_be_limited() -> None:
    machine = StepMachine(20, UsageLimits(cost=1))
    machine.started(PROMPT)
    machine.consumed(1, None)
    machine.model_replied(reply("a"))
    failed = machine.tool_finished(0, "r")[-1]
    assert isinstance(failed, Fail)
    assert "price is not known" in str(failed.error)


def test_tool_calls_beyond_the_limit_are_not_made() -> None:
    machine = StepMachine(20, UsageLimits(tool_calls=2))
    machine.started(PROMPT)
    machine.model_replied(reply("a"))
    machine.tool_finished(0, "r")
    asked, refused, failed = machine.model_replied(reply("b", "c"))
    assert isinstance(asked, AddMessages)
    assert isinstance(refused, AddMessages)
    assert_valid([*asked.messages, *refused.messages])
    assert "limit: 2" in str(refused.messages[0].content)
    assert isinstance(failed, Fail)
    assert machine.used.tool_calls == 3


@pytest.mark.parametrize("limits", [{"tokens": -1}, {"cost": -0.1}, {"tool_calls": -1}])
def test_limits_are_not_negative(limits: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(limits))} must be at least 0"):
        UsageLimits(**limits)


def test_what_cannot_happen_is_a_bug() -> None:
    machine = StepMachine(20)
    with pytest.raises(InvalidTransitionError, match="new"):
        machine.model_replied(reply())
    machine.started(PROMPT)
    with pytest.raises(InvalidTransitionError, match="calling"):
        machine.tool_finished(0, "r")
    machine.model_replied(reply("a", "b"))
    machine.tool_finished(0, "r")
    with pytest.raises(InvalidTransitionError, match="call 0"):
        machine.tool_finished(0, "r")
    with pytest.raises(InvalidTransitionError, match="call 2"):
        machine.tool_finished(2, "r")
    with pytest.raises(InvalidTransitionError, match="acting"):
        machine.reply_accepted(PROMPT, "x")


class Runs(RuleBasedStateMachine):
    """Any run, stopped at any moment, leaves a conversation that every provider accepts."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[ChatMessage] = []
        self.todo: list[Instruction] = []
        self.calls: list[ToolCall] = []
        self.waiting: set[int] = set()
        self.model_calls = 0
        self.corrections = 0
        self.ids = iter(range(10_000))

    @initialize(
        most=st.none() | st.integers(1, 4),
        limits=st.builds(
            UsageLimits,
            tokens=st.none() | st.integers(0, 30),
            cost=st.none() | st.floats(0, 3),
            tool_calls=st.none() | st.integers(0, 6),
        ),
        prompt=st.booleans(),
    )
    def start(self, most: int | None, limits: UsageLimits, prompt: bool) -> None:
        self.most, self.limits = most, limits
        self.run(PROMPT if prompt else None)

    def run(self, prompt: ChatMessage | None) -> None:
        self.model_calls = self.corrections = 0
        self.machine = StepMachine(self.most, self.limits)
        self.do(self.machine.started(prompt))

    @precondition(lambda self: self.machine.state is State.OVER)
    @rule()
    def again(self) -> None:
        self.run(PROMPT)

    def do(self, instructions: list[Instruction]) -> None:
        self.todo = instructions
        for instruction in instructions:
            match instruction:
                case AddMessages(messages):
                    self.messages += messages
                case CallModel():
                    self.model_calls += 1
                case RunTools(calls):
                    self.calls, self.waiting = calls, set(range(len(calls)))

    @precondition(lambda self: self.machine.state is State.CALLING)
    @rule(count=st.integers(0, 3), tokens=st.integers(0, 10), cost=st.none() | st.floats(0, 1))
    def model(self, count: int, tokens: int, cost: float | None) -> None:
        ids = [f"c{next(self.ids)}" for _ in range(count)]
        self.machine.consumed(tokens, cost)
        self.do(self.machine.model_replied(reply(*ids)))

    @precondition(lambda self: self.machine.state is State.ACTING)
    @rule(data=st.data())
    def tool(self, data: st.DataObject) -> None:
        index = data.draw(st.sampled_from(sorted(self.waiting)))
        self.waiting.discard(index)
        self.do(self.machine.tool_finished(index, f"r{index}"))

    @precondition(lambda self: self.machine.state is State.CHECKING)
    @rule(fits=st.booleans())
    def check(self, fits: bool) -> None:
        said = reply(content="x")
        if fits:
            self.do(self.machine.reply_accepted(said.to_message(), "x"))
        else:
            self.corrections += 1
            self.do(self.machine.reply_rejected(said, ValueError("bad")))

    @invariant()
    def stopped_here_it_is_valid(self) -> None:
        if not hasattr(self, "machine"):
            return
        results = self.machine.results()
        closing = closing_messages(self.messages, results)
        assert_valid([*self.messages, *closing])
        kept = [message.content for message in closing if message.tool_call_id in results]
        assert len(kept) == (len(closing) - len(self.waiting) if closing else 0)

    @invariant()
    def it_ends(self) -> None:
        if not hasattr(self, "machine"):
            return
        assert self.model_calls <= (self.most or 10_000) + min(1, self.corrections)
        over = self.machine.state is State.OVER
        assert over == (kinds(self.todo)[-1:] in ([Finish], [Fail]))
        if self.limits.tool_calls is not None and self.waiting:
            assert self.machine.used.tool_calls <= self.limits.tool_calls


def test_any_run_stopped_at_any_moment() -> None:
    run_state_machine_as_test(
        Runs,
        settings=settings(
            max_examples=60,
            stateful_step_count=15,
            deadline=None,
            # One rule of four fits each state.
            suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow],
        ),
    )
