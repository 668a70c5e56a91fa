//! `dwell ca`: the authority that signs certificates, and a new one in its place.

use clap::{Args, Subcommand};
use dwell_proto::v1;

use super::Fleet;
use crate::failure::Failure;
use crate::output::view::AuthorityView;
use crate::output::{OutputArgs, moment, print};

/// The cluster's certificate authority, and its rotation
///
/// It signs the certificates of nodes, people and the controller, and those of SSH. `rotate` makes a new one while everything
/// runs: it signs from then on, and both are trusted. Nodes renew by themselves. When `status` names nobody any more who lives
/// by the old one, `finish` retires it.
#[derive(Args, Debug)]
pub(crate) struct Ca {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Status(Status),
    Rotate(Rotate),
    Finish(Finish),
}

/// Show which authorities are trusted, and who lives by the old one
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  dwell ca status
  dwell ca status -o json | jq -r '.nodes[].name, .contexts[].name'")]
struct Status {
    #[command(flatten)]
    output: OutputArgs,
}

/// Make a new authority, which signs from now on; both are trusted
///
/// Nodes that are connected renew their certificates within seconds. People go on with the contexts that they have until
/// `dwell ca finish`. Make a backup of the controller before and after.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  dwell-controller backup before.tar && dwell ca rotate
  dwell ca status                             # until it names nobody
  dwell key ca >> ~/.ssh/known_hosts          # wherever the old line is
  dwell ca finish")]
struct Rotate {}

/// Retire the old authority: nobody trusts it any more
///
/// Refused while it would cut off a node, or a context that is good. With --force they are cut off at once: such a node has to
/// be removed and to join again with a new token, such a person needs another context. Tokens with which nobody has joined
/// yet are worth nothing afterwards, and neither are certificates for SSH that the old one signed.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  dwell ca finish
  dwell ca finish --force    # although somebody is cut off; `dwell ca status` says who")]
struct Finish {
    /// Although nodes or contexts are cut off
    #[arg(long)]
    force: bool,
}

impl Ca {
    pub(super) async fn run(self, mut fleet: Fleet) -> Result<(), Failure> {
        match self.command {
            Command::Status(status) => {
                let found = fleet.client.get_authority(v1::GetAuthorityRequest {}).await?;
                status.output.print(&AuthorityView::from(found.into_inner()), describe)
            }
            Command::Rotate(Rotate {}) => {
                let request = v1::RotateAuthorityRequest {};
                let number = fleet.client.rotate_authority(request).await?.into_inner().number;
                print(&format!(
                    "Authority {number} signs from now on; both are trusted. Nodes renew by themselves; see `dwell ca \
                     status`.\nMake a backup of the controller now: with an older one it would not know what was signed \
                     since.\n"
                ))
            }
            Command::Finish(finish) => {
                let request = v1::FinishRotationRequest { force: finish.force };
                let done = fleet.client.finish_rotation(request).await?.into_inner();
                let nodes = done.nodes.into_iter().map(|node| format!("node {}", node.name));
                let contexts = done.contexts.into_iter();
                let contexts =
                    contexts.map(|one| format!("context {} of {}", one.serial, one.name));
                for cut_off in nodes.chain(contexts) {
                    print(&format!("{cut_off} is cut off\n"))?;
                }
                print(
                    "The old authority is retired. Make a backup of the controller, and take its line out of known_hosts.\n",
                )
            }
        }
    }
}

fn describe(view: &AuthorityView) -> String {
    let mut text = String::new();
    for authority in &view.authorities {
        let made = match authority.made_at {
            Some(at) => format!("made {} by {}", moment(at), authority.made_by),
            None => "the cluster's first".to_owned(),
        };
        let until = moment(authority.expires_at);
        text.push_str(&format!(
            "authority {}: {made}, valid until {until}\n  {}\n",
            authority.number, authority.fingerprint
        ));
    }
    if let [old, _] = &view.authorities[..] {
        text.push_str(&format!("A rotation goes on; authority {} is still trusted.\n", old.number));
    } else if view.nodes.is_empty() && view.contexts.is_empty() {
        text.push_str("No rotation goes on.\n");
    }
    let is_rotating = view.authorities.len() > 1;
    for node in &view.nodes {
        let todo = match (is_rotating, node.attached) {
            (false, _) => "is cut off: remove it, and join it again with a new token",
            (true, true) => {
                "is connected and was asked to renew; if it stays here, its agent is of an earlier version: upgrade it"
            }
            (true, false) => {
                "is not connected: start it, or remove it with `dwell node rm` and let it join again later"
            }
        };
        text.push_str(&format!(
            "node {} lives by authority {}; it {todo}\n",
            node.name, node.issuer
        ));
    }
    for context in &view.contexts {
        let todo = if is_rotating { "issue another before the end" } else { "it is cut off" };
        text.push_str(&format!(
            "context {} of {} is by authority {}, valid until {}; {todo}\n",
            context.serial,
            context.name,
            context.issuer,
            moment(context.expires_at)
        ));
    }
    if let Some(until) = view.ssh_until.filter(|_| is_rotating) {
        text.push_str(&format!(
            "Certificates of `dwell key sign` by the old one may be valid until {}; they end with `dwell ca finish`.\n",
            moment(until)
        ));
    }
    if is_rotating && view.nodes.is_empty() && view.contexts.is_empty() {
        text.push_str("Nobody would be cut off: `dwell ca finish` ends the rotation.\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authority(number: u32) -> v1::Authority {
        v1::Authority {
            number,
            made_at_ms: u64::from(number - 1) * 1_769_860_800_000,
            made_by: "ann".into(),
            fingerprint: "ab".repeat(32),
            expires_at_ms: 1_799_860_800_000,
        }
    }

    fn shown(numbers: &[u32], old: bool) -> String {
        let node = |name: &str, attached| v1::OldNode { name: name.into(), attached, issuer: 1 };
        let context = v1::OldContext {
            serial: "00000000000000a1".into(),
            name: "bob".into(),
            expires_at_ms: 1_772_452_800_000,
            issuer: 1,
        };
        let all = v1::GetAuthorityResponse {
            authorities: numbers.iter().copied().map(authority).collect(),
            nodes: if old { vec![node("h1", true), node("h2", false)] } else { vec![] },
            contexts: if old { vec![context] } else { vec![] },
            ssh_until_ms: 1_772_452_800_000,
        };
        describe(&all.into())
    }

    #[test]
    fn each_who_lives_by_the_old_one_is_named_with_what_to_do() {
        assert!(shown(&[1], false).ends_with("No rotation goes on.\n"));
        let during = shown(&[1, 2], true);
        for words in [
            "authority 1: the cluster's first",
            "authority 2: made 2026-01-31T12:00:00.000Z by ann",
            "node h1 lives by authority 1; it is connected and was asked to renew",
            "node h2 lives by authority 1; it is not connected: start it",
            "context 00000000000000a1 of bob is by authority 1, valid until 2026-03-02T12:00:00.000Z; issue another",
            "dwell key sign",
        ] {
            assert!(during.contains(words), "{words}: {during}");
        }
        assert!(!during.contains("Nobody would be cut off"));
        assert!(shown(&[1, 2], false).ends_with("`dwell ca finish` ends the rotation.\n"));
        let after = shown(&[2], true);
        assert!(
            after.contains("node h2 lives by authority 1; it is cut off")
                && !after.contains("No rotation")
        );
    }
}
