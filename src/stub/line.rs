//! A generation's end of the line to the first process.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::ExitStatus;
use std::rc::Rc;
use std::task::{Context, Poll};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair, sockopt};
use rustix::process::{Pid, PidfdFlags, getpid, pidfd_open};

use super::chronicle::exit_code;
use super::message::{FromGeneration, Word};
use crate::handoff::channel::{Channel, send_packet};

/// The line to the first process, which wants to know who serves.
///
/// Every generation holds it, and it ends with the last one: so dropping it is
/// how the first process learns that nobody is left.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    socket: Rc<OwnedFd>,
    /// Whether this process has said that it is the main one.
    is_published: bool,
    /// Where this process hears what the first one passes on, once it is the
    /// main process. Its end means nothing: then the first process is gone.
    ear: Option<Rc<Channel<Word, Word>>>,
}

impl Line {
    pub(crate) fn new(socket: OwnedFd) -> Self {
        Line {
            socket: Rc::new(socket),
            is_published: false,
            ear: None,
        }
    }

    /// The first process, which has opened the line.
    pub(crate) fn first(&self) -> Option<Pid> {
        sockopt::socket_peercred(&*self.socket)
            .ok()
            .map(|it| it.pid)
    }

    /// Says that this process is the main one, if it has not said so yet.
    pub(crate) fn published(&mut self, generation: u64) {
        if self.is_published {
            return;
        }
        // It is said again when this process is proven, by when whatever is in
        // the way has passed.
        match self.try_published(generation) {
            Ok(()) => self.is_published = true,
            Err(error) => log::warn!("the first process does not know who serves: {error}"),
        }
    }

    fn try_published(&mut self, generation: u64) -> io::Result<()> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        let pid = getpid();
        // Not the number alone: when it is read, it may name another process.
        let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
        let message = FromGeneration::Published {
            pid: pid.as_raw_nonzero().get(),
            generation,
        };
        let ear = Channel::new(ours)?;
        send_packet(
            self.socket.as_fd(),
            &message,
            &[pidfd.as_fd(), theirs.as_fd()],
            &[],
        )?;
        self.ear = Some(Rc::new(ear));
        Ok(())
    }

    /// Says that a successor is lost, whatever it may have said.
    pub(crate) fn undone(&self, generation: u64) {
        self.say(&FromGeneration::Undone { generation });
    }

    /// Says how a successor that had taken over for good has ended.
    pub(crate) fn ended(&self, generation: u64, status: ExitStatus) {
        let code = exit_code(status);
        self.say(&FromGeneration::Ended { generation, code });
    }

    fn say(&self, message: &FromGeneration) {
        if let Err(error) = send_packet(self.socket.as_fd(), message, &[], &[]) {
            log::debug!("the first process did not hear of a successor: {error}");
        }
    }

    /// Waits for the next thing that the first process passes on.
    pub(crate) fn poll_word(&mut self, cx: &mut Context<'_>) -> Poll<Word> {
        let Some(ear) = &self.ear else {
            return Poll::Pending;
        };
        match ear.poll_receive(cx) {
            Poll::Ready(Ok(packet)) => Poll::Ready(packet.message),
            Poll::Ready(Err(silence)) => {
                log::debug!("nothing more comes from the first process: {silence}");
                self.ear = None;
                Poll::Pending
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsFd for Line {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_ref().as_fd()
    }
}
