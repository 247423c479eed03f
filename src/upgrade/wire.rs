//! What two processes say to each other while one takes the other's place: a JSON object in a line, listening sockets beside
//! it. Read with bounds: at the other end may be anything.

use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::sockopt::socket_acceptconn;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recv, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncWriteExt as _, Interest};
use tokio::net::UnixStream;

/// The version of what is said. A process that does not know another's says so.
pub(super) const FORMAT: u32 = 1;

/// Sockets that go at once; Linux takes 253.
pub(super) const SOCKETS_MAX: usize = 250;

/// A line has no more bytes: names of sockets are most of it.
const LINE_BYTES_MAX: usize = 65_536;

/// What is said, in this order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Message {
    /// The new process: it is here.
    Hello {
        /// [`FORMAT`].
        format: u32,
        pid: u32,
        /// Of the program.
        version: String,
        /// That runs it: `lb`, `standalone`.
        command: String,
    },
    /// The one before: these are the sockets, which come beside this.
    Sockets {
        pid: u32,
        names: Vec<String>,
        /// How long it may take, at most, from `Prepared` to `Yours`.
        within_ms: u64,
    },
    /// The one before, in place of that: not so, for this reason.
    Refused(String),
    /// The new process: it can serve as soon as it may.
    Prepared,
    /// The one before: it may.
    Yours,
    /// The new process: it accepts connections.
    Serving,
    /// The one before: it does not any more.
    Done,
}

/// The connection between the two.
#[derive(Debug)]
pub(super) struct Channel {
    stream: UnixStream,
    /// What has come and is not a whole line yet.
    buffer: Vec<u8>,
    /// What has come beside it.
    sockets: Vec<OwnedFd>,
}

