//! The agent's directory in all its states.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dwell_core::ssh::{HostKey, SshInstance, SshTrust};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::{Keeper, ServedNow, Trust, Watch, keep_with};

const KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGfVWkIXHHiiSBp2KHO2o0YvcsHOOMFm0HjuSPMYCHSt a";

struct World {
    dir: tempfile::TempDir,
    trust: watch::Receiver<Arc<Trust>>,
    served: Arc<Mutex<Vec<ServedNow>>>,
    task: JoinHandle<()>,
}

impl World {
    fn start() -> Self {
        Self::start_with(Watch::new)
    }

    fn start_with(watch: fn(&Path) -> io::Result<Watch>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (sender, trust) = watch::channel(Arc::default());
        let served = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&served);
        let serve = move |instance| seen.lock().unwrap().push(instance);
        let keeper =
            Keeper { dir: dir.path().join("ssh"), trust: sender, serve, instances: HashMap::new() };
        let task = tokio::spawn(keep_with(keeper, watch));
        Self { dir, trust, served, task }
    }

    fn make(&self) {
        std::fs::create_dir_all(self.dir.path().join("ssh/instances")).unwrap();
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.dir.path().join("ssh").join(name);
        let beside = path.with_extension("new");
        std::fs::write(&beside, content).unwrap();
        std::fs::rename(beside, path).unwrap();
    }

    fn remove(&self, name: &str) {
        std::fs::remove_file(self.dir.path().join("ssh").join(name)).unwrap();
    }

    async fn first_served(&self) -> ServedNow {
        eventually(|| self.served.lock().unwrap().first().cloned()).await
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn eventually<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let looking = async {
        loop {
            match look() {
                Some(found) => return found,
                None => tokio::time::sleep(Duration::from_millis(2)).await,
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), looking).await.expect("it never came")
}

fn instance(name: &str, keys: &[&str]) -> Vec<u8> {
    let host_key = HostKey { private_key: String::new(), certificate: String::new() };
    let instance = SshInstance {
        instance: name.parse().unwrap(),
        address: [10, 0, 0, 1].into(),
        ipv6: None,
        netns: Path::new("/run/netns/none").display().to_string(),
        host_key,
        authorized_keys: keys.iter().map(|key| (*key).to_owned()).collect(),
        key_sets: None,
        users: None,
        login_as: None,
        account_keys: false,
        container: None,
    };
    serde_json::to_vec(&instance).unwrap()
}

fn trust(sets: &[(&str, &str)]) -> Vec<u8> {
    let key_sets =
        sets.iter().map(|(name, key)| (name.parse().unwrap(), vec![(*key).to_owned()])).collect();
    serde_json::to_vec(&SshTrust { key_sets, ..SshTrust::default() }).unwrap()
}

#[tokio::test]
async fn instances_come_change_and_go() {
    let world = World::start();
    world.make();
    world.write("instances/web-0.json", instance("web-0", &[]));
    let served = world.first_served().await;
    assert!(served.borrow().keys.is_empty());
    world.write("instances/web-0.json", instance("web-0", &[KEY, "nonsense"]));
    eventually(|| (served.borrow().keys.len() == 1).then_some(())).await;
    world.remove("instances/web-0.json");
    eventually(|| served.has_changed().is_err().then_some(())).await;
}

#[tokio::test]
async fn a_broken_file_changes_nothing() {
    let world = World::start();
    world.make();
    world.write("trust.json", trust(&[("team", KEY)]));
    world.write("instances/web-0.json", instance("web-0", &[KEY]));
    let served = world.first_served().await;
    eventually(|| (world.trust.borrow().sets.len() == 1).then_some(())).await;
    world.write("trust.json", "{");
    world.write("instances/web-0.json", instance("web-1", &[]));
    world.write("instances/web-0.json", "nonsense");
    // What comes after them is seen, so they were, too.
    world.write("instances/web-2.json", instance("web-2", &[]));
    eventually(|| (world.served.lock().unwrap().len() == 2).then_some(())).await;
    assert_eq!(world.trust.borrow().sets.len(), 1);
    assert_eq!(served.borrow().keys.len(), 1);
    assert!(served.has_changed().is_ok());
}

#[tokio::test]
async fn what_was_there_before_is_read_and_what_was_replaced_again() {
    let world = World::start();
    world.make();
    world.write("instances/web-0.json", instance("web-0", &[KEY]));
    let served = world.first_served().await;
    // The agent's directory is made anew, without the instance.
    let dir = world.dir.path();
    std::fs::rename(dir.join("ssh"), dir.join("old")).unwrap();
    world.make();
    world.write("trust.json", trust(&[("team", KEY)]));
    eventually(|| served.has_changed().is_err().then_some(())).await;
    eventually(|| (world.trust.borrow().sets.len() == 1).then_some(())).await;
}

/// Other programs have taken all of inotify's instances.
#[tokio::test(start_paused = true)]
async fn a_directory_that_cannot_be_watched_is_read_again_and_again() {
    let world = World::start_with(|_| Err(io::Error::from_raw_os_error(libc::EMFILE)));
    world.make();
    world.write("instances/web-0.json", instance("web-0", &[KEY]));
    let mut served = world.first_served().await;
    assert_eq!(served.borrow_and_update().keys.len(), 1);
    world.write("instances/web-0.json", instance("web-0", &[KEY, KEY]));
    eventually(|| (served.borrow().keys.len() == 2).then_some(())).await;
    world.remove("instances/web-0.json");
    eventually(|| served.has_changed().is_err().then_some(())).await;
}
