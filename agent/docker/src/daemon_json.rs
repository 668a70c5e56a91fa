//! The entry of `dwell-oci` in Docker's `daemon.json`.
//!
//! Docker starts a container with the wrapper only if `daemon.json` names it as a runtime. Everything
//! else in that file is the operator's: it is kept (though its keys come out in alphabetical order), the
//! file as it was is kept beside it, and taking the entry out again brings that very file back unless
//! something else was changed meanwhile.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Map, Value, json};

use super::Runtime;
use dwell_daemon::durable;

/// Where Docker's configuration is.
pub const DAEMON_JSON: &str = "/etc/docker/daemon.json";
/// Where a running `dockerd` writes its process id.
const PID_FILE: &str = "/var/run/docker.pid";

/// In the marker of a withdrawal: there was a file before us.
const HAD_FILE: &[u8] = b"before-dwell";

/// What was done to the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is different now; a running `dockerd` has to read it again.
    Changed,
    /// It was right already.
    Unchanged,
}

/// Why the file was not changed.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// It cannot be read or written.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// It is not what Docker would take.
    #[error("{} is not valid ({problem}); it was left as it is, correct it first", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The daemon cannot be told.
    #[error("cannot send dockerd (process {pid}) a SIGHUP; restart it to make the runtime known")]
    Signal {
        /// Its process id.
        pid: i32,
        /// The system's reason.
        source: nix::Error,
    },
}

/// Enters the wrapper at `program` into `daemon_json`; other settings of an entry that is there stay.
///
/// # Errors
/// [`RuntimeError`]; the file is as it was.
pub fn install(daemon_json: &Path, program: &Path) -> Result<Outcome, RuntimeError> {
    // What is kept below is to be the file without us, and not what a withdrawal has left that was cut short.
    if let Some(left) = unfinished(daemon_json)? {
        left.finish()?;
    }
    let file = File { path: daemon_json };
    let text = file.read()?;
    let before = file.parse(text.as_deref())?;
    let mut after = before.clone();
    let runtimes = file.object(&mut after, "runtimes")?;
    let is_new = !runtimes.contains_key(Runtime::NAME);
    file.object(runtimes, Runtime::NAME)?.insert("path".to_owned(), json!(program));
    if after == before {
        return Ok(Outcome::Unchanged);
    }
    // What is kept is the file without us, also when a later installation changes the path.
    if let (true, Some(text)) = (is_new, &text) {
        file.write(&file.backup(), text)?;
    }
    file.write(daemon_json, &pretty(&after))?;
    Ok(Outcome::Changed)
}

/// Takes the wrapper's entry out of `daemon_json`; `None` if it is not in there.
///
/// A `dockerd` that reads a file without a word of runtimes keeps those that it has. So where ours was the only one, the file
/// names none of them until [`Withdrawn::finish`] is called. If that never came to be, another call goes on from there.
///
/// # Errors
/// [`RuntimeError`]; the file is as it was.
pub fn withdraw(daemon_json: &Path) -> Result<Option<Withdrawn>, RuntimeError> {
    let file = File { path: daemon_json };
    let Some(text) = file.read()? else { return unfinished(daemon_json) };
    let mut settings = file.parse(Some(&text))?;
    if !settings.contains_key("runtimes") {
        return unfinished(daemon_json);
    }
    if file.object(&mut settings, "runtimes")?.remove(Runtime::NAME).is_none() {
        return unfinished(daemon_json);
    }
    let backup = file.backup();
    let had_file = File { path: &backup }.read()?.is_some();
    file.write(&file.marker(), if had_file { HAD_FILE } else { b"" })?;
    file.write(daemon_json, &pretty(&settings))?;
    Ok(Some(Withdrawn { path: daemon_json.to_owned(), settings }))
}

/// A withdrawal that was cut short, as by a kill, after it had taken the entry out.
fn unfinished(daemon_json: &Path) -> Result<Option<Withdrawn>, RuntimeError> {
    let file = File { path: daemon_json };
    let (marker, backup) = (file.marker(), file.backup());
    let Some(marked) = (File { path: &marker }).read()? else { return Ok(None) };
    let mut settings = file.parse(file.read()?.as_deref())?;
    let has_ours = settings.contains_key("runtimes")
        && file.object(&mut settings, "runtimes")?.contains_key(Runtime::NAME);
    let is_back = marked == HAD_FILE && File { path: &backup }.read()?.is_none();
    // It had not come so far, or all the way.
    if has_ours || is_back {
        file.remove(&marker)?;
        return Ok(None);
    }
    Ok(Some(Withdrawn { path: daemon_json.to_owned(), settings }))
}

/// A configuration without the wrapper's entry, which a running `dockerd` is to read before it looks as it did without us.
#[derive(Debug)]
#[must_use = "the file may name an empty list of runtimes, and a copy of it lies beside it"]
pub struct Withdrawn {
    path: PathBuf,
    settings: Map<String, Value>,
}

