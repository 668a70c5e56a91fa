//! What every engine must do, as tests that any engine can be put to.
//!
//! A crate with an engine implements [`Harness`] and expands [`engine_contract!`](crate::engine_contract) in one of its
//! test programs; each check becomes a test there. The checks say nothing of any particular engine. What a program
//! in a container does, and what happens on the node beside the engine, is the harness's.

#![expect(
    clippy::unwrap_used,
    reason = "they are tests, and one that cannot go on is to fail on the spot"
)]

mod attach;
mod carry;
mod exec;
mod foreign;
mod image;
mod life;
mod node;
mod output;

use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use dwell_core::container::ContainerId;
use dwell_core::id::InstanceName;
use dwell_core::instance::Assigned;
use dwell_core::workload::Template;
use futures_util::TryStreamExt;
use tokio::time::timeout;

pub use self::attach::{
    a_main_process_is_attached_to, a_main_process_that_nobody_waits_for_is_hung_up,
    what_has_ended_is_attached_to_and_what_never_ran_is_not,
};
pub use self::carry::{
    files_are_carried_over_and_the_others_stay, nothing_is_carried_from_what_runs_or_into_what_ran,
    what_is_too_much_is_not_carried_over,
};
pub use self::exec::{
    a_command_ends_when_it_is_hung_up_or_killed, a_command_has_both_outputs_and_an_exit_code,
    a_command_reads_its_input, a_command_that_cannot_be_started_says_why,
    no_command_runs_in_what_does_not_run,
};
pub use self::foreign::{
    what_is_dwells_own_is_not_taken_for_foreign, what_is_not_dwells_is_stopped_kept_and_put_back,
};
pub use self::image::{
    a_loaded_image_goes_with_its_last_name, half_an_archive_leaves_nothing,
    images_are_listed_with_their_names_and_containers,
    what_a_container_is_made_from_is_not_removed,
};
pub use self::life::{
    a_container_is_made_once, a_removal_kills_and_can_be_repeated, a_run_that_ends_leaves_its_code,
    a_start_can_be_repeated, a_stop_lets_the_process_end, a_stubborn_process_is_killed_after_grace,
    a_wait_ends_with_the_process, events_tell_a_life, what_somebody_removes_is_gone,
};
pub use self::node::{
    a_missing_image_is_told, copies_become_volumes, it_says_what_it_is,
    kept_volumes_are_not_made_anew, leftovers_are_found_and_swept, limits_are_set_while_it_runs,
    strangers_are_told_and_left_alone, volumes_outlive_containers, what_is_gone_is_not_made_ready,
};
pub use self::output::{
    lines_are_followed_until_the_end, lines_since_a_moment, output_is_read_and_cut,
    the_last_output_outlives_the_container,
};
use crate::{Container, Engine, LogOptions, Output, OutputStream, fake};

/// How long anything that should happen may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a process is given to end, when it does.
const GRACE: Duration = Duration::from_secs(20);

/// The main process of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// Runs, and ends with this exit code as soon as it is asked to, once it has written a line.
    Serves {
        /// The exit code.
        exit_code: i32,
    },
    /// Runs until it is killed.
    IsStubborn,
    /// Writes this to its standard output and ends.
    Prints {
        /// What it writes.
        text: &'static str,
        /// The exit code.
        exit_code: i32,
    },
    /// Writes `name? ` and no end of a line, then what it reads, and ends with 0 when there is no more.
    Repeats,
}

/// A command beside the main process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Writes to both outputs and ends.
    Prints {
        /// To its standard output.
        stdout: &'static str,
        /// To its standard error.
        stderr: &'static str,
        /// The exit code.
        exit_code: i32,
    },
    /// Writes what it reads, until there is no more.
    Repeats,
    /// Runs until it is ended.
    Waits,
    /// Is not there.
    IsMissing,
    /// Is there, and is no program.
    IsNoProgram,
}

/// An engine on a node, and what else happens there. Each check gets one in which nothing is of another check.
#[async_trait]
pub trait Harness: Send + Sync {
    /// The engine.
    fn engine(&self) -> &dyn Engine;

    /// What runs a program, from an image that is there.
    fn template(&self, program: Program) -> Template;

    /// Something of an image that is not there and cannot be fetched.
    fn of_missing_image(&self) -> Template;

    /// An archive with one image of that name, which is nowhere on the node.
    async fn archive(&self, name: &str) -> Vec<u8>;

    /// The words of a command.
    fn command(&self, command: Command) -> Vec<String>;

    /// Makes what an instance's container needs on the node before it is started: its sandbox.
    async fn make_sandbox(&self, instance: &InstanceName);

    /// Writes a file in a container, which may run or not, in a directory that is there or not.
    async fn write_file(&self, id: &ContainerId, path: &str, content: &[u8]);

    /// What is in a file of a container, if there is one.
    async fn read_file(&self, id: &ContainerId, path: &str) -> Option<Vec<u8>>;

    /// Somebody removes a container beside the engine's back.
    async fn remove_by_hand(&self, id: &ContainerId);

