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
use crate::observed::{Container, Seen};
use crate::step::Step;
use crate::target::Target;

/// At which generation an instance was let go, if it still is.
pub(crate) fn let_go(target: Option<&Target>, seen: &Seen) -> Option<Generation> {
    let at = seen.stored.let_go?;
    match target {
        Some(target) => target.assigned.custody.leaves(at).then_some(at),
        // Of what nobody knows, the journal goes with the last container.
        None => (!seen.containers.is_empty()).then_some(at),
    }
}

/// What an instance needs that is let go, or is to be, or was taken back; `None` if its container is looked after as usual.
pub(super) fn next<'a>(
    target: Option<&Target>,
    seen: &'a Seen,
    node: Node<'a>,
) -> Option<Next<'a>> {
    if let_go(target, seen).is_some() {
        return Some(Next::Rest(Rest::LetGo));
    }
    let let_go = match target?.assigned.custody {
        Custody::Usual => return None,
        Custody::LetGo(at) => Some(at).filter(|_| runs_alone(seen)),
        Custody::Adopted(_) => None,
    };
    if let_go == seen.stored.let_go {
        return None;
    }
    let journal = Journal { let_go, ..seen.journal.clone() };
    Some(attempt(Step::Record(Box::new(journal)), seen, node))
}

/// Whether one container of an instance runs, and is not about to end.
fn runs_alone(seen: &Seen) -> bool {
    let mut running = seen.containers.iter().filter(|one| one.is_running());
    let is_to_stay = |one: &Container| {
        !one.stale && !seen.journal.has_ordered_end(one) && seen.journal.given_up(one).is_none()
    };
    running.next().is_some_and(is_to_stay) && running.next().is_none()
}
