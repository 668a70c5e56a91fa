//! What options of keys and certificates are compared with: lists of client addresses, and targets of forwarding.
//!
//! Pure. Names of clients are not looked up: a host name in `from=` matches nobody, and one with a `!` in front
//! is an error.

use std::net::IpAddr;

use ipnet::IpNet;

/// Most patterns of one list.
const MAX_PATTERNS: usize = 256;

/// A comma-separated list of client addresses: it matches if one of its patterns does and none of those
/// that begin with `!`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressList(Vec<AddressPattern>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct AddressPattern {
    negated: bool,
    what: What,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum What {
    Network(IpNet),
    /// With `*` and `?`, against the address as text.
    Text(String),
}

impl What {
    /// Whether it cannot match any address.
    fn is_name(&self) -> bool {
        let Self::Text(text) = self else { return false };
        let only = |more: &dyn Fn(char) -> bool| {
            text.chars().all(|character| "*?".contains(character) || more(character))
        };
        let ipv4 = only(&|character| character.is_ascii_digit() || character == '.');
        let ipv6 = only(&|character| character.is_ascii_hexdigit() || ".:".contains(character));
        !(ipv4 || ipv6 && text.contains(':'))
    }
}

impl AddressList {
    /// Reads the value of an `authorized_keys` line's `from=`: addresses, networks, `*` and `?`, and `!` in front.
    pub fn patterns(list: &str) -> Option<Self> {
        let list = Self::read(list, |text| match text.contains('/') {
            true => network(text),
            false => network(text).or_else(|| Some(What::Text(text.to_owned()))),
        })?;
        // A name never matches: to let in only it lets nobody in, and to keep it out cannot be done.
        let enforced = |pattern: &AddressPattern| !pattern.negated || !pattern.what.is_name();
        list.0.iter().all(enforced).then_some(list)
    }

    /// Reads a certificate's `source-address`: addresses and networks alone.
    pub fn networks(list: &str) -> Option<Self> {
        let list = Self::read(list, network)?;
        list.0.iter().all(|pattern| !pattern.negated).then_some(list)
    }

    fn read(list: &str, what: impl Fn(&str) -> Option<What>) -> Option<Self> {
        let pattern = |text: &str| {
            let bare = text.strip_prefix('!');
            let text = bare.unwrap_or(text);
            if text.is_empty() || text.contains(char::is_whitespace) {
                return None;
            }
            Some(AddressPattern { negated: bare.is_some(), what: what(text)? })
        };
        let patterns: Vec<_> =
            list.split(',').take(MAX_PATTERNS + 1).map(pattern).collect::<Option<_>>()?;
        (patterns.len() <= MAX_PATTERNS).then_some(Self(patterns))
    }

    /// Whether `address` is meant.
    pub fn matches(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let text = address.to_string();
        let mut meant = false;
        for pattern in &self.0 {
            let hit = match &pattern.what {
                What::Network(network) => network.contains(&address),
                What::Text(pattern) => wildcard(pattern.as_bytes(), text.as_bytes()),
            };
            if hit && pattern.negated {
                return false;
            }
            meant |= hit;
        }
        meant
    }
}

/// An address or a network. Bits beyond the prefix are an error, as with sshd.
fn network(text: &str) -> Option<What> {
    let network = match text.parse::<IpAddr>() {
        Ok(address) => IpNet::from(address),
        Err(_) => {
            text.parse::<IpNet>().ok().filter(|network| network.network() == network.addr())?
        }
    };
    Some(What::Network(network))
}

/// Whether `pattern`, with `*` for anything and `?` for one character, covers the whole of `text`.
fn wildcard(pattern: &[u8], text: &[u8]) -> bool {
    // The last `*` and how much of the text it has eaten so far: only the last one has ever to be reconsidered.
    let (mut at, mut read, mut star) = (0, 0, None);
    while read < text.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, read));
                at += 1;
            }
            Some(&byte) if byte == b'?' || byte == text[read] => {
                at += 1;
                read += 1;
            }
            _ => {
                let Some((star_at, eaten)) = star else { return false };
                at = star_at + 1;
                read = eaten + 1;
                star = Some((star_at, read));
            }
        }
    }
    pattern[at..].iter().all(|&byte| byte == b'*')
}

/// Where a forwarded connection may go, or a forwarded port be listened on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Absent: any.
    host: Option<String>,
    /// Absent: any.
    port: Option<u16>,
}

impl Target {
    /// Reads `HOST:PORT` (`permitopen=`); either may be `*`, an IPv6 address stands in brackets.
    pub fn with_host(text: &str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        let host = match host.strip_prefix('[') {
            Some(bracketed) => bracketed.strip_suffix(']')?,
            None if host.contains(':') => return None,
            None => host,
        };
        if host.is_empty() || host.contains(char::is_whitespace) {
            return None;
        }
        let host = (host != "*").then(|| host.to_ascii_lowercase());
        Some(Self { host, port: port_or_any(port)? })
    }

    /// Reads `[HOST:]PORT` (`permitlisten=`).
    pub fn host_optional(text: &str) -> Option<Self> {
        match text.contains(':') {
            true => Self::with_host(text),
            false => Some(Self { host: None, port: port_or_any(text)? }),
        }
    }

    /// Whether `host` and `port`, as a client named them, are meant.
    pub fn matches(&self, host: &str, port: u16) -> bool {
        self.host.as_ref().is_none_or(|mine| mine.eq_ignore_ascii_case(host))
            && self.port.is_none_or(|mine| mine == port)
    }
}

fn port_or_any(text: &str) -> Option<Option<u16>> {
    match text {
        "*" => Some(None),
        _ => text.parse().ok().filter(|port| *port != 0).map(Some),
    }
}

#[cfg(test)]
mod tests;
