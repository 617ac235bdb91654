//! Messages between two gateways, with descriptors beside them.
//!
//! A pair of Unix sockets that keep messages apart (`SOCK_SEQPACKET`, unix(7)). Descriptors travel as `SCM_RIGHTS`:
//! what arrives is the very same open socket, with the connections that wait in it.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Descriptors beside one message. The kernel allows 253 (`SCM_MAX_FD`); more go with the next message.
pub const DESCRIPTORS: usize = 64;

/// Bytes of one message. A longer one isn't sent; what a gateway says is cut to fit before.
pub const BYTES: usize = 96 << 10;

/// Time to send a message to a process that doesn't read. Beyond it sending fails.
const SEND: Duration = Duration::from_secs(5);

/// One end.
#[derive(Debug)]
pub struct Channel(OwnedFd);

/// What arrived.
#[derive(Debug)]
pub struct Received<T> {
    /// The message.
    pub message: T,
    /// The descriptors beside it.
    pub descriptors: Vec<OwnedFd>,
}

impl Channel {
    /// Two ends, neither of which a started program inherits by itself.
    ///
    /// # Errors
    ///
    /// No descriptors are left.
    pub fn pair() -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok((Self::over(ours)?, theirs))
    }

    /// The end that `descriptor` is.
    ///
    /// # Errors
    ///
    /// It isn't a socket of this kind.
    pub fn over(descriptor: OwnedFd) -> io::Result<Self> {
        if rustix::net::sockopt::socket_type(&descriptor)? != SocketType::SEQPACKET {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a channel between two gateways"));
        }
        set_socket_timeout(&descriptor, Timeout::Send, Some(SEND))?;
        Ok(Self(descriptor))
    }

    /// A second handle to the same end, to tell later whether the other one still exists.
    ///
    /// # Errors
    ///
    /// No descriptors are left.
    pub fn handle(&self) -> io::Result<OwnedFd> {
        self.0.try_clone()
    }

    /// Sends `message`, with at most [`DESCRIPTORS`] descriptors.
    ///
    /// # Errors
    ///
    /// The other end is gone or doesn't read.
    pub fn send(&self, message: &impl Serialize, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        assert!(descriptors.len() <= DESCRIPTORS, "invariant: callers send in portions");
        let text = serde_json::to_vec(message)?;
        if text.len() > BYTES {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "message too long"));
        }
        let mut space = [const { MaybeUninit::uninit() }; rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(descriptors)), "invariant: there is space");
        }
        rustix::net::sendmsg(&self.0, &[IoSlice::new(&text)], &mut control, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// Waits until `deadline` for a message; `None` when the other end is gone.
    ///
    /// # Errors
    ///
    /// `TimedOut` at the deadline; `InvalidData` when it is no message of this kind.
    pub fn receive<T: DeserializeOwned>(&self, deadline: Option<Instant>) -> io::Result<Option<Received<T>>> {
        let mut bytes = vec![0; BYTES];
        let mut space = [const { MaybeUninit::uninit() }; rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Err(io::ErrorKind::TimedOut.into());
            }
            set_socket_timeout(&self.0, Timeout::Recv, left)?;
            let mut slices = [IoSliceMut::new(&mut bytes)];
            match rustix::net::recvmsg(&self.0, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC) {
                Ok(received) => break received,
                Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
                Err(rustix::io::Errno::CONNRESET) => return Ok(None),
                Err(err) => return Err(err.into()),
            }
        };
        if received.bytes == 0 {
            return Ok(None);
        }
        let mut descriptors = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(some) = message {
                descriptors.extend(some);
            }
        }
        if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
            let why = "cut off; are there enough file descriptors (ulimit -n)?";
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        let message = serde_json::from_slice(&bytes[..received.bytes])?;
        Ok(Some(Received { message, descriptors }))
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Whether the other end of `channel` still exists. Nothing must be waiting to be received there.
pub fn is_open(channel: &impl AsFd) -> bool {
    let mut byte = [0_u8];
    match rustix::net::recv(channel.as_fd(), &mut byte, RecvFlags::PEEK | RecvFlags::DONTWAIT) {
        Ok((_, length)) => length > 0,
        Err(err) => err == rustix::io::Errno::AGAIN,
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn pair() -> (Channel, Channel) {
        let (one, other) = Channel::pair().unwrap();
        (one, Channel::over(other).unwrap())
    }

    #[test]
    fn a_listening_socket_arrives_with_the_connections_that_wait_in_it() {
        let (old, new) = pair();
        let listening = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listening.local_addr().unwrap()).unwrap();
        client.write_all(b"waited").unwrap();

        old.send(&"socket", &[listening.as_fd()]).unwrap();
        drop(listening);
        let mut received = new.receive::<String>(None).unwrap().unwrap();
        let (mut accepted, _) = TcpListener::from(received.descriptors.remove(0)).accept().unwrap();

        let mut said = [0; 6];
        accepted.read_exact(&mut said).unwrap();
        assert_eq!((received.message.as_str(), &said), ("socket", b"waited"));
    }

    #[test]
    fn an_end_that_is_gone_is_told_from_one_that_is_silent() {
        let (one, other) = pair();
        let handle = one.handle().unwrap();
        let silent = one.receive::<String>(Some(Instant::now() + Duration::from_millis(1)));
        let open = is_open(&handle);

        drop(other);

        assert_eq!(silent.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(one.receive::<String>(None).unwrap().is_none());
        assert!(open && !is_open(&handle));
    }

    #[test]
    fn what_is_no_message_is_refused() {
        let (one, other) = pair();
        other.send(&17, &[]).unwrap();

        let received = one.receive::<String>(None);

        assert_eq!(received.unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
