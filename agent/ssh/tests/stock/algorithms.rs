//! What connections may be protected with.

use crate::world::{INSTANCE, World, run, text};

#[test]
fn a_stock_client_agrees_on_modern_algorithms() {
    let world = World::new();
    let output = run(world.ssh("owner").args(["-v", INSTANCE, "true"]));
    let said = text(&output.stderr);
    for agreed in [
        "kex: algorithm: curve25519-sha256",
        "kex: host key algorithm: ssh-ed25519-cert-v01@openssh.com",
        "cipher: chacha20-poly1305@openssh.com MAC: <implicit> compression: none",
        "kex_input_ext_info: server-sig-algs=",
    ] {
        assert!(said.contains(agreed), "{agreed} is not in\n{said}");
    }
}

#[test]
fn everything_that_is_offered_works() {
    let world = World::new();
    let options = [
        "KexAlgorithms=curve25519-sha256@libssh.org",
        "KexAlgorithms=ecdh-sha2-nistp256",
        "KexAlgorithms=ecdh-sha2-nistp384",
        "KexAlgorithms=ecdh-sha2-nistp521",
        "Ciphers=aes128-gcm@openssh.com",
        "Ciphers=aes256-gcm@openssh.com",
        "Ciphers=aes128-ctr",
        "Ciphers=aes192-ctr",
        "Ciphers=aes256-ctr",
        "HostKeyAlgorithms=ssh-ed25519",
    ];
    for option in options {
        assert!(world.lets_in("owner", &["-o", option]), "{option}");
    }
    for mac in ["hmac-sha2-256-etm@openssh.com", "hmac-sha2-512-etm@openssh.com"] {
        let mac = format!("MACs={mac}");
        assert!(world.lets_in("owner", &["-o", "Ciphers=aes256-ctr", "-o", &mac]), "{mac}");
    }
}

#[test]
fn everything_weak_is_refused() {
    let world = World::new();
    let cases: [(&str, &[&str]); 5] = [
        (
            "key exchange method",
            &[
                "KexAlgorithms=diffie-hellman-group1-sha1",
                "KexAlgorithms=diffie-hellman-group14-sha1",
                "KexAlgorithms=diffie-hellman-group14-sha256",
                "KexAlgorithms=diffie-hellman-group-exchange-sha1",
                "KexAlgorithms=diffie-hellman-group-exchange-sha256",
            ],
        ),
        ("cipher", &["Ciphers=aes128-cbc", "Ciphers=aes256-cbc", "Ciphers=3des-cbc"]),
        (
            "MAC",
            &[
                "MACs=hmac-sha1",
                "MACs=hmac-sha1-etm@openssh.com",
                "MACs=hmac-md5",
                "MACs=hmac-sha2-256",
                "MACs=umac-64@openssh.com",
            ],
        ),
        (
            "host key type",
            &[
                "HostKeyAlgorithms=ssh-rsa",
                "HostKeyAlgorithms=rsa-sha2-512",
                "HostKeyAlgorithms=ssh-dss",
            ],
        ),
        ("host key type", &["HostKeyAlgorithms=ecdsa-sha2-nistp256"]),
    ];
    for (what, options) in cases {
        for option in options {
            let mut command = world.ssh("owner");
            command.args(["-o", option]);
            if what == "MAC" {
                command.args(["-o", "Ciphers=aes256-ctr"]);
            }
            let output = run(command.args([INSTANCE, "true"]));
            let said = text(&output.stderr);
            assert!(said.contains(&format!("no matching {what} found")), "{option}: {said}");
        }
    }
}

#[test]
fn compression_is_never_agreed_on() {
    let world = World::new();
    let output = run(world.ssh("owner").args(["-v", "-C", INSTANCE, "true"]));
    let said = text(&output.stderr);
    assert!(said.contains("compression: none") && !said.contains("compression: zlib"), "{said}");
}

#[test]
fn new_keys_are_agreed_on_under_way() {
    let world = World::new();
    assert!(world.lets_in("owner", &["-o", "RekeyLimit=16"]));
}
