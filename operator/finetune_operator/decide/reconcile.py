"""The decision: from what stands in the cluster to what shall happen next. Begin here.

Pure: ``reconcile(Observed) -> Plan``, no clock, no client, no memory of its own. What the operator must remember
stands in ``status`` (the runtime's snapshot, the stages, the terminal conditions), so a restart at any point goes on.
``situation.look`` reads, ``choose`` chooses one arm, and the arm says what to do; no arm calls another.

The arms lie in ``start`` (no child yet), ``run`` (a child works or is held up), ``stop`` (a child goes) and ``finish``
(something has ended). What keeps a job waiting is read in ``holds``, how a child ended in ``child_end``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from finetune_operator.decide import finish, run, start, stop
from finetune_operator.decide.attempts import events_about
from finetune_operator.decide.child_end import EndedBadly, EndedSilently, EndedWell, Interrupted
from finetune_operator.decide.plan import Event, Observed, Plan
from finetune_operator.decide.situation import Situation, look
from finetune_operator.decide.stages import given_up

__all__ = ["choose", "reconcile"]

Arm = Callable[[Situation], Plan]


def reconcile(observed: Observed) -> Plan:
    """Decide what to do about one job. Never raises, whatever the objects hold.

    What can't be taken back (an end as failed, a create, a delete, a stage set back) is decided on live reads only; a
    cache that lags would end a healthy job.
    """
    situation = look(observed)
    if situation is None:
        return Plan()  # it is being deleted
    stored = situation
    while isinstance(situation.child_end, EndedWell):
        situation = finish.stage_done(situation)  # at most once a stage: one write says all of it
    plan = choose(situation)(situation)
    if plan.irrevocable and not observed.live:
        return Plan(needs_live=True, waiting=plan.waiting)
    plan = replace(plan, events=(*events_about(stored, plan), *plan.events))
    return _with_resumed(situation, plan)


def choose(s: Situation) -> Arm:  # noqa: PLR0911, PLR0912 - the one visible choice; the first that fits
    """Return the arm for a situation."""
    # Terminal is terminal: a job that has ended is never run again, whatever is missing.
    if s.ended:
        return finish.after_the_end
    if s.spec is None:
        return finish.unreadable
    # What has ended is judged first, suspended or not: a result is never lost to an edit.
    if s.stage is None and s.snapshot is not None:
        return finish.all_done
    if isinstance(s.child_end, EndedBadly):
        return finish.failed
    if isinstance(s.child_end, EndedSilently):
        return finish.report_lost
    # Before everything that a job could wait for: one that stands still waits for nothing.
    if s.suspend:
        return stop.suspend
    if s.snapshot is None:
        return start.without_runtime
    if s.foreign is not None:
        return stop.foreign_child
    if s.leftovers:
        return stop.remove_leftovers
    if isinstance(s.child_end, Interrupted):
        return stop.try_again
    if s.child is None:
        if s.current_stage.state != "Pending":
            return stop.vanished
        return start.create if s.seconds_left > 0 else start.no_time_left
    if s.child.deleting or given_up(s.current_stage, s.child):
        return stop.going
    if s.renewed:
        return stop.take_new_runtime
    if s.in_another_queue:
        return stop.take_new_queue
    if run.is_between_pods(s):
        return run.stays_told
    return run.works if run.what_holds(s) is None else run.held_up


def _with_resumed(s: Situation, plan: Plan) -> Plan:
    """Add the Event about a job that is no longer suspended to the plan that takes note of it."""
    resumed = s.suspension is not None and s.spec is not None and not s.suspend
    if not resumed or plan.status is None:
        return plan
    return replace(plan, events=(Event(reason="Resumed", message="spec.suspend is false again."), *plan.events))
