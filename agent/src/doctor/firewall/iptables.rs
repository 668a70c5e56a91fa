//! Chains of iptables, as `iptables -S` lists them, compared with a packet.

use std::net::Ipv4Addr;

use dwell_core::workload::Protocol;
use ipnet::Ipv4Net;

use super::walk::{Chains, Fits, Leaves, Packet, SOURCE_PORT, Step, Target};

/// Extensions that compare nothing without one of their options.
const NEUTRAL: [&str; 8] =
    ["tcp", "udp", "comment", "conntrack", "state", "addrtype", "multiport", "limit"];
/// Targets that do not end the way of a packet.
const PASSING: [&str; 12] = [
    "LOG", "NFLOG", "ULOG", "MARK", "CONNMARK", "TRACE", "TCPMSS", "CT", "DSCP", "TOS", "CLASSIFY",
    "SET",
];

/// The `filter` table as `iptables -S` prints it.
#[derive(Clone, Debug, Default)]
pub(super) struct Tables {
    /// The program that knows them.
    pub(super) program: &'static str,
    pub(super) lines: Vec<String>,
}

impl Tables {
    /// Whether there is this very line.
    pub(super) fn has(&self, line: &str) -> bool {
        self.lines.iter().any(|seen| seen == line)
    }

    /// Whether there is a chain of this name beside the built-in ones.
    pub(super) fn has_chain(&self, chain: &str) -> bool {
        self.chain_names().any(|name| name == chain)
    }

    fn chain_names(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().filter_map(|line| line.strip_prefix("-N "))
    }

    /// The rules for a packet.
    pub(super) fn steps(&self, packet: &Packet) -> Chains {
        let mut chains: Chains =
            self.chain_names().map(|name| (name.to_owned(), Vec::new())).collect();
        for line in &self.lines {
            let words = words(line);
            if let [add, chain, rule @ ..] = &words[..]
                && add == "-A"
            {
                let step = step(rule, packet, |name| self.has_chain(name));
                chains.entry(chain.clone()).or_default().push(step);
            }
        }
        chains
    }
}

/// Splits at blanks outside of quotes.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut is_quoted) = (Vec::new(), String::new(), false);
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        match character {
            '"' => is_quoted = !is_quoted,
            '\\' if is_quoted => word.extend(characters.next()),
            ' ' if !is_quoted => words.push(std::mem::take(&mut word)),
            other => word.push(other),
        }
    }
    words.push(word);
    words.retain(|word| !word.is_empty());
    words
}

fn step(words: &[String], packet: &Packet, is_chain: impl Fn(&str) -> bool) -> Step {
    let mut fits = Fits::Yes;
    let mut words = words.iter().map(String::as_str).peekable();
    while let Some(word) = words.next() {
        let is_negated = word == "!";
        let option = if is_negated { words.next().unwrap_or_default() } else { word };
        let mut value = || words.next().unwrap_or_default();
        let one = match option {
            // What follows are the target's own options.
            "-j" => return Step { fits, target: target(value(), is_chain) },
            "-g" => return Step { fits, target: Target::Goto(value().to_owned()) },
            "--comment" => {
                value();
                continue;
            }
            "-m" if NEUTRAL.contains(&value()) => continue,
            "-s" => within(value(), packet.from),
            "-d" => within(value(), packet.to),
            "-i" => Fits::interface(&packet.enters, value(), '+'),
            "-o" => match &packet.leaves {
                Leaves::Never => Fits::No,
                Leaves::By(name) => Fits::interface(name, value(), '+'),
            },
            "-p" => protocol(value(), packet.protocol),
            // A later fragment, which the first packet is not.
            "-f" => Fits::No,
            "--dport" | "--dports" => port(value(), packet.port),
            "--sport" | "--sports" => port(value(), SOURCE_PORT),
            "--ctstate" | "--state" => one_of(&value().to_lowercase(), packet.state.name()),
            "--dst-type" => match packet.leaves {
                Leaves::Never => one_of(value(), "LOCAL"),
                Leaves::By(_) => one_of(value(), "UNICAST"),
            },
            "--src-type" => one_of(value(), "UNICAST"),
            _ => Fits::Perhaps,
        };
        // Values of what is not known here.
        while words.next_if(|word| !word.starts_with('-') && *word != "!").is_some() {}
        fits = fits.and(one.unless(is_negated));
    }
    Step { fits, target: Target::Next }
}

