//! What plugin and agent say to each other over the agent's socket: a line of JSON each way; with the first byte of a
//! question comes the pod's network namespace, which no path leads to from within the agent's own mount namespace.

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// In the agent's directory; root's alone.
pub const SOCKET: &str = "cni.sock";
/// Longest line: names have 253 characters, identifiers 64.
pub const MAX_LINE: usize = 4096;

/// A pod's sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// `CNI_CONTAINERID`: another one when the same pod's sandbox is made anew.
    pub container: String,
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ask {
    /// Take the pod in; the answer comes when it is.
    Join(Attachment),
    /// Is it in?
    Check(Attachment),
    /// The sandbox goes.
    Leave(Attachment),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// Its connections are the agent's from now on.
    In,
    /// It shall not be in the mesh, or has gone.
    Outside(String),
    /// It shall, and is not yet.
    Late(String),
}

impl Ask {
    pub fn attachment(&self) -> &Attachment {
        match self {
            Self::Join(of) | Self::Check(of) | Self::Leave(of) => of,
        }
    }
}

/// # Errors
/// As `sendmsg(2)`; a line that was cut by a full socket is one too.
pub fn send(socket: impl AsFd, line: &[u8], with: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = with.as_slice();
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::ErrorKind::OutOfMemory.into());
    }
    let sent = sendmsg(socket, &[IoSlice::new(line)], &mut control, SendFlags::NOSIGNAL)?;
    if sent == line.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

/// Appends what has come to `line`, and keeps the descriptor that came with it. 0: the other side says no more.
///
/// # Errors
/// As `recvmsg(2)`; a line that is too long.
pub fn receive(socket: impl AsFd, line: &mut Vec<u8>, with: &mut Option<OwnedFd>) -> io::Result<usize> {
    let mut buffer = [0; 1024];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = recvmsg(socket, &mut [IoSliceMut::new(&mut buffer)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            *with = fds.last().or(with.take());
        }
    }
    line.extend_from_slice(buffer.get(..got.bytes).unwrap_or_default());
    if line.len() > MAX_LINE { Err(io::ErrorKind::InvalidData.into()) } else { Ok(got.bytes) }
}

/// A message as it goes over the socket.
pub fn line(message: &impl Serialize) -> Vec<u8> {
    // Maps with keys of text, and text: nothing of it can fail.
    let mut line = serde_json::to_vec(message).unwrap_or_default();
    line.push(b'\n');
    line
}
