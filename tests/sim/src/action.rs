//! What befalls the fleet: deeds of operators, and faults. A list of them, with times, is a [`Scenario`].

use std::fmt;

use crate::host::BAD;
use crate::schedule::Ms;

/// A kind of fault, as a whole switched on or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Operators do random things, all of which are allowed.
    Operators,
    /// Agents are killed and start again.
    AgentCrash,
    /// Hosts lose power, and come back.
    PowerLoss,
    /// Main processes are killed, containers and sandboxes removed by hand.
    ByHand,
    /// A host's disk is full for a while.
    FullDisk,
    /// The engine's daemon is away for a while, with or without its containers.
    EngineAway,
    /// The engine is restarted with another store of its own, or with the one from before, which has what it had then.
    EngineStore,
    /// The engine takes calls and does not answer.
    EngineHung,
    /// Calls to the engine fail, take long, or their answers get lost.
    EngineFaulty,
    /// Links are cut, in one direction or both.
    Cut,
    /// Streams break, their last messages come late, and messages come twice.
    BrokenStream,
    /// The wall clock of a host or of the controller is set.
    ClockStep,
    /// The controller is killed and starts again, also in the middle of a commit.
    ControllerCrash,
    /// The controller's disk is full for a while.
    FullStore,
    /// The controller is restored from an earlier backup.
    Restore,
    /// A host that is down is removed by force, and comes back.
    ForcedRemoval,
    /// The name of a node that was removed by force is given to another host.
    NameReused,
    /// A host is cloned with its disk, and both run.
    Clone,
    /// Versions that do not work are declared.
    BadVersion,
    /// The engine misses the end of a process, and goes on to call it running.
    MissedDeath,
    /// The engine takes a container for ended whose process runs on.
    LostProcess,
    /// Instances with volumes are scaled down and up, removed and declared again; volumes are removed behind dwell's back.
    Volumes,
    /// Somebody runs containers of their own with labels like those of dwell.
    Foreign,
    /// Operators send chosen instances elsewhere, have them replaced, and take chosen ones away.
    Orders,
    /// Instances are replaced when their nodes are lost, as long as operators want it so.
    Lost,
    /// A few instances try new versions out, which operators promote or take back.
    Canaries,
    /// Workloads run to completion, and operators have work done anew.
    Jobs,
    /// Operators let go of instances, and take them back.
    Custody,
    /// Instances move together with their volumes, some to hosts on which nothing works.
    VolumeMoves,
    /// Nodes get more blocks of addresses, and give up others.
    Blocks,
}

impl Class {
    /// All of them.
    pub const ALL: [Self; 30] = [
        Self::Operators,
        Self::AgentCrash,
        Self::PowerLoss,
        Self::ByHand,
        Self::FullDisk,
        Self::EngineAway,
        Self::EngineStore,
        Self::EngineHung,
        Self::EngineFaulty,
        Self::Cut,
        Self::BrokenStream,
        Self::ClockStep,
        Self::ControllerCrash,
        Self::FullStore,
        Self::Restore,
        Self::ForcedRemoval,
        Self::NameReused,
        Self::Clone,
        Self::BadVersion,
        Self::MissedDeath,
        Self::LostProcess,
        Self::Volumes,
        Self::Foreign,
        Self::Orders,
        Self::Canaries,
        Self::Lost,
        Self::Jobs,
        Self::Custody,
        Self::VolumeMoves,
        Self::Blocks,
    ];

    /// Its name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Operators => "operators",
            Self::AgentCrash => "agent-crash",
            Self::PowerLoss => "power-loss",
            Self::ByHand => "by-hand",
            Self::FullDisk => "full-disk",
            Self::EngineAway => "engine-away",
            Self::EngineStore => "engine-store",
            Self::EngineHung => "engine-hung",
            Self::EngineFaulty => "engine-faulty",
            Self::Cut => "cut",
            Self::BrokenStream => "broken-stream",
            Self::ClockStep => "clock-step",
            Self::ControllerCrash => "controller-crash",
            Self::FullStore => "full-store",
            Self::Restore => "restore",
            Self::ForcedRemoval => "forced-removal",
            Self::NameReused => "name-reused",
            Self::Clone => "clone",
            Self::BadVersion => "bad-version",
            Self::MissedDeath => "missed-death",
            Self::LostProcess => "lost-process",
            Self::Volumes => "volumes",
            Self::Foreign => "foreign",
            Self::Orders => "orders",
            Self::Canaries => "canaries",
            Self::Lost => "lost",
            Self::Jobs => "jobs",
            Self::Custody => "custody",
            Self::VolumeMoves => "volume-moves",
            Self::Blocks => "blocks",
        }
    }
}

