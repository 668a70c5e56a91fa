//! Who gets in, and what is said of it.

use std::time::Instant;

use dwell_core::ssh::{SshEvent, SshEventKind, SshTrust};

use crate::world::{Background, CLIENT, INSTANCE, World, eventually, run, text};

#[test]
fn keys_of_the_instance_and_no_others() {
    let world = World::new();
    world.key("stranger", &[]);
    assert!(world.lets_in("owner", &[]));
    assert!(!world.lets_in("stranger", &[]));
    let events = || world.events.lock().unwrap().clone();
    eventually("three events", || (events().len() >= 3).then_some(()));
    let events = events();
    assert_eq!(events[0].what, SshEventKind::Opened);
    assert!(matches!(events[1].what, SshEventKind::Closed { .. }));
    assert_eq!(events[2].what, SshEventKind::Refused { count: 1 });
    assert!(
        events[0].key.starts_with("SHA256:") && events[0].key.ends_with(" owner"),
        "{events:?}"
    );
    assert!(
        events.iter().all(|event| event.login == "root" && event.from.ip().to_string() == CLIENT)
    );
}

#[test]
fn changed_keys_count_for_the_next_log_in() {
    let world = World::new();
    world.key("alice", &[]);
    assert!(!world.lets_in("alice", &[]));
    let with_alice = SshTrust {
        key_sets: [("team".parse().unwrap(), vec![world.read("alice.pub")])].into(),
        ..SshTrust::default()
    };
    world.trust(&with_alice);
    let start = Instant::now();
    eventually("alice gets in", || world.lets_in("alice", &[]).then_some(()));
    assert!(start.elapsed().as_secs() < 2, "{:?}", start.elapsed());
    world.instance(|instance| instance.key_sets = Some(vec!["others".parse().unwrap()]));
    eventually("her set does not count", || (!world.lets_in("alice", &[])).then_some(()));
    world.instance(|_| {});
    eventually("it counts again", || world.lets_in("alice", &[]).then_some(()));
    world.trust(&SshTrust::default());
    eventually("she is out", || (!world.lets_in("alice", &[])).then_some(()));
}

#[test]
fn kinds_of_keys() {
    let world = World::new();
    let kinds: [(&str, &[&str], bool); 6] = [
        ("p256", &["-t", "ecdsa", "-b", "256"], true),
        ("p384", &["-t", "ecdsa", "-b", "384"], true),
        ("p521", &["-t", "ecdsa", "-b", "521"], true),
        ("rsa3072", &["-t", "rsa", "-b", "3072"], true),
        ("rsa2048", &["-t", "rsa", "-b", "2048"], true),
        ("rsa1024", &["-t", "rsa", "-b", "1024"], false),
    ];
    for (name, options, _) in kinds {
        world.key(name, options);
    }
    world.instance(|instance| {
        instance.authorized_keys.extend(kinds.map(|(name, ..)| world.read(&format!("{name}.pub"))));
    });
    eventually("the keys are there", || world.lets_in("p256", &[]).then_some(()));
    for (name, _, good) in kinds {
        let options = ["-o", "RequiredRSASize=1024"];
        assert_eq!(world.lets_in(name, &options), good, "{name}");
    }
    let sha1 = ["-o", "PubkeyAcceptedAlgorithms=ssh-rsa", "-o", "HostKeyAlgorithms=ssh-ed25519"];
    assert!(!world.lets_in("rsa3072", &sha1), "RSA with SHA-1");
}

#[test]
fn certificates_of_the_user_authority() {
    let world = World::new();
    world.key("user_ca", &[]);
    world.key("alice", &[]);
    world.trust(&SshTrust { user_authority: world.read("user_ca.pub"), ..SshTrust::default() });
    world.certify("user_ca", "alice", &["-n", "root,alice", "-V", "-1m:+5m"]);
    eventually("the certificate counts", || world.lets_in("alice", &[]).then_some(()));
    assert!(!world.lets_in_as("bob", "alice", &[]), "not a principal");
    assert!(world.lets_in("owner", &[]), "plain keys go on to count");
    world.certify("user_ca", "alice", &["-n", "root", "-V", "-2m:-1m"]);
    assert!(!world.lets_in("alice", &[]), "expired");
    world.certify("user_ca", "alice", &["-n", "root", "-O", "source-address=192.0.2.0/24"]);
    assert!(!world.lets_in("alice", &[]), "from elsewhere");
    world.certify("user_ca", "alice", &["-n", "root", "-O", "critical:unheard-of=1"]);
    assert!(!world.lets_in("alice", &[]), "something critical that is not known");
    world.certify("host_ca", "alice", &["-n", "root"]);
    assert!(!world.lets_in("alice", &[]), "another authority");
    std::fs::remove_file(world.path("alice-cert.pub")).unwrap();
    assert!(!world.lets_in("alice", &[]), "the key without its certificate");
}