fn target(name: &str, is_chain: impl Fn(&str) -> bool) -> Target {
    match name {
        "ACCEPT" => Target::Accept,
        "DROP" | "REJECT" => Target::Drop,
        "RETURN" => Target::Return,
        chain if is_chain(chain) => Target::Jump(chain.to_owned()),
        passing if PASSING.contains(&passing) => Target::Next,
        _ => Target::Unknown,
    }
}

fn one_of(list: &str, wanted: &str) -> Fits {
    list.split(',').any(|one| one == wanted).into()
}

fn within(net: &str, address: Ipv4Addr) -> Fits {
    let net = net.parse().or_else(|_| net.parse::<Ipv4Addr>().map(Ipv4Net::from));
    net.map_or(Fits::Perhaps, |net| net.contains(&address).into())
}

fn protocol(name: &str, wanted: Protocol) -> Fits {
    let names = match wanted {
        Protocol::Tcp => ["tcp", "6"],
        Protocol::Udp => ["udp", "17"],
    };
    (name == "all" || names.contains(&name)).into()
}

/// Of a list of ports and ranges, as in `22,80,1000:2000`.
fn port(list: &str, wanted: u16) -> Fits {
    let mut all = list.split(',').map(|one| {
        let (first, last) = one.split_once(':').unwrap_or((one, one));
        Some((first.parse::<u16>().ok()?..=last.parse().ok()?).contains(&wanted))
    });
    let Some(found) = all.try_fold(false, |found, one| Some(found || one?)) else {
        return Fits::Perhaps;
    };
    found.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fits(rule: &str) -> (Fits, Target) {
        let Step { fits, target } =
            step(&words(rule), &Packet::question(Leaves::Never), |name| name == "ufw-user-input");
        (fits, target)
    }

    #[test]
    fn rules_are_read_as_iptables_prints_them() {
        use Fits::{No, Perhaps, Yes};
        let user = Target::Jump("ufw-user-input".to_owned());
        for (rule, expected, target) in [
            ("-j ufw-user-input", Yes, user),
            ("-d 169.254.1.1/32 -p udp -m udp --dport 53 -j ACCEPT", Yes, Target::Accept),
            ("-p tcp -m tcp --dport 53 -j ACCEPT", No, Target::Accept),
            ("-s 10.80.0.0/16 -i dw-+ -j DROP", Yes, Target::Drop),
            ("! -s 10.80.0.0/16 -j DROP", No, Target::Drop),
            ("! -i eth0 -j DROP", Yes, Target::Drop),
            ("-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT", No, Target::Accept),
            ("-m conntrack ! --ctstate NEW -j DROP", No, Target::Drop),
            ("-m addrtype --dst-type LOCAL -j RETURN", Yes, Target::Return),
            ("-m addrtype --dst-type MULTICAST -j RETURN", No, Target::Return),
            ("-p udp -m udp --sport 67 --dport 68 -j ACCEPT", No, Target::Accept),
            ("-p udp -m multiport --dports 22,50:60 -j ACCEPT", Yes, Target::Accept),
            ("-m comment --comment \"a -j DROP \\\" b\" -j RETURN", Yes, Target::Return),
            ("-m limit --limit 3/min --limit-burst 10 -j ACCEPT", Perhaps, Target::Accept),
            ("-m set --match-set friends src -j ACCEPT", Perhaps, Target::Accept),
            ("-m socket -j ACCEPT", Perhaps, Target::Accept),
            ("-p icmp -m icmp --icmp-type 8 -j ACCEPT", No, Target::Accept),
            ("-j LOG --log-prefix \"[UFW BLOCK] \"", Yes, Target::Next),
            ("-j NFQUEUE --queue-num 1", Yes, Target::Unknown),
            ("-j REJECT --reject-with icmp-port-unreachable", Yes, Target::Drop),
            ("-o eth0 -j DROP", No, Target::Drop),
            ("", Yes, Target::Next),
        ] {
            assert_eq!(fits(rule), (expected, target), "{rule}");
        }
    }
}