/// One thing that befalls the fleet. Hosts, workloads and containers are meant by number, modulo how many
/// there are when it happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Apply { workload: u8, bad: Option<u8> },
    ApplyAgain { workload: u8 },
    Promote { workload: u8 },
    Abort { workload: u8 },
    OnLost { workload: u8, after_s: Option<u64> },
    Scale { workload: u8, replicas: u32 },
    Remove { workload: u8 },
    RemoveAndApply { workload: u8, after_ms: Ms },
    Restart { workload: u8 },
    Move { pick: u8, to: Option<u8> },
    RemoveOne { pick: u8 },
    Replace { pick: u8 },
    Dissociate { pick: u8 },
    Adopt { pick: u8 },
    MoveVolumes { pick: u8, to: Option<u8> },
    AbortMove { pick: u8 },
    AddBlock { host: u8, again: bool },
    RetireBlock { host: u8, pick: u8 },
    Spoil { host: u8, for_ms: Ms },
    Resize { pick: u8, mebi: Option<u64> },
    Run { workload: u8, run: bool },
    Drain { host: u8, on: bool },
    RemoveVolume { pick: u8 },
    LoseVolume { host: u8, pick: u8 },
    KillAgent { host: u8, down_ms: Ms },
    PowerLoss { host: u8, down_ms: Ms },
    KillProcess { host: u8, pick: u8 },
    RemoveContainer { host: u8, pick: u8 },
    MissDeath { host: u8, pick: u8 },
    LoseProcess { host: u8, pick: u8 },
    LoseSandbox { host: u8, pick: u8 },
    FillDisk { host: u8, for_ms: Ms },
    EngineDown { host: u8, for_ms: Ms, kills: bool },
    SwitchStore { host: u8, for_ms: Ms, kills: bool },
    EngineHangs { host: u8, for_ms: Ms },
    EngineFaulty { host: u8, for_ms: Ms, failing: u32, losing: u32, slow_max: Ms },
    Cut { host: u8, for_ms: Ms, up: bool, down: bool },
    Delay { host: u8, for_ms: Ms, delay_max: Ms },
    BreakStream { host: u8 },
    Repeat { host: u8, for_ms: Ms },
    RunForeign { host: u8, pick: u8 },
    StepClock { host: Option<u8>, by_ms: i64 },
    KillController { down_ms: Ms },
    CrashInCommit { kept: bool },
    FillStore { for_ms: Ms },
    Restore { back: u8 },
    RemoveNode { host: u8, returns_after_ms: Ms, reuse: bool },
    CloneHost { host: u8 },
}

/// How long a node has to be silent before operators may remove it by force.
pub(crate) const DOWN_AFTER_MS: Ms = 125_000;

