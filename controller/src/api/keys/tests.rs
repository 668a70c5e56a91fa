//! What is a key, and what is none.

use super::*;

const ED25519: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJYw60tYbTg+BYVomLA6eddxCD9gR7l8Ae6b3zJ/Faiz ann@lapto\
    p";
const ECDSA: &str = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBJVP7mtDNp2prAUmw3\
    fgKbZVuIHQD5G1xM1nrzgxPGKoPoi8Ls2VAez+bSLKQgpjo5AusrO6KvomBCPHLj95HqQ= ann@laptop";
const RSA_2048: &str = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABAQDhn9LurJDCnGmZof40lWJlTsE3+sxxTQQQHxDnK1mRvddf4dyz6f\
    PEkSPQ6iv/g/tFfrUr2+4U3+n5q7kkAuIIFVtLSxNxA9nPVwVov+5ow+tR+mPcRH5Y4spUXWqlj2eTbeuIjWzdb2sO\
    pOr9SEiLCiOOH7XIH50YESRDXrWQaPYhpvlSPClypbXqEc85aVce77KoHtcRWCkgDvjpi5504vrYr8Vqi5AuphiV3R\
    IQ7LOV50l8Fh33XK4jgXdhB25U/xevv8InMZP+DI11/gZI9v02s96I6wtC5zkNcbKZhQgatd9Pz7O7Du1NbYqv2Ijo\
    KKgdzAcMffGu5QR7UMyJ ann@laptop";
const RSA_1024: &str = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQDLjPGyEk+fZ7B6PBPOPCzw3MX82GIONfMQvb2bfoyRDrFa4fsocw\
    OGTC5IVVfVSYX+YAaG7x1LRGyejKOZ5JJNXmHGhiVIZht3S7gYtX/gqJkZaMv2qsN1PQzqIrkUan8Ntf2Dhomd6ATB\
    2fvElqxQqZyXJkxw0eYKrnsKspXLXw== ann@laptop";
const DSA: &str = "ssh-dss AAAAB3NzaC1kc3MAAACBAKBEV4AomZBzZG+G0HaeCRUfhbmurwaXHeGvsTEvCWoxx0JbRevc7dleY5/9Ts\
    Cw9KvAaLxPkfekHVTGBqapE9U5LyQpJP/GKAy7Uxd88jROrg8Stq9CKFB31Lb3gZG/cS1ctn8YqWPhiQ6hX7qJpFXF\
    DI5KBsXn36p1hSdHaFJXAAAAFQD0oJGlg6S5ClxKQKXASpIqzs6/pQAAAIEAjMqnQYi06at6VVmIgapBUq9mDGgnQa\
    /xrZ3NAuc1FhqOvPxhcgAdGiwU3fJ8D220rXWaqFgrC6flDpl6TJZROyjFdPcPJLQCFUlbQoIdgHHYeH+pBq3ercOL\
    VgOBQ91atwgUqAXDAxpGSNSQqJ+tz6FOnqu4yBpd91ierOJCPwYAAACAa8e5Fssi3z9k4sEOOxbWv1oYrfPGfuYsXq\
    wJJfk8QK73cWQ6JHeoUG5XK7ifnRpHycFsO25W/hnV8iACNzDd20pk+xLhY5UAf6IvahcFHmWgN0crtRjCxGLRYH+C\
    jKeG16fNa/gq1LDfpDpf92G4CSWqlXYiqub70Dnf5Iebvcc= ann@laptop";

#[test]
fn keys_are_read_with_options_and_without() {
    let plain = authorized_key(&format!("  {ED25519}\n")).unwrap();
    assert_eq!(plain.line, ED25519);
    assert_eq!(plain.comment, "ann@laptop");
    assert!(plain.fingerprint.starts_with("SHA256:"), "{}", plain.fingerprint);
    let bare = ED25519.trim_end_matches(" ann@laptop");
    for line in [
        bare.to_owned(),
        bare.replacen(' ', "  ", 1),
        format!("{bare} a comment of \u{e9} words"),
        format!("restrict,pty {bare}"),
        format!("command=\"echo a b\",no-pty {ED25519}"),
        format!("command=\"say \\\"ssh-ed25519 AAAA\\\"\"\t{ED25519}"),
        format!("cert-authority,principals=\"a,b\" {ED25519}"),
    ] {
        let key = authorized_key(&line).unwrap();
        assert_eq!((key.fingerprint, key.line), (plain.fingerprint.clone(), line));
    }
    for line in [ECDSA, RSA_2048] {
        assert_ne!(authorized_key(line).unwrap().fingerprint, plain.fingerprint);
    }
}

#[test]
fn what_is_no_key_is_refused_with_the_reason() {
    let restricted = format!("restrict {RSA_1024}");
    let long = format!("{ED25519} {}", "x".repeat(LINE_MAX));
    let two = format!("{ED25519}\n{ECDSA}");
    let certificate = ED25519.replacen("ssh-ed25519", "ssh-ed25519-cert-v01@openssh.com", 1);
    for (line, error) in [
        ("-----BEGIN OPENSSH PRIVATE KEY-----", KeyError::Private),
        ("-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNz", KeyError::Private),
        ("-----BEGIN RSA PRIVATE KEY-----", KeyError::Private),
        ("PuTTY-User-Key-File-3: ssh-ed25519", KeyError::Private),
        ("", KeyError::NotAKey),
        ("# a comment", KeyError::NotAKey),
        ("ssh-ed25519", KeyError::NotAKey),
        ("ssh-ed25519 AAAA me", KeyError::NotAKey),
        ("restrict", KeyError::NotAKey),
        (&two, KeyError::NotAKey),
        (&long, KeyError::TooLong),
        (&certificate, KeyError::Certificate),
        (DSA, KeyError::Weak),
        (RSA_1024, KeyError::Weak),
        (&restricted, KeyError::Weak),
    ] {
        assert_eq!(authorized_key(line).unwrap_err(), error, "{line:?}");
    }
    assert_eq!(public_key(&format!("restrict {ED25519}")).unwrap_err(), KeyError::NotAKey);
}

#[test]
fn principals_are_plain_names() {
    let names = |names: &[&str]| principals(names.iter().map(ToString::to_string).collect());
    assert!(names(&["root", "a.b_c-d@e"]).is_ok());
    let long = "x".repeat(PRINCIPAL_MAX + 1);
    for wrong in
        [&[][..], &["root"; PRINCIPALS_MAX + 1], &[""], &["a b"], &["a,b"], &["\u{1b}"], &[&long]]
    {
        assert!(names(wrong).is_err(), "{wrong:?}");
    }
}
