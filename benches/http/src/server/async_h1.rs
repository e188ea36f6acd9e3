//! Bare `async_h1::accept` on smol: what heirloom would be without a
//! connection type of its own.

use std::io;
use std::rc::Rc;

use async_net::TcpListener;
use http_types::Response;
use smol::LocalExecutor;

use super::{ADDRESS, announce};
use crate::BODY;

/// Serves until the process is stopped.
pub fn run() -> io::Result<()> {
    let executor = Rc::new(LocalExecutor::new());
    smol::block_on(executor.run(serve(&executor)))
}

async fn serve(executor: &Rc<LocalExecutor<'static>>) -> io::Result<()> {
    let listener = TcpListener::bind(ADDRESS).await?;
    // The queue of a std listener is so short that 512 clients that connect at
    // once would be measured waiting for the kernel to try again.
    rustix::net::listen(&listener, 1024)?;
    announce(listener.local_addr()?)?;
    loop {
        let (socket, _) = listener.accept().await?;
        socket.set_nodelay(true)?;
        let connection = async_h1::accept(socket, |_request| async { Ok(Response::from(BODY)) });
        executor
            .spawn(async move {
                // A client that goes away is no failure of the server.
                let _ = connection.await;
            })
            .detach();
    }
}
