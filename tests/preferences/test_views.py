"""Views: votes, pairs, demonstrations, which judgements count, and that nothing disappears uncounted."""

from __future__ import annotations

from collections import Counter
from itertools import combinations
from typing import Any
from uuid import UUID

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from alignment.errors import DataError
from alignment.preferences import views
from alignment.preferences.record import (
    Annotator,
    Judgement,
    Message,
    Order,
    PreferenceRecord,
    Prompt,
    Response,
    Source,
)
from alignment.preferences.tally import counted_judgements
from alignment.preferences.views import demonstrations, pairs, rankings

Tiers = list[list[str]]  # names of responses, which are also their texts


def said(name: str) -> Response:
    return Response(messages=(Message(role="assistant", content=name),))


def order(tiers: Tiers, **fields: Any) -> Order:
    return Order(tiers=tuple(tuple(said(name).id for name in tier) for tier in tiers), **fields)


def judgement(number: int, *orders: Order, who: str | None = None, **fields: Any) -> Judgement:
    return Judgement(
        id=UUID(int=number), annotator=Annotator(id=who or f"a{number}", kind="human"), orders=orders, **fields
    )


def record(
    names: str, *tiers: Tiers, judgements: tuple[Judgement, ...] | None = None, **fields: Any
) -> PreferenceRecord:
    """One response per letter of `names`; one annotator per order."""
    if judgements is None:
        judgements = tuple(judgement(number, order(t)) for number, t in enumerate(tiers, 1))
    return PreferenceRecord(
        prompt=fields.pop("prompt", Prompt(messages=(Message(role="user", content="Why?"),))),
        responses=fields.pop("responses", tuple(said(name) for name in names)),
        judgements=judgements,
        **fields,
    )


def names(items: list[views.Pair]) -> list[str]:
    return [pair.chosen[0]["content"] + pair.rejected[0]["content"] for pair in items]


# --- votes -----------------------------------------------------------------------------------------------------------


def test_votes_of_three_annotators() -> None:
    made = record("abc", [["a"], ["b", "c"]], [["b"], ["a"]], [["a", "b"], ["c"]])
    (ranking,), dropped = rankings([made])
    assert not dropped
    third, half = 1 / 3, 1 / 2
    # a–b: a, b, tie. a–c: a, (not compared), a. b–c: tie, (not compared), b.
    assert ranking.wins == ((0, third, 1.0), (third, 0, half), (0, 0, 0))
    assert ranking.ties == ((0, third, 0), (third, 0, half), (0, half, 0))
    assert ranking.n_annotators == 3
    assert ranking.criterion == "overall"
    assert ranking.scores() == pytest.approx([0.5, 0.25, -0.75])
    assert ranking.prompt == [{"role": "user", "content": "Why?"}]
    assert ranking.responses[1] == [{"role": "assistant", "content": "b"}]
    assert ranking.response_ids == tuple(r.id for r in made.responses)
    assert (ranking.record_id, ranking.group_id) == (made.id, made.group_id)


def test_an_omitted_response_is_incomparable_not_last() -> None:
    (ranking,), _ = rankings([record("abc", [["a"], ["b"]])])
    assert not ranking.compared(0, 2)
    assert not ranking.compared(1, 2)
    assert ranking.scores() == [1.0, -1.0, None]
    assert names(pairs([record("abc", [["a"], ["b"]])])[0]) == ["ab"]


def test_every_order_is_kept_with_what_it_leaves_out() -> None:
    several = judgement(2, order([["b", "a"]]), order([["c"], ["b"]]))
    nothing = judgement(3, order([["a"]], verdict="both_bad"))  # one response alone compares nothing
    judged = (judgement(1, order([["a"], ["b", "c"]])), several, nothing)
    (ranking,), _ = rankings([record("abc", judgements=judged)])
    assert ranking.tiers == ((0, 1, 1), (0, 0, -1), (-1, 1, 0))
    assert ranking.tier_weights == (0.5, 0.5, 0.5)  # two annotators compare, one of them in two orders


