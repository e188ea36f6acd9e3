//! STUB
use std::os::fd::OwnedFd; use std::rc::Rc; use std::future::Future;
use crate::roster::{Ticket,Activity}; use crate::request::Request; use crate::status::Status; use http_types::Response;
/// stub
#[derive(Clone,Debug)] pub struct Limits { pub(crate) max_connections: usize }
impl Default for Limits { fn default() -> Self { Limits{max_connections: 10000} } }
/// stub
pub trait Handler: 'static { /// stub
 type Answer: Future<Output = http_types::Result<Response>>; /// stub
 fn call(&self, r: Request) -> Self::Answer; }
impl<F: Fn(Request)->Fut + 'static, Fut: Future<Output = http_types::Result<Response>>+'static> Handler for F { type Answer = Fut; fn call(&self, r: Request) -> Fut { self(r) } }
pub(crate) struct Protocol<H>{ handler: H, status: Status }
impl<H> Protocol<H> { pub(crate) fn new(handler: H, _l: Limits, status: Status) -> Self { Protocol{handler,status} } }
pub(crate) async fn serve<H: Handler>(s: OwnedFd, t: Ticket, p: Rc<Protocol<H>>) {
  let s = async_io::Async::new_nonblocking(s).unwrap();
  let mut buf = vec![0u8; 4096];
  let _ = s.read_with(|f| rustix::net::recv(f, &mut buf[..], rustix::net::RecvFlags::empty()).map(|r| r.0).map_err(Into::into)).await;
  t.set_activity(Activity::Busy, std::time::Instant::now());
  let _ = p.handler.call(Request{}).await;
  let b = format!("pid {} gen {}\n", std::process::id(), p.status.generation());
  let r = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{}", b.len(), b);
  let _ = rustix::net::send(s.get_ref(), r.as_bytes(), rustix::net::SendFlags::NOSIGNAL);
}
