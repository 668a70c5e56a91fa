//! The child: it takes on what the container restricts its processes to, and becomes the user's process.
//!
//! ```text
//!   session, keyring, cgroup namespace ─ terminal or pipes ─ LSM label ─ close all else ─ seccomp
//!     ─ bounding set ─ groups, gid, uid ─ capabilities ─ directory ─ agent ─ Ready ─ no_new_privs ─ exec | SFTP
//! ```
//!
//! As in runc, a seccomp filter comes first while there is the privilege to install it, and last if
//! the container forbids new privileges.

use std::convert::Infallible;
use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use dwell_core::ssh::CONTAINERS_USER;
use nix::errno::Errno;
use nix::unistd::{
    AccessFlags, Gid, Uid, access, execve, fchown, setgid, setgroups, setsid, setuid,
};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::process::{DumpableBehavior, ioctl_tiocsctty, set_dumpable_behavior, umask};
use rustix::thread::{
    ThreadNameSpaceType, move_into_thread_name_spaces, set_keep_capabilities, set_no_new_privs,
};

use super::Work;
use super::accounts::{self, Account};
use super::agent::AgentSocket;
use super::capabilities::Granted;
use super::command::{self, NOT_FOUND, Plan, Planner};
use super::container::Container;
use super::environment::{Environment, environment};
use super::failure::{Failure, Step as _};
use super::message::{self, Report, Start};
use super::terminal::Pair;
use super::{SftpOptions, account_keys, sftp, socket, sys};

/// The status of a command that is there and cannot be executed, as shells have it.
const NOT_EXECUTABLE: i32 = 126;
/// What new files are not, if the container does not say.
const UMASK: u32 = 0o022;

/// Becomes the user's process. Whatever prevents that is told over `session`, or once that has been told that all is
/// ready, on standard error.
pub(super) fn run(container: &Container, start: &Start, session: &OwnedFd, pipes: &[OwnedFd]) -> ! {
    let Err(failure) = become_process(container, start, session, pipes);
    // If nobody listens any more, then nobody needs to know.
    drop(message::send(session, &Report::Failed(failure), &[]));
    std::process::exit(1)
}

fn become_process(
    container: &Container,
    start: &Start,
    session: &OwnedFd,
    pipes: &[OwnedFd],
) -> Result<Infallible, Failure> {
    let process = &container.config.process;
    let read = |path: &str| read_file(path).unwrap_or_default();
    let (passwd, group) = (read("/etc/passwd"), read("/etc/group"));
    let account = if start.login == CONTAINERS_USER {
        Some(Account::own(&passwd, &process.user))
    } else {
        Account::named(&start.login, &passwd, &group, &process.user)
    };
    let account = account.ok_or_else(|| Failure::NoUser {
        login: start.login.clone(),
        known: Account::of_people(&passwd, is_program),
    })?;
    let becomes_program = matches!(start.work, Work::Shell | Work::Command(_));

    if container.user_namespace {
        setgid(Gid::from_raw(0)).and_then(|()| setuid(Uid::from_raw(0))).step("become its root")?;
    }
    setsid().step("start a session")?;
    sys::leave_keyring().step("leave the host's keyring")?;
    if container.cgroup_namespace {
        move_into_thread_name_spaces(container.pidfd.as_fd(), ThreadNameSpaceType::CONTROL_GROUP)
            .step("enter its cgroup namespace")?;
    }
    let terminal = start.terminal.as_ref().map(Pair::open).transpose()?;
    connect(terminal.as_ref(), pipes, account.uid).step("connect the process")?;
    label(container, !becomes_program)?;
    close_all_but(session, terminal.as_ref()).step("close descriptors")?;
    umask(Mode::from_raw_mode(process.user.umask.unwrap_or(UMASK)));

    if !process.no_new_privileges {
        container.filter.install()?;
    }
    let mut granted = Granted::new(&process.capabilities, account.uid, process.user.uid);
    if !becomes_program {
        granted = granted.after_exec(account.uid, process.no_new_privileges);
    }
    become_user(&account, granted)?;

    let directories = [account.home.as_deref(), Some(&process.cwd), Some("/")];
    let entered =
        directories.into_iter().flatten().any(|path| std::env::set_current_dir(path).is_ok());
    if !entered {
        return Err("none can be entered").step("find a directory to work in");
    }
    let agent = if start.agent_forwarding { AgentSocket::make().ok() } else { None };
    let socket = match &start.work {
        Work::Connect(path) => Some(socket::connect(path).step("connect to the socket")?),
        Work::Listen(path) => Some(socket::listen(path).step("listen on the socket")?),
        _ => None,
    };
    tell_ready(session, terminal.as_ref(), socket.as_ref(), agent.as_ref()).step("report")?;
    drop(socket);

    if process.no_new_privileges {
        set_no_new_privs(true).restriction("no_new_privs")?;
        container.filter.install()?;
    }
    let shell = command::shell_of(&account, is_program);
    let mut environment =
        environment(&process.env, &account, shell.unwrap_or_default(), &start.environment);
    let runtime = runtime_directory(account.uid);
    let own = [
        ("TERM", start.terminal.as_ref().map(|terminal| &terminal.term)),
        ("SSH_TTY", terminal.as_ref().map(|terminal| &terminal.name)),
        ("SSH_AUTH_SOCK", agent.as_ref().map(|agent| &agent.path)),
        ("XDG_RUNTIME_DIR", runtime.as_ref()),
    ];
    for (name, value) in own {
        if let Some(value) = value.filter(|value| !value.contains('\0')) {
            environment.insert(name.to_owned(), value.clone());
        }
    }
    let path = environment.get("PATH").map(String::as_str).unwrap_or_default();
    let planner = Planner { instance: &container.instance, path, is_program };
    match (planner.plan(&start.work, shell), &start.work) {
        (Some(plan), _) => carry_out(&plan, &environment),
        (None, Work::Sftp(options)) => serve_files(options),
        (None, Work::Account { keys: true }) => tell_keys(&account),
        (None, _) => std::process::exit(0),
    }
}

