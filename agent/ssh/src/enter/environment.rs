//! The environment of a process: the container's, the account's on top, and last what the client asks for.

use std::collections::BTreeMap;

use super::accounts::Account;

/// Where programs are looked for if the container does not say.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// A client does not set variables that begin so: they change which code a program runs.
const REFUSED_PREFIXES: [&str; 6] = ["LD_", "DYLD_", "GLIBC_", "MALLOC_", "BASH_", "PYTHON"];
/// A client does not set these either: a shell's or the C library's, and those that tell who one is.
const REFUSED: [&str; 20] = [
    "ENV",
    "IFS",
    "CDPATH",
    "PATH",
    "SHELL",
    "SHELLOPTS",
    "BASHOPTS",
    "PS4",
    "PROMPT_COMMAND",
    "HOME",
    "USER",
    "LOGNAME",
    "GCONV_PATH",
    "LOCPATH",
    "NLSPATH",
    "RES_OPTIONS",
    "HOSTALIASES",
    "PERL5LIB",
    "RUBYLIB",
    "NODE_OPTIONS",
];

/// Variables by name. Values have no NUL, names neither that nor `=`.
pub(super) type Environment = BTreeMap<String, String>;

/// The environment of a process that runs as `account` with `shell`.
pub(super) fn environment(
    container: &[String],
    account: &Account,
    shell: &str,
    client: &[(String, String)],
) -> Environment {
    let mut environment: Environment = container
        .iter()
        .filter_map(|variable| variable.split_once('='))
        .filter(|(name, value)| !name.is_empty() && !name.contains('\0') && !value.contains('\0'))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    environment.entry("PATH".to_owned()).or_insert_with(|| DEFAULT_PATH.to_owned());
    if let Some(home) = &account.home {
        environment.insert("HOME".to_owned(), home.clone());
    }
    environment.entry("HOME".to_owned()).or_insert_with(|| "/".to_owned());
    environment.insert("SHELL".to_owned(), shell.to_owned());
    for name in ["USER", "LOGNAME"] {
        environment.insert(name.to_owned(), account.name.clone());
    }
    let wanted = client.iter().filter(|(name, value)| is_accepted(name) && !value.contains('\0'));
    environment.extend(wanted.cloned());
    environment
}

/// Whether a client may set this variable.
fn is_accepted(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    !name.is_empty()
        && name.bytes().all(plain)
        && !REFUSED.contains(&name)
        && !REFUSED_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn alice() -> Account {
        Account {
            name: "alice".to_owned(),
            uid: 1000,
            gid: 1000,
            groups: Vec::new(),
            home: Some("/home/alice".to_owned()),
            shell: None,
        }
    }

    fn pair(name: &str, value: &str) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    #[test]
    fn the_account_counts_over_the_container_and_the_client_over_both() {
        let container = ["HOME=/app", "A=1", "B=x=y", "LANG=C", "LD_PRELOAD=/own.so", "broken"];
        let client = [pair("LANG", "de_DE.UTF-8"), pair("HOME", "/evil"), pair("LC_ALL", "C")];
        let result = environment(&container.map(str::to_owned), &alice(), "/bin/sh", &client);
        let expected = [
            ("A", "1"),
            ("B", "x=y"),
            ("HOME", "/home/alice"),
            ("LANG", "de_DE.UTF-8"),
            ("LC_ALL", "C"),
            ("LD_PRELOAD", "/own.so"),
            ("LOGNAME", "alice"),
            ("PATH", DEFAULT_PATH),
            ("SHELL", "/bin/sh"),
            ("USER", "alice"),
        ];
        assert_eq!(
            result.into_iter().collect::<Vec<_>>(),
            expected.map(|(name, value)| pair(name, value))
        );
    }

    #[test]
    fn a_client_cannot_choose_what_code_is_loaded() {
        for name in [
            "LD_PRELOAD",
            "LD_LIBRARY_PATH",
            "ENV",
            "BASH_ENV",
            "IFS",
            "BASH_FUNC_ls%%",
            "A=B",
            "",
            "A\0",
            "é",
            "PATH",
        ] {
            let without = environment(&[], &alice(), "/bin/sh", &[]);
            assert_eq!(
                environment(&[], &alice(), "/bin/sh", &[pair(name, "x")]),
                without,
                "{name:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn whatever_is_given_can_be_handed_to_a_program(
            container in proptest::collection::vec("[A-C=\0]{0,4}", 0..4),
            client in proptest::collection::vec(("[A-D=\0]{0,3}", "[a-c\0]{0,3}"), 0..4),
        ) {
            for (name, value) in environment(&container, &alice(), "/bin/sh", &client) {
                prop_assert!(!name.is_empty() && !name.contains(['=', '\0']) && !value.contains('\0'));
            }
        }
    }
}