impl Channel {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self { stream, buffer: Vec::new(), sockets: Vec::new() }
    }

    /// User and process at the other end.
    pub(super) fn peer(&self) -> io::Result<(u32, i32)> {
        let peer = self.stream.peer_cred()?;
        Ok((peer.uid(), peer.pid().unwrap_or_default()))
    }

    pub(super) async fn send(&mut self, message: &Message) -> io::Result<()> {
        self.send_with(message, &[]).await
    }

    /// Says something, and hands sockets over.
    pub(super) async fn send_with(
        &mut self,
        message: &Message,
        sockets: &[(String, TcpListener)],
    ) -> io::Result<()> {
        let mut line = serde_json::to_vec(message)?;
        line.push(b'\n');
        let descriptors: Vec<_> = sockets.iter().map(|(_, socket)| socket.as_fd()).collect();
        let sent = self.stream.async_io(Interest::WRITABLE, || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_MAX))];
            let mut beside = SendAncillaryBuffer::new(&mut space);
            if !descriptors.is_empty() && !beside.push(SendAncillaryMessage::ScmRights(&descriptors)) {
                return Err(io::Error::other("too many listening sockets"));
            }
            Ok(sendmsg(&self.stream, &[IoSlice::new(&line)], &mut beside, SendFlags::NOSIGNAL)?)
        });
        let sent = sent.await?;
        self.stream.write_all(&line[sent..]).await
    }

    /// What the other end says next. Cancel safe.
    ///
    /// # Errors
    /// `UnexpectedEof` when it has closed, `InvalidData` when this is nothing that it may say.
    pub(super) async fn receive(&mut self) -> io::Result<Message> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return serde_json::from_slice(&line)
                    .map_err(|_| io::Error::new(ErrorKind::InvalidData, "that is no process of tidegate"));
            }
            if self.buffer.len() > LINE_BYTES_MAX {
                return Err(io::Error::new(ErrorKind::InvalidData, "that is no process of tidegate"));
            }
            self.read_some().await?;
        }
    }

    /// Returns when the other end has closed, or says something that nobody waits for. Cancel safe.
    pub(super) async fn gone(&mut self) {
        if self.buffer.is_empty() {
            // Either way it is over.
            let _ = self.read_some().await;
        }
    }

    /// Whether the other end has closed.
    pub(super) fn has_gone(&self) -> bool {
        // Asked of the system, since the runtime hears of it a little later.
        match recv(&self.stream, &mut [0], RecvFlags::PEEK | RecvFlags::DONTWAIT) {
            Ok((_, count)) => count == 0,
            Err(error) => error != Errno::AGAIN,
        }
    }

    /// The sockets that have come.
    pub(super) fn take_sockets(&mut self) -> io::Result<Vec<TcpListener>> {
        let listening = |socket: OwnedFd| match socket_acceptconn(&socket) {
            Ok(true) => Ok(TcpListener::from(socket)),
            _ => Err(io::Error::new(ErrorKind::InvalidData, "a socket does not listen")),
        };
        std::mem::take(&mut self.sockets).into_iter().map(listening).collect()
    }

    async fn read_some(&mut self) -> io::Result<()> {
        let mut bytes = [0; 4096];
        let mut sockets = Vec::new();
        let stream = &self.stream;
        let count = stream.async_io(Interest::READABLE, || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_MAX))];
            let mut beside = RecvAncillaryBuffer::new(&mut space);
            let buffers = &mut [IoSliceMut::new(&mut bytes)];
            let received = recvmsg(stream, buffers, &mut beside, RecvFlags::CMSG_CLOEXEC)?;
            for message in beside.drain() {
                if let RecvAncillaryMessage::ScmRights(rights) = message {
                    sockets.extend(rights);
                }
            }
            match received.flags.contains(ReturnFlags::CTRUNC) {
                true => Err(io::Error::other("there is no room for its sockets among the open files")),
                false => Ok(received.bytes),
            }
        });
        let count = count.await?;
        if count == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        self.buffer.extend_from_slice(&bytes[..count]);
        self.sockets.append(&mut sockets);
        if self.sockets.len() > SOCKETS_MAX {
            return Err(io::Error::new(ErrorKind::InvalidData, "too many listening sockets"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn sockets_come_beside_what_is_said() {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let (mut ours, mut theirs) = (Channel::new(ours), Channel::new(theirs));
        let sockets: Vec<_> = (0..SOCKETS_MAX)
            .map(|number| (number.to_string(), TcpListener::bind("127.0.0.1:0").expect("bound")))
            .collect();
        let names = sockets.iter().map(|(name, _)| name.clone()).collect();
        let said = Message::Sockets { pid: 1, names, within_ms: 2 };
        ours.send_with(&said, &sockets).await.expect("sent");
        ours.send(&Message::Yours).await.expect("sent");
        assert_eq!(theirs.receive().await.expect("received"), said);
        let taken = theirs.take_sockets().expect("they listen");
        let address = |socket: &TcpListener| socket.local_addr().expect("an address");
        assert!(sockets.iter().map(|(_, socket)| address(socket)).eq(taken.iter().map(address)));
        assert_eq!(theirs.receive().await.expect("received"), Message::Yours);
        assert!(!theirs.has_gone());
        drop(ours);
        assert!(theirs.has_gone());
        assert_eq!(theirs.receive().await.expect_err("closed").kind(), ErrorKind::UnexpectedEof);
    }

    #[tokio::test]
    async fn whatever_is_at_the_other_end_is_read_within_bounds() {
        for said in
            [b"HTTP/1.1 400 Bad Request\r\n".to_vec(), vec![b'x'; 200_000], b"{\"what\":1}\n".to_vec()]
        {
            let (ours, mut theirs) = UnixStream::pair().expect("a pair");
            let writing = tokio::spawn(async move { theirs.write_all(&said).await });
            let error = Channel::new(ours).receive().await.expect_err("no message");
            assert_eq!(error.kind(), ErrorKind::InvalidData);
            writing.abort();
        }
    }

    #[tokio::test]
    async fn what_does_not_listen_is_not_taken() {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let stream =
            std::net::TcpStream::connect(listener.local_addr().expect("an address")).expect("connected");
        let not_listening = TcpListener::from(OwnedFd::from(stream));
        let mut theirs = Channel::new(theirs);
        Channel::new(ours)
            .send_with(&Message::Yours, &[("a".to_owned(), not_listening)])
            .await
            .expect("sent");
        theirs.receive().await.expect("received");
        assert!(theirs.take_sockets().is_err());
    }
}