impl Action {
    /// For how long the faults have to go on for it to mean anything.
    fn lasts_ms(&self) -> Ms {
        match self {
            Self::RemoveNode { returns_after_ms, .. } => {
                DOWN_AFTER_MS + (*returns_after_ms).min(30_000)
            }
            _ => 0,
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What befalls a fleet of which size, and when.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// What everything that is not in `actions` is decided by.
    pub seed: u64,
    pub(crate) hosts: u8,
    pub(crate) workloads: Vec<Shape>,
    /// What happens at which time.
    pub(crate) actions: Vec<(Ms, Action)>,
    /// When the faults stop.
    pub(crate) end: Ms,
}

/// What does not change of a workload.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) replicas: u32,
    pub(crate) volume: bool,
    pub(crate) health: bool,
    /// One instance tries new versions out.
    pub(crate) canary: bool,
    /// How many instances may fail with a new version; `None` for any number.
    pub(crate) may_fail: Option<u32>,
    /// What is lost with its node is replaced.
    pub(crate) lost: bool,
    /// What its instances are promised for their end, in seconds.
    pub(crate) grace_s: u64,
    /// It is a job, and so many of it are at work at once; 0 for all.
    pub(crate) job: Option<u32>,
    /// There is one on every node, whatever `replicas` says.
    pub(crate) per_node: bool,
}

impl Scenario {
    /// The scenario of a seed, with faults of these classes.
    #[must_use]
    pub fn of_seed(seed: u64, classes: &[Class], actions: usize) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let hosts = rng.u8(2..=4);
        let has_volumes =
            [Class::Volumes, Class::VolumeMoves].iter().any(|one| classes.contains(one));
        let shape = |rng: &mut fastrand::Rng| {
            let shape = Shape {
                replicas: rng.u32(1..=3),
                volume: has_volumes && rng.u8(..3) == 0,
                health: rng.bool(),
                canary: classes.contains(&Class::Canaries) && rng.bool(),
                may_fail: Some(0),
                lost: classes.contains(&Class::Lost) && rng.u8(..3) > 0,
                grace_s: if rng.u8(..3) == 0 { 60 } else { 10 },
                job: None,
                per_node: false,
            };
            let is_job = classes.contains(&Class::Jobs) && rng.bool();
            let job = is_job.then(|| rng.u32(0..=2));
            let (health, canary) = (shape.health && !is_job, shape.canary && !is_job);
            Shape { lost: shape.lost && !shape.volume, job, health, canary, ..shape }
        };
        let count = rng.u8(1..=3);
        let mut workloads: Vec<Shape> = (0..count).map(|_| shape(&mut rng)).collect();
        if let Some(first) =
            workloads.first_mut().filter(|first| first.job.is_none() && seed % 4 == 3)
        {
            (first.per_node, first.lost) = (true, false);
        }
        if classes.contains(&Class::BadVersion) {
            // By numbers of its own, so that everything else of a seed is what it was before some might fail.
            let mut rng = fastrand::Rng::with_seed(seed.wrapping_add(1 << 40));
            for shape in workloads.iter_mut().filter(|shape| shape.job.is_none()) {
                shape.may_fail = rng.choice([Some(0), Some(0), Some(1), None]).unwrap_or(Some(0));
            }
        }
        let mut at = 8_000;
        let mut list = Vec::new();
        for _ in 0..actions {
            at += if rng.u8(..3) == 0 { rng.u64(0..300) } else { rng.u64(0..8_000) };
            if let Some(&class) = rng.choice(classes) {
                list.push((at, action(class, classes, &mut rng)));
            }
        }
        let lasting = list.iter().map(|(at, action)| at + action.lasts_ms());
        let end = lasting.max().unwrap_or(at) + 5_000;
        Self { seed, hosts, workloads, actions: list, end }
    }

    /// How many things befall the fleet.
    #[must_use]
    pub fn len(&self) -> usize {
        self.actions.len()
    }

    /// Whether nothing does.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.actions.is_empty()
    }

    /// The same with only some of its actions.
    #[must_use]
    pub(crate) fn with(&self, actions: Vec<(Ms, Action)>) -> Self {
        Self { actions, ..self.clone() }
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}, {} hosts", self.seed, self.hosts)?;
        for (number, shape) in self.workloads.iter().enumerate() {
            writeln!(f, "  workload {number}: {shape:?}")?;
        }
        for (at, action) in &self.actions {
            writeln!(f, "  {:>4}.{:03} {action}", at / 1000, at % 1000)?;
        }
        Ok(())
    }
}

/// A time that is short mostly and long at times.
fn span(rng: &mut fastrand::Rng) -> Ms {
    match rng.u8(..8) {
        0 => rng.u64(30_000..180_000),
        1..=3 => rng.u64(3_000..30_000),
        _ => rng.u64(10..3_000),
    }
}

