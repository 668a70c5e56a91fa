//! What was declared, as far as the controller has answered.

use std::collections::{BTreeMap, BTreeSet};

use rand::Rng as _;
use rand::rngs::StdRng;

/// All workloads.
#[derive(Debug, Default)]
pub(super) struct Declared {
    workloads: BTreeMap<String, Workload>,
    /// How many names were given. A name is used again after some time, as people do.
    names: usize,
    /// Instances whose volume has their mark. A volume outlives its workload.
    marked: BTreeSet<String>,
}

/// A workload of the image `hello`.
#[derive(Clone, Debug)]
pub(super) struct Workload {
    pub(super) replicas: usize,
    /// What its environment says.
    pub(super) version: u64,
    pub(super) memory_mib: u64,
    /// Whether each instance has a volume.
    pub(super) has_volume: bool,
    /// Whether it has a health check.
    pub(super) is_checked: bool,
    /// What its good versions run.
    program: Program,
}

/// What a good version runs: the usual program, or one that does not do all that one would wish.
#[derive(Clone, Copy, Debug)]
enum Program {
    Usual,
    /// Listens after this many tenths of a second.
    Late(u8),
    /// Ignores that it is told to end.
    Deaf,
    /// Leaves children behind that nobody waits for.
    Litter,
}

impl Program {
    fn random(random: &mut StdRng) -> Self {
        match random.random_range(0..8) {
            0 => Self::Late(3),
            1 => Self::Late(30),
            2 => Self::Deaf,
            3 => Self::Litter,
            _ => Self::Usual,
        }
    }

    /// What a manifest says of it.
    fn manifest(self) -> String {
        match self {
            Self::Usual => String::new(),
            Self::Late(tenths) => {
                format!(", command: [/program, late, '{}.{}']", tenths / 10, tenths % 10)
            }
            Self::Deaf => ", command: [/program, deaf], stop_grace_period: 1s".to_owned(),
            Self::Litter => ", command: [/program, litter]".to_owned(),
        }
    }
}

impl Workload {
    pub(super) fn random(random: &mut StdRng) -> Self {
        Self {
            replicas: random.random_range(1..=5),
            version: 1,
            memory_mib: 48,
            has_volume: random.random_bool(0.4),
            is_checked: random.random_bool(0.6),
            program: Program::random(random),
        }
    }

    /// The file that declares it; a bad version ends at once, or after half a second.
    pub(super) fn manifest(&self, name: &str, bad: bool) -> String {
        let Self { replicas, version, memory_mib, .. } = self;
        let volumes = if self.has_volume { ", volumes: [\"data:/data\"]" } else { "" };
        let check = if self.is_checked { ", healthcheck: {tcp: 8080, interval: 1s}" } else { "" };
        let command = match (bad, version % 2) {
            (false, _) => self.program.manifest(),
            (true, 0) => ", command: [/program, ends, '0']".to_owned(),
            (true, _) => ", command: [/program, ends, '0.5']".to_owned(),
        };
        format!(
            "workloads: {{{name}: {{image: hello, replicas: {replicas}, environment: {{VERSION: \"{version}\"}}, \
             resources: {{memory: {memory_mib}Mi}}, update: {{parallelism: 2, deadline: 20s, monitor: 2s}}\
             {volumes}{check}{command}}}}}"
        )
    }
}

impl Declared {
    pub(super) fn len(&self) -> usize {
        self.workloads.len()
    }

    pub(super) fn instances(&self) -> usize {
        self.workloads.values().map(|workload| workload.replicas).sum()
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.workloads.keys().map(String::as_str)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&String, &Workload)> {
        self.workloads.iter()
    }

    pub(super) fn get(&self, name: &str) -> Option<&Workload> {
        self.workloads.get(name)
    }

    pub(super) fn get_mut(&mut self, name: &str) -> Option<&mut Workload> {
        self.workloads.get_mut(name)
    }

    pub(super) fn is_marked(&self, instance: &str) -> bool {
        self.marked.contains(instance)
    }

    pub(super) fn mark(&mut self, instance: String) {
        self.marked.insert(instance);
    }

    /// A name that is free.
    pub(super) fn new_name(&mut self) -> String {
        loop {
            self.names += 1;
            let name = format!("w{}", self.names % 12);
            if !self.workloads.contains_key(&name) {
                return name;
            }
        }
    }

    pub(super) fn put(&mut self, name: String, workload: Workload) {
        self.workloads.insert(name, workload);
    }

    pub(super) fn remove(&mut self, name: &str) {
        self.workloads.remove(name);
    }
}