@given(st.lists(st.lists(st.integers(-1, 2), min_size=4, max_size=4), min_size=1, max_size=3))
def test_the_shares_of_every_pair_follow_from_the_orders(levels: list[list[int]]) -> None:
    orders = [[["abcd"[i] for i in range(4) if tiers[i] == t] for t in range(3) if t in tiers] for tiers in levels]
    asked = [o for o in orders if sum(map(len, o)) > 1]
    assume(asked)
    (ranking,), _ = rankings([record("abcd", *asked)])
    for i in range(4):
        for j in range(4):
            both = [t for t in ranking.tiers if i != j and t[i] >= 0 and t[j] >= 0]
            above = sum(t[i] < t[j] for t in both) / len(both) if both else 0.0
            assert ranking.wins[i][j] == pytest.approx(above)
    assert sum(ranking.tier_weights) == pytest.approx(1.0)


def test_both_bad_is_a_tie_and_a_statement() -> None:
    both_bad = judgement(2, order([["a", "b"]], verdict="both_bad"))
    made = record("ab", judgements=(judgement(1, order([["a"], ["b"]])), both_bad))
    (ranking,), _ = rankings([made])
    assert ranking.wins == ((0, 0.5), (0, 0))
    assert ranking.ties[0][1] == 0.5
    assert ranking.bad == (0.5, 0.5)


def test_strength_is_averaged_with_its_sign() -> None:
    judged = (
        judgement(1, order([["a"], ["b"]], strength=3.0)),
        judgement(2, order([["b"], ["a"]], strength=1.0)),
        judgement(3, order([["a"], ["b"]])),
        judgement(4, order([["a", "b"]], strength=0.0)),
    )
    (ranking,), _ = rankings([record("ab", judgements=judged)])
    assert ranking.margins[0][1] == pytest.approx(2 / 3)
    assert ranking.margins[1][0] == pytest.approx(-2 / 3)
    (pair,), _ = pairs([record("ab", judgements=judged)])
    assert pair.margin == pytest.approx(2 / 3)
    assert pair.soft_label == pytest.approx(2 / 4 + 1 / 4 / 2)
    assert pair.n_annotators == 4


def test_the_strength_of_a_long_order_is_nobodys_margin() -> None:
    judged = (judgement(1, order([["a"], ["b"], ["c"]], strength=2.0)),)
    assert {pair.margin for pair in pairs([record("abc", judgements=judged)])[0]} == {None}


# --- which judgements count ------------------------------------------------------------------------------------------


AB, BA = [["a"], ["b"]], [["b"], ["a"]]


@pytest.mark.parametrize(
    ("later", "counted"),
    [
        (None, "ab"),
        ("submitted", "ba"),
        ("draft", "ab"),
        ("skipped", ""),
        ("retracted", ""),
    ],
)
def test_the_latest_revision_counts(later: str | None, counted: str) -> None:
    judged = [judgement(1, order(AB), who="anna")]
    if later:
        judged.append(judgement(2, order(BA), who="anna", revision=2, supersedes=UUID(int=1), status=later))
    for arrival in (judged, judged[::-1]):
        items, dropped = pairs([record("ab", judgements=tuple(arrival))])
        assert "".join(names(items)) == counted
        assert dropped == ({} if counted else {views.NOT_JUDGED: 1})


def test_a_new_answer_after_a_withdrawal_counts() -> None:
    judged = (
        judgement(1, order(AB), who="anna"),
        judgement(2, who="anna", revision=2, status="retracted"),
        judgement(3, order(BA), who="anna", revision=3),
    )
    assert [j.revision for j in counted_judgements(record("ab", judgements=judged))] == [3]


def test_annotators_do_not_replace_each_other() -> None:
    judged = (judgement(1, order(AB), who="anna", revision=1), judgement(2, order(BA), who="bob", revision=2))
    assert len(counted_judgements(record("ab", judgements=judged))) == 2


