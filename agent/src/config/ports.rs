//! Ports of the host, as they are written.

use dwell_core::workload::Protocol;
use dwell_network::PortRange;
use serde::Deserialize;

/// Ports of one protocol: `5000`, `123/udp`, `8000-8080/tcp`. Without a protocol, TCP's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "PortsText")]
pub struct HostPorts(pub PortRange);

/// As they are written.
#[derive(Deserialize)]
#[serde(untagged)]
enum PortsText {
    Number(u64),
    Text(String),
}

impl TryFrom<PortsText> for HostPorts {
    type Error = String;

    fn try_from(written: PortsText) -> Result<Self, String> {
        let text = match written {
            PortsText::Number(number) => number.to_string(),
            PortsText::Text(text) => text,
        };
        let wrong = || {
            format!(
                "{text:?} are not ports: PORT or FIRST-LAST from 1 to 65535, then nothing, /tcp or /udp"
            )
        };
        let (ports, protocol) = match text.split_once('/') {
            None => (text.as_str(), Protocol::Tcp),
            Some((ports, "tcp")) => (ports, Protocol::Tcp),
            Some((ports, "udp")) => (ports, Protocol::Udp),
            Some(_) => return Err(wrong()),
        };
        let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
        let port = |text: &str| text.parse().ok().filter(|&port: &u16| port > 0).ok_or_else(wrong);
        let (first, last) = (port(first)?, port(last)?);
        if last < first {
            return Err(wrong());
        }
        Ok(Self(PortRange { protocol, first, last }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_of_the_host_are_written_in_three_ways() {
        let read: Vec<HostPorts> =
            serde_saphyr::from_str("[5000, 123/udp, 8000-8080/tcp]").unwrap();
        let range = |protocol, first, last| HostPorts(PortRange { protocol, first, last });
        let expected = [
            range(Protocol::Tcp, 5000, 5000),
            range(Protocol::Udp, 123, 123),
            range(Protocol::Tcp, 8000, 8080),
        ];
        assert_eq!(read, expected);
    }
}
