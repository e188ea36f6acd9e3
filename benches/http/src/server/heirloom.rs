//! heirloom, as a user would write it.

use heirloom::{Response, Server};

use super::{ADDRESS, announce};
use crate::BODY;

/// Serves until the process is stopped.
pub fn run() -> heirloom::Result<()> {
    let mut announced = false;
    // A string body has the media type of the others without being told.
    Server::new(|_request| async { Ok(Response::from(BODY)) })
        .listen(ADDRESS)
        .on_transition(move |transition| {
            for address in transition.listeners().iter().filter(|_| !announced) {
                // Without its line the driver stops this process in due time.
                let _ = announce(address);
            }
            announced = true;
        })
        .run()
}
