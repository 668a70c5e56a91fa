//! Whom a process runs as: the container's `/etc/passwd` and `/etc/group`, and the user of its configuration.
//!
//! The files are the container's and may hold anything. A line that is not as it should be is passed over; nothing in them
//! gives more than the container has, since they are read and believed inside of it only.

use std::collections::BTreeSet;
use std::path::Path;

use super::bundle::User;

/// The longest file that is read, in bytes; what lies beyond is as if it were not there.
pub(super) const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;
/// The most groups that the kernel takes.
const MAX_GROUPS: usize = 65_536;
/// The most accounts that a person is told of, and the longest name among them, in bytes.
const MAX_TOLD: usize = 8;
const MAX_TOLD_BYTES: usize = 24;
/// Programs that accounts have for a shell which nobody is to log in as.
const NO_SHELLS: [&str; 6] = ["nologin", "false", "true", "sync", "halt", "shutdown"];

/// Whom a process runs as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) name: String,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Further groups.
    pub(super) groups: Vec<u32>,
    /// Absent if no file tells.
    pub(super) home: Option<String>,
    /// Absent if no file tells.
    pub(super) shell: Option<String>,
}

impl Account {
    /// The account of the name `login`, if the container has one.
    pub(super) fn named(login: &str, passwd: &str, group: &str, own: &User) -> Option<Self> {
        let line = passwd.lines().filter_map(Line::parse).find(|line| line.name == login)?;
        let mut groups = groups_of(line.name, group);
        groups.insert(line.gid);
        if line.uid == own.uid {
            groups.extend(&own.additional_gids);
        }
        let groups = groups.into_iter().take(MAX_GROUPS).collect();
        Some(Self { groups, ..line.account() })
    }

    /// The names of accounts that a person would log in as: those with a shell, of which `is_program` tells whether it is
    /// there.
    pub(super) fn of_people(passwd: &str, is_program: impl Fn(&Path) -> bool) -> Vec<String> {
        let is_plain = |name: &str| {
            name.len() <= MAX_TOLD_BYTES
                && name.chars().all(|one| one.is_ascii_alphanumeric() || "._-".contains(one))
        };
        let has_shell = |line: &Line<'_>| {
            let program = line.shell.rsplit('/').next().unwrap_or_default();
            !NO_SHELLS.contains(&program) && is_program(Path::new(line.shell))
        };
        let lines = passwd.lines().filter_map(Line::parse);
        let mut names: Vec<String> = Vec::new();
        for line in lines.filter(|line| is_plain(line.name) && has_shell(line)) {
            if names.len() < MAX_TOLD && !names.iter().any(|name| name == line.name) {
                names.push(line.name.to_owned());
            }
        }
        names
    }

    /// The container's own user.
    pub(super) fn own(passwd: &str, own: &User) -> Self {
        let entry = passwd.lines().filter_map(Line::parse).find(|line| line.uid == own.uid);
        let mut groups = own.additional_gids.clone();
        groups.truncate(MAX_GROUPS);
        let unnamed = Self {
            name: own.uid.to_string(),
            uid: own.uid,
            gid: own.gid,
            groups: Vec::new(),
            home: None,
            shell: None,
        };
        let account = entry.map_or(unnamed, |line| line.account());
        Self { gid: own.gid, groups, ..account }
    }
}

/// A line of `/etc/passwd`.
struct Line<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
    shell: &'a str,
}

impl<'a> Line<'a> {
    /// `name:password:uid:gid:comment:home:shell`
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty() && !name.contains('\0'))?;
        let uid = id(fields.nth(1)?)?;
        let gid = id(fields.next()?)?;
        let home = fields.nth(1).unwrap_or_default();
        let shell = fields.next().unwrap_or_default();
        Some(Self { name, uid, gid, home, shell })
    }

    fn account(&self) -> Account {
        // Both become arguments of system calls, which end at the first NUL.
        let path = |field: &str| {
            (field.starts_with('/') && !field.contains('\0')).then(|| field.to_owned())
        };
        Account {
            name: self.name.to_owned(),
            uid: self.uid,
            gid: self.gid,
            groups: Vec::new(),
            home: path(self.home),
            shell: path(self.shell),
        }
    }
}

/// The groups that list the user, of lines `name:password:gid:user,user`.
fn groups_of(user: &str, group: &str) -> BTreeSet<u32> {
    let member = |line: &str| {
        let mut fields = line.split(':');
        let gid = id(fields.nth(2)?)?;
        fields.next()?.split(',').any(|one| one == user).then_some(gid)
    };
    group.lines().filter_map(member).collect()
}

