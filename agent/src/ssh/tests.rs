use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use dwell_core::fixtures;
use dwell_core::id::Revision;
use dwell_core::instance::RunState;
use dwell_core::session::NodeNetwork;
use dwell_core::ssh::{HostKey, SshContainer};
use dwell_core::workload::ServicePort;

use super::*;

/// An instance, as its controller assigns it.
fn assigned(name: &str) -> Assigned {
    let private_key = format!("the key of {name}");
    let host_key = HostKey { private_key, certificate: "its certificate".to_owned() };
    let assigned = fixtures::assigned(name, 1, Template::of_image("web"));
    Assigned { host_key: Some(host_key), ..fixtures::at([10, 80, 1, 5].into(), assigned) }
}

fn assignment(instances: Vec<Assigned>) -> Arc<Assignment> {
    let network = NodeNetwork {
        zone: "dwell".to_owned(),
        ..NodeNetwork::of_cluster("10.80.0.0/16".parse().unwrap())
    };
    Arc::new(Assignment {
        revision: Revision(1),
        instances: instances.into_iter().map(|one| (one.instance.clone(), one)).collect(),
        ssh_trust: SshTrust { user_authority: "a CA".to_owned(), ..SshTrust::default() },
        ..Assignment::empty(network)
    })
}

fn running(pid: u32) -> Sighting {
    let container = SshContainer { id: format!("c{pid}"), pid, start_ticks: 7 };
    Sighting { sandbox: Some(true), own_ssh: Some(false), container: Some(Arc::new(container)) }
}

fn sightings<const N: usize>(all: [(&str, Sighting); N]) -> Option<Arc<Sightings>> {
    let all = all.into_iter().map(|(name, seen)| (name.parse().unwrap(), seen));
    Some(Arc::new(all.collect()))
}

/// A node with an agent that comes and goes.
struct Node {
    run_dir: tempfile::TempDir,
    assignment: watch::Sender<Option<Arc<Assignment>>>,
    sightings: watch::Sender<Option<Arc<Sightings>>>,
    task: Option<tokio::task::JoinHandle<()>>,
}

impl Node {
    fn new() -> Self {
        Self {
            run_dir: tempfile::tempdir().unwrap(),
            assignment: watch::Sender::new(None),
            sightings: watch::Sender::new(None),
            task: None,
        }
    }

    fn start(&mut self) {
        let files = SshFiles {
            run_dir: self.run_dir.path().to_owned(),
            assignment: self.assignment.subscribe(),
            sightings: self.sightings.subscribe(),
        };
        self.task = Some(tokio::spawn(files.keep()));
    }

    /// Another agent takes over, which knows nothing yet.
    async fn restart(&mut self) {
        let task = self.task.take().unwrap();
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
        self.assignment.send_replace(None);
        self.sightings.send_replace(None);
        self.start();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.run_dir.path().join("ssh/instances").join(format!("{name}.json"))
    }

    fn read(&self, name: &str) -> Option<SshInstance> {
        let text = fs::read(self.path(name)).ok()?;
        Some(serde_json::from_slice(&text).unwrap())
    }

    fn pid(&self, name: &str) -> Option<u32> {
        self.read(name)?.container.map(|container| container.pid)
    }

    fn trust(&self) -> Option<SshTrust> {
        let text = fs::read(self.run_dir.path().join("ssh/trust.json")).ok()?;
        Some(serde_json::from_slice(&text).unwrap())
    }

    async fn until(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        for _ in 0..10_000 {
            if is_so(self) {
                return;
            }
            sleep(Duration::from_millis(1)).await;
        }
        panic!("{what} did not come true");
    }

    /// Waits until what was told so far has been acted upon: a change of trust is written before the instances.
    async fn settle(&self) {
        for mark in ["one", "two"] {
            self.assignment.send_modify(|assignment| {
                let assignment = Arc::make_mut(assignment.as_mut().unwrap());
                assignment.ssh_trust.host_authority = mark.to_owned();
            });
            self.until(mark, |node| node.trust().is_some_and(|one| one.host_authority == mark))
                .await;
        }
    }
}

#[test]
fn the_files_are_written_while_the_blocking_pool_hangs() {
    dwell_daemon::hung_pool::run(async || {
        let mut node = Node::new();
        node.start();
        node.sightings.send_replace(sightings([("web-0", running(7))]));
        node.assignment.send_replace(Some(assignment(vec![assigned("web-0")])));
        node.until("it is served", |node| node.pid("web-0") == Some(7)).await;
        assert!(node.trust().is_some());
    });
}

