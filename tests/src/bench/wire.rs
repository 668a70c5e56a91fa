//! What a TCP connection between two network namespaces is like: measured by threads that are in them.

use std::{
    fs::File,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use nix::{
    libc,
    sched::{CloneFlags, setns},
    sys::socket::{setsockopt, sockopt},
};

/// The port that is listened on inside.
const PORT: u16 = 7777;
/// How long a rate is measured for.
const SPAN: Duration = Duration::from_millis(1500);
/// How many bytes go there and back for one round trip time.
const ECHOES: u32 = 10_000;
/// How long connecting may take.
const LIMIT: Duration = Duration::from_secs(5);

/// Two places that can talk to each other.
#[derive(Clone, Debug)]
pub(super) struct Pair {
    /// The namespace of the one who connects.
    pub(super) from: PathBuf,
    /// The namespace of the one who listens.
    pub(super) to: PathBuf,
    /// The address of the one who listens.
    pub(super) address: Ipv4Addr,
}

impl Pair {
    /// Bytes per second of one stream, in GiB.
    pub(super) fn throughput(&self) -> Result<f64> {
        let serve = |listener: TcpListener| -> Result<f64> {
            let (mut stream, _) = listener.accept()?;
            let mut buffer = vec![0; 256 << 10];
            let (started, mut total) = (Instant::now(), 0_u64);
            loop {
                match stream.read(&mut buffer)? {
                    0 => break,
                    count => total += count as u64,
                }
            }
            Ok(total as f64 / started.elapsed().as_secs_f64() / f64::from(1 << 30))
        };
        self.between(serve, |address| {
            let mut stream = TcpStream::connect_timeout(&address, LIMIT)?;
            let data = vec![0; 256 << 10];
            let started = Instant::now();
            while started.elapsed() < SPAN {
                stream.write_all(&data)?;
            }
            Ok(())
        })
    }

    /// Connections per second, one after the other.
    pub(super) fn connections(&self) -> Result<f64> {
        let serve = |listener: TcpListener| -> Result<f64> {
            let (mut started, mut count) = (None, 0_u32);
            loop {
                let (mut stream, _) = listener.accept()?;
                let begun: &Instant = started.get_or_insert_with(Instant::now);
                let mut byte = [0];
                // The last one says so.
                if stream.read(&mut byte).is_ok_and(|length| length == 1) {
                    return Ok(f64::from(count) / begun.elapsed().as_secs_f64());
                }
                count += 1;
            }
        };
        self.between(serve, |address| {
            let started = Instant::now();
            while started.elapsed() < SPAN {
                let stream = TcpStream::connect_timeout(&address, LIMIT)?;
                // No port stays in TIME_WAIT: there are not enough for a whole run.
                let linger = libc::linger { l_onoff: 1, l_linger: 0 };
                setsockopt(&stream, sockopt::Linger, &linger)?;
            }
            TcpStream::connect_timeout(&address, LIMIT)?.write_all(&[1])?;
            Ok(())
        })
    }

    /// The time that one byte takes there and back, in seconds.
    pub(super) fn round_trip(&self) -> Result<f64> {
        let serve = |listener: TcpListener| -> Result<f64> {
            let (mut stream, _) = listener.accept()?;
            stream.set_nodelay(true)?;
            let mut byte = [0];
            let started = Instant::now();
            for _ in 0..ECHOES {
                stream.write_all(&byte)?;
                stream.read_exact(&mut byte)?;
            }
            Ok(started.elapsed().as_secs_f64() / f64::from(ECHOES))
        };
        self.between(serve, |address| {
            let mut stream = TcpStream::connect_timeout(&address, LIMIT)?;
            stream.set_nodelay(true)?;
            let mut byte = [0];
            // Ends with the connection.
            while stream.read_exact(&mut byte).is_ok() && stream.write_all(&byte).is_ok() {}
            Ok(())
        })
    }

    fn between<T: Send + 'static>(
        &self,
        serve: impl FnOnce(TcpListener) -> Result<T> + Send + 'static,
        connect: impl FnOnce(SocketAddr) -> Result<()> + Send + 'static,
    ) -> Result<T> {
        let address = SocketAddr::from((self.address, PORT));
        let (ready, listening) = mpsc::channel();
        let server = inside(self.to.clone(), move || {
            let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT))?;
            ready.send(()).ok();
            serve(listener)
        });
        listening.recv().context("the listening side did not come up")?;
        let client = inside(self.from.clone(), move || connect(address));
        client.join().map_err(|_| anyhow!("the connecting side panicked"))??;
        server.join().map_err(|_| anyhow!("the listening side panicked"))?
    }
}

/// Runs `work` on a thread of its own in a network namespace.
fn inside<T: Send + 'static>(
    namespace: PathBuf,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> thread::JoinHandle<Result<T>> {
    thread::spawn(move || {
        let file = File::open(&namespace)
            .with_context(|| format!("cannot open {}", namespace.display()))?;
        setns(file, CloneFlags::CLONE_NEWNET)
            .with_context(|| format!("cannot enter {}", namespace.display()))?;
        work()
    })
}