    /// Somebody makes a container, not of dwell, that has the label of the cluster.
    async fn make_stranger(&self) -> String;

    /// Somebody runs a container, not of dwell, that is started again whenever it ends, has a volume, and has written a file of
    /// its own beside it.
    async fn make_foreign(&self) -> ContainerId;

    /// Leaves something on the node for a container that is gone.
    async fn leave_file(&self) -> PathBuf;
}

/// Makes a test of each check. `$harness` is the path of an async function that makes a [`Harness`] for the check
/// of a name.
#[macro_export]
macro_rules! engine_contract {
    ($harness:path) => {
        $crate::engine_contract! { $harness:
            a_command_ends_when_it_is_hung_up_or_killed,
            a_command_has_both_outputs_and_an_exit_code,
            a_command_reads_its_input,
            a_command_that_cannot_be_started_says_why,
            a_container_is_made_once,
            a_loaded_image_goes_with_its_last_name,
            a_main_process_is_attached_to,
            a_main_process_that_nobody_waits_for_is_hung_up,
            a_missing_image_is_told,
            a_removal_kills_and_can_be_repeated,
            a_run_that_ends_leaves_its_code,
            a_start_can_be_repeated,
            a_stop_lets_the_process_end,
            a_stubborn_process_is_killed_after_grace,
            a_wait_ends_with_the_process,
            events_tell_a_life,
            files_are_carried_over_and_the_others_stay,
            half_an_archive_leaves_nothing,
            images_are_listed_with_their_names_and_containers,
            it_says_what_it_is,
            leftovers_are_found_and_swept,
            limits_are_set_while_it_runs,
            lines_are_followed_until_the_end,
            lines_since_a_moment,
            no_command_runs_in_what_does_not_run,
            nothing_is_carried_from_what_runs_or_into_what_ran,
            output_is_read_and_cut,
            strangers_are_told_and_left_alone,
            the_last_output_outlives_the_container,
            volumes_outlive_containers,
            kept_volumes_are_not_made_anew,
            copies_become_volumes,
            what_a_container_is_made_from_is_not_removed,
            what_has_ended_is_attached_to_and_what_never_ran_is_not,
            what_is_dwells_own_is_not_taken_for_foreign,
            what_is_gone_is_not_made_ready,
            what_is_not_dwells_is_stopped_kept_and_put_back,
            what_is_too_much_is_not_carried_over,
            what_somebody_removes_is_gone,
        }
    };
    ($harness:path: $($check:ident),+ $(,)?) => {
        $(
            #[tokio::test]
            async fn $check() {
                let harness = $harness(stringify!($check)).await;
                $crate::contract::$check(&harness).await;
            }
        )+
    };
}

/// An instance that runs a program, on a node with its sandbox.
async fn assigned(harness: &dyn Harness, name: &str, program: Program) -> Assigned {
    let assigned = fake::assigned(name, 1, harness.template(program));
    harness.make_sandbox(&assigned.instance).await;
    assigned
}

/// A container that runs a program, or has.
async fn started(harness: &dyn Harness, name: &str, program: Program) -> ContainerId {
    let assigned = assigned(harness, name, program).await;
    let id = harness.engine().create(&assigned).await.unwrap();
    harness.engine().start(&id).await.unwrap();
    if let Program::Serves { .. } = program {
        serving(harness, &id).await;
    }
    id
}

/// Waits until a program that serves can be asked to end.
async fn serving(harness: &dyn Harness, id: &ContainerId) {
    let follow = LogOptions { follow: true, ..LogOptions::default() };
    let mut output = harness.engine().logs(id, &follow).await.unwrap();
    timeout(PATIENCE, output.try_next()).await.unwrap().unwrap().unwrap();
}

async fn inspected(harness: &dyn Harness, id: &ContainerId) -> Container {
    harness.engine().inspect(id).await.unwrap()
}

/// All output, standard and error.
async fn texts(mut output: OutputStream) -> (String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    while let Some(piece) = timeout(PATIENCE, output.try_next()).await.unwrap().unwrap() {
        match piece {
            Output::Stdout(bytes) => out.extend_from_slice(&bytes),
            Output::Stderr(bytes) => err.extend_from_slice(&bytes),
        }
    }
    (String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_check_is_made_a_test() {
        let all = [
            include_str!("contract/attach.rs"),
            include_str!("contract/carry.rs"),
            include_str!("contract/exec.rs"),
            include_str!("contract/foreign.rs"),
            include_str!("contract/image.rs"),
            include_str!("contract/life.rs"),
            include_str!("contract/node.rs"),
            include_str!("contract/output.rs"),
        ];
        let (_, expanded) = include_str!("contract.rs").split_once("macro_rules!").unwrap();
        for file in all {
            for (_, rest) in file.match_indices("pub async fn ").map(|(at, _)| file.split_at(at)) {
                let name = rest["pub async fn ".len()..].split('(').next().unwrap();
                assert!(expanded.contains(&format!("            {name},\n")), "{name}");
            }
        }
    }
}