#[tokio::test(start_paused = true)]
async fn files_follow_keys_and_containers() {
    let mut node = Node::new();
    node.start();
    let mut web = assigned("web-0");
    node.assignment.send_replace(Some(assignment(vec![web.clone()])));
    node.until("trust", |node| node.trust().is_some()).await;
    let trust = node.trust().unwrap();
    assert_eq!((trust.user_authority.as_str(), trust.zone.as_str()), ("a CA", "dwell"));
    assert_eq!(node.read("web-0"), None);

    node.sightings.send_replace(sightings([("web-0", running(41))]));
    node.until("the first start", |node| node.pid("web-0") == Some(41)).await;
    let served = node.read("web-0").unwrap();
    assert_eq!(served.address, web.address);
    assert_eq!(served.netns, node.run_dir.path().join("netns/web-0").to_str().unwrap());
    assert_eq!(Some(served.host_key), web.host_key);
    assert!(!served.account_keys, "its accounts let nobody in: it is no machine");
    for (path, mode) in
        [("", 0o700), ("instances", 0o700), ("trust.json", 0o600), ("instances/web-0.json", 0o600)]
    {
        let found = fs::metadata(node.run_dir.path().join("ssh").join(path)).unwrap();
        assert_eq!(found.permissions().mode() & 0o777, mode, "{path}");
    }

    let ended = Sighting { container: None, ..running(41) };
    node.sightings.send_replace(sightings([("web-0", ended)]));
    node.until("its end", |node| node.read("web-0").unwrap().container.is_none()).await;
    node.sightings.send_replace(sightings([("web-0", running(42))]));
    node.until("its next start", |node| node.pid("web-0") == Some(42)).await;

    let key = "ssh-ed25519 AAAA alice".to_owned();
    web.template.ssh = Ssh::Dwell {
        authorized_keys: vec![key.clone()],
        key_sets: Some(vec![]),
        users: Some(vec!["deploy".into()]),
        login_as: Some("deploy".into()),
        account_keys: Some(true),
    };
    node.assignment.send_replace(Some(assignment(vec![web.clone()])));
    node.until("the key", |node| node.read("web-0").unwrap().authorized_keys == [key.clone()])
        .await;
    let read = node.read("web-0").unwrap();
    assert_eq!((read.key_sets, read.users), (Some(vec![]), Some(vec!["deploy".to_owned()])));
    assert_eq!((read.login_as.as_deref(), read.account_keys), (Some("deploy"), true));

    node.assignment.send_replace(Some(assignment(vec![])));
    node.until("its removal", |node| node.read("web-0").is_none()).await;
}

#[tokio::test(start_paused = true)]
async fn nothing_flaps_when_an_agent_starts() {
    let mut node = Node::new();
    node.start();
    let both = assignment(vec![assigned("web-0"), assigned("web-1")]);
    node.assignment.send_replace(Some(Arc::clone(&both)));
    node.sightings.send_replace(sightings([("web-0", running(41)), ("web-1", running(42))]));
    node.until("both", |node| node.read("web-0").is_some() && node.read("web-1").is_some()).await;
    let inode = |node: &Node, name| fs::metadata(node.path(name)).unwrap().ino();
    let before = (inode(&node, "web-0"), inode(&node, "web-1"));
    let half_written = node.run_dir.path().join("ssh/instances/.web-2.json.new");
    fs::write(&half_written, "a key").unwrap();

    node.restart().await;
    node.assignment.send_replace(Some(assignment(vec![assigned("web-0"), assigned("web-9")])));
    node.settle().await;
    // Nobody has looked at the node: what is there stays, and nothing is added.
    assert_eq!((node.pid("web-0"), node.pid("web-1")), (Some(41), Some(42)));
    assert!(node.read("web-9").is_none() && !half_written.exists());

    // A sandbox that has to be checked, and the container as it was.
    let doubtful = Sighting { sandbox: None, ..running(41) };
    let unseen = Sighting { sandbox: None, own_ssh: None, container: None };
    node.assignment.send_replace(Some(both));
    node.sightings.send_replace(sightings([("web-0", doubtful), ("web-1", unseen)]));
    node.settle().await;
    assert_eq!((node.pid("web-0"), node.pid("web-1")), (Some(41), None));
    assert_eq!(inode(&node, "web-0"), before.0, "written although it was the same");
    assert_ne!(inode(&node, "web-1"), before.1);

    node.restart().await;
    node.assignment.send_replace(Some(assignment(vec![assigned("web-1")])));
    node.sightings.send_replace(sightings([("web-1", running(43))]));
    node.until("the removal", |node| node.read("web-0").is_none()).await;
    node.until("the other one", |node| node.pid("web-1") == Some(43)).await;
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_written_is_written_later() {
    let mut node = Node::new();
    let in_the_way = node.run_dir.path().join("ssh");
    fs::write(&in_the_way, "").unwrap();
    node.assignment.send_replace(Some(assignment(vec![assigned("web-0")])));
    node.sightings.send_replace(sightings([("web-0", running(41))]));
    node.start();
    sleep(3 * RETRY).await;
    fs::remove_file(in_the_way).unwrap();
    node.until("the file", |node| node.pid("web-0") == Some(41)).await;
}

#[test]
fn who_is_served() {
    let run_dir = Path::new("/run/dwell");
    let is_served = |change: &dyn Fn(&mut Assigned), seen: &Sighting| {
        let mut one = assigned("web-0");
        change(&mut one);
        serving(&one.instance.clone().into(), &one, Some(seen), None, run_dir).is_some()
    };
    let seen = running(1);
    assert!(is_served(&|_| {}, &seen));
    assert!(is_served(
        &|one| one.run = RunState::Stopped,
        &Sighting { container: None, ..running(1) }
    ));
    assert!(!is_served(&|one| one.host_key = None, &seen));
    assert!(!is_served(&|one| one.template.ssh = Ssh::Off, &seen));
    assert!(!is_served(&|one| one.template.ssh = Ssh::Image, &seen));
    let expose = |port, protocol| {
        move |one: &mut Assigned| one.template.expose = vec![ServicePort { port, protocol }]
    };
    assert!(!is_served(&expose(22, Protocol::Tcp), &seen));
    assert!(is_served(&expose(22, Protocol::Udp), &seen));
    assert!(is_served(&expose(80, Protocol::Tcp), &seen));
    assert!(!is_served(&|_| {}, &Sighting { own_ssh: Some(true), ..running(1) }));
    // As long as nobody knows whether the image brings a server, its port is left alone.
    assert!(!is_served(&|_| {}, &Sighting { own_ssh: None, ..running(1) }));
    assert!(!is_served(&|_| {}, &Sighting { sandbox: Some(false), ..running(1) }));
    assert!(!is_served(&|_| {}, &Sighting { sandbox: None, ..running(1) }));
}