def test_an_answer_key_is_nobodys_vote() -> None:
    key = judgement(2, order(AB), who="key", gold=True)
    judged = (judgement(1, order(BA), who="anna"), key, judgement(3, order(AB), who="anna", revision=2, gold=True))
    assert [j.id for j in counted_judgements(record("ab", judgements=judged))] == [UUID(int=1)]
    [ranking], _ = rankings([record("ab", judgements=judged)])
    assert (ranking.n_annotators, ranking.wins) == (1, ((0.0, 0.0), (1.0, 0.0)))
    assert pairs([record("ab", judgements=(key,))]) == ([], {views.NOT_JUDGED: 1})


# --- criteria --------------------------------------------------------------------------------------------------------


def two_criteria() -> PreferenceRecord:
    opposite = (order(AB, criterion="helpful"), order(BA, criterion="harmless"))
    return record("ab", judgements=(judgement(1, *opposite),))


def test_several_criteria_are_never_mixed() -> None:
    with pytest.raises(DataError, match=r"several criteria \(harmless, helpful\); choose one"):
        pairs([two_criteria()])
    assert names(pairs([two_criteria()], "helpful")[0]) == ["ab"]
    assert names(pairs([two_criteria()], "harmless")[0]) == ["ba"]


def test_criteria_are_not_mixed_across_records_either() -> None:
    other = record("ac", judgements=(judgement(1, order([["a"], ["c"]], criterion="helpful")),))
    one = record("ab", judgements=(judgement(1, order(AB, criterion="harmless")),))
    with pytest.raises(DataError, match="several criteria"):
        rankings([one, other])
    items, dropped = rankings([one, other], "helpful")
    assert [item.record_id for item in items] == [other.id]
    assert dropped == {views.OTHER_CRITERION: 1}


def test_an_unknown_criterion_is_named() -> None:
    with pytest.raises(DataError, match="no judgement uses the criterion 'helpfull'; there are: harmless, helpful"):
        pairs([two_criteria()], "helpfull")


def test_a_withdrawn_criterion_is_not_in_the_way() -> None:
    judged = (
        judgement(1, order(AB, criterion="old"), who="anna"),
        judgement(2, order(BA), who="anna", revision=2),
    )
    assert names(pairs([record("ab", judgements=judged)])[0]) == ["ba"]


# --- pairs -----------------------------------------------------------------------------------------------------------


def test_all_cross_tier_pairs_share_the_weight_of_their_record() -> None:
    items, _ = pairs([record("abcd", [["a"], ["b", "c"], ["d"]])])
    assert sorted(names(items)) == ["ab", "ac", "ad", "bd", "cd"]
    assert {pair.weight for pair in items} == {1 / 5}


def test_net_preference_decides_and_even_votes_give_no_pair() -> None:
    assert names(pairs([record("ab", AB, AB, BA)])[0]) == ["ab"]
    items, dropped = pairs([record("ab", AB, BA)])
    assert (items, dropped) == ([], Counter({views.SPLIT_VOTE: 1}))


@pytest.mark.parametrize("mode", ["all", "best_worst"])
def test_records_without_a_pair_are_counted(mode: Any) -> None:
    records = [
        record("ab", [["a", "b"]]),
        record("abc", AB, BA),
        record("abcd"),
        record("abcde", judgements=(judgement(1, Order(verdict="unjudgeable")),)),
        record("abcdef", judgements=(judgement(1, order(AB), status="skipped"),)),
        record("ac", [["a"], ["c"]]),
    ]
    items, dropped = pairs(records, mode=mode)
    assert names(items) == ["ac"]
    assert dropped == {views.ALL_TIED: 1, views.SPLIT_VOTE: 1, views.NOT_JUDGED: 2, views.UNJUDGEABLE: 1}
    assert len(items) + dropped.total() == len(records)


@pytest.mark.parametrize(
    ("tiers", "expected"),
    [
        ([[["a"], ["b"], ["c"]]], "ac"),
        ([[["c"], ["b"], ["a"]]], "ca"),
        # Two best ones: both beat c, in response order.
        ([[["b", "a"], ["c"]]], "ac"),
        # Mean margins a (0 + 0)/2, b (0 + 1)/2, c (0 - 1)/2: the even votes on a decide nothing.
        ([[["b"], ["c"]], [["a"], ["c"]], [["c"], ["a"]], [["b"], ["a"]], [["a"], ["b"]]], "bc"),
        # a over b and b over c by different people: the best and the worst were never compared.
        ([[["a"], ["b"]], [["b"], ["c"]]], "ac"),
    ],
)
def test_best_against_worst(tiers: list[Tiers], expected: str) -> None:
    (pair,), dropped = pairs([record("abc", *tiers)], mode="best_worst")
    assert names([pair]) == [expected]
    assert pair.weight == 1
    assert not dropped


