//! Why a job is not started again, or made something else.

use dwell_core::id::{InstanceName, WorkloadName};

/// Why what was asked makes no sense of a job.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OfJob {
    /// An instance of a job has ended, and nothing starts it.
    #[error(
        "{instance} {how} and does not run again; `dwell replace {instance}` has its work done anew"
    )]
    HasEnded {
        /// Which one.
        instance: InstanceName,
        /// How, in words.
        how: &'static str,
    },
    /// An instance of a job with a schedule has nothing to do yet.
    #[error(
        "{instance} waits until its job is due; `dwell replace {instance}` has its work done now"
    )]
    NotDue {
        /// Which one.
        instance: InstanceName,
    },
    /// The schedule of a job was left out.
    #[error(
        "workload {workload} has a schedule, and keeps one: what of it has never been due would begin at once. Write \"stopped: \
         true\" to have it rest, or remove it first with `dwell rm {workload} --wait`"
    )]
    KeepsSchedule {
        /// Which workload.
        workload: WorkloadName,
    },
    /// What runs on was declared as a job, or the other way.
    #[error(
        "workload {workload} {is}, and stays one: its instances have begun as such. Remove it first with `dwell rm {workload}          --wait`, or give this one another name",
        is = if *.is_job { "is a job" } else { "is no job" }
    )]
    OtherKind {
        /// Which workload.
        workload: WorkloadName,
        /// Whether it is a job, as it is.
        is_job: bool,
    },
}
