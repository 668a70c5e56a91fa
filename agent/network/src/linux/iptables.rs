//! Getting our traffic past a FORWARD policy of DROP, which Docker sets, in iptables' own chains.
//!
//! An accept in our nftables table cannot override a drop of another table, so the rules must be in
//! the `filter` table of iptables: a chain of our own, jumped to from `DOCKER-USER`, the chain that Docker
//! leaves alone when it rewrites its rules, or from FORWARD on a host whose policy is DROP for another
//! reason. Where neither is the case, and where there is no iptables, there is nothing to do.
//!
//! Docker takes its jump from FORWARD to `DOCKER-USER` out for a moment whenever it starts and whenever it makes a network. So
//! the last rule of FORWARD is another such jump, of ours: what the operator drops there stays dropped, too.
//!
//! Nothing of Docker's own networks is opened: a packet is accepted only if it comes in *and* goes out by
//! a veth of ours or an uplink, and has an address of the cluster. Bridges of Docker are no uplinks.

use std::collections::BTreeSet;
use std::time::Duration;

use ipnet::IpNet;

use super::family::Family;
use super::program::{self, Program};
use crate::{INTERFACE_PREFIX, NetworkError};

/// Packets that came in by an interface of ours are sent on to [`OUT`].
const IN: &str = "DWELL-IN";
/// Packets that go out by an interface of ours are accepted.
const OUT: &str = "DWELL-OUT";
const DOCKER: &str = "DOCKER-USER";
const FORWARD: &str = "FORWARD";
/// How often rules are changed at most until they are as they should be. Whoever changes them after that is noticed.
const CHANGES_MAX: usize = 3;
const MARK: &str = "-m comment --comment dwell";

/// `iptables` of this host, and `ip6tables`, which wait for a lock that every program which changes rules takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Iptables {
    /// How long each call of it may take, the wait for the lock included.
    pub(super) limit: Duration,
}

impl Iptables {
    /// Accepts traffic of `cluster` between our veths and `uplinks`, if something would drop it.
    pub(super) fn ensure(
        self,
        family: Family,
        cluster: &[IpNet],
        uplinks: &BTreeSet<String>,
    ) -> Result<(), NetworkError> {
        let wanted =
            |rules: &Rules| rules.gate().map(|_| chains(cluster, uplinks)).unwrap_or_default();
        self.change(Tool::of(family), wanted)
    }

    /// Removes every rule of ours.
    pub(super) fn remove(self) -> Result<(), NetworkError> {
        let of = |tool: Tool| self.change(tool, |_| Vec::new());
        let of_ipv6 = match of(IPV6) {
            // The kernel has no IPv6, and so no rules of it.
            Err(NetworkError::ProgramFailed { .. }) => Ok(()),
            done => done,
        };
        of(IPV4).and(of_ipv6)
    }

    /// Whether Docker manages the rules of this host.
    pub(super) fn has_docker(self) -> Result<bool, NetworkError> {
        Ok(self.read(IPV4)?.is_some_and(|rules| rules.has_chain(DOCKER)))
    }

    fn change(
        self,
        tool: Tool,
        wanted: impl Fn(&Rules) -> Vec<String>,
    ) -> Result<(), NetworkError> {
        // Docker, which starts at the same time, may have written between our listing and our change.
        for _ in 0..CHANGES_MAX {
            let Some(rules) = self.read(tool)? else { return Ok(()) };
            let wanted = wanted(&rules);
            let gate = if wanted.is_empty() { None } else { rules.gate() };
            let Some(script) = rules.script(gate, &wanted) else { return Ok(()) };
            program::feed(self.program(tool.restore), &["-w", "--noflush"], &script)?;
        }
        Ok(())
    }

