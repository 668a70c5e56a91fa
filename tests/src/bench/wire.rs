//! What a TCP connection between two network namespaces is like: measured by threads that are in them.

use std::{
    fs::File,
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use nix::{
    errno::Errno,
    libc,
    sched::{CloneFlags, CpuSet, sched_setaffinity, setns},
    sys::socket::{setsockopt, sockopt},
    unistd::Pid,
};

/// The port that is listened on inside.
const PORT: u16 = 7777;
/// How long a rate is measured for.
const SPAN: Duration = Duration::from_millis(200);
/// How many bytes go there and back for one round trip time.
const ECHOES: u32 = 4_000;
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

/// Where the two sides run: the scheduler would choose anew for each measurement, and what it chooses is more than any
/// difference between two networks.
#[derive(Clone, Copy)]
enum Cores {
    /// Both on the same: they wait for each other, and no core has to be woken.
    One,
    /// Each on its own: both have work all the time.
    Two,
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
        self.between(Cores::Two, serve, |address| {
            let mut stream = TcpStream::connect_timeout(&address, LIMIT)?;
            let data = vec![0; 256 << 10];
            let started = Instant::now();
            while started.elapsed() < SPAN {
                stream.write_all(&data)?;
            }
            Ok(())
        })
    }

    /// Connections per second, one after the other: made, and closed by the one who listens.
    ///
    /// The next one is made when the one before is gone, so that none waits in a queue that may overflow.
    pub(super) fn connections(&self) -> Result<f64> {
        let serve = |listener: TcpListener| -> Result<f64> {
            // No port stays in TIME_WAIT: there are not enough for a whole run.
            let linger = libc::linger { l_onoff: 1, l_linger: 0 };
            let (started, mut count) = (Instant::now(), 0_u32);
            while started.elapsed() < SPAN {
                let (stream, _) = listener.accept()?;
                setsockopt(&stream, sockopt::Linger, &linger)?;
                count += 1;
            }
            // The last one is told so.
            listener.accept()?.0.write_all(&[1])?;
            Ok(f64::from(count) / started.elapsed().as_secs_f64())
        };
        self.between(Cores::One, serve, |address| {
            loop {
                match TcpStream::connect_timeout(&address, LIMIT) {
                    Ok(mut stream) => {
                        if stream.read(&mut [0]).is_ok_and(|length| length == 1) {
                            return Ok(());
                        }
                    }
                    // Closed before this side has looked.
                    Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
                    Err(error) => return Err(error.into()),
                }
            }
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
        self.between(Cores::One, serve, |address| {
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
        cores: Cores,
        serve: impl FnOnce(TcpListener) -> Result<T> + Send + 'static,
        connect: impl FnOnce(SocketAddr) -> Result<()> + Send + 'static,
    ) -> Result<T> {
        let address = SocketAddr::from((self.address, PORT));
        let (ready, listening) = mpsc::channel();
        let server = inside(self.to.clone(), 0, move || {
            let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT))?;
            ready.send(()).ok();
            serve(listener)
        });
        listening.recv().context("the listening side did not come up")?;
        let core = match cores {
            Cores::One => 0,
            Cores::Two => 1,
        };
        let client = inside(self.from.clone(), core, move || connect(address));
        client.join().map_err(|_| anyhow!("the connecting side panicked"))??;
        server.join().map_err(|_| anyhow!("the listening side panicked"))?
    }
}

/// Runs `work` on a thread of its own in a network namespace, on one core.
fn inside<T: Send + 'static>(
    namespace: PathBuf,
    core: usize,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> thread::JoinHandle<Result<T>> {
    thread::spawn(move || {
        let file = File::open(&namespace)
            .with_context(|| format!("cannot open {}", namespace.display()))?;
        setns(file, CloneFlags::CLONE_NEWNET)
            .with_context(|| format!("cannot enter {}", namespace.display()))?;
        let mut cores = CpuSet::new();
        cores.set(core)?;
        // 0 is the calling thread. Where there is no such core, the kernel chooses.
        match sched_setaffinity(Pid::from_raw(0), &cores) {
            Ok(()) | Err(Errno::EINVAL) => work(),
            Err(errno) => Err(errno).context("cannot bind a thread to a core"),
        }
    })
}
