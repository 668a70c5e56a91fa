//! What a client asks for, judged: what sessions are to be and to run.

use std::sync::Arc;

use russh::ChannelId;
use russh::server::Session;
use tokio::sync::mpsc;

use super::Connection;
use super::session::{Preparation, Running, STEERING, Stage, Steer};
use crate::authorized_keys::{Forced, INTERNAL_SFTP};
use crate::enter::{Request, Work};

impl Connection {
    /// Runs `work` on a session's channel, or what its key forces.
    pub(super) fn begin(
        &mut self,
        id: ChannelId,
        work: Work,
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        let (wishes, steering) = mpsc::channel(STEERING);
        let preparation = self.channels.stage(id, |stage| {
            match std::mem::replace(stage, Stage::Running(wishes)) {
                Stage::Preparing(preparation) => Some(preparation),
                running @ Stage::Running(_) => {
                    *stage = running;
                    None
                }
            }
        });
        let (Some(Some(preparation)), Some(permit)) = (preparation, self.login.permit()) else {
            return session.channel_failure(id);
        };
        let Preparation { write, place, mut environment, terminal, agent } = *preparation;
        let work = match &permit.command {
            None => work,
            Some(command) => {
                environment.extend(original_command(&work));
                match command {
                    Forced::Command(command) => Work::Command(command.clone()),
                    Forced::Sftp(options) => Work::Sftp(options.clone()),
                }
            }
        };
        let (client, server) = (self.client, self.server);
        environment.extend([
            (
                "SSH_CLIENT".to_owned(),
                format!("{} {} {}", client.ip(), client.port(), server.port()),
            ),
            (
                "SSH_CONNECTION".to_owned(),
                format!("{} {} {} {}", client.ip(), client.port(), server.ip(), server.port()),
            ),
        ]);
        let has_terminal = terminal.is_some();
        let served = self.instance.borrow().clone();
        let request = match served.container.clone() {
            Some(container) => Ok(Request {
                container,
                instance: served.instance.clone(),
                login: self.login.name().to_owned(),
                work,
                environment,
                terminal,
                agent_forwarding: agent,
            }),
            None => Err(format!(
                "{0} runs no container at the moment; `dwell inspect {0}` tells why",
                served.instance
            )),
        };
        let running = Running {
            front: Arc::clone(&self.front),
            handle: session.handle(),
            channels: self.channels.clone(),
            write,
            steering,
            request,
            terminal: has_terminal,
        };
        session.channel_success(id)?;
        self.channels.spawn(id, |input, closed| async move {
            let _place = place;
            closed.run_until_cancelled(Box::pin(running.run(input))).await;
        });
        Ok(())
    }

    /// A request for `work` of dwell's own in the container, as who is logged in; nothing if no container runs.
    pub(super) fn own_request(&self, work: Work) -> Option<Request> {
        let served = self.instance.borrow().clone();
        let (container, login) = (served.container.clone()?, self.login.name().to_owned());
        Some(Request::own(container, served.instance.clone(), login, work))
    }

    /// Changes a session that nothing runs in yet, and answers whether it could.
    pub(super) fn prepare(
        &self,
        id: ChannelId,
        session: &mut Session,
        change: impl FnOnce(&mut Preparation) -> bool,
    ) -> Result<(), russh::Error> {
        let changed = self.channels.stage(id, |stage| match stage {
            Stage::Preparing(preparation) => change(preparation),
            Stage::Running(_) => false,
        });
        match changed {
            Some(true) => session.channel_success(id),
            _ => session.channel_failure(id),
        }
    }

    /// Passes a wish on; one too many is lost, as it would be with a process that does not look.
    pub(super) fn steer(&self, id: ChannelId, wish: Steer) -> bool {
        let passed = self.channels.stage(id, |stage| match stage {
            Stage::Running(wishes) => wishes.try_send(wish).is_ok(),
            Stage::Preparing(_) => false,
        });
        passed == Some(true)
    }
}

/// What the client asked for, for the command that it gets instead.
fn original_command(work: &Work) -> Option<(String, String)> {
    let command = match work {
        Work::Shell | Work::Account { .. } | Work::Connect(_) | Work::Listen(_) => return None,
        Work::Command(command) => command.clone(),
        Work::Sftp(_) => INTERNAL_SFTP.to_owned(),
    };
    Some(("SSH_ORIGINAL_COMMAND".to_owned(), command))
}
