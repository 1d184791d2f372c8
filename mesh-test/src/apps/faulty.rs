//! Endpoints that misbehave on purpose, so that a test can watch the others take over.

use super::event::{Event, emit};
use super::listen::{Shutdown, bind};
use super::pod::{Pod, PodArgs};
use anyhow::Result;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// What a connection meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Fault {
    /// Nothing listens: the kernel answers with RST.
    Refuse,
    /// Accepted, then reset before a byte is answered.
    Reset,
    /// Accepted, read, never answered.
    Blackhole,
    /// Accepted, closed with FIN before a byte is answered.
    Close,
    /// Answers HTTP/2 SETTINGS and then never reads a byte more.
    Stall,
}

/// Arguments of `mesh-app faulty`.
#[derive(Debug, clap::Args)]
pub struct FaultyArgs {
    #[arg(long, default_value_t = 9000)]
    pub port: u16,
    #[arg(value_enum)]
    pub fault: Fault,
    #[command(flatten)]
    pod: PodArgs,
}

/// Misbehaves until SIGTERM.
///
/// # Errors
/// The port is taken.
pub async fn run(args: FaultyArgs) -> Result<()> {
    let pod = Pod::from(args.pod);
    let shutdown = Shutdown::on_signals(&pod)?;
    // Refusing is the kernel's work: nobody listens.
    let listener = (args.fault != Fault::Refuse).then(|| bind(args.port)).transpose()?;
    let accepting = async {
        let Some(listener) = listener else { return std::future::pending().await };
        loop {
            match listener.accept().await {
                Ok((stream, _)) => drop(tokio::spawn(misbehave(stream, args.fault))),
                Err(error) => {
                    let (pod, what) = (pod.name.to_string(), "accept".to_owned());
                    emit(&Event::Failed { pod, what, error: error.to_string() });
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    };
    tokio::select! {
        () = accepting => {}
        () = shutdown.wait() => {}
    }
    Ok(())
}

async fn misbehave(mut stream: TcpStream, fault: Fault) {
    let mut bytes = [0; 4096];
    match fault {
        Fault::Refuse => {}
        Fault::Reset => {
            let _ = stream.read(&mut bytes).await;
            // SO_LINGER 0 turns close() into RST.
            let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        }
        Fault::Close => {
            let _ = stream.read(&mut bytes).await;
        }
        Fault::Blackhole => while matches!(stream.read(&mut bytes).await, Ok(n) if n > 0) {},
        Fault::Stall => {
            // RFC 9113 §6.5: an empty SETTINGS frame is the least a server must begin with.
            let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, &[0, 0, 0, 4, 0, 0, 0, 0, 0]).await;
            tokio::time::sleep(Duration::from_secs(3600)).await;
        }
    }
}
