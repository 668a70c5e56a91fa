//! What `russh` calls for one connection.
//!
//! Invariant: once somebody is logged in, nothing here waits for a process, a peer or a reader, since the whole
//! connection would. The one exception is a Unix socket to listen on, which is made in the container, and waited for
//! at most [`LISTENING`].

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use russh::keys::{Algorithm, Certificate};
use russh::server::{
    Auth, ChannelOpenHandle, Handler, Msg, PublicKeyOffer, Session, VerifiedPublicKey,
};
use russh::{Channel, ChannelId, ChannelOpenFailure, Disconnect, Pty, Sig};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::Connection;
use super::admittance::Credential;
use super::forward::{self, Incoming};
use super::session::{Preparation, Stage, Steer, signal_name};
use crate::auth;
use crate::authorized_keys::check_key;
use crate::enter::{SftpOptions, Terminal, Work};
use crate::intake::{TRICKLE, WINDOW};
use crate::netns;
use crate::permit::Permit;

/// Most ports and Unix sockets that a connection may have listened on at a time.
const MAX_FORWARDS: usize = 32;
/// How long it may take to listen on a Unix socket.
const LISTENING: Duration = Duration::from_secs(2);

impl Handler for Connection {
    type Error = russh::Error;

    /// Says whether a signature would be worth the trouble.
    async fn auth_publickey_offered(
        &mut self,
        login: &str,
        offer: PublicKeyOffer<'_>,
    ) -> Result<Auth, Self::Error> {
        let key = offer.public_key.key_data();
        let sound = check_key(key).is_ok() && *offer.algorithm != Algorithm::Rsa { hash: None };
        let promising = sound && self.is_promising(login, key).await;
        self.login.tried(login, auth::describe(key, ""));
        Ok(if promising { Auth::Accept } else { Auth::reject() })
    }

    async fn auth_publickey(
        &mut self,
        login: &str,
        key: VerifiedPublicKey<'_>,
    ) -> Result<Auth, Self::Error> {
        Ok(self.conclude(login, Credential::Key(key.public_key.key_data())).await)
    }

    async fn auth_openssh_certificate(
        &mut self,
        login: &str,
        certificate: &Certificate,
    ) -> Result<Auth, Self::Error> {
        Ok(self.conclude(login, Credential::Certificate(certificate)).await)
    }

    async fn auth_succeeded(&mut self, session: &mut Session) -> Result<(), Self::Error> {
        if let Some(word) = self.login.refusal() {
            return session.disconnect(Disconnect::IllegalUserName, word, "");
        }
        self.login.open();
        // It will want a process in a moment, and the first one is slow.
        let served = self.instance.borrow().clone();
        if let Some(container) = &served.container {
            self.front.enter.prepare(container, &served.instance);
        }
        Ok(())
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        let Some(place) = self.channels.place_for_session() else {
            reply.reject(ChannelOpenFailure::ResourceShortage).await;
            return Ok(());
        };
        let (_, write) = channel.split();
        let id = write.id();
        let preparation =
            Preparation { write, place, environment: Vec::new(), terminal: None, agent: false };
        self.channels.enter(id, Some(Stage::Preparing(Box::new(preparation))));
        reply.accept().await;
        Ok(())
    }

    async fn channel_open_direct_tcpip(
        &mut self,
        channel: Channel<Msg>,
        host: &str,
        port: u32,
        _: &str,
        _: u32,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        let permitted = u16::try_from(port)
            .ok()
            .filter(|port| self.login.permit().is_some_and(|permit| permit.may_open(host, *port)));
        let Some(port) = permitted else {
            reply.reject(ChannelOpenFailure::AdministrativelyProhibited).await;
            return Ok(());
        };
        let netns = self.instance.borrow().netns.clone();
        let zone = self.front.trust.borrow().zone.clone();
        let reaching = forward::reach(netns, zone, host.to_owned(), port);
        let work = forward::connect(reaching, channel, reply, self.channels.clone());
        tokio::spawn(self.channels.until_cut(work));
        Ok(())
    }

    async fn channel_open_direct_streamlocal(
        &mut self,
        channel: Channel<Msg>,
        path: &str,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        if !self.login.permit().is_some_and(Permit::may_open_sockets) {
            reply.reject(ChannelOpenFailure::AdministrativelyProhibited).await;
            return Ok(());
        }
        let Some(request) = self.own_request(Work::Connect(path.to_owned())) else {
            reply.reject(ChannelOpenFailure::ConnectFailed).await;
            return Ok(());
        };
        let reaching = forward::reach_socket(Arc::clone(&self.front), request);
        let work = forward::connect(reaching, channel, reply, self.channels.clone());
        tokio::spawn(self.channels.until_cut(work));
        Ok(())
    }

    async fn channel_open_confirmation(
        &mut self,
        id: ChannelId,
        _: u32,
        _: u32,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        self.channels.enter(id, None);
        Ok(())
    }

    async fn data(
        &mut self,
        id: ChannelId,
        data: &[u8],
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        self.channels.push(id, data);
        Ok(())
    }

    fn adjust_window(&mut self, id: ChannelId, _: u32) -> u32 {
        if self.channels.lags(id) { TRICKLE } else { WINDOW }
    }

    async fn channel_eof(&mut self, id: ChannelId, _: &mut Session) -> Result<(), Self::Error> {
        self.channels.end_of_input(id);
        Ok(())
    }

    async fn channel_close(&mut self, id: ChannelId, _: &mut Session) -> Result<(), Self::Error> {
        self.channels.closed(id);
        Ok(())
    }