fn action(class: Class, classes: &[Class], rng: &mut fastrand::Rng) -> Action {
    let (host, workload, pick) = (rng.u8(..), rng.u8(..), rng.u8(..));
    let for_ms = span(rng);
    match class {
        Class::Operators => match rng.u8(..12) {
            0..=2 => Action::Apply { workload, bad: None },
            3 => Action::ApplyAgain { workload },
            4 | 5 => Action::Scale { workload, replicas: rng.u32(0..=4) },
            6 if rng.bool() => Action::Remove { workload },
            6 => Action::RemoveAndApply { workload, after_ms: rng.u64(1..400) },
            7 => Action::Restart { workload },
            8 => Action::Run { workload, run: rng.bool() },
            _ => Action::Drain { host, on: rng.u8(..3) > 0 },
        },
        Class::AgentCrash => Action::KillAgent { host, down_ms: for_ms },
        Class::PowerLoss => Action::PowerLoss { host, down_ms: for_ms },
        Class::ByHand => match rng.u8(..4) {
            0 => Action::RemoveContainer { host, pick },
            1 => Action::LoseSandbox { host, pick },
            _ => Action::KillProcess { host, pick },
        },
        Class::FullDisk => Action::FillDisk { host, for_ms },
        Class::EngineAway => Action::EngineDown { host, for_ms, kills: rng.bool() },
        Class::EngineStore => Action::SwitchStore { host, for_ms, kills: rng.bool() },
        Class::EngineHung => Action::EngineHangs { host, for_ms },
        Class::EngineFaulty => Action::EngineFaulty {
            host,
            for_ms,
            failing: rng.u32(0..60),
            losing: rng.u32(0..40),
            slow_max: rng.u64(1..20_000),
        },
        Class::Cut => {
            let (up, down) = [(true, true), (true, false), (false, true)][rng.usize(..3)];
            Action::Cut { host, for_ms, up, down }
        }
        Class::BrokenStream => match rng.u8(..4) {
            0 | 1 => Action::BreakStream { host },
            2 => Action::Repeat { host, for_ms },
            _ => Action::Delay { host, for_ms, delay_max: rng.u64(1..5_000) },
        },
        Class::ClockStep => Action::StepClock {
            host: rng.bool().then_some(host),
            by_ms: rng.i64(-4_000_000..4_000_000),
        },
        Class::ControllerCrash => match rng.bool() {
            true => Action::KillController { down_ms: for_ms },
            false => Action::CrashInCommit { kept: rng.bool() },
        },
        Class::FullStore => Action::FillStore { for_ms },
        Class::Restore => Action::Restore { back: rng.u8(1..) },
        Class::ForcedRemoval | Class::NameReused => {
            Action::RemoveNode { host, returns_after_ms: for_ms, reuse: class == Class::NameReused }
        }
        Class::Clone => Action::CloneHost { host },
        Class::BadVersion if rng.u8(..4) == 0 => Action::ApplyAgain { workload },
        Class::BadVersion => {
            let bad = u8::try_from(rng.usize(..BAD.len())).unwrap_or(0);
            Action::Apply { workload, bad: Some(bad) }
        }
        Class::Foreign => Action::RunForeign { host, pick },
        Class::Orders => match rng.u8(..5) {
            0 => Action::RemoveOne { pick },
            1 => Action::Replace { pick },
            2 => Action::Resize { pick, mebi: (rng.u8(..4) > 0).then(|| rng.u64(16..512)) },
            _ => Action::Move { pick, to: rng.bool().then_some(host) },
        },
        Class::Lost => match rng.u8(..8) {
            0 => Action::OnLost { workload, after_s: rng.bool().then(|| rng.u64(15..60)) },
            1 => Action::PowerLoss { host, down_ms: rng.u64(10_000..90_000) },
            2 => Action::KillAgent { host, down_ms: rng.u64(10_000..90_000) },
            3 => Action::KillController { down_ms: rng.u64(10..60_000) },
            4 => Action::Delay {
                host,
                for_ms: rng.u64(10_000..90_000),
                delay_max: rng.u64(1_000..9_000),
            },
            _ => {
                let (up, down) = [(true, true), (true, false), (false, true)][rng.usize(..3)];
                Action::Cut { host, for_ms: rng.u64(10_000..90_000), up, down }
            }
        },
        Class::Canaries => match rng.u8(..4) {
            0 => Action::Abort { workload },
            1 => Action::Apply { workload, bad: None },
            _ => Action::Promote { workload },
        },
        Class::Jobs => match rng.u8(..4) {
            0 => Action::Apply { workload, bad: None },
            1 => Action::KillProcess { host, pick },
            _ => Action::Replace { pick },
        },
        Class::Custody => match rng.u8(..3) {
            0 => Action::Adopt { pick },
            _ => Action::Dissociate { pick },
        },
        Class::VolumeMoves => match rng.u8(..8) {
            0 => Action::AbortMove { pick },
            1 => Action::FillDisk { host, for_ms },
            2 => Action::Spoil { host, for_ms: for_ms + 60_000 },
            _ => Action::MoveVolumes { pick, to: rng.bool().then_some(host) },
        },
        Class::Blocks => match rng.u8(..7) {
            0 | 1 => Action::AddBlock { host, again: pick.is_multiple_of(4) },
            2 | 3 => Action::RetireBlock { host, pick },
            // With new addresses, which even numbers stand for.
            4 => Action::Replace { pick: pick & !1 },
            5 => Action::Move { pick: pick & !1, to: rng.bool().then_some(host) },
            _ => Action::Scale { workload, replicas: rng.u32(0..=4) },
        },
        Class::MissedDeath => Action::MissDeath { host, pick },
        Class::LostProcess => Action::LoseProcess { host, pick },
        Class::Volumes => match rng.u8(..4) {
            3 if pick >= 160 => Action::LoseVolume { host, pick },
            3 => Action::RemoveVolume { pick },
            0 => Action::Remove { workload },
            1 if classes.contains(&Class::Operators) => Action::Apply { workload, bad: None },
            _ => Action::Scale { workload, replicas: rng.u32(0..=4) },
        },
    }
}
