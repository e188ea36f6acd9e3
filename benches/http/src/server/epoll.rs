//! No HTTP at all: an epoll loop that writes the same bytes for every empty
//! line it reads. What a system call costs here nobody can save, so this is
//! the ceiling for a server that reads and writes once a request.
//!
//! It knows neither bodies nor `Connection: close`.

use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;

use rustix::buffer::spare_capacity;
use rustix::event::epoll;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketFlags};

use super::{address, announce};
use crate::{BODY, MEDIA_TYPE};

/// The event that is not one of a connection.
const ACCEPT: u64 = u64::MAX;

const END_OF_HEAD: &[u8] = b"\r\n\r\n";

struct Connection {
    socket: OwnedFd,
    /// How much of the end of a head the last bytes were.
    matched: usize,
}

/// Serves until the process is stopped.
pub fn run() -> io::Result<()> {
    let response = format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\ncontent-type: {MEDIA_TYPE}\r\n\r\n{BODY}",
        BODY.len()
    );
    let listener = TcpListener::bind(address())?;
    listener.set_nonblocking(true)?;
    rustix::net::listen(&listener, 1024)?;
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let data = epoll::EventData::new_u64(ACCEPT);
    epoll::add(&epoll, &listener, data, epoll::EventFlags::IN)?;
    announce(listener.local_addr()?)?;

    let mut connections: Vec<Option<Connection>> = Vec::new();
    let mut free = Vec::new();
    let mut input = vec![0; 64 * 1024];
    let mut output = Vec::new();
    let mut events: Vec<epoll::Event> = Vec::with_capacity(1024);
    loop {
        events.clear();
        epoll::wait(&epoll, spare_capacity(&mut events), None)?;
        for event in &events {
            let key = event.data.u64();
            if key == ACCEPT {
                let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
                let socket = match rustix::net::accept_with(&listener, flags) {
                    Ok(socket) => socket,
                    Err(Errno::AGAIN | Errno::CONNABORTED) => continue,
                    Err(error) => return Err(error.into()),
                };
                rustix::net::sockopt::set_tcp_nodelay(&socket, true)?;
                let key = free.pop().unwrap_or(connections.len());
                if key == connections.len() {
                    connections.push(None);
                }
                let data = epoll::EventData::new_u64(key as u64);
                epoll::add(&epoll, &socket, data, epoll::EventFlags::IN)?;
                connections[key] = Some(Connection { socket, matched: 0 });
                continue;
            }
            let key = key as usize;
            let Some(connection) = &mut connections[key] else {
                continue;
            };
            if !connection.answer(&mut input, &mut output, response.as_bytes()) {
                connections[key] = None;
                free.push(key);
            }
        }
    }
}

impl Connection {
    /// Reads once, and writes once what was asked for; `false` at the end of
    /// the connection.
    fn answer(&mut self, input: &mut [u8], output: &mut Vec<u8>, response: &[u8]) -> bool {
        let read = match rustix::net::recv(&self.socket, &mut *input, RecvFlags::empty()) {
            Ok((0, _)) => return false,
            Ok((read, _)) => read,
            Err(Errno::AGAIN | Errno::INTR) => return true,
            Err(_) => return false,
        };
        output.clear();
        for &byte in &input[..read] {
            self.matched = if byte == END_OF_HEAD[self.matched] {
                self.matched + 1
            } else {
                usize::from(byte == b'\r')
            };
            if self.matched == END_OF_HEAD.len() {
                self.matched = 0;
                output.extend_from_slice(response);
            }
        }
        if output.is_empty() {
            return true;
        }
        // A client that takes so little that this does not fit is no client
        // of this bench.
        rustix::net::send(&self.socket, output, SendFlags::NOSIGNAL) == Ok(output.len())
    }
}