    async fn pty_request(
        &mut self,
        id: ChannelId,
        term: &str,
        columns: u32,
        rows: u32,
        pixel_width: u32,
        pixel_height: u32,
        modes: &[(Pty, u32)],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        if !self.login.permit().is_some_and(|permit| permit.terminal) {
            return session.channel_failure(id);
        }
        let terminal = Terminal {
            term: auth::clean(term, 64),
            columns,
            rows,
            pixel_width,
            pixel_height,
            modes: modes.iter().map(|(code, value)| (*code as u8, *value)).collect(),
        };
        self.prepare(id, session, |preparation| preparation.terminal.replace(terminal).is_none())
    }

    async fn env_request(
        &mut self,
        id: ChannelId,
        name: &str,
        value: &str,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.prepare(id, session, |preparation| preparation.set(name, value))
    }

    /// `russh` answers it.
    async fn agent_request(&mut self, id: ChannelId, _: &mut Session) -> Result<bool, Self::Error> {
        let permitted = self.login.permit().is_some_and(|permit| permit.agent);
        let noted = self.channels.stage(id, |stage| match stage {
            Stage::Preparing(preparation) => {
                preparation.agent = permitted;
                permitted
            }
            Stage::Running(_) => false,
        });
        Ok(noted == Some(true))
    }

    async fn x11_request(
        &mut self,
        id: ChannelId,
        _: bool,
        _: &str,
        _: &str,
        _: u32,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        session.channel_failure(id)
    }

    async fn shell_request(
        &mut self,
        id: ChannelId,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.begin(id, Work::Shell, session)
    }

    async fn exec_request(
        &mut self,
        id: ChannelId,
        command: &[u8],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        match std::str::from_utf8(command) {
            Ok(command) => self.begin(id, Work::Command(command.to_owned()), session),
            Err(_) => session.channel_failure(id),
        }
    }

    async fn subsystem_request(
        &mut self,
        id: ChannelId,
        name: &str,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        match name {
            "sftp" => self.begin(id, Work::Sftp(SftpOptions::default()), session),
            _ => session.channel_failure(id),
        }
    }

    async fn window_change_request(
        &mut self,
        id: ChannelId,
        columns: u32,
        rows: u32,
        width: u32,
        height: u32,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        match self.steer(id, Steer::Resize([columns, rows, width, height])) {
            true => session.channel_success(id),
            false => session.channel_failure(id),
        }
    }

    async fn signal(
        &mut self,
        id: ChannelId,
        signal: Sig,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        self.steer(id, Steer::Signal(signal_name(signal)));
        Ok(())
    }

    async fn tcpip_forward(
        &mut self,
        address: &str,
        port: &mut u32,
        session: &mut Session,
    ) -> Result<bool, Self::Error> {
        let wanted = u16::try_from(*port).ok().zip(forward::listen_address(address));
        let Some((number, ip)) = wanted.filter(|(number, _)| {
            self.forwards.len() + self.sockets.len() < MAX_FORWARDS
                && self.login.permit().is_some_and(|permit| permit.may_listen(address, *number))
        }) else {
            return Ok(false);
        };
        let netns = self.instance.borrow().netns.clone();
        // Waits for a thread that makes a socket, nothing more.
        let Ok(listener) = netns::listen(&netns, SocketAddr::new(ip, number)).await else {
            return Ok(false);
        };
        *port = listener.local_addr()?.port().into();
        let end = CancellationToken::new();
        let incoming = Incoming { listener, address: address.to_owned(), port: *port };
        let accepting = forward::accept(incoming, session.handle(), self.channels.clone());
        let accepting = self.channels.until_cut(accepting);
        tokio::spawn(end.clone().run_until_cancelled_owned(accepting));
        self.forwards.insert((address.to_owned(), *port), end.drop_guard());
        Ok(true)
    }

    async fn cancel_tcpip_forward(
        &mut self,
        address: &str,
        port: u32,
        _: &mut Session,
    ) -> Result<bool, Self::Error> {
        Ok(self.forwards.remove(&(address.to_owned(), port)).is_some())
    }

    async fn streamlocal_forward(
        &mut self,
        path: &str,
        session: &mut Session,
    ) -> Result<bool, Self::Error> {
        let permitted = self.forwards.len() + self.sockets.len() < MAX_FORWARDS
            && !self.sockets.contains_key(path)
            && self.login.permit().is_some_and(Permit::may_listen_on_sockets);
        let request = self.own_request(Work::Listen(path.to_owned())).filter(|_| permitted);
        let Some(request) = request else { return Ok(false) };
        // `russh` wants the answer at once, as with a port.
        let listening = forward::listen_on_socket(&self.front.enter, request);
        let listener = match tokio::time::timeout(LISTENING, listening).await {
            Ok(Ok(listener)) => listener,
            Ok(Err(error)) => {
                debug!(path = auth::clean(path, 128), %error, "cannot listen on a socket");
                return Ok(false);
            }
            Err(_) => return Ok(false),
        };
        let end = CancellationToken::new();
        let (path, handle) = (path.to_owned(), session.handle());
        let accepting = forward::accept_at(listener, path.clone(), handle, self.channels.clone());
        let accepting = self.channels.until_cut(accepting);
        tokio::spawn(end.clone().run_until_cancelled_owned(accepting));
        self.sockets.insert(path, end.drop_guard());
        Ok(true)
    }

    async fn cancel_streamlocal_forward(
        &mut self,
        path: &str,
        _: &mut Session,
    ) -> Result<bool, Self::Error> {
        Ok(self.sockets.remove(path).is_some())
    }
}
