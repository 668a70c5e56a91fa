//! Which node gets which instance, and why not the others.
//!
//! Pure: [`solve`] is a function of values, knows nothing of sessions, stores or time, and gives the same
//! answer to the same question. The model translates its world into a small abstract [`Problem`] (bins
//! with room, groups of equal items), and translates the [`Solution`] back.
//!
//! What it promises, each a property test:
//! - no bin is given more than it has free;
//! - an item goes only to a bin that is open and that its group's placement allows;
//! - what the previous placement has placed stays where it is;
//! - a group has a [`Reason`] exactly if an item of it has no bin.
//!
//! What it prefers: bins with the fewest items of the same group, so that one host's failure takes the
//! fewest copies of one workload; among those, the bin with the largest share of processor and memory
//! left afterwards; among those, the first.

mod fit;
mod problem;
mod reason;
mod solve;

pub use fit::misfit;
pub use problem::{Answer, Bin, Closed, Group, Placement, Problem, Solution};
pub use reason::{Misfit, REFUSALS_SHOWN, Reason};
pub use solve::{refusal, solve};
