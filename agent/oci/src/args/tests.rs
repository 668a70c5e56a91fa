use std::os::unix::ffi::OsStringExt;

use proptest::prelude::*;

use super::*;

fn words(line: &str) -> Vec<OsString> {
    line.split_whitespace().map(OsString::from).collect()
}

fn found(line: &str) -> Result<Option<(String, PathBuf)>, ArgumentError> {
    let args = words(line);
    let creation = Creation::find(&args)?;
    Ok(creation.map(|c| (c.container_id.to_owned(), c.bundle.to_owned())))
}

#[test]
fn finds_container_and_bundle_in_every_spelling() {
    let containerd = "--root /var/run/docker/runtime-runc/moby --log /b/log.json --log-format json";
    for (line, bundle) in [
        ("create --bundle /b c1", "/b"),
        ("create c1 --bundle /b", "/b"),
        ("create --bundle=/b c1", "/b"),
        ("create -bundle /b c1", "/b"),
        ("create -b /b c1", "/b"),
        ("create -b=/b c1", "/b"),
        ("create --bundle /a --bundle /b c1", "/b"),
        ("create --bundle /b -- c1", "/b"),
        ("create --bundle --pid-file c1", "--pid-file"),
        ("create c1", "."),
        ("create --bundle= c1", "."),
        ("run -d --keep --bundle /b c1", "/b"),
        ("--debug create --bundle /b c1", "/b"),
        ("--systemd-cgroup=true --root create create --bundle /b c1", "/b"),
        (&format!("{containerd} create --bundle /b --pid-file /b/init.pid c1"), "/b"),
        (
            &format!(
                "{containerd} --systemd-cgroup create --bundle /b --pid-file /b/init.pid \
                 --console-socket /tmp/pty.sock --no-pivot --no-new-keyring --preserve-fds 2 c1"
            ),
            "/b",
        ),
    ] {
        assert_eq!(found(line), Ok(Some(("c1".into(), bundle.into()))), "{line}");
    }
}

#[test]
fn commands_that_create_nothing_are_left_alone() {
    for line in [
        "",
        "--version",
        "features",
        "start c1",
        "--root /r --log /l --log-format json delete --force c1",
        "--some-flag-of-tomorrow state c1",
        "--root create state c1",
        // Containers by the names of commands.
        "kill run 9",
        "--root /r exec --process /p --detach create",
        "delete --flag-of-tomorrow restore",
    ] {
        assert_eq!(found(line), Ok(None), "{line}");
    }
}

#[test]
fn what_cannot_be_understood_is_refused() {
    let unknown = |flag: &str| ArgumentError::UnknownFlag(flag.to_owned());
    let ids = |count| ArgumentError::Ids { command: "create".to_owned(), count };
    for (line, expected) in [
        ("create --bundle /b", ids(0)),
        ("create --bundle /b c1 c2", ids(2)),
        ("create --bundle /b c1 -- c2", ids(2)),
        ("create c1 --bundle", ArgumentError::ValueMissing("--bundle".to_owned())),
        ("create --config /elsewhere.json c1", unknown("--config")),
        ("create --of-tomorrow=1 c1", unknown("--of-tomorrow=1")),
        ("create --bundl /b c1", unknown("--bundl")),
        ("create -b/b c1", unknown("-b/b")),
        ("create --log /l c1", unknown("--log")),
        ("--of-tomorrow x create c1", unknown("--of-tomorrow")),
        ("--root /r restore --bundle /b c1", ArgumentError::Restore),
    ] {
        assert_eq!(found(line), Err(expected), "{line}");
    }

    let garbled = OsString::from_vec(vec![b'c', 0xff]);
    let args = ["create".into(), garbled.clone()];
    assert_eq!(Creation::find(&args), Err(ArgumentError::NotUtf8(garbled)));
}

proptest! {
    /// However the flags are spelled and ordered, id and bundle are found.
    #[test]
    fn order_and_spelling_do_not_matter(
        mut flags in Just(vec![
            ("bundle", Some("/b")), ("pid-file", Some("/create")), ("console-socket", Some("run")),
            ("no-pivot", None), ("no-new-keyring", None), ("id", None),
        ]).prop_shuffle(),
        dashes in prop::collection::vec(prop::sample::select(vec!["-", "--"]), 6),
        attached in prop::collection::vec(any::<bool>(), 6),
        dropped in prop::collection::vec(any::<bool>(), 6),
    ) {
        let mut drops = dropped.into_iter();
        flags.retain(|(name, _)| !drops.next().unwrap() || *name == "bundle" || *name == "id");

        let mut line = vec!["--log".to_owned(), "create".to_owned(), "create".to_owned()];
        for (at, (name, value)) in flags.into_iter().enumerate() {
            match value {
                _ if name == "id" => line.push("c1".to_owned()),
                None => line.push(format!("{}{name}", dashes[at])),
                Some(value) if attached[at] => line.push(format!("{}{name}={value}", dashes[at])),
                Some(value) => line.extend([format!("{}{name}", dashes[at]), value.to_owned()]),
            }
        }
        let expected = Some(("c1".to_owned(), PathBuf::from("/b")));
        prop_assert_eq!(found(&line.join(" ")), Ok(expected));
    }

    /// A line with `create` as its command is parsed or refused, never waved through.
    #[test]
    fn a_creation_is_never_overlooked(
        before in prop::collection::vec("--?(root|log|debug)(=x)?", 0..3),
        after in prop::collection::vec("-{0,2}[a-z]{0,8}(=x)?", 0..4),
    ) {
        // A flag in front that takes the next word as its value makes another word the command.
        let command_follows = before.iter().all(|flag| flag.contains('=') || flag.ends_with("debug"));
        prop_assume!(command_follows);
        let line = format!("{} create {}", before.join(" "), after.join(" "));
        prop_assert_ne!(found(&line), Ok(None), "{}", line);
    }
}

#[test]
fn own_settings_come_first_and_are_not_passed_on() {
    let args = words("--dwell-runtime=/opt/crun --dwell-state-dir=/run/a --root /r state c1");
    let (settings, rest) = Settings::split(&args).unwrap();
    let expected = Settings { state_dir: "/run/a".into(), runtime: "/opt/crun".into() };
    assert_eq!((settings, rest), (expected, &args[2..]));

    let args = words("state c1 --dwell-runtime=crun");
    let (settings, rest) = Settings::split(&args).unwrap();
    let defaults = Settings { state_dir: "/run/dwell".into(), runtime: "runc".into() };
    assert_eq!((settings, rest), (defaults, &args[..]));

    for setting in [
        "--dwell-state-dir",
        "--dwell-state-dir=",
        "--dwell-state-dir=run/dwell",
        "--dwell-runtime=",
        "--dwell-stat-dir=/run/dwell",
    ] {
        assert_eq!(Settings::split(&words(setting)), Err(ArgumentError::Setting(setting.into())));
    }
}

#[test]
fn the_log_is_found_without_understanding_the_rest() {
    for (line, log) in [
        ("--log /l --log-format json create c1", Some("/l")),
        ("--dwell-runtime=x --what --log=/l -log-format=json create", Some("/l")),
        ("--log-format json --log /l", Some("/l")),
        ("--log /l --log-format text create c1", None),
        ("--log /l create c1", None),
        ("--log-format json create c1", None),
        ("--log-format json --log", None),
    ] {
        assert_eq!(json_log(&words(line)), log.map(Path::new), "{line}");
    }
}
