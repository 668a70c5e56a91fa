//! The demonstration: a fleet with two workloads, and the proof that every instance lives at an
//! address of its own.
//!
//! Proved is, for every instance of `hello`: that the machine itself can connect to the instance's own
//! address and port; that an instance on another node can, by the instance's name; that the instance
//! sees the caller's own address as the source; and that the stock OpenSSH client logs in by name,
//! although the image has no sshd, to a host that the fleet's CA vouches for. And for `shell`: that it logs
//! in to the sshd that the instance's image runs.

use std::{net::IpAddr, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::lab::{InstanceRow, Lab, finish, wait_until};

/// How many instances `examples/hello.yaml` declares.
const HELLOS: usize = 6;

/// The port that `hello` answers on.
const PORT: u16 = 8080;

/// How long the workloads may take to be running and healthy.
const WELL_LIMIT: Duration = Duration::from_secs(120);

/// How long a connection may take to work once everything is healthy.
const PROOF_LIMIT: Duration = Duration::from_secs(15);

/// Who logs in to `hello`.
const ME: &str = "you";

/// What the image "hello" answers.
#[derive(Debug, PartialEq, Eq, Deserialize)]
struct Answer {
    hostname: String,
    address: String,
    caller: String,
}

/// Starts the fleet on `lab`, applies the examples, and proves that they can be reached. What is
/// there already is left as it is.
///
/// # Errors
/// If something does not start in time or cannot be reached.
pub async fn show(lab: &Lab, say: fn(&str)) -> Result<()> {
    say("starting the controller and an agent on each host, as processes of their own");
    lab.start_fleet().await?;
    lab.route_machine().await?;
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let examples = examples.canonicalize().context("the directory examples/ is missing")?;
    let key = lab.ssh_public_key().await?;
    let me = lab.person(ME).await?;
    let public = me.key().with_extension("pub");
    let public = public.to_str().context("the lab's path is not UTF-8")?;
    say("letting in a key of the lab's: dwell key add demo KEY.pub");
    lab.cli(&["key", "add", "demo", public]).await?.ok()?;
    for example in ["hello.yaml", "shell.yaml"] {
        let path = examples.join(example);
        say(&format!("applying {}", path.display()));
        let mut apply = lab.cli_command(&["apply", "-f"])?;
        apply.arg(path).env("AUTHORIZED_KEY", &key);
        finish(apply, "").await?.ok()?;
    }
    prove(lab, say).await?;
    for line in what_next(lab).await? {
        say(&line);
    }
    Ok(())
}

/// Waits until the workloads of the demonstration are well, and proves that they can be reached.
///
/// # Errors
/// If an instance cannot be reached, or sees another source address than the caller's own.
pub async fn prove(lab: &Lab, say: fn(&str)) -> Result<()> {
    say("waiting until every instance is running and healthy");
    let hellos = lab.wait_well("hello", HELLOS, WELL_LIMIT).await?;
    let shells = lab.wait_well("shell", 1, WELL_LIMIT).await?;
    lab.route_machine().await?;

    say("");
    let me = lab.person(ME).await?;
    say("INSTANCE   NODE  ADDRESS          REACHED FROM");
    for to in &hellos {
        let from = hellos.iter().find(|from| from.node != to.node);
        let from = from.context("all instances are on one node; the fleet needs two")?;
        let machine = lab.layout().machine_address().to_string();
        wait_until(&format!("{} to answer the machine", to.name), PROOF_LIMIT, async || {
            check(&lab.get(to.at(PORT)?).await?, to, &machine)
        })
        .await?;
        wait_until(&format!("{} to answer {}", to.name, from.name), PROOF_LIMIT, async || {
            check(&ask(lab, from, to).await?, to, &from.address)
        })
        .await?;
        let target = format!("{}.dwell", to.name);
        wait_until(&format!("ssh {target}"), PROOF_LIMIT, async || {
            let hostname = me.ssh(&[&target, "hostname"]).await?.ok()?;
            ensure!(hostname.trim() == to.name, "it says its name is {hostname}");
            Ok(())
        })
        .await?;
        say(&format!(
            "{:10} {:5} {:16} the machine ({machine}); {} on {} ({}) by name; ssh {target}",
            to.name, to.node, to.address, from.name, from.node, from.address
        ));
    }
    for to in &shells {
        let address: IpAddr = to.at(22)?.ip();
        let hostname = wait_until("ssh to log in", PROOF_LIMIT, async || {
            lab.ssh(address, "hostname").await?.ok()
        })
        .await?;
        ensure!(hostname.trim() == to.name, "{} says its name is {hostname}", to.name);
        say(&format!(
            "{:10} {:5} {:16} the machine, by its stock ssh client: hostname says {}",
            to.name,
            to.node,
            to.address,
            hostname.trim()
        ));
    }
    Ok(())
}

/// What instance `to` answers to instance `from`, which knows its name.
async fn ask(lab: &Lab, from: &InstanceRow, to: &InstanceRow) -> Result<String> {
    let url = format!("http://{}.dwell:{PORT}/", to.name);
    let words = ["exec", &from.name, "--", "timeout", "2", "wget", "-q", "-O", "-", &url];
    lab.cli(&words).await?.ok()
}

/// Whether it was `to` that answered, and saw `caller` ask.
fn check(answer: &str, to: &InstanceRow, caller: &str) -> Result<()> {
    let answer: Answer =
        serde_json::from_str(answer).with_context(|| format!("the answer is {answer:?}"))?;
    let expected = Answer {
        hostname: to.name.clone(),
        address: to.address.clone(),
        caller: caller.to_owned(),
    };
    ensure!(answer == expected, "it answers {answer:?}, expected was {expected:?}");
    Ok(())
}

/// Commands for a person to try, with the names and addresses of this lab.
async fn what_next(lab: &Lab) -> Result<Vec<String>> {
    let ps = lab.ps().await?;
    let hello = ps.of("hello").into_iter().next().context("no hello is left")?;
    let shell = ps.of("shell").into_iter().next().context("no shell is left")?;
    let dwell = lab.program("dwell")?;
    let lab_program = lab.program("dwell-lab")?;
    let name = lab.layout().name();
    let me = lab.person(ME).await?;
    Ok(vec![
        String::new(),
        "The lab stays up. To try next, as root:".to_owned(),
        format!("  export DWELL_SOCKET={}", lab.controller_socket().display()),
        format!("  {} ps", dwell.display()),
        format!("  {} exec -it {} -- sh", dwell.display(), hello.name),
        format!("  curl http://{}/", hello.at(PORT)?),
        format!("  ssh -F {} {}.dwell", me.config().display(), hello.name),
        format!("  {} ssh {}", dwell.display(), hello.name),
        format!("  {} doctor", dwell.display()),
        format!("  {}", lab.ssh_command(shell.at(22)?.ip()).join(" ")),
        format!("  docker -H unix://{} ps", lab.host(1).docker_socket().display()),
        format!("  {} status", lab_program.display()),
        format!("  {} down --name {name}", lab_program.display()),
    ])
}

#[cfg(test)]
mod tests {
    use dwell_core::{health::Health, instance::Phase};

    use super::*;

    #[test]
    fn an_answer_proves_only_what_it_says() {
        let to = InstanceRow {
            name: "hello-0".into(),
            workload: "hello".into(),
            node: "h1".into(),
            address: "10.80.1.2".into(),
            phase: Phase::Running,
            health: Health::Healthy,
            readiness: Health::None,
            container_id: String::new(),
            started_at: serde_json::Value::Null,
            restarts: 0,
            message: String::new(),
        };
        let answer = r#"{"hostname":"hello-0","address":"10.80.1.2","caller":"10.99.0.1"}"#;
        assert!(check(answer, &to, "10.99.0.1").is_ok());
        assert!(check(answer, &to, "10.99.0.2").is_err(), "a translated source address");
        assert!(check(&answer.replace("hello-0", "hello-1"), &to, "10.99.0.1").is_err());
        assert!(check("", &to, "10.99.0.1").is_err());
    }
}