/// A user's or group's id. The largest number is none: system calls take it for "do not change".
fn id(field: &str) -> Option<u32> {
    let digits = field.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| field.parse().ok()).flatten().filter(|id| *id != u32::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/ash\n\
        # a comment\n\
        +::::::\n\
        bad:x:-1:0::/:/bin/sh\n\
        bad:x:4294967295:0::/:/bin/sh\n\
        bad:x:+5:0::/:/bin/sh\n\
        alice:x:1000:1000:Alice,,,:/home/alice:/bin/bash\n\
        alice:x:0:0:second:/root:/bin/sh\n\
        short:x:7:8\n\
        odd:x:9:9::relative:bash\n";
    const GROUP: &str =
        "root:x:0:root\nwheel:x:10:root,alice\nalice:x:1000:\nno:x:-3:alice\naudio:x:29:alice\n";

    fn own(uid: u32) -> User {
        User { uid, gid: 5, umask: None, additional_gids: vec![6] }
    }

    fn of(login: &str) -> Account {
        Account::named(login, PASSWD, GROUP, &own(1000)).unwrap()
    }

    #[test]
    fn a_name_of_the_container_is_taken_with_its_groups() {
        let alice = of("alice");
        // The container is alice's own, and gives her group 6.
        assert_eq!((alice.uid, alice.gid, &*alice.groups), (1000, 1000, &[6, 10, 29, 1000][..]));
        assert_eq!(of("root").groups, [0, 10]);
        assert_eq!(alice.home.as_deref(), Some("/home/alice"));
        assert_eq!(alice.shell.as_deref(), Some("/bin/bash"));
        let short = of("short");
        assert_eq!((short.uid, short.gid, short.home, short.shell), (7, 8, None, None));
        let odd = of("odd");
        assert_eq!((odd.home, odd.shell), (None, None));
    }

    #[test]
    fn people_are_told_of_accounts_with_a_shell() {
        let passwd = format!(
            "{PASSWD}daemon:x:2:2::/:/usr/sbin/nologin\nsync:x:3:3::/:/bin/sync\ngone:x:4:4::/:/bin/zsh\n\
             e\u{301}\u{1b}:x:5:5::/:/bin/sh\n"
        );
        let is_program = |path: &Path| path != Path::new("/bin/zsh") && path.starts_with("/bin");
        assert_eq!(Account::of_people(&passwd, is_program), ["root", "alice"]);
        let many: String = (0..99).map(|id| format!("u{id}:x:{id}:1::/:/bin/sh\n")).collect();
        assert_eq!(Account::of_people(&many, is_program).len(), MAX_TOLD);
    }

    #[test]
    fn any_other_name_is_nobody() {
        for login in ["nobody-here", "", "bad", "+", "# a comment", "root:x"] {
            assert_eq!(Account::named(login, PASSWD, GROUP, &own(1000)), None, "{login}");
        }
    }

    #[test]
    fn the_containers_own_user_has_the_name_that_its_number_has() {
        let account = Account::own(PASSWD, &own(1000));
        assert_eq!((account.uid, account.gid, &*account.groups), (1000, 5, &[6][..]));
        assert_eq!(account.name, "alice");
        assert_eq!(account.home.as_deref(), Some("/home/alice"));
        let unnamed = Account::own("", &own(77));
        assert_eq!((unnamed.uid, &*unnamed.name, unnamed.home), (77, "77", None));
    }

    proptest! {
        #[test]
        fn whatever_the_files_hold_the_id_is_written_in_them_or_the_own(
            passwd in "([a-c]{0,2}:[^\n]{0,3}:[0-9+-]{0,3}:[0-9]{0,2}[:a/\0]{0,6}\n?|\\PC{0,9}){0,6}",
            group in "\\PC{0,20}",
            login in "[a-c]{0,2}",
        ) {
            let named = Account::named(&login, &passwd, &group, &own(12_345));
            prop_assert!(named.as_ref().is_none_or(|account| account.name == login));
            let account = named.unwrap_or_else(|| Account::own(&passwd, &own(12_345)));
            // With leading zeros or a sign, as the library of C reads it too.
            let is_it = |field: &str| field.parse() == Ok(account.uid);
            let written = passwd.split([':', '\n']).any(is_it);
            prop_assert!(account.uid == 12_345 || written);
            prop_assert!(account.home.is_none_or(|home| home.starts_with('/') && !home.contains('\0')));
        }
    }
}
