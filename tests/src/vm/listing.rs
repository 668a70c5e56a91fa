//! What a guest is like: its files, links, addresses, routes, rules and settings, to compare two moments.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use super::guest::Guest;

/// Prints one thing a line. Left out is what changes whatever is installed: logs, caches, the lists of packages,
/// states of units, who is logged in, and what Docker keeps for itself.
const SCRIPT: &str = r#"
cd /
find . -xdev \( -path ./proc -o -path ./sys -o -path ./run -o -path ./tmp -o -path ./var/tmp -o -path ./root \
    -o -path ./var/log -o -path ./var/cache -o -path ./var/lib/dpkg -o -path ./var/lib/apt -o -path ./var/lib/systemd \
    -o -path ./var/lib/docker -o -path ./var/lib/containerd -o -path ./var/lib/ufw -o -path ./etc/ufw \
    -o -path ./etc/firewalld -o -name __pycache__ \) -prune -o ! -type d -printf 'file %p %y %m %l\n'
find /etc /usr /run/dwell -xdev -type d -printf 'directory %p %m\n' 2>/dev/null
find /run/dwell -printf 'file %p\n' 2>/dev/null
ip -o link | sed 's/^[0-9]*: \([^:@]*\).*/link \1/'
ip -4 -o address | awk '{print "address", $2, $4}'
ip -4 route show table all | sed 's/^/route /'
ip rule | sed 's/^/rule /'
ip nexthop | sed 's/^/nexthop /'
nft list tables | sed 's/^/nft /'
iptables -S | sed 's/^/iptables /'
sysctl -a 2>/dev/null | grep -E '^net.ipv4.(ip_forward|conf.(all|default|eth0).(rp_filter|forwarding|send_redirects)) ' | sed 's/^/setting /'
docker info -f '{{range $name, $_ := .Runtimes}}runtime {{$name}}{{println}}{{end}}'
docker ps -aq | sed 's/^/container /'
docker volume ls -q | sed 's/^/volume /'
getent passwd | sed 's/^/user /'
sha256sum /etc/docker/daemon.json 2>/dev/null | sed 's/^/content /'
systemctl list-unit-files --no-legend | awk '$1 !~ /^session-.*\.scope$/ {print "unit", $1, $2}'
"#;

/// What a guest is like.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Listing(BTreeSet<String>);

impl Listing {
    pub(super) async fn take(guest: &Guest) -> Result<Self> {
        let said = guest.sh(SCRIPT).await?;
        Ok(Self(said.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()))
    }

    /// How much is in it.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Expects `after` to be as this was.
    ///
    /// # Errors
    /// If it is not; the message has each difference.
    pub(super) fn ensure_same(&self, after: &Self) -> Result<()> {
        let gone = self.0.difference(&after.0).map(|line| format!("gone: {line}"));
        let new = after.0.difference(&self.0).map(|line| format!("new:  {line}"));
        let all: Vec<String> = gone.chain(new).collect();
        ensure!(all.is_empty(), "it is not as it was before:\n{}", all.join("\n"));
        Ok(())
    }
}