/// Is the SFTP server.
fn serve_files(options: &SftpOptions) -> ! {
    let serve = || {
        sys::close_range(3, u32::MAX)?;
        // Without the buffers of the standard library's streams.
        let input = File::from(io::stdin().as_fd().try_clone_to_owned()?);
        let output = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        let home = std::env::current_dir()?;
        if let Some(directory) = &options.directory {
            // As OpenSSH's server does: one that cannot be entered is passed over.
            std::env::set_current_dir(directory).ok();
        }
        sftp::serve(input, output, &home, options.read_only)
    };
    let status = match serve() {
        Ok(()) => 0,
        Err(error) => {
            drop(writeln!(io::stderr(), "dwell: sftp: {error}"));
            1
        }
    };
    std::process::exit(status)
}

/// Writes whom the account lets in, or why nobody.
fn tell_keys(account: &Account) -> ! {
    let told = match account_keys::read(account) {
        Ok(text) => io::stdout().write_all(&text),
        Err(reason) => write!(io::stderr(), "{reason}"),
    };
    std::process::exit(told.map_or(1, |()| 0))
}

/// Standard input, output and errors: the terminal, or the pipes, which become the user's so that it can
/// open them anew as `/dev/stdout`.
fn connect(terminal: Option<&Pair>, pipes: &[OwnedFd], uid: u32) -> io::Result<()> {
    let descriptors: [BorrowedFd<'_>; 3] = match (terminal, pipes) {
        (Some(terminal), _) => {
            terminal.give_to(uid)?;
            ioctl_tiocsctty(&terminal.slave)?;
            [terminal.slave.as_fd(); 3]
        }
        (None, [input, output, errors]) => {
            for pipe in pipes {
                // Not so in a user namespace, to which the pipes do not belong; they work all the same.
                fchown(pipe, Some(Uid::from_raw(uid)), None).ok();
            }
            [input.as_fd(), output.as_fd(), errors.as_fd()]
        }
        (None, _) => return Err(io::ErrorKind::InvalidData.into()),
    };
    let [input, output, errors] = descriptors;
    rustix::stdio::dup2_stdin(input)?;
    rustix::stdio::dup2_stdout(output)?;
    Ok(rustix::stdio::dup2_stderr(errors)?)
}

