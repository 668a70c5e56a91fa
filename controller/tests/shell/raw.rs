//! Clients that do what no client of ours does: HTTP/2 by hand, from any address of loopback.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use dwell_proto::trust::CONTROLLER_NAME;
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::Code;
use tonic::codegen::Bytes;
use tonic::codegen::http::{Request, Response};

use crate::fixture::{Credentials, SOON};

/// How many requests a client tries to have at once, whatever it is told.
const GREED: usize = 1536;

/// A part of a message.
pub(crate) fn zeros(length: usize) -> Bytes {
    vec![0; length].into()
}

/// A connection with HTTP/2 on it.
pub(crate) struct Raw {
    pub(crate) requests: SendRequest<Bytes>,
    /// Ends when the connection does.
    pub(crate) connection: JoinHandle<Result<(), h2::Error>>,
}

/// TCP from an address.
pub(crate) async fn tcp(to: SocketAddr, from: Ipv4Addr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((from, 0).into())?;
    socket.connect(to).await
}

/// TLS over it.
pub(crate) async fn tls(
    to: SocketAddr,
    from: Ipv4Addr,
    ca_pem: &str,
    credentials: Option<&Credentials>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let versions = [&rustls::version::TLS13];
    tls_with(to, from, ca_pem, credentials, &versions, &[b"h2"]).await
}

/// TLS of these versions, for these protocols.
pub(crate) async fn tls_with(
    to: SocketAddr,
    from: Ipv4Addr,
    ca_pem: &str,
    credentials: Option<&Credentials>,
    versions: &[&'static rustls::SupportedProtocolVersion],
    protocols: &[&[u8]],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca_pem.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match credentials {
        None => config.with_no_client_auth(),
        Some(Credentials { certificate_pem, key_pem }) => {
            let chain = CertificateDer::pem_slice_iter(certificate_pem.as_bytes());
            let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).unwrap();
            config.with_client_auth_cert(chain.map(Result::unwrap).collect(), key).unwrap()
        }
    };
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    let name = ServerName::try_from(CONTROLLER_NAME).unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, tcp(to, from).await?).await
}

impl Raw {
    pub(crate) async fn connect(
        to: SocketAddr,
        from: Ipv4Addr,
        ca_pem: &str,
        credentials: Option<&Credentials>,
    ) -> std::io::Result<Self> {
        let stream = tls(to, from, ca_pem, credentials).await?;
        let mut builder = h2::client::Builder::new();
        builder.initial_max_send_streams(GREED).max_send_buffer_size(16 << 20);
        let (requests, connection) =
            builder.handshake(stream).await.map_err(std::io::Error::other)?;
        Ok(Self { requests, connection: tokio::spawn(connection) })
    }

    /// A request that goes on.
    pub(crate) async fn begin(
        &mut self,
        path: &str,
        headers: usize,
    ) -> Result<(ResponseFuture, SendStream<Bytes>), h2::Error> {
        let mut requests = self.requests.clone().ready().await?;
        let request = Request::post(format!("https://{CONTROLLER_NAME}{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("x-filler", "x".repeat(headers))
            .body(())
            .unwrap();
        requests.send_request(request, false)
    }

    /// A request that announces a message, sends a part of it and does not go on.
    pub(crate) async fn half(
        &mut self,
        path: &str,
        announced: u32,
        part: Bytes,
    ) -> Result<(ResponseFuture, SendStream<Bytes>), h2::Error> {
        let (response, mut body) = self.begin(path, 0).await?;
        let header = [&[0][..], &announced.to_be_bytes()].concat();
        for bytes in [header.into(), part] {
            // It may have been refused meanwhile, which the answer says.
            body.send_data(bytes, false).ok();
        }
        Ok((response, body))
    }

    /// As many of those as the other end takes, until the connection ends.
    pub(crate) async fn flood(mut self, path: &str, announced: u32, part: Bytes) {
        let mut begun = Vec::new();
        while begun.len() < GREED {
            match self.half(path, announced, part.clone()).await {
                Ok(half) => begun.push(half),
                Err(_) => break,
            }
        }
        // Held until then.
        self.connection.await.unwrap().ok();
        drop(begun);
    }
}

/// What a call came to; unknown if that is not said.
pub(crate) async fn code(response: ResponseFuture) -> Result<Code, h2::Error> {
    let answer = async {
        let response: Response<RecvStream> = response.await?;
        let status = response.headers().get("grpc-status").cloned();
        let status = match status {
            Some(status) => Some(status),
            None => {
                let mut body = response.into_body();
                while let Some(data) = body.data().await {
                    let data = data?;
                    body.flow_control().release_capacity(data.len())?;
                }
                body.trailers().await?.and_then(|all| all.get("grpc-status").cloned())
            }
        };
        Ok(status.map_or(Code::Unknown, |status| Code::from_bytes(status.as_bytes())))
    };
    tokio::time::timeout(2 * SOON, answer).await.unwrap_or(Ok(Code::Unknown))
}
