//! The settings of the host that the keeper writes, and no others.

/// Beneath `/proc/sys`; `*` is the name of an interface, or `all`.
const ALLOWED: [&str; 11] = [
    "net/ipv4/ip_forward",
    "net/ipv4/nexthop_compat_mode",
    "net/ipv4/neigh/default/gc_thresh1",
    "net/ipv4/neigh/default/gc_thresh2",
    "net/ipv4/neigh/default/gc_thresh3",
    "net/ipv4/conf/*/send_redirects",
    "net/ipv4/conf/*/rp_filter",
    "net/ipv6/conf/*/forwarding",
    "net/ipv6/conf/*/accept_ra",
    "net/ipv6/conf/*/disable_ipv6",
    "net/ipv6/conf/*/addr_gen_mode",
];
/// As long as a number of 32 bits can be.
const VALUE_BYTES_MAX: usize = 10;

/// Whether the keeper gives `setting` this `value`.
pub(super) fn is_allowed(setting: &str, value: &str) -> bool {
    let fits = |pattern: &str| {
        let (mut wanted, mut found) = (pattern.split('/'), setting.split('/'));
        loop {
            match (wanted.next(), found.next()) {
                (None, None) => return true,
                (Some("*"), Some(name)) if is_interface(name) => {}
                (Some(wanted), Some(found)) if wanted == found => {}
                _ => return false,
            }
        }
    };
    let is_number = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    is_number && value.len() <= VALUE_BYTES_MAX && ALLOWED.iter().any(|it| fits(it))
}

/// It cannot lead out of the directory of its setting.
fn is_interface(name: &str) -> bool {
    !matches!(name, "" | "." | ".." | "*") && !name.contains('\0')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_network_of_instances_needs_is_set() {
        for setting in [
            "net/ipv4/ip_forward",
            "net/ipv4/neigh/default/gc_thresh3",
            "net/ipv4/conf/eth0.7/rp_filter",
            "net/ipv6/conf/all/forwarding",
            "net/ipv6/conf/dw-0123456789ab/disable_ipv6",
        ] {
            assert!(is_allowed(setting, "1"), "{setting}");
        }
        for setting in [
            "",
            "net",
            "net/ipv4",
            "kernel/core_pattern",
            "/net/ipv4/ip_forward",
            "net/ipv4/ip_forward/",
            "net/ipv4/conf//rp_filter",
            "net/ipv4/conf/../rp_filter",
            "net/ipv4/conf/./rp_filter",
            "net/ipv4/conf/a/../../../kernel/core_pattern",
            "net/ipv4/conf/eth0/accept_local",
            "net/ipv4/conf/a\0b/rp_filter",
        ] {
            assert!(!is_allowed(setting, "1"), "{setting}");
        }
    }

    #[test]
    fn a_value_is_a_number() {
        assert!(is_allowed("net/ipv4/ip_forward", "4294967295"));
        for value in ["", "-1", "1\n", "x", "0 1", "10000000000"] {
            assert!(!is_allowed("net/ipv4/ip_forward", value), "{value:?}");
        }
    }
}