    /// The rules of the `filter` table; `None` on a host without iptables.
    fn read(self, tool: Tool) -> Result<Option<Rules>, NetworkError> {
        match program::feed(self.program(tool.list), &["-w", "-t", "filter", "-S"], "") {
            Ok(listing) => Ok(Some(Rules::parse(&listing))),
            Err(NetworkError::ProgramMissing { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn program(self, name: &'static str) -> Program {
        Program { name, package: "iptables", limit: self.limit }
    }
}

/// The programs for one protocol.
#[derive(Clone, Copy, Debug)]
struct Tool {
    list: &'static str,
    restore: &'static str,
}

const IPV4: Tool = Tool { list: "iptables", restore: "iptables-restore" };
const IPV6: Tool = Tool { list: "ip6tables", restore: "ip6tables-restore" };

impl Tool {
    fn of(family: Family) -> Self {
        if family.is_ipv6() { IPV6 } else { IPV4 }
    }
}

/// Whether what we do here depends on this chain of the `filter` table.
pub(super) fn concerns(chain: &str) -> bool {
    [IN, OUT, DOCKER, FORWARD].contains(&chain)
}

/// What our chains hold, as `iptables -S` prints it.
fn chains(cluster: &[IpNet], uplinks: &BTreeSet<String>) -> Vec<String> {
    let veths = format!("{INTERFACE_PREFIX}+");
    let interfaces = || std::iter::once(&veths).chain(uplinks);
    let entry = interfaces().map(|name| format!("-A {IN} -i {name} -j {OUT}"));
    let exit = interfaces().flat_map(|name| {
        cluster.iter().flat_map(move |range| {
            ["-s", "-d"].map(|side| format!("-A {OUT} {side} {range} -o {name} -j ACCEPT"))
        })
    });
    entry.chain(exit).collect()
}

/// The `filter` table as `iptables -S` prints it.
struct Rules {
    lines: Vec<String>,
}

impl Rules {
    fn parse(listing: &str) -> Self {
        Self { lines: listing.lines().map(str::to_owned).collect() }
    }

    fn has_chain(&self, chain: &str) -> bool {
        self.lines.iter().any(|line| *line == format!("-N {chain}"))
    }

    /// The chain from which ours must be reached, if any.
    fn gate(&self) -> Option<&'static str> {
        if self.has_chain(DOCKER) {
            return Some(DOCKER);
        }
        self.lines.iter().any(|line| line == "-P FORWARD DROP").then_some(FORWARD)
    }

    /// The input of `iptables-restore` that leads from these rules to the `wanted` ones; `None` if
    /// there is nothing to change.
    fn script(&self, gate: Option<&str>, wanted: &[String]) -> Option<String> {
        let of_chain = |chain: &str| {
            let start = format!("-A {chain} ");
            self.lines.iter().filter(move |line| line.starts_with(&start)).collect::<Vec<_>>()
        };
        let jumps: Vec<_> =
            self.lines.iter().filter(|line| line.ends_with(&format!("-j {IN}"))).collect();
        let again = format!("-A {FORWARD} {MARK} -j {DOCKER}");
        let found_again = self.lines.iter().filter(|line| **line == again).count();
        let wanted_again = usize::from(gate == Some(DOCKER));
        let ours: Vec<_> = of_chain(IN).into_iter().chain(of_chain(OUT)).collect();
        let jump = gate.map(|gate| format!("-A {gate} {MARK} -j {IN}"));
        let exists = self.has_chain(IN) || self.has_chain(OUT);
        // Where Docker's closing RETURN is, of the rules that are not ours.
        let closing_at = gate.and_then(|gate| {
            let closing = format!("-A {gate} -j RETURN");
            let mut others = of_chain(gate).into_iter().filter(|rule| !jumps.contains(rule));
            others.position(|rule| *rule == closing)
        });
        let is_reached = closing_at.is_none_or(|closing_at| {
            let at = |gate| of_chain(gate).into_iter().position(|rule| jumps.contains(&rule));
            gate.and_then(at).is_some_and(|at| at <= closing_at)
        });
        if jumps == jump.iter().collect::<Vec<_>>()
            && ours == wanted.iter().collect::<Vec<_>>()
            && exists == gate.is_some()
            && found_again == wanted_again
            && is_reached
        {
            return None;
        }

        let mut script = String::from("*filter\n");
        let mut say = |line: &str| script.extend([line, "\n"]);
        // Naming a chain makes it or empties it.
        say(&format!(":{IN} - [0:0]\n:{OUT} - [0:0]"));
        jumps.iter().for_each(|jump| say(&jump.replacen("-A", "-D", 1)));
        for _ in wanted_again..found_again {
            say(&again.replacen("-A", "-D", 1));
        }
        if found_again < wanted_again {
            say(&again);
        }
        wanted.iter().for_each(|rule| say(rule));
        match gate {
            // Before Docker's closing RETURN, but after what the operator has put there.
            Some(gate) => match closing_at {
                Some(at) => say(&format!("-I {gate} {} {MARK} -j {IN}", at + 1)),
                None => say(&format!("-A {gate} {MARK} -j {IN}")),
            },
            None => say(&format!("-X {IN}\n-X {OUT}")),
        }
        say("COMMIT");
        Some(script)
    }
}

/// Whatever a listing says, what is fed to `iptables-restore` is about our own chains and what is marked as ours.
#[cfg(any(test, fuzzing))]
pub(super) fn fuzz(listing: &str, cluster: IpNet, uplinks: &BTreeSet<String>) {
    let rules = Rules::parse(listing);
    for wanted in [chains(&[cluster], uplinks), Vec::new()] {
        let gate = if wanted.is_empty() { None } else { rules.gate() };
        let Some(script) = rules.script(gate, &wanted) else { continue };
        let is_ours = |line: &str| {
            let frame = ["*filter", "COMMIT"].contains(&line);
            frame || [IN, OUT, MARK].iter().any(|ours| line.contains(ours))
        };
        assert!(script.lines().all(is_ours), "{script}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCKERS: &str = "-P FORWARD DROP\n-N DOCKER-USER\n-A FORWARD -j DOCKER-USER\n\
                           -A DOCKER-USER -s 203.0.113.0/24 -j DROP\n-A DOCKER-USER -j RETURN\n";

    fn wanted() -> Vec<String> {
        let uplinks = ["eth0".to_owned()].into();
        chains(&["10.80.0.0/16".parse().unwrap()], &uplinks)
    }

    #[test]
    fn every_accept_names_the_cluster_and_an_interface() {
        let rules = wanted();
        let accepts: Vec<_> = rules.iter().filter(|rule| rule.ends_with("ACCEPT")).collect();
        assert_eq!(accepts.len(), 4);
        for rule in accepts {
            assert!(rule.contains(" 10.80.0.0/16 ") && rule.contains(" -o "), "{rule}");
        }
    }

    #[test]
    fn our_jump_goes_between_the_operators_rules_and_dockers_return() {
        let rules = Rules::parse(DOCKERS);
        let script = rules.script(rules.gate(), &wanted()).unwrap();
        assert!(script.contains("-I DOCKER-USER 2 -m comment --comment dwell -j DWELL-IN"));
    }

    #[test]
    fn there_is_a_second_way_to_dockers_chain_as_long_as_that_is_there() {
        let second = format!("-A FORWARD {MARK} -j DOCKER-USER");
        let rules = Rules::parse(DOCKERS);
        let script = rules.script(rules.gate(), &wanted()).unwrap();
        assert!(script.lines().any(|line| line == second), "{script}");
        let rules = Rules::parse(&format!("{DOCKERS}{second}\n{second}\n"));
        let removals = |script: String| {
            script.lines().filter(|line| **line == second.replacen("-A", "-D", 1)).count()
        };
        assert_eq!(removals(rules.script(rules.gate(), &wanted()).unwrap()), 1);
        assert_eq!(removals(rules.script(None, &[]).unwrap()), 2);
    }

    #[test]
    fn a_drop_without_docker_is_passed_in_forward() {
        assert_eq!(Rules::parse("-P FORWARD DROP\n").gate(), Some("FORWARD"));
        assert_eq!(Rules::parse("-P FORWARD ACCEPT\n").gate(), None);
    }

    /// It came to be when `dockerd` wrote its RETURN between our look and our change.
    #[test]
    fn a_jump_behind_dockers_return_is_put_before_it() {
        let jump = format!("-A DOCKER-USER {MARK} -j {IN}");
        let again = format!("-A FORWARD {MARK} -j DOCKER-USER");
        let chains = format!("-N {IN}\n-N {OUT}\n{}\n{again}\n", wanted().join("\n"));
        let listed = |rules: &str| Rules::parse(&format!("{rules}{chains}"));
        let behind = listed(&format!("{DOCKERS}{jump}\n"));
        let script = behind.script(behind.gate(), &wanted()).unwrap();
        assert!(script.contains(&format!("-I DOCKER-USER 2 {MARK} -j {IN}")), "{script}");
        let end = "-A DOCKER-USER -j RETURN\n";
        let before = listed(&DOCKERS.replace(end, &format!("{jump}\n{end}")));
        assert_eq!(before.script(before.gate(), &wanted()), None);
    }

    #[test]
    fn nothing_to_change_is_no_script() {
        let listing = format!(
            "-P FORWARD DROP\n-N {IN}\n-N {OUT}\n-A FORWARD {MARK} -j {IN}\n{}\n",
            wanted().join("\n")
        );
        let rules = Rules::parse(&listing);
        assert_eq!(rules.script(rules.gate(), &wanted()), None);
        assert!(Rules::parse("-P FORWARD ACCEPT\n").script(None, &[]).is_none());
    }

    #[test]
    fn when_docker_arrives_the_jump_moves_to_its_chain() {
        let listing = format!("{DOCKERS}-A FORWARD {MARK} -j {IN}\n");
        let rules = Rules::parse(&listing);
        let script = rules.script(rules.gate(), &wanted()).unwrap();
        assert!(script.contains(&format!("-D FORWARD {MARK} -j {IN}")));
    }
}
