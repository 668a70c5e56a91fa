use super::super::{Goal, Progress, Seen, failed, progress, reached};
use crate::names::Subject;
use crate::wait::{Awaited, State};
use dwell_proto::v1::{self, task_end::Outcome};

fn workload() -> v1::Workload {
    v1::Workload {
        spec: Some(v1::WorkloadSpec {
            name: "job".into(),
            replicas: 2,
            job: Some(v1::Job::default()),
            ..Default::default()
        }),
        generation: 3,
        ..Default::default()
    }
}

fn instance(ordinal: u32, end: Option<(Outcome, Option<i32>)>) -> v1::Instance {
    let end = end.map(|(outcome, code)| v1::TaskEnd {
        outcome: outcome.into(),
        code,
        ..Default::default()
    });
    let reason = "failed at its only attempt, with exit code 3".to_owned();
    v1::Instance {
        name: format!("job-{ordinal}"),
        workload: "job".into(),
        ordinal,
        generation: 3,
        task: Some(v1::TaskState { number: 3, end, reason, ..Default::default() }),
        status: Some(v1::InstanceStatus { phase: v1::Phase::Running.into(), ..Default::default() }),
        ..Default::default()
    }
}

fn goals() -> [Goal; 3] {
    let awaited = |state| {
        let subject = Subject::Workload("job".into());
        Goal::In(Awaited { subject, state, generation: 3, created_at_ms: 0 })
    };
    [
        Goal::Declared { workload: "job".into(), generation: 3 },
        awaited(State::Healthy),
        awaited(State::Completed),
    ]
}

#[test]
fn a_job_is_done_when_all_have_completed_and_in_vain_once_one_has_failed() {
    let completed = Some((Outcome::Completed, Some(0)));
    for goal in goals() {
        let far = |instances| {
            let seen = Seen::new(vec![workload()], instances, vec![]);
            (progress(std::slice::from_ref(&goal), &seen), seen)
        };
        let (half, _) = far(vec![instance(0, completed), instance(1, None)]);
        let says = "job: 1 of 2 completed; job-1: running".to_owned();
        assert_eq!(half, Progress::Waiting(says), "{goal:?}");
        let (one, _) = far(vec![instance(0, completed)]);
        assert_eq!(one, Progress::Waiting("job: 1 of 2 completed".into()), "{goal:?}");
        let (all, _) = far(vec![instance(0, completed), instance(1, completed)]);
        assert_eq!(all, Progress::Done, "{goal:?}");

        let ill = Some((Outcome::Failed, Some(3)));
        let (in_vain, seen) = far(vec![instance(0, None), instance(1, ill)]);
        let says = "job-1 failed at its only attempt, with exit code 3".to_owned();
        assert_eq!(in_vain, Progress::Failed(says), "{goal:?}");
        assert_eq!(failed(std::slice::from_ref(&goal), &seen), Some("job-1"));
        let late = Some((Outcome::Failed, None));
        let (_, seen) = far(vec![instance(0, None), instance(1, late)]);
        assert_eq!(failed(std::slice::from_ref(&goal), &seen), None, "it printed nothing of that");
    }
}

#[test]
fn an_instance_of_a_job_is_waited_for_by_itself() {
    let subject = Subject::Instance("job-1".into());
    let goal =
        [Goal::In(Awaited { subject, state: State::Healthy, generation: 3, created_at_ms: 0 })];
    let failed_one = instance(0, Some((Outcome::Failed, Some(3))));
    let completed = instance(1, Some((Outcome::Completed, Some(0))));
    let seen = Seen::new(vec![workload()], vec![failed_one, completed], vec![]);
    assert_eq!(progress(&goal, &seen), Progress::Done);
    assert_eq!(reached(&goal, &seen), ["job-1: completed"]);
    assert_eq!(failed(&goal, &seen), None);
    let settled = [Goal::Settled { instance: "job-1".into() }];
    assert_eq!(progress(&settled, &seen), Progress::Done);
}

#[test]
fn work_that_is_not_due_yet_is_not_waited_for() {
    let mut idle = instance(1, None);
    idle.task.as_mut().unwrap().idle = true;
    assert_eq!(super::one(&idle), Some(Progress::Done));
}

#[test]
fn a_stopped_job_is_not_waited_for() {
    let mut stopped = workload();
    stopped.set_run(v1::RunState::Stopped);
    let seen = Seen::new(vec![stopped], vec![instance(0, None), instance(1, None)], vec![]);
    for goal in goals() {
        let says = "job is stopped; `dwell start job` starts it".to_owned();
        assert_eq!(progress(&[goal], &seen), Progress::Failed(says));
    }
}