def test_best_and_worst_that_were_never_compared_have_no_soft_label() -> None:
    (pair,), _ = pairs([record("abc", [["a"], ["b"]], [["b"], ["c"]])], mode="best_worst")
    assert pair.soft_label is None


def test_a_tie_at_both_ends_goes_to_the_larger_direct_margin() -> None:
    # a and b are best, c and d worst. Of the four pairs (b, c) comes first, but nobody compared these two.
    made = record("bacd", [["a"], ["c"]], [["b"], ["d"]])
    (pair,), _ = pairs([made], mode="best_worst")
    assert names([pair]) == ["bd"]


def test_a_worst_response_that_beats_the_best_is_a_contradiction() -> None:
    # a beats b, c, d; e loses to b, c, d; but the one who compared a and e preferred e.
    judged = [[["a"], ["b", "c", "d"]], [["b", "c", "d"], ["e"]], [["e"], ["a"]]]
    items, dropped = pairs([record("abcde", *judged)], mode="best_worst")
    assert (items, dropped) == ([], Counter({views.CONTRADICTION: 1}))


def test_a_ranking_needs_two_responses_and_says_where() -> None:
    made = record("a", source=Source(dataset="toy", row=7))
    with pytest.raises(DataError, match=rf"record {made.id} \(toy row 7\) has 1 response\(s\).*use this data for sft"):
        pairs([made])
    with pytest.raises(DataError, match=rf"record {record('a').id} has 1 response"):
        rankings([record("a")])


# --- what no model can be trained on as it is ------------------------------------------------------------------------


def system(text: str) -> Message:
    return Message(role="system", content=text)


def test_records_that_training_would_render_wrongly_are_dropped() -> None:
    question = Message(role="user", content="Why?")
    tools = record("ab", AB, prompt=Prompt(messages=(question,), tools=[{"name": "search"}]))
    trajectory = Response(messages=(*said("a").messages, question, *said("x").messages))
    foreign = PreferenceRecord(
        prompt=Prompt(messages=(question,)),
        responses=(trajectory, said("b")),
        judgements=(judgement(1, Order(tiers=((trajectory.id,), (said("b").id,)))),),
    )
    for view in (rankings, pairs, demonstrations):
        items, dropped = view([tools, foreign])
        assert items == []
        assert dropped == {views.TOOLS: 1, views.FOREIGN_TURNS: 1}


def in_context(name: str, context: str | None) -> Response:
    messages = (Message(role="assistant", content=name),)
    return Response(messages=messages, context=(system(context),) if context else None)


def with_contexts(first: str | None, second: str | None, prompt: Prompt | None = None) -> PreferenceRecord:
    responses = (in_context("a", first), in_context("b", second))
    return PreferenceRecord(
        prompt=prompt or Prompt(messages=(Message(role="user", content="Why?"),)),
        responses=responses,
        judgements=(judgement(1, Order(tiers=tuple((r.id,) for r in responses))),),
    )


def test_the_context_stays_out_unless_asked_for() -> None:
    made = with_contexts("be brief", "be brief")
    question = {"role": "user", "content": "Why?"}
    brief = {"role": "system", "content": "be brief"}
    assert pairs([made])[0][0].prompt == [question]
    assert rankings([made])[0][0].context == ([], [])
    assert demonstrations([made])[0][0].prompt == [question]
    assert pairs([made], use_context=True)[0][0].prompt == [brief, question]
    assert rankings([made], use_context=True)[0][0].context == ([brief], [brief])
    assert demonstrations([made], use_context=True)[0][0].prompt == [brief, question]


def test_with_contexts_a_pair_needs_one_prompt() -> None:
    made = with_contexts("be brief", "be funny")
    assert len(pairs([made])[0]) == 1
    assert pairs([made], use_context=True) == ([], Counter({views.OTHER_CONTEXT: 1}))