impl Withdrawn {
    /// Puts the very file back that was there before us, unless something else was changed meanwhile.
    ///
    /// # Errors
    /// [`RuntimeError`]; what is in the file is right.
    pub fn finish(self) -> Result<(), RuntimeError> {
        let Self { path, mut settings } = self;
        let file = File { path: &path };
        let kept = File { path: &file.backup() }.read()?;
        let is_kept = |settings: &Map<String, Value>| {
            file.parse(kept.as_deref()).is_ok_and(|kept| kept == *settings)
        };
        let was_named = kept.is_some() && is_kept(&settings);
        let names_none =
            settings.get("runtimes").and_then(Value::as_object).is_some_and(Map::is_empty);
        if names_none {
            settings.remove("runtimes");
        }
        match &kept {
            Some(text) if was_named || is_kept(&settings) => file.write(&path, text)?,
            // There was no file before us.
            None if settings.is_empty() => file.remove(&path)?,
            _ if names_none => file.write(&path, &pretty(&settings))?,
            _ => {}
        }
        // In this order, so that whoever goes on from here can tell what is done.
        file.remove(&file.backup())?;
        file.remove(&file.marker())
    }
}

/// Has a running `dockerd` read its configuration again; its process id, or `None` if none runs.
///
/// # Errors
/// [`RuntimeError::Signal`].
pub fn reload_dockerd() -> Result<Option<i32>, RuntimeError> {
    let pid = fs::read_to_string(PID_FILE).ok().and_then(|text| text.trim().parse::<i32>().ok());
    // A file that a crash left may name any process by now.
    let is_dockerd = |pid: &i32| {
        fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "dockerd")
    };
    let Some(pid) = pid.filter(is_dockerd) else { return Ok(None) };
    kill(Pid::from_raw(pid), Signal::SIGHUP)
        .map_err(|source| RuntimeError::Signal { pid, source })?;
    Ok(Some(pid))
}

/// Docker's configuration file.
struct File<'a> {
    path: &'a Path,
}

impl File<'_> {
    /// Where the file is kept as it was.
    fn backup(&self) -> PathBuf {
        self.path.with_extension("json.before-dwell")
    }

    /// What says that a withdrawal is under way.
    fn marker(&self) -> PathBuf {
        self.path.with_extension("json.leaving-dwell")
    }

    /// Its content; `None` if there is no such file.
    fn read(&self) -> Result<Option<Vec<u8>>, RuntimeError> {
        match fs::read(self.path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(Self::failed("read", self.path, source)),
        }
    }

    /// Its settings. To Docker, a file that is missing or empty has none.
    fn parse(&self, text: Option<&[u8]>) -> Result<Map<String, Value>, RuntimeError> {
        match text {
            Some(text) if !text.trim_ascii().is_empty() => serde_json::from_slice(text)
                .map_err(|error| self.malformed(format!("it is no JSON object: {error}"))),
            _ => Ok(Map::new()),
        }
    }

    /// The object under `key`, made if it is not there.
    fn object<'m>(
        &self,
        map: &'m mut Map<String, Value>,
        key: &str,
    ) -> Result<&'m mut Map<String, Value>, RuntimeError> {
        let value = map.entry(key).or_insert_with(|| Value::Object(Map::new()));
        value.as_object_mut().ok_or_else(|| self.malformed(format!("{key:?} is no object")))
    }

    /// Writes a file with the permissions of this one.
    fn write(&self, path: &Path, text: &[u8]) -> Result<(), RuntimeError> {
        let mode = fs::metadata(self.path).map_or(0o644, |seen| seen.permissions().mode() & 0o777);
        let directory = path.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(directory)
            .and_then(|()| durable::replace(path, text, mode))
            .map_err(|source| Self::failed("write", path, source))
    }

    fn remove(&self, path: &Path) -> Result<(), RuntimeError> {
        match fs::remove_file(path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(Self::failed("remove", path, source))
            }
            _ => Ok(()),
        }
    }

    fn malformed(&self, problem: String) -> RuntimeError {
        RuntimeError::Malformed { path: self.path.to_owned(), problem }
    }

    fn failed(action: &'static str, path: &Path, source: io::Error) -> RuntimeError {
        RuntimeError::File { action, path: path.to_owned(), source }
    }
}

fn pretty(settings: &Map<String, Value>) -> Vec<u8> {
    format!("{:#}\n", Value::Object(settings.clone())).into_bytes()
}

