//! How far this node is with images that it is to have before instances get their turn.
//!
//! Nothing of the instances is touched for that. A fetch that gets no further for as long as an update may take has failed, and so
//! has one that only somebody can mend; the node tries on all the same, and says so when it succeeds after all.

use dwell_core::clock::Timestamp;
use dwell_core::instance::{AheadState, ImageAhead, REASON_MAX, sanitize};

use crate::observed::{EngineState, Image, Observed};
use crate::target::Target;

/// Until when a fetch has to get further before it counts as failed.
pub(crate) fn until(target: &Target, image: &str, observed: &Observed) -> Option<Timestamp> {
    let since = match observed.images.get(image)? {
        Image::Missing => return None,
        Image::Pulling { since, .. } => *since,
        Image::Failed(trouble) => trouble.since,
    };
    // The engine can do nothing while it is away.
    let since = since.max(observed.ready_since);
    Some(since.after(target.assigned.update_deadline.as_duration()))
}

/// What is reported of an instance's image ahead.
pub(crate) fn status(target: &Target, observed: &Observed, now: Timestamp) -> Option<ImageAhead> {
    let image = target.assigned.image_ahead.clone()?;
    let is_over = until(target, &image, observed).is_some_and(|until| until <= now);
    let limit = target.assigned.update_deadline;
    let state = match (&observed.engine, observed.images.get(&image)) {
        (EngineState::Away { reason }, _) => AheadState::Fetching(text(reason)),
        (EngineState::Unknown, _) | (_, Some(Image::Missing)) => {
            AheadState::Fetching(String::new())
        }
        (EngineState::Ready, Some(Image::Failed(trouble))) => {
            let reason = text(&trouble.failure.message);
            if is_over || trouble.is_permanent() {
                AheadState::Failed(reason)
            } else {
                AheadState::Fetching(reason)
            }
        }
        (EngineState::Ready, Some(Image::Pulling { .. })) if is_over => {
            AheadState::Failed(format!("the pull got no further for {limit}"))
        }
        (EngineState::Ready, Some(Image::Pulling { progress, .. })) => {
            AheadState::Fetching(text(progress))
        }
        (EngineState::Ready, None) if observed.fetched.contains_key(&image) => AheadState::Here,
        (EngineState::Ready, None) => AheadState::Fetching(String::new()),
    };
    Some(ImageAhead { image, state })
}

fn text(text: &str) -> String {
    sanitize(text, REASON_MAX)
}

#[cfg(test)]
mod tests {
    use dwell_core::fixtures;
    use dwell_core::instance::Assigned;
    use dwell_core::quantity::Millis;
    use dwell_core::workload::Template;

    use super::*;
    use crate::{Desired, Failure, FailureKind, plan, statuses};

    const NOW: Timestamp = Timestamp(1_000_000);

    fn desired() -> Desired {
        let assigned = fixtures::assigned("web-0", 1, Template::of_image("a"));
        let update_deadline = Millis::seconds(60);
        [Assigned { image_ahead: Some("b".into()), update_deadline, ..assigned }]
            .into_iter()
            .collect()
    }

    fn says(observed: &Observed, now: Timestamp) -> AheadState {
        statuses(&desired(), observed, now).remove(0).image_ahead.unwrap().state
    }

    fn after(seconds: u64) -> Timestamp {
        NOW.after(std::time::Duration::from_secs(seconds))
    }

    #[test]
    fn it_is_fetched_once_and_nothing_is_done_with_it() {
        let mut observed = Observed { engine: EngineState::Ready, ..Observed::default() };
        let wanted = plan(&desired(), &observed, NOW).ahead;
        assert_eq!(wanted.into_iter().collect::<Vec<_>>(), ["b"]);
        assert_eq!(says(&observed, NOW), AheadState::Fetching(String::new()));
        observed.images.insert("b".into(), Image::Missing.pulling(NOW));
        assert!(plan(&desired(), &observed, NOW).ahead.is_empty(), "it is under way");
        observed.images.remove("b");
        observed.fetched.insert("b".into(), NOW);
        assert!(plan(&desired(), &observed, NOW).ahead.is_empty());
        assert_eq!(says(&observed, NOW), AheadState::Here);
        observed.engine = EngineState::Away { reason: "gone".into() };
        assert_eq!(says(&observed, NOW), AheadState::Fetching("gone".into()));
    }

    #[test]
    fn a_fetch_that_gets_no_further_has_failed_when_its_time_is_up() {
        let mut observed = Observed { engine: EngineState::Ready, ..Observed::default() };
        let mut pull = Image::Missing.pulling(NOW);
        pull.progress("1 of 3 layers".into(), after(20));
        observed.images.insert("b".into(), pull);
        assert_eq!(says(&observed, after(79)), AheadState::Fetching("1 of 3 layers".into()));
        let planned = plan(&desired(), &observed, after(20));
        assert!(planned.wake_at.is_some_and(|at| at <= after(80)), "so that it is told");
        let told = AheadState::Failed("the pull got no further for 1m".into());
        assert_eq!(says(&observed, after(80)), told);
    }

    #[test]
    fn what_only_somebody_can_mend_has_failed_at_once() {
        let mut observed = Observed { engine: EngineState::Ready, ..Observed::default() };
        let failed = |kind| {
            let failure = Failure { kind, message: "no such image".into() };
            Image::Missing.pulling(NOW).failed(failure, NOW)
        };
        observed.images.insert("b".into(), failed(FailureKind::Transient));
        assert_eq!(says(&observed, NOW), AheadState::Fetching("no such image".into()));
        assert_eq!(says(&observed, after(60)), AheadState::Failed("no such image".into()));
        observed.images.insert("b".into(), failed(FailureKind::Permanent));
        assert_eq!(says(&observed, NOW), AheadState::Failed("no such image".into()));
        let later = plan(&desired(), &observed, after(3_600)).ahead;
        assert!(!later.is_empty(), "it is tried on");
    }
}
