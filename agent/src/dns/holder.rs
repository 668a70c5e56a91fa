//! Who has an address and port that we want.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

/// Names the program that listens at `address` or at all addresses: `dnsmasq (process 812)`, or its user where that
/// is all that may be seen. Looks through `/proc`, so it blocks for some milliseconds.
#[must_use]
pub fn holder_of(address: SocketAddr) -> Option<String> {
    let mut tables = ["udp", "udp6", "tcp", "tcp6"].into_iter();
    let (user, inode) = tables
        .find_map(|table| find(&fs::read_to_string(format!("/proc/net/{table}")).ok()?, address))?;
    Some(process_with(&inode).unwrap_or_else(|| format!("a process of user id {user}")))
}

/// User and inode of the first socket of a table that takes what is sent to `address`.
pub(crate) fn find(table: &str, address: SocketAddr) -> Option<(String, String)> {
    table.lines().skip(1).find_map(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let [_, local, remote, _, _, _, _, user, _, inode, ..] = columns[..] else { return None };
        let (ip, port) = parse(local)?;
        let takes = port == address.port() && (ip.is_unspecified() || ip == address.ip());
        // One that is connected listens to nobody else.
        (takes && parse(remote)?.1 == 0).then(|| (user.to_owned(), inode.to_owned()))
    })
}

/// Reads `0100007F:0035`: the address as words in the processor's order.
fn parse(text: &str) -> Option<(IpAddr, u16)> {
    let (address, port) = text.split_once(':')?;
    let words = address.as_bytes().chunks(8).map(|word| {
        let word = u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok()?;
        Some(word.to_ne_bytes())
    });
    let bytes = words.collect::<Option<Vec<_>>>()?.concat();
    let ip = match *bytes {
        [a, b, c, d] => Ipv4Addr::new(a, b, c, d).into(),
        _ => Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into(),
    };
    Some((ip, u16::from_str_radix(port, 16).ok()?))
}

fn process_with(inode: &str) -> Option<String> {
    let wanted = format!("socket:[{inode}]");
    let has_it = |process: &Path| {
        let files = fs::read_dir(process.join("fd")).ok()?;
        let mut links = files.filter_map(|file| fs::read_link(file.ok()?.path()).ok());
        links.any(|link| link.as_os_str() == wanted.as_str()).then_some(())
    };
    fs::read_dir("/proc").ok()?.find_map(|entry| {
        let process = entry.ok()?.path();
        let id: u32 = process.file_name()?.to_str()?.parse().ok()?;
        has_it(&process)?;
        let name = fs::read_to_string(process.join("comm")).ok()?;
        Some(format!("{} (process {id})", name.trim_end()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_listener_is_found_and_named() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let named = holder_of(address).unwrap();
        assert!(named.ends_with(&format!("(process {})", std::process::id())), "{named}");
        drop(listener);
        assert_eq!(holder_of(address), None);
    }

    #[test]
    fn sockets_of_a_table() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            1: 3500007F:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000   101 0 1234 2\n\
            2: 00000000:14EB 00000000:0000 07 00000000:00000000 00:00000000 00000000   102 0 99 2\n\
            3: 0100007F:1000 0100007F:0035 01 00000000:00000000 00:00000000 00000000   103 0 77 2\n";
        let user = |address: &str| find(table, address.parse().unwrap()).map(|(user, _)| user);
        assert_eq!(user("127.0.0.53:53").as_deref(), Some("101"));
        assert_eq!(user("192.0.2.1:5355").as_deref(), Some("102"));
        assert_eq!(user("127.0.0.1:53"), None);
        assert_eq!(user("127.0.0.1:4096"), None);
        let six = "sl\n 0: 00000000000000000000000000000000:0035 00000000000000000000000000000000:0000 0A 0:0 0:0 0 7 0 5 1\n";
        assert!(find(six, "192.0.2.1:53".parse().unwrap()).is_some());
    }
}