/// Docker's configuration, which is its operator's.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(bytes: &[u8]) {
    let file = File { path: Path::new(DAEMON_JSON) };
    let Ok(mut settings) = file.parse(Some(bytes)) else { return };
    let before = settings.clone();
    if let Ok(runtimes) = file.object(&mut settings, "runtimes") {
        runtimes.insert(Runtime::NAME.to_owned(), json!({}));
        let written = file.parse(Some(&pretty(&settings)));
        assert!(written.is_ok_and(|read| read == settings), "{before:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROGRAM: &str = "/usr/bin/dwell-oci";

    fn installed(before: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("docker/daemon.json");
        fs::create_dir(path.parent().unwrap()).unwrap();
        fs::write(&path, before).unwrap();
        assert_eq!(install(&path, Path::new(PROGRAM)).unwrap(), Outcome::Changed);
        (dir, path)
    }

    /// Whether there was something to take out.
    fn uninstall(path: &Path) -> bool {
        let left = withdraw(path).unwrap();
        let found = left.is_some();
        left.into_iter().for_each(|left| left.finish().unwrap());
        found
    }

    fn content(path: &Path) -> Value {
        serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
    }

    #[test]
    fn nothing_is_lost_and_the_old_file_comes_back() {
        for before in [
            "{}",
            "",
            " \n",
            "{ \"data-root\" : \"/d\",\n\"runtimes\":{}}",
            r#"{"runtimes":{"kata":{"path":"/k","runtimeArgs":["--x"]}},"default-runtime":"kata","log-opts":{"max-size":"1m"}}"#,
            r#"{"big":12345678901234567890,"nested":{"a":[1,{"b":null}]},"é":"ü"}"#,
        ] {
            let (_dir, path) = installed(before);
            let mut expected: Value = serde_json::from_str(before).unwrap_or_else(|_| json!({}));
            expected["runtimes"]["dwell"] = json!({"path": PROGRAM});
            assert_eq!(content(&path), expected, "{before}");
            assert_eq!(install(&path, Path::new(PROGRAM)).unwrap(), Outcome::Unchanged);
            assert!(uninstall(&path));
            assert_eq!(fs::read_to_string(&path).unwrap(), before);
            assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
            assert!(!uninstall(&path));
        }
    }

    #[test]
    fn a_file_that_was_not_there_goes_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("docker/daemon.json");
        assert!(!uninstall(&path));
        install(&path, Path::new(PROGRAM)).unwrap();
        assert_eq!(content(&path), json!({"runtimes": {"dwell": {"path": PROGRAM}}}));
        assert!(uninstall(&path));
        assert!(!path.exists());
    }

    #[test]
    fn until_dockerd_has_read_it_the_file_has_a_word_of_runtimes() {
        let (_dir, path) = installed(r#"{"debug":true}"#);
        let left = withdraw(&path).unwrap().unwrap();
        assert_eq!(content(&path), json!({"debug": true, "runtimes": {}}));
        left.finish().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), r#"{"debug":true}"#);
    }

    #[test]
    fn a_withdrawal_that_was_cut_short_is_finished_by_the_next_call() {
        for before in ["{}", "{ \"runtimes\":{}}", r#"{"debug":true}"#] {
            let (_dir, path) = installed(before);
            let ours = content(&path);
            drop(withdraw(&path).unwrap().unwrap());
            assert!(uninstall(&path), "there is something left to do");
            assert_eq!(fs::read_to_string(&path).unwrap(), before);
            assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
            // Who comes back instead keeps the very file that was there before.
            install(&path, Path::new(PROGRAM)).unwrap();
            drop(withdraw(&path).unwrap().unwrap());
            install(&path, Path::new(PROGRAM)).unwrap();
            assert_eq!(content(&path), ours);
            assert!(uninstall(&path));
            assert_eq!(fs::read_to_string(&path).unwrap(), before);
            // All is done but for the marker.
            let marker = File { path: &path }.marker();
            fs::write(&marker, HAD_FILE).unwrap();
            assert!(!uninstall(&path));
            assert_eq!(fs::read_to_string(&path).unwrap(), before);
            assert!(!marker.exists());
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("daemon.json");
        install(&path, Path::new(PROGRAM)).unwrap();
        drop(withdraw(&path).unwrap().unwrap());
        assert_eq!(content(&path), json!({"runtimes": {}}));
        assert!(uninstall(&path));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_was_changed_in_between_stays() {
        let (_dir, path) = installed(r#"{"debug":true}"#);
        let mut changed = content(&path);
        changed["debug"] = json!(false);
        fs::write(&path, changed.to_string()).unwrap();
        assert!(uninstall(&path));
        assert_eq!(content(&path), json!({"debug": false}));
    }

    #[test]
    fn the_settings_of_an_entry_stay_when_its_path_changes() {
        let (_dir, path) = installed(
            r#"{"runtimes":{"dwell":{"path":"/old","runtimeArgs":["--dwell-runtime=crun"]}}}"#,
        );
        let entry = json!({"path": PROGRAM, "runtimeArgs": ["--dwell-runtime=crun"]});
        assert_eq!(content(&path)["runtimes"]["dwell"], entry);
        assert!(uninstall(&path));
        assert!(!path.exists());
    }

    #[test]
    fn what_is_not_understood_is_left_alone() {
        for before in ["{", "[]", "3", r#"{"runtimes":[]}"#, r#"{"runtimes":{"dwell":"x"}}"#] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("daemon.json");
            fs::write(&path, before).unwrap();
            let refused = install(&path, Path::new(PROGRAM)).unwrap_err();
            assert!(matches!(refused, RuntimeError::Malformed { .. }), "{before}: {refused}");
            assert_eq!(fs::read_to_string(&path).unwrap(), before);
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        }
    }

    #[test]
    fn permissions_stay() {
        let (_dir, path) = installed("{}");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        install(&path, Path::new("/other")).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