def test_two_system_messages_are_refused() -> None:
    prompt = Prompt(messages=(system("you are a pirate"), Message(role="user", content="Why?")))
    made = with_contexts("be brief", "be brief", prompt)
    assert len(pairs([made])[0]) == 1
    assert pairs([made], use_context=True) == ([], Counter({views.TWO_SYSTEMS: 1}))


# --- demonstrations --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (record("a"), "a"),
        (record("abc", [["c"], ["a", "b"]]), "c"),
        (record("abc", [["c", "b"], ["a"]]), "b"),
        (record("ab", [["a", "b"]]), "a"),
        (record("ab", AB, AB, BA), "a"),
    ],
)
def test_the_best_response_is_the_demonstration(made: PreferenceRecord, expected: str) -> None:
    (item,), dropped = demonstrations([made])
    assert item.response == [{"role": "assistant", "content": expected}]
    assert item.prompt == [{"role": "user", "content": "Why?"}]
    assert not dropped


def test_bad_and_unjudged_responses_are_not_imitated() -> None:
    both_bad = judgement(1, order([["a", "b"]], verdict="both_bad"))
    records = [record("ab", judgements=(both_bad,)), record("abc"), record("")]
    assert demonstrations(records) == (
        [],
        Counter({views.ALL_BAD: 1, views.NOT_JUDGED: 1, views.NO_RESPONSE: 1}),
    )


# --- properties ------------------------------------------------------------------------------------------------------


@st.composite
def weak_orders(draw: st.DrawFn, all_of: bool = False) -> Tiers:
    letters = "abcde"
    placed = list(letters) if all_of else draw(st.lists(st.sampled_from(letters), min_size=2, unique=True))
    level = {name: draw(st.integers(0, 4)) for name in placed}
    return [[n for n in placed if level[n] == depth] for depth in sorted(set(level.values()))]


@given(st.lists(weak_orders(), min_size=1, max_size=5))
def test_votes_are_shares(tiers: list[Tiers]) -> None:
    (ranking,), _ = rankings([record("abcde", *tiers)])
    for i in range(5):
        assert ranking.wins[i][i] == ranking.ties[i][i] == 0
    for i, j in combinations(range(5), 2):
        total = ranking.wins[i][j] + ranking.wins[j][i] + ranking.ties[i][j]
        assert total == pytest.approx(1) if ranking.compared(i, j) else total == 0
        assert ranking.ties[i][j] == ranking.ties[j][i]
        assert ranking.net(i, j) == -ranking.net(j, i)


@given(weak_orders())
def test_pairs_of_one_order_are_its_cross_tier_pairs_and_transitive(tiers: Tiers) -> None:
    items, dropped = pairs([record("abcde", tiers)])
    found = {(p.chosen[0]["content"], p.rejected[0]["content"]) for p in items}
    assert found == {(x, y) for upper, lower in combinations(tiers, 2) for x in upper for y in lower}
    assert all((x, z) in found for x, y in found for y2, z in found if y == y2)
    assert sum(pair.weight for pair in items) == pytest.approx(1 if found else 0)
    assert dropped.total() == (0 if found else 1)
    assert all(pair.soft_label == 1 for pair in items)


@given(st.lists(weak_orders(), min_size=1, max_size=4), st.permutations("abcde"))
def test_the_order_of_responses_and_annotators_changes_no_pair(tiers: list[Tiers], shuffled: list[str]) -> None:
    straight = pairs([record("abcde", *tiers)])[0]
    other = pairs([record("".join(shuffled), *tiers[::-1])])[0]
    assert sorted(names(straight)) == sorted(names(other))


@given(st.lists(weak_orders(), min_size=1, max_size=4))
def test_the_demonstration_never_loses_to_the_worst(tiers: list[Tiers]) -> None:
    made = record("abcde", *tiers)
    best = demonstrations([made])[0][0].response[0]["content"]
    items, _ = pairs([made], mode="best_worst")
    assert all(pair.rejected[0]["content"] != best for pair in items)