/// The container's files are the machine's here, which has a root and no intern.
#[test]
fn a_name_that_the_container_lacks_is_refused_and_others_are_named() {
    let world = World::new();
    world.key("user_ca", &[]);
    world.key("alice", &[]);
    world.certify("user_ca", "alice", &["-n", "intern,@default", "-V", "-1m:+5m"]);
    world.trust(&SshTrust {
        user_authority: world.read("user_ca.pub"),
        zone: "dwell".to_owned(),
        ..SshTrust::default()
    });
    let container = world.contain();
    let log_in = |key, login| {
        let output = run(world.ssh(key).args(["-l", login, INSTANCE, "id -un"]));
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let (code, _, said) = log_in("owner", "intern");
    assert_eq!(code, Some(255), "{said}");
    assert!(said.contains(":15: web-0 has no user \"intern\"; it has root"), "{said}");
    assert!(
        said.contains(": ssh root@web-0.dwell; its own user: ssh @container@web-0.dwell"),
        "{said}"
    );
    // Nothing else of the connection is of use either.
    let forward = run(world.ssh("owner").args(["-l", "intern", "-W", "127.0.0.1:1", INSTANCE]));
    assert!(text(&forward.stderr).contains("has no user"), "{}", text(&forward.stderr));
    let (code, _, said) = log_in("alice", "intern");
    assert!(code == Some(255) && said.contains("good for none that it has"), "{said}");
    eventually("it is told as a refusal", || {
        let events = world.events.lock().unwrap();
        let is = |event: &SshEvent| {
            event.login == "intern" && matches!(event.what, SshEventKind::Refused { .. })
        };
        events.iter().any(is).then_some(())
    });

    for login in ["@default", "@container"] {
        assert_eq!(log_in("owner", login).1, "root\n", "{login}");
    }
    world.instance(|instance| {
        instance.container = Some(container.facts.clone());
        instance.login_as = Some("nobody".to_owned());
    });
    eventually("who chooses no name is another", || {
        // Its shell says so.
        log_in("owner", "@default").1.contains("not available").then_some(())
    });
    assert_eq!(log_in("owner", "@container").1, "root\n");
    assert_eq!(log_in("alice", "@container").0, Some(255), "the certificate does not say so");
}

/// Root has a home of its own here, in memory.
#[test]
fn an_account_lets_others_in_where_the_instance_leaves_it_to_accounts() {
    let world = World::new();
    world.key("alice", &[]);
    world.key("bob", &[]);
    let container = world.contain_after("mount -t tmpfs -o mode=700 none /root");
    let account_keys = |on: bool| {
        world.instance(|instance| {
            instance.container = Some(container.facts.clone());
            instance.account_keys = on;
        });
    };
    let as_whom = |key, login| {
        let output = run(world.ssh(key).args(["-l", login, INSTANCE, "id -un"]));
        match output.status.code() {
            Some(0) => Some(text(&output.stdout)),
            _ => None,
        }
    };
    // As ssh-copy-id does.
    let line = world.read("alice.pub");
    let add = format!("umask 077; mkdir -p .ssh && echo '{line}' >> .ssh/authorized_keys");
    assert!(run(world.ssh("owner").args([INSTANCE, &add])).status.success());
    assert_eq!(as_whom("alice", "root"), None, "the instance says nothing of accounts");
    account_keys(true);
    eventually("alice gets in", || (as_whom("alice", "root")? == "root\n").then_some(()));
    assert_eq!(as_whom("alice", "@default").as_deref(), Some("root\n"));
    assert_eq!(as_whom("alice", "daemon"), None, "it is another account's file");
    assert_eq!(as_whom("alice", "intern"), None);
    assert_eq!(as_whom("bob", "root"), None);
    eventually("it is told how", || {
        let events = world.events.lock().unwrap();
        events
            .iter()
            .any(|one| one.key.ends_with(" alice (by root's authorized_keys)"))
            .then_some(())
    });

    let change = |command: &str| {
        assert!(run(world.ssh("owner").args([INSTANCE, command])).status.success(), "{command}");
    };
    change("chmod g+w .ssh");
    assert_eq!(as_whom("alice", "root"), None, "others may write to the directory");
    assert!(world.read("log").contains("others may write /root/.ssh, of mode 0720"));
    change("chmod g-w .ssh; sed -i 's/^/command=\"echo forced\" /' .ssh/authorized_keys");
    assert_eq!(as_whom("alice", "root").as_deref(), Some("forced\n"));
    let authority = world.read("bob.pub");
    change(&format!("echo 'cert-authority {authority}' > .ssh/authorized_keys"));
    assert_eq!(as_whom("alice", "root"), None, "her key is gone");
    world.certify("bob", "alice", &["-n", "root", "-V", "-1m:+5m"]);
    assert_eq!(as_whom("alice", "root").as_deref(), Some("root\n"));
    account_keys(false);
    eventually("the switch is off", || as_whom("alice", "root").is_none().then_some(()));
}

#[test]
fn certificates_of_the_old_and_of_the_new_user_authority_while_it_is_rotated() {
    let world = World::new();
    for name in ["old_ca", "new_ca", "alice", "bob"] {
        world.key(name, &[]);
    }
    world.certify("old_ca", "alice", &["-n", "root", "-V", "-1m:+5m"]);
    world.certify("new_ca", "bob", &["-n", "root", "-V", "-1m:+5m"]);
    let user_authority = world.read("new_ca.pub");
    let both = SshTrust {
        user_authority: user_authority.clone(),
        more_user_authorities: vec![world.read("old_ca.pub")],
        ..SshTrust::default()
    };
    world.trust(&both);
    eventually("the new one's count", || world.lets_in("bob", &[]).then_some(()));
    assert!(world.lets_in("alice", &[]), "the old one's count as well");
    world.trust(&SshTrust { user_authority, ..SshTrust::default() });
    eventually("the old one is retired", || (!world.lets_in("alice", &[])).then_some(()));
    assert!(world.lets_in("bob", &[]));
}

#[test]
fn one_line_of_known_hosts_removes_every_prompt() {
    let world = World::new();
    let known = world.path("known_hosts");
    let check = |line: String, alias: &str| {
        std::fs::write(&known, line).unwrap();
        let known = format!("UserKnownHostsFile={}", known.display());
        let alias = format!("HostKeyAlias={alias}");
        // The first value of an option counts.
        let mut command = world.within("c", "ssh");
        command.args([
            "-F",
            "none",
            "-n",
            "-l",
            "root",
            "-o",
            "BatchMode=yes",
            "-o",
            &known,
            "-o",
            &alias,
        ]);
        command.args([
            "-o",
            "StrictHostKeyChecking=yes",
            "-o",
            "GlobalKnownHostsFile=/dev/null",
            "-i",
        ]);
        let output = run(command.arg(world.path("owner")).args([INSTANCE, "true"]));
        (output.status.code(), text(&output.stderr))
    };
    let line = format!("@cert-authority *.dwell {}\n", world.read("host_ca.pub"));
    let (code, said) = check(line.clone(), "web-0.dwell");
    assert_eq!(code, Some(1), "{said}");
    assert_eq!(check(line, "web-1.dwell").0, Some(255), "the certificate names the instance");
    // Without the authority the key itself is shown.
    let line = format!("web-0.dwell {}\n", world.read("host.pub"));
    assert_eq!(check(line, "web-0.dwell").0, Some(1));
}

#[test]
fn too_many_refusals_of_an_address() {
    let world = World::new();
    world.key("stranger", &[]);
    for _ in 0..20 {
        assert!(!world.lets_in("stranger", &[]));
    }
    assert!(!world.lets_in("owner", &[]), "not heard for the rest of the minute");
    let refused = || {
        let events = world.events.lock().unwrap();
        events.iter().filter(|event| event.what == SshEventKind::Refused { count: 1 }).count()
    };
    eventually("a refusal is told", || (refused() > 0).then_some(()));
    assert_eq!(refused(), 1, "the others within the minute are told together");
}

#[test]
fn passwords_are_not_even_asked_for() {
    let world = World::new();
    let mut command = world.ssh("owner");
    command.args(["-v", "-o", "PubkeyAuthentication=no", INSTANCE, "true"]);
    let said = text(&run(&mut command).stderr);
    assert!(said.contains("Permission denied (publickey)."), "{said}");
}

#[test]
fn an_image_with_its_own_sshd_keeps_its_port() {
    let world = World::new();
    world.forget_instance();
    let sshd = eventually("the port is free", || world.listen("i", (INSTANCE, 22)).ok());
    world.instance(|_| {});
    eventually("it is said", || {
        world.read("log").contains("listens on port 22 itself").then_some(())
    });
    drop(sshd);
    // A change of the file is a reason to try at once.
    world.instance(|_| {});
    eventually("the port is ours", || world.lets_in("owner", &[]).then_some(()));
}

#[test]
fn what_is_no_longer_served_is_no_longer_listened_for() {
    let world = World::new();
    assert!(world.lets_in("owner", &[]));
    world.forget_instance();
    eventually("the port is closed", || {
        let output = run(world.ssh("owner").args([INSTANCE, "true"]));
        text(&output.stderr).contains("Connection refused").then_some(())
    });
}

#[test]
fn sessions_are_told_when_the_server_stops() {
    let mut world = World::new();
    let mut session = Background::start(world.ssh("owner").args(["-v", "-N", INSTANCE]));
    eventually("it is logged in", || (!world.events.lock().unwrap().is_empty()).then_some(()));
    world.stop();
    session.said("dwell-ssh is being stopped");
    eventually("its end is reported", || {
        let events = world.events.lock().unwrap();
        events.iter().any(|event| matches!(event.what, SshEventKind::Closed { .. })).then_some(())
    });
}