/// Takes on the container's AppArmor profile or SELinux label: with the coming exec, or at once if there is none.
///
/// By the host's `/proc`, where `self` is this process: the container's may pretend.
fn label(container: &Container, at_once: bool) -> Result<(), Failure> {
    let process = &container.config.process;
    let file = if at_once { "current" } else { "exec" };
    let write = |path: String, text: &str| {
        let file =
            openat(&container.host_proc, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
        rustix::io::write(file, text.as_bytes())
    };
    if !process.apparmor_profile.is_empty() {
        let word = if at_once { "changeprofile" } else { "exec" };
        let text = format!("{word} {}", process.apparmor_profile);
        write(format!("self/attr/apparmor/{file}"), &text)
            // Kernels before 5.8 have one place for all modules.
            .or_else(|_| write(format!("self/attr/{file}"), &text))
            .restriction("AppArmor profile")?;
    }
    if !process.selinux_label.is_empty() {
        write(format!("self/attr/{file}"), &process.selinux_label).restriction("SELinux label")?;
    }
    Ok(())
}

/// Closes everything but the standard three, the session's socket and the terminal's master.
fn close_all_but(session: &OwnedFd, terminal: Option<&Pair>) -> io::Result<()> {
    let mut kept: Vec<_> = [Some(session), terminal.map(|terminal| &terminal.master)]
        .into_iter()
        .flatten()
        .map(|descriptor| descriptor.as_raw_fd().unsigned_abs())
        .collect();
    kept.sort_unstable();
    let mut first = 3;
    for descriptor in kept {
        if first < descriptor {
            sys::close_range(first, descriptor - 1)?;
        }
        first = descriptor + 1;
    }
    sys::close_range(first, u32::MAX)
}

fn become_user(account: &Account, granted: Granted) -> Result<(), Failure> {
    let what = "capabilities";
    granted.bound().restriction(what)?;
    set_keep_capabilities(true).restriction(what)?;
    let groups: Vec<_> = account.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
    setgroups(&groups).restriction("groups")?;
    setgid(Gid::from_raw(account.gid)).restriction("group")?;
    setuid(Uid::from_raw(account.uid)).restriction("user")?;
    granted.apply().restriction(what)?;
    set_keep_capabilities(false).restriction(what)?;
    // A change of the user may have undone it.
    set_dumpable_behavior(DumpableBehavior::NotDumpable).restriction("dumpable flag")
}

fn tell_ready(
    session: &OwnedFd,
    terminal: Option<&Pair>,
    socket: Option<&OwnedFd>,
    agent: Option<&AgentSocket>,
) -> io::Result<()> {
    let mut descriptors: Vec<_> =
        terminal.map(|terminal| terminal.master.as_fd()).into_iter().collect();
    descriptors.extend(socket.map(|socket| socket.as_fd()));
    if let Some(agent) = agent {
        descriptors.extend([agent.listener.as_fd(), agent.directory.as_fd(), agent.parent.as_fd()]);
    }
    let agent = agent.map(|agent| agent.name.clone());
    let ready = Report::Ready { terminal: terminal.is_some(), socket: socket.is_some(), agent };
    message::send(session, &ready, &descriptors)
}

/// Executes a plan; what fails from here on is told to the user, in whose session this is.
fn carry_out(plan: &Plan, environment: &Environment) -> ! {
    let (message, status) = match plan {
        Plan::Explain(message) => (message.clone(), NOT_FOUND),
        Plan::Execute { program, arguments } => match execute(program, arguments, environment) {
            Errno::ENOENT => {
                (format!("{program}: not found, or its interpreter is not"), NOT_FOUND)
            }
            error => (format!("{program}: {}", error.desc()), NOT_EXECUTABLE),
        },
    };
    drop(writeln!(io::stderr(), "dwell: {message}"));
    std::process::exit(status)
}

/// Returns only if it fails.
fn execute(program: &str, arguments: &[String], environment: &Environment) -> Errno {
    let text = |text: String| CString::new(text).map_err(|_| Errno::EINVAL);
    let arguments: Result<Vec<_>, _> = arguments.iter().cloned().map(text).collect();
    let environment: Result<Vec<_>, _> =
        environment.iter().map(|(name, value)| text(format!("{name}={value}"))).collect();
    let become_program = || match execve(&text(program.to_owned())?, &arguments?, &environment?) {
        Ok(never) => match never {},
        Err(error) => Err(error),
    };
    let result: Result<Infallible, Errno> = become_program();
    let Err(error) = result;
    error
}

/// The user's directory for sockets and the like, if somebody has made it: systemd does for users that linger, and finds
/// them by it.
fn runtime_directory(uid: u32) -> Option<String> {
    let path = format!("/run/user/{uid}");
    let metadata = fs::symlink_metadata(&path).ok()?;
    let is_users_alone = metadata.uid() == uid && metadata.mode() & 0o077 == 0;
    (metadata.is_dir() && is_users_alone).then_some(path)
}

/// Whether this process may execute the file.
fn is_program(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.is_file())
        && access(path, AccessFlags::X_OK).is_ok()
}

/// A file of the container's, as far as it is read at all. It may be anything, also a pipe that would block, or a link
/// through `/proc` that leads out of the container as long as this process has privileges.
fn read_file(path: &str) -> io::Result<String> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_MAGICLINKS)?;
    let file = File::from(file);
    if !file.metadata()?.is_file() {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut text = Vec::new();
    file.take(accounts::MAX_FILE_BYTES).read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}
