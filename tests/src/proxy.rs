//! A TCP proxy that fails as networks do: it goes silent and comes back, or cuts what is open.
//!
//! It passes bytes on untouched and in order, or not at all.

use anyhow::Result;
use std::io;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

const BUFFER_BYTES: usize = 16 * 1024;

/// What the network does. Connections are numbered as they come.
#[derive(Debug, Clone, Copy, Default)]
struct Weather {
    /// Nothing passes; what has been read is held back, not lost.
    silent: bool,
    /// Connections before this one are closed.
    cut_before: u64,
    /// The number of the next connection.
    next: u64,
}

/// A proxy in front of one address; it ends when dropped.
pub struct Proxy {
    /// Where it listens.
    pub address: String,
    weather: watch::Sender<Weather>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// A proxy in front of `target`, a host and port.
    pub async fn start(target: &str) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        let weather = watch::Sender::new(Weather::default());
        let task = tokio::spawn(accept(listener, target.to_owned(), weather.clone()));
        Ok(Self { address, weather, task })
    }

    /// Becomes a black hole: connections are taken and kept, and nothing passes.
    pub fn go_silent(&self) {
        self.weather.send_modify(|weather| weather.silent = true);
    }

    /// Everything passes again, what was held back first.
    pub fn heal(&self) {
        self.weather.send_modify(|weather| weather.silent = false);
    }

    /// Closes every connection that is open.
    pub fn cut(&self) {
        self.weather.send_modify(|weather| weather.cut_before = weather.next);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.cut();
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, target: String, weather: watch::Sender<Weather>) {
    while let Ok((client, _)) = listener.accept().await {
        let mut number = 0;
        weather.send_modify(|weather| {
            number = weather.next;
            weather.next += 1;
        });
        tokio::spawn(connection(client, target.clone(), number, weather.subscribe()));
    }
}

/// One connection, until either side ends it or it is cut.
async fn connection(client: TcpStream, target: String, number: u64, mut weather: watch::Receiver<Weather>) {
    let mut passes = weather.clone();
    let work = async {
        wait_until_it_passes(&mut passes).await?;
        let server = TcpStream::connect(target).await?;
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        tokio::try_join!(pump(from_client, to_server, passes.clone()), pump(from_server, to_client, passes)).map(|_| ())
    };
    tokio::select! {
        _ = work => {}
        _ = weather.wait_for(|weather| number < weather.cut_before) => {}
    }
}

/// Passes bytes on in one direction until it ends.
async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut passes: watch::Receiver<Weather>) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let read = from.read(&mut buffer).await?;
        wait_until_it_passes(&mut passes).await?;
        match buffer.get(..read) {
            // An end is news too: it passes only when everything does, and then ends the other side.
            None | Some([]) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Some(bytes) => to.write_all(bytes).await?,
        }
    }
}

async fn wait_until_it_passes(weather: &mut watch::Receiver<Weather>) -> io::Result<()> {
    let passes = |weather: &Weather| !weather.silent;
    weather.wait_for(passes).await.map(|_| ()).map_err(|_| io::ErrorKind::ConnectionAborted.into())
}
