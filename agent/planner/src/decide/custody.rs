//! Instances that are let go, and taken back.
//!
//! Whether one is let go stands in its journal and nowhere else. What is on disk counts against everything that is desired,
//! until an order to take it back is newer.
//!
//! ```text
//!   looked after ── told to let go, one container runs: Record(let go) ──▶ let go
//!        ▲                                                                   │
//!        └────────────── told to take it back: Record(not let go) ───────────┘
//! ```
//!
//! An order to let go of what does not run at the moment waits until it does: a restart under way is brought to its end first.

use dwell_core::id::Generation;
use dwell_core::instance::Custody;

use super::{Next, Node, Rest, attempt};
use crate::journal::Journal;
use crate::observed::{Container, Sandbox, Seen};
use crate::step::Step;
use crate::target::Target;

/// At which generation an instance was let go, if it still is, and that is on disk.
pub(crate) fn let_go(target: Option<&Target>, seen: &Seen) -> Option<Generation> {
    seen.stored.let_go.filter(|at| counts(*at, target, seen))
}

/// Whether what was let go at a generation still is.
fn counts(at: Generation, target: Option<&Target>, seen: &Seen) -> bool {
    match target {
        Some(target) => target.assigned.custody.leaves(at),
        // Of what nobody knows, the journal goes with the last container.
        None => !seen.containers.is_empty(),
    }
}

/// What an instance needs, and what to tidy up, that is let go, or is to be, or was taken back; `None` if its container is looked
/// after as usual.
pub(super) fn next<'a>(
    target: Option<&Target>,
    seen: &'a Seen,
    node: Node<'a>,
) -> Option<(Next<'a>, Option<Next<'a>>)> {
    let record = |let_go| {
        let journal = Journal { let_go, ..seen.journal.clone() };
        attempt(Step::Record(Box::new(journal)), seen, node)
    };
    // What could not be written may be on disk all the same.
    let unsure = match &seen.trouble {
        Some((Step::Record(journal), _)) => journal.let_go,
        _ => None,
    };
    let last = seen.stored.let_go.or(unsure);
    if last.is_some_and(|at| counts(at, target, seen)) {
        if last != seen.stored.let_go {
            return Some((record(last), None));
        }
        let repair = target.and_then(|_| repair(seen)).map(|step| attempt(step, seen, node));
        return Some((Next::Rest(Rest::LetGo), repair));
    }
    let let_go = match target?.assigned.custody {
        Custody::Usual => return None,
        Custody::LetGo(at) => Some(at).filter(|_| runs_alone(seen)),
        Custody::Adopted(_) => None,
    };
    (let_go != last).then(|| (record(let_go), None))
}

/// Looks to the sandbox of what runs, which its process does not notice. One that is gone is not made again: the process would not be
/// in it.
fn repair(seen: &Seen) -> Option<Step> {
    let slot = seen.containers.iter().find(|one| one.is_running())?.slot;
    let is_to_be_looked_at = matches!(seen.sandboxes.of(slot), Sandbox::Doubtful | Sandbox::Beside);
    is_to_be_looked_at.then_some(Step::RepairSandbox { slot, reached: true })
}

/// Whether one container of an instance runs, and is not about to end.
fn runs_alone(seen: &Seen) -> bool {
    let mut running = seen.containers.iter().filter(|one| one.is_running());
    let is_to_stay = |one: &Container| {
        !one.stale && !seen.journal.has_ordered_end(one) && seen.journal.given_up(one).is_none()
    };
    running.next().is_some_and(is_to_stay) && running.next().is_none()
}
